from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from garbage import files, is_read_or_refused, many_inputs
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.data.frame_store import PseudoLabels, PseudoLabelWriter

if TYPE_CHECKING:
    from pathlib import Path

META = {"format_version": 1, "finished": True, "source": {"num_clusters": 3, "teacher": "mfcc", "codebook_hash": "0"}}
META["source"] |= {"teacher_layer": None, "frame_rate": 50}
WHOLE = {"meta.json": json.dumps(META).encode(), "utterances.jsonl": b'["u", 3]\n["v", 2]\n', "ids.uint16": bytes(10)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("garbage")


def write(folder: Path, **spoilt: bytes) -> None:
    for name, content in (WHOLE | spoilt).items():
        (folder / name).write_bytes(content)


def test_what_is_spoilt_below_can_be_read_whole(folder):
    write(folder)
    assert PseudoLabels.load(folder)["v"].tolist() == [0, 0]


@many_inputs
@given(data=st.data(), name=st.sampled_from(["meta.json", "utterances.jsonl"]))
def test_garbage_as_pseudo_labels(folder, data, name):
    write(folder, **{name: data.draw(files(WHOLE[name]))})
    if is_read_or_refused(lambda: PseudoLabels.load(folder)):
        labels = PseudoLabels.load(folder)
        assert sum(len(labels[name]) for name in labels._places) == 5

    def go_on() -> None:
        with PseudoLabelWriter(folder, PseudoLabels.load(folder).source) as writer:
            writer.finish()

    is_read_or_refused(go_on)
