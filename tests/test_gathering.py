from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from ser_personal.errors import UserError
from ser_personal.files import gather_files, on_first_process


def trainers(world_size):
    """Trainers of several processes, here threads."""
    barrier, sent = threading.Barrier(world_size, timeout=20), {}

    def broadcast_by(rank):
        def broadcast(value):
            sent[rank] = value
            barrier.wait()
            first = sent[0]
            barrier.wait()
            return first

        return broadcast

    return [
        SimpleNamespace(
            world_size=world_size,
            global_rank=rank,
            is_global_zero=rank == 0,
            strategy=SimpleNamespace(broadcast=broadcast_by(rank), barrier=lambda _name: barrier.wait()),
        )
        for rank in range(world_size)
    ]


def on_all(world_size, work):
    with ThreadPoolExecutor(world_size) as threads:
        return [threads.submit(work, trainer) for trainer in trainers(world_size)]


def test_the_first_process_reads_all_files_in_the_order_of_ranks(tmp_path):
    def gather(trainer):
        return gather_files(
            trainer,
            tmp_path / "new",
            lambda path: path.write_text(f"rank {trainer.global_rank}"),
            lambda paths: [path.read_text() for path in paths],
        )

    results = [future.result() for future in on_all(3, gather)]
    assert results == [["rank 0", "rank 1", "rank 2"], None, None]
    assert not list((tmp_path / "new").iterdir())


def test_what_the_first_process_makes_reaches_all():
    made = []

    def make(trainer):
        return on_first_process(trainer, lambda: made.append(trainer.global_rank) or "made")

    assert [future.result() for future in on_all(3, make)] == ["made"] * 3
    assert made == [0]


def test_a_mistake_on_the_first_process_is_told_once_and_ends_all():
    def fail():
        raise UserError("too few frames", remedy="Give more audio")

    first, *others = on_all(3, lambda trainer: on_first_process(trainer, fail))
    with pytest.raises(UserError, match="too few frames"):
        first.result()
    for other in others:
        assert isinstance(other.exception(), SystemExit)
        assert other.exception().code == 2
