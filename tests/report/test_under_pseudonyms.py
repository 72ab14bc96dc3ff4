from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass

import numpy as np
import pandas as pd
import pytest
from command_line import ser
from invented_run import invent

from ser_personal.pseudonyms import pseudonym
from ser_personal.report.audit import column_of
from ser_personal.report.report import report
from ser_personal.report.run_folder import read_run

KEY = bytes(range(32))
WRITTEN = ("report.html", "audit.json", "events.*.report", "projector_config.pbtxt", "00000/**/*")


@pytest.fixture
def folder(tmp_path):
    """A run whose utterances, like many corpora's, have their speakers' names in theirs."""
    return rename(invent(tmp_path / "run"))


def rename(folder):
    """Give invented speakers names that stand nowhere by chance: s07 -> zora07, t1 -> tilda1."""
    for name in ("predictions.csv", "metrics.json", "speakers.json"):
        path = folder / name
        path.write_text(re.sub(r"\bt([1-4])\b", r"tilda\1", re.sub(r"\bs(\d\d)(?=\b|_)", r"zora\1", path.read_text())))
    path = folder / "speakers.safetensors"
    # the header's length stands before it
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = re.sub(r"\bs(\d\d)\b", r"zora\1", content[8 : 8 + length].decode())
    header = re.sub(r"\bt([1-4])\b", r"tilda\1", header).rstrip().encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    return folder


def texts(value):
    """Every text anywhere in what was read."""
    if isinstance(value, str):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            if field.name not in {"folder", "key"}:
                yield from texts(getattr(value, field.name))
    elif isinstance(value, dict):
        for pair in value.items():
            yield from texts(list(pair))
    elif isinstance(value, pd.DataFrame):
        yield from texts(value.to_dict("list"))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)


def named(found):
    return [text for text in found if "zora" in text or "tilda" in text]


def test_no_text_of_a_run_names_anyone(folder):
    assert len(named(texts(read_run(folder)))) > 24 * 12
    assert named(texts(read_run(folder, KEY))) == []
    assert "key" not in repr(read_run(folder, KEY))


def test_everything_stays_with_whom_it_is_of(folder):
    real, hidden = read_run(folder), read_run(folder, KEY)
    (of_real,), (of_hidden,) = real.sets, hidden.sets
    for id_, speaker in of_real.speakers.items():
        renamed = of_hidden.speakers[pseudonym(KEY, id_)]
        assert (renamed.seconds, renamed.shift) == (speaker.seconds, speaker.shift)
        assert renamed.neighbours == tuple(pseudonym(KEY, name) for name in speaker.neighbours)
    for before, after in (
        (of_real.vectors, of_hidden.vectors),
        (real.training, hidden.training),
        (real.embeddings, hidden.embeddings),
    ):
        vector_of = dict(zip(after.speaker_ids, after.vectors, strict=True))
        for id_, vector in zip(before.speaker_ids, before.vectors, strict=True):
            np.testing.assert_array_equal(vector_of[pseudonym(KEY, id_)], vector)
    for before, after in zip(of_real.rows, of_hidden.rows, strict=True):
        ccc = before.scores["arousal"].per_speaker
        assert after.scores["arousal"].per_speaker == {pseudonym(KEY, id_): value for id_, value in ccc.items()}
    label_of = dict(zip(of_hidden.utterances["utterance"], of_hidden.values("arousal", "label"), strict=True))
    for id_, label in zip(of_real.utterances["utterance"], of_real.values("arousal", "label"), strict=True):
        assert label_of[pseudonym(KEY, id_, "utterance")] == label


def test_not_even_the_order_of_ids_is_left(folder):
    (test,) = read_run(folder, KEY).sets
    for names in (test.speakers, test.vectors.speaker_ids, test.utterances["utterance"]):
        assert list(names) == sorted(names)


def test_unknown_speakers_stay_unknown(folder):
    table = pd.read_csv(folder / "predictions.csv")
    table.assign(speaker=table["speaker"].where(table.index > 0)).to_csv(folder / "predictions.csv", index=False)
    assert read_run(folder, KEY).sets[0].speaker_ids.count(None) == 1


@pytest.mark.parametrize("by", ["speaker", "utterance"])
def test_no_written_file_names_anyone(folder, by, capsys):
    before = {path.name for path in folder.iterdir()}
    assert ser("report", folder, "--anonymise", "--resamples", "100", "--by", by) == 0
    assert str(folder / "anonymise.key") in capsys.readouterr().out.replace("\n", "")
    written = [path for pattern in WRITTEN for path in folder.glob(pattern) if path.is_file()]
    assert {path.name for path in folder.iterdir()} - before == {"anonymise.key"} | {
        path.relative_to(folder).parts[0] for path in written
    }
    for path in written:
        assert not re.search(rb"zora|tilda", path.read_bytes())
    key = bytes.fromhex((folder / "anonymise.key").read_text().strip())
    worst = json.loads((folder / "audit.json").read_text())["sets"][0]["harm"]["arousal"]["worst_speaker"]
    assert worst in {pseudonym(key, f"zora{number:02}") for number in range(24)}
    assert worst in (folder / "report.html").read_text()


def test_a_second_report_takes_the_names_of_the_first_back(folder):
    report(str(folder), resamples=100)
    assert "zora" in (folder / "report.html").read_text()
    report(str(folder), resamples=100, anonymise=True)
    first = (folder / "audit.json").read_bytes()
    report(str(folder), resamples=100, anonymise=True)
    assert (folder / "audit.json").read_bytes() == first
    assert not any(
        b"zora" in path.read_bytes() for pattern in WRITTEN[2:] for path in folder.glob(pattern) if path.is_file()
    )


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("speaker,age\nzora00,33\nzora01,50\n", "age"),
        ("SpkrID,age\nzora00,33\nzora01,50\n", "SpkrID"),
        ("path,speaker\nzora00_0.wav,zora00\nzora01_0.wav,Unknown\n", "speaker"),
        ("utterance,age\nzora00_0,33\n", "utterance"),
        ("FileName,age\nzora00_0.wav,33\n", "FileName"),
        ("path,age\nzora00_0.wav,33\n", "path"),
    ],
)
def test_a_table_of_real_names_is_found_and_shown_under_pseudonyms(folder, tmp_path, table, column):
    path = tmp_path / "table.csv"
    path.write_text(table)
    real, hidden = read_run(folder).sets[0].utterances, read_run(folder, KEY).sets[0].utterances
    expected = column_of(real, column, str(path))
    found = column_of(hidden, column, str(path), KEY)
    assert len([value for value in found if value]) == len([value for value in expected if value]) > 0
    assert named(value for value in found if value) == []
    if column == "age":
        place = list(hidden["utterance"]).index(pseudonym(KEY, "zora00_0", "utterance"))
        assert found[place] == "33"


def test_mistakes(folder, tmp_path, capsys):
    assert ser("report", tmp_path / "nowhere", "--anonymise") == 2
    assert "isn't a test run" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    assert ser("report", folder, "--key", "a.key") == 2
    assert "--key: says nothing without --anonymise" in capsys.readouterr().err
    (tmp_path / "a.key").write_text("short")
    assert ser("report", folder, "--anonymise", "--key", tmp_path / "a.key") == 2
    assert "a.key: holds no key, 64 hex digits" in capsys.readouterr().err
