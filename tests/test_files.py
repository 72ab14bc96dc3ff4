import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
from garbage import refused
from tiny_models import threaded_trainers

from ser_personal.errors import UserError
from ser_personal.files import atomic_write, content_hash, gather_files, on_first_process


def test_what_fails_midway_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.bin"
    atomic_write(path, b"first, longer")
    atomic_write(path, b"former")
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError("no space left on device")))
    with pytest.raises(OSError, match="no space") as caught:
        atomic_write(path, b"latter")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"former"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_keeps_its_name_and_a_pipe_is_written_to(tmp_path):
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "file.bin")
    atomic_write(link, b"content")
    assert link.is_symlink()
    assert (tmp_path / "file.bin").read_bytes() == b"content"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(pipe.read_bytes)
        atomic_write(pipe, b"content")
    assert found.result() == b"content"
    assert pipe.is_fifo()


def test_content_shape_type_and_order_count_in_a_hash(tmp_path):
    values = np.arange(6, dtype=np.float32)
    parts = [(values,), (values.reshape(2, 3),), (values.view(np.int32),), ("a", "b"), ("b", "a"), ("ab",)]
    assert len({content_hash(*part) for part in parts}) == len(parts)
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")):
        (tmp_path / name).write_bytes(content)
    hashes = [content_hash(tmp_path / name) for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]
    assert content_hash(values.reshape(2, 3).T.copy()) == content_hash(values.reshape(2, 3).T)


def test_a_writer_killed_midway_leaves_the_former_file(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write(path, b"former")
    writes = f"""
import os, signal
from ser_personal.files import atomic_file
with atomic_file({str(path)!r}) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", writes], check=False, timeout=600).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"former"


def on_all(world_size, work):
    with ThreadPoolExecutor(world_size) as threads:
        return [threads.submit(work, trainer) for trainer in threaded_trainers(world_size)]


def test_what_the_first_process_reads_of_all_and_makes_for_all(tmp_path):
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
    made = []
    outcomes = on_all(3, lambda trainer: on_first_process(trainer, lambda: made.append(trainer.global_rank) or "made"))
    assert [future.result() for future in outcomes] == ["made"] * 3
    assert made == [0]


def test_a_mistake_on_the_first_process_is_reported_once_and_ends_all():
    def fail():
        raise UserError("too few frames", remedy="Give more audio")

    first, *others = on_all(3, lambda trainer: on_first_process(trainer, fail))
    refused("too few frames", first.result)
    for other in others:
        assert isinstance(other.exception(), SystemExit)
        assert other.exception().code == 2
