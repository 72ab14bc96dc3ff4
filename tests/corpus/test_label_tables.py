import gzip
import math
from pathlib import Path
from unicodedata import normalize

import pandas as pd
import pytest
from command_line import ser
from garbage import files, is_read_or_refused, many_inputs, refused
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.base import audio_path
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.corpus.msp_podcast import MSPPodcast, read_partitions
from ser_personal.corpus.table import attribute_labels, is_table, read_rows, segment
from ser_personal.errors import UserError
from ser_personal.types import ATTRIBUTES

ROOT = Path("/corpus/audio")
TABLE = b"""path,speaker,split,arousal,valence,dominance,gender,id
a/u.wav,x,train,1.5,,7,female,u
v.wav,,test1,2,3,4,,v
"""
LABELS = b"""FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
a.wav,N,1,2.5,3,7,Male,Train
b.wav,H,,4,5,Unknown,,Test1
"""
READERS = {
    "corpus.csv": (TABLE, lambda path: CSVCorpus(str(path)).read_labels()),
    "Labels/labels_consensus.csv": (LABELS, lambda path: MSPPodcast(str(path.parents[1])).read_labels()),
    "Partitions.txt": (b"Train; a.wav\nTest1; b.wav\n", read_partitions),
}
CELLS = st.sampled_from(["inf", "-Infinity", "1e999", "0x1", "\uff11", " 4 ", "NaN"])
ROWS = [
    {"path": "a.wav", "speaker": "NA", "split": "train", "arousal": "4.5"},
    {"path": "b.wav", "speaker": "1,2", "split": "dev", "arousal": ""},
]
COMMAS = 'path,speaker,split,arousal\na.wav,NA,train,4.5\n\nb.wav,"1,2",dev,\n'
SEMICOLONS = "path;speaker;split;arousal\r\na.wav;NA;train;4,5\r\nb.wav;1,2;dev;\r\n"
SPELLINGS = {
    "commas.csv": f"\r\n\r\n{COMMAS}".encode(),
    "excel.csv": SEMICOLONS.encode("utf-8-sig"),
    "tabs.tsv": SEMICOLONS.replace(";", "\t").encode("utf-16"),
    "zipped.csv.gz": gzip.compress(COMMAS.encode()),
}


