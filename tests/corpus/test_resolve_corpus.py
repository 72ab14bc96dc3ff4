from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ser_personal.corpus.csv_corpus import CSVCorpus, open_corpus
from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_table_or_its_folder(table: Callable[..., str]) -> None:
    path = table(["path", "speaker", "split"], ["a.wav", "s", "train"])
    for given in (path, str(Path(path).parent)):
        corpus = open_corpus(given)
        assert isinstance(corpus, CSVCorpus)
        assert corpus.label_file == Path(path)
        assert open_corpus(corpus) is corpus


def test_a_release(release: Callable[..., Path]) -> None:
    root = release([("a.wav", "N", 4, 4, 4, 1, "Male", "Train")], audio="Audio")
    assert isinstance(open_corpus(str(root)), MSPPodcast)
    assert len(open_corpus(str(root)).utterances) == 1


def test_anything_else_says_what_is_accepted(tmp_path: Path) -> None:
    accepted = r"Give a folder with Labels and Audios .*, one with corpus.csv, or the path of a .csv table\."
    with pytest.raises(UserError, match=f"holds no corpus. {accepted}"):
        open_corpus(str(tmp_path))
    with pytest.raises(UserError, match=f"no such corpus. {accepted}"):
        open_corpus(str(tmp_path / "nowhere"))


def test_corpora_are_read_and_checked_without_torch(table: Callable[..., str]) -> None:
    path = table(["path", "speaker", "split"], ["a.wav", "s", "train"], ["b.wav", "t", "dev"])
    program = f"""
import sys
from ser_personal.corpus import base, check, csv_corpus, msp_podcast, splits, table
assert check.check({path!r}) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
