from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from garbage import files, is_read_or_refused, many_inputs
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.corpus.msp_podcast import MSPPodcast, read_partitions
from ser_personal.corpus.table import attribute_labels
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from pathlib import Path

TABLE = (
    b"path,speaker,split,arousal,valence,dominance,gender,id\na/u.wav,x,train,1.5,,7,female,u\nv.wav,,test1,2,3,4,,v\n"
)
LABELS = b"""FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
a.wav,N,1,2.5,3,7,Male,Train
b.wav,H,,4,5,Unknown,,Test1
"""
JSON = b"""{"a.wav": {"EmoClass": "N", "EmoAct": 1, "EmoVal": 2.5, "EmoDom": null, "SpkrID": "7", "Gender": "Male",
 "Split_Set": "Train"}}"""
PARTITIONS = b"Train; a.wav\nTest1; b.wav\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / "json" / "Labels").mkdir(parents=True)
    (folder / "csv" / "Labels").mkdir(parents=True)
    return folder


def test_what_is_spoilt_below_can_be_read_whole(folder):
    (folder / "corpus.csv").write_bytes(TABLE)
    (folder / "csv" / "Labels" / "labels_consensus.csv").write_bytes(LABELS)
    (folder / "json" / "Labels" / "labels_consensus.json").write_bytes(JSON)
    (folder / "Partitions.txt").write_bytes(PARTITIONS)
    assert len(CSVCorpus(str(folder / "corpus.csv")).read_labels()) == 2
    assert len(MSPPodcast(str(folder / "csv")).read_labels()) == 2
    assert len(MSPPodcast(str(folder / "json")).read_labels()) == 1
    assert len(read_partitions(folder / "Partitions.txt")) == 2


@many_inputs
@given(content=files(TABLE))
def test_garbage_as_a_corpus_table(folder, content):
    path = folder / "corpus.csv"
    path.write_bytes(content)
    is_read_or_refused(lambda: CSVCorpus(str(path)).read_labels())


@many_inputs
@given(content=files(LABELS))
def test_garbage_as_msp_podcasts_labels(folder, content):
    (folder / "csv" / "Labels" / "labels_consensus.csv").write_bytes(content)
    is_read_or_refused(lambda: MSPPodcast(str(folder / "csv")).read_labels())


@many_inputs
@given(content=files(JSON))
def test_garbage_as_msp_podcasts_json(folder, content):
    (folder / "json" / "Labels" / "labels_consensus.json").write_bytes(content)
    is_read_or_refused(lambda: MSPPodcast(str(folder / "json")).read_labels())


@many_inputs
@given(content=files(PARTITIONS))
def test_garbage_as_partitions(folder, content):
    path = folder / "Partitions.txt"
    path.write_bytes(content)
    is_read_or_refused(lambda: read_partitions(path))


@many_inputs
@given(
    cell=st.text()
    | st.floats().map(repr)
    | st.sampled_from(["inf", "-Infinity", "1e999", "0x1", "\uff11", " 4 ", "NaN"])
)
def test_garbage_as_a_label_is_missing_finite_or_refused(cell):
    def read() -> None:
        labels = attribute_labels({"a": cell}, dict.fromkeys(ATTRIBUTES, "a"), "row")
        assert not any(math.isinf(label) for label in labels.values())

    is_read_or_refused(read)