@pytest.mark.parametrize(("name", "meant"), [("EmoDom", "dominance"), ("valance", "valence")])
def test_an_attribute_by_another_name_is_not_passed_over(name, meant, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(f"path,speaker,split,pleasant,{name}\na.wav,s,train,3,3\n")
    enroll = ["enroll", "s", tmp_path / "a.csv", "--model", tmp_path, "--profiles", tmp_path / "p.safetensors"]
    for command in (["check", tmp_path / "a.csv"], enroll):
        assert ser(*command) == 2
        assert f"a.csv: no column {meant}, and {name} isn't read" in capsys.readouterr().err
    # beside the attribute itself it is something else
    (tmp_path / "a.csv").write_text(f"path,speaker,split,{name},{meant}\na.wav,s,train,3,3\n")
    assert [each.labels[meant] for each in CSVCorpus(str(tmp_path / "a.csv")).read_labels()] == [3]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_table_is_read_alike_however_it_was_saved(name, tmp_path, caplog):
    (tmp_path / name).write_bytes(SPELLINGS[name])
    assert is_table(tmp_path / name)
    assert read_rows(tmp_path / name, ("path", "split")) == ROWS
    assert bool(caplog.records) == (name in {"excel.csv", "tabs.tsv"})


@pytest.mark.parametrize("form", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_called_so(form, tmp_path):
    (tmp_path / "a.csv").write_bytes(COMMAS.encode(form))
    told = r"a\.csv: looks like UTF-16 without its mark\. Save it again as UTF-8\."
    refused(told, read_rows, tmp_path / "a.csv", ("path",))


def test_columns_by_other_names_and_half_a_segment_are_told(tmp_path):
    (tmp_path / "a.csv").write_text("file,speaker_id,split\na.wav,s,train\n")
    told = r"no column path, speaker .*Did you mean file, speaker_id\? Rename it to path, speaker"
    refused(told, read_rows, tmp_path / "a.csv", ("path", "speaker"))
    (tmp_path / "a.csv").write_text("path,speaker,split,start\na.wav,s,train,1\n")
    refused("one of the columns start and end alone", read_rows, tmp_path / "a.csv", ("path", "speaker"))


def test_parquet_is_read_as_its_table_is(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"path": ["a.wav", "b.wav"], "speaker": ["NA", "1,2"], "split": ["train", "dev"]})
    frame.assign(arousal=[4.5, None]).to_parquet(tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet", ("path", "split")) == ROWS
    frame.assign(speaker=pd.array([7, None], "Int64")).to_parquet(tmp_path / "t.parquet")
    assert [row["speaker"] for row in read_rows(tmp_path / "t.parquet", ("path",))] == ["7", ""]
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    refused(r"t\.parquet: can't be read as Parquet", read_rows, tmp_path / "t.parquet", ("path",))


@pytest.mark.parametrize(("written", "read"), [("10.0,,10", "10,,10"), ("10.0,,b", "10.0,,b"), ("1.0,1.5", "1.0,1.5")])
def test_speakers_that_another_tool_made_floats_of_are_the_same_people(written, read, tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(["path,speaker", *(f"a.wav,{name}" for name in written.split(","))]))
    assert [row["speaker"] for row in read_rows(tmp_path / "a.csv", ("path",))] == read.split(",")


def test_times_of_a_segment():
    times = [("", "", None), ("", "3", (0, 3)), ("0:01:02.5", "1:00:00", (62.5, 3600)), ("1:02", "62.5", (62, 62.5))]
    times += [("0 days", "0 days 00:00:07.500000", (0, 7.5)), ("00:00:07,500", "00:01:00,250", (7.5, 60.25))]
    for start, end, seconds in times:
        assert segment({"start": start, "end": end}, "row") == seconds
    for start in ("nan", "1:2:3:4", "0:-1", "-1", "x", "1 days 00:00:07", "1,500"):
        refused(r"^row: start is .*not a time", segment, {"start": start, "end": "9"}, "row")
    refused("^row: ends at 1 s and starts at 2 s", segment, {"start": "2", "end": "1"}, "row")


@pytest.mark.parametrize("cell", ["/etc/passwd", "../u.wav", r"a\..\..\u.wav", r"C:\u.wav", r"\\host\u.wav"])
def test_a_path_out_of_the_corpus_is_refused_unless_the_table_is_named(cell):
    refused(r"u: .* lies outside the corpus\. Move the audio into /corpus/audio", audio_path, ROOT, cell, "u")
    audio_path(ROOT, cell, "u", anywhere=True)


@pytest.mark.parametrize("cell", ["a/b/u.wav", r"a\b\u.wav", "..u.wav", "./u.wav", f"{ROOT}/u.wav"])
def test_a_path_inside_is_taken(cell):
    assert audio_path(ROOT, cell, "u") == ROOT / cell.replace("\\", "/")


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_path_is_found_in_either_form_of_unicode(tmp_path, form, other):
    name = "Jose\u0301/cafe\u0301.wav"
    path = tmp_path / normalize(form, name)
    path.parent.mkdir()
    path.touch()
    assert audio_path(tmp_path, normalize(other, name), "u") == audio_path(tmp_path, normalize(form, name), "u") == path
    assert audio_path(tmp_path, normalize(other, f"{name}x"), "u") == tmp_path / normalize(other, f"{name}x")


@given(st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "b.wav", ""])).map("/".join))
def test_what_is_taken_stays_inside(cell):
    try:
        path = audio_path(ROOT, cell, "u")
    except UserError:
        return
    assert path.resolve().is_relative_to(ROOT.resolve())


@pytest.mark.parametrize("name", READERS)
def test_garbage_is_read_or_refused(tmp_path, name):
    sound, read = READERS[name]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)

    @many_inputs
    @given(content=files(sound))
    def check(content):
        path.write_bytes(content)
        is_read_or_refused(lambda: read(path))

    path.write_bytes(sound)
    assert read(path)
    check()


@many_inputs
@given(cell=st.text() | st.floats().map(repr) | CELLS)
def test_garbage_as_a_label_is_missing_finite_or_refused(cell):
    def read():
        labels = attribute_labels({"a": cell}, dict.fromkeys(ATTRIBUTES, "a"), "row")
        assert not any(math.isinf(label) for label in labels.values())

    is_read_or_refused(read)
