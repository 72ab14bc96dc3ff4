from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.corpus.table import audio_path
from ser_personal.errors import UserError

ROOT = Path("/corpus/audio")
OUTSIDE = [
    "/etc/passwd",
    "../u.wav",
    "a/../../u.wav",
    "a/..",
    r"..\u.wav",
    r"a\..\..\u.wav",
    r"C:\u.wav",
    r"\\host\u.wav",
]


@pytest.mark.parametrize("cell", OUTSIDE)
def test_a_path_out_of_the_corpus_is_refused_unless_allowed(cell):
    with pytest.raises(UserError, match=r"corpus\.csv, u: .* lies outside the corpus\. .*allow_outside true"):
        audio_path(ROOT, cell, "corpus.csv, u")
    audio_path(ROOT, cell, "corpus.csv, u", allow_outside=True)


@pytest.mark.parametrize("cell", ["u.wav", "a/b/u.wav", r"a\b\u.wav", "..u.wav", "a..b/u.wav", "./u.wav"])
def test_a_path_inside_is_taken(cell):
    assert audio_path(ROOT, cell, "corpus.csv, u") == ROOT / cell.replace("\\", "/")


@pytest.mark.parametrize("cell", ["a\0.wav", "9" * 300, f"a/{'é' * 130}.wav", "\ud800.wav"])
def test_what_no_file_can_be_called_is_refused(cell):
    with pytest.raises(UserError, match=r"can't be a file's name\. Correct or remove the row"):
        audio_path(ROOT, cell, "corpus.csv, u")


@given(st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "b.wav", ""])).map("/".join))
def test_what_is_taken_stays_inside(cell):
    try:
        path = audio_path(ROOT, cell, "u")
    except UserError:
        return
    assert path.resolve().is_relative_to(ROOT.resolve())


def test_a_table_with_such_a_path_is_refused_unless_allowed(tmp_path, wav):
    wav(tmp_path / "secret.wav")
    (tmp_path / "corpus").mkdir()
    table = tmp_path / "corpus" / "corpus.csv"
    table.write_text("path,speaker,split\n../secret.wav,a,train\n")
    with pytest.raises(UserError, match=r"\.\./secret\.wav lies outside the corpus"):
        _ = CSVCorpus(str(table)).utterances
    (allowed,) = CSVCorpus(str(table), allow_outside=True).utterances
    assert allowed.seconds == 0.1


def test_a_release_with_such_a_name_is_refused(release):
    root = release([["../../a.wav", "N", 1, 1, 1, "1", "Female", "Train"]])
    with pytest.raises(UserError, match=r"\.\./\.\./a\.wav lies outside the corpus"):
        _ = MSPPodcast(str(root)).utterances
