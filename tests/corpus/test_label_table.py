from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

import pytest

from ser_personal.corpus.table import attribute_labels, known, read_csv_rows, read_json_rows
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = {attribute: attribute for attribute in ATTRIBUTES}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"no column path, split \(found: none\)"),
        (b"path;split\na;b\n", r"no column path, split \(found: path;split\)"),
        (b"path,split\n", "lists no utterance"),
        (b"path,split, path\na,b,c\n", "has column path more than once"),
        (b"path,split\na\n", "line 2: 1 cells where the header has 2"),
        (b"path,split\na,b\nc,d,e\n", "line 3: 3 cells where the header has 2"),
        (b"path,split\n,b\n", "line 2: blank path"),
        (b'path,split\n"a,b\n', "line 2: broken CSV"),
        (b"path,split\n\xfc.wav,b\n", r"isn't UTF-8 text \(byte 11 is 0xfc\)"),
    ],
)
def test_bad_csv(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_csv_rows(path, ("path", "split"), filled=("path",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": {"split": "x"}', "broken JSON"),
        ('[{"path": "a", "split": "x"}]', "isn't a JSON object of objects"),
        ('{"a": ["x"]}', "isn't a JSON object of objects"),
        ("{}", "lists no utterance"),
        ('{"a": {"set": "x"}}', r"table.json, a: no column split \(found: path, set\)"),
        ('{"a": {"split": "x"}, "a": {"split": "y"}}', "'a' is listed more than once"),
    ],
)
def test_bad_json(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_json_rows(path, "path", ("path", "split"))


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        read_csv_rows(tmp_path, ("path",))


def test_csv_and_json_twins_read_alike(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfpath, act ,speaker\r\n\r\na, 4.5,127\r\n"b,c",,\r\n')
    (tmp_path / "t.json").write_text('{"a": {"act": 4.5, "speaker": 127}, "b,c": {"act": NaN, "speaker": null}}')
    rows = [{"path": "a", "act": "4.5", "speaker": "127"}, {"path": "b,c", "act": "", "speaker": ""}]
    assert read_csv_rows(tmp_path / "t.csv", ("path", "act")) == rows
    assert read_json_rows(tmp_path / "t.json", "path", ("path", "act")) == rows


def test_labels_of_a_row() -> None:
    labels = attribute_labels({"arousal": "3.25", "valence": "NaN"}, COLUMNS, "here")
    assert list(labels) == list(ATTRIBUTES)
    assert labels["arousal"] == 3.25
    assert isnan(labels["valence"])
    assert isnan(labels["dominance"])
    with pytest.raises(UserError, match="here: valence is 'high', not a number"):
        attribute_labels({"valence": "high"}, COLUMNS, "here")


def test_unknown_speakers() -> None:
    assert [known(cell) for cell in ("", "Unknown", "unknown", "127", "NA")] == [None, None, None, "127", "NA"]
