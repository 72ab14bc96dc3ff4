from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.data.frame_store import PseudoLabels, PseudoLabelShards, PseudoLabelSource
from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = PseudoLabelSource(num_clusters=9, teacher="mfcc", codebook_hash="abc")
ORDER = [f"u{number}" for number in range(8)]


def write(shards: PseudoLabelShards, process: int, numbers: list[int]) -> None:
    with shards.writer(process) as writer:
        for number in numbers:
            if ORDER[number] not in writer:
                writer.write(ORDER[number], np.full(number + 1, number))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@given(dealt=st.lists(st.lists(st.integers(0, 7)), max_size=4), last=st.permutations(range(8)))
def test_joined_bytes_do_not_depend_on_who_wrote_what(tmp_path_factory, dealt, last):
    one = PseudoLabelShards(tmp_path_factory.mktemp("one") / "labels", SOURCE)
    one.begin()
    write(one, 0, list(range(8)))
    one.join(ORDER)
    many = PseudoLabelShards(tmp_path_factory.mktemp("many") / "labels", SOURCE)
    for process, numbers in enumerate(dealt):
        many.begin()
        write(many, process, numbers)
    assert many.begin() == {ORDER[number] for numbers in dealt for number in numbers}
    assert not many.are_joined
    write(many, 5, last)
    many.join(ORDER)
    assert many.are_joined
    assert contents(many.folder) == contents(one.folder)


def test_an_utterance_in_no_shard_is_named_and_what_is_written_stays(tmp_path):
    shards = PseudoLabelShards(tmp_path, SOURCE)
    write(shards, 0, [0, 1, 3])
    with pytest.raises(UserError, match=r"shards: no process wrote the pseudo-labels of u2.* all machines share"):
        shards.join(ORDER)
    with pytest.raises(UserError, match="half written"):
        PseudoLabels.load(tmp_path)
    assert shards.begin() == {"u0", "u1", "u3"}
    write(shards, 1, [2, 4, 5, 6, 7])
    shards.join(ORDER)
    assert [len(PseudoLabels.load(tmp_path)[utterance_id]) for utterance_id in ORDER] == list(range(1, 9))


def test_shards_of_another_codebook_never_mix_in(tmp_path):
    write(PseudoLabelShards(tmp_path, SOURCE), 0, [0])
    other = PseudoLabelSource(num_clusters=9, teacher="mfcc", codebook_hash="other")
    with pytest.raises(UserError, match="another teacher or codebook"):
        PseudoLabelShards(tmp_path, other).begin()
