"""`ser kmeans` on two real processes, one of which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import configs, ser

from ser_personal.data.frame_store import PseudoLabels
from ser_personal.errors import UserError

# `ser`, but the process of rank KILLED is shot before it writes its third batch
SHOT = """
import os, signal
from ser_personal.cli import main
from ser_personal.data.frame_store import PseudoLabels

write, written = PseudoLabels.write, []

def shot(store, ids):
    if len(written) == 2 and os.environ.get("LOCAL_RANK", "0") == os.environ["KILLED"]:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(ids)
    write(store, ids)

PseudoLabels.write = shot
raise SystemExit(main())
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def arguments(corpus: Path, out: Path) -> list[str]:
    settings = {"data.corpus": corpus, "data.batch_seconds": 3, "num_clusters": 10, "iterations": 5, "out": out}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["kmeans", *configs("kmeans.yaml", "tiny/kmeans.yaml"), *flags, "--accelerator", "cpu"]


def run_on_two(program: list[object], words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [*map(str, program), *words, "--devices", "2"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=150, env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, synthetic_corpus):
    """What one process makes in one go."""
    out = tmp_path_factory.mktemp("whole") / "labels"
    assert ser(*arguments(synthetic_corpus, out)) == 0
    return contents(out)


@pytest.mark.parametrize("killed", ["0", "1"])
def test_two_processes_one_of_them_killed_come_to_the_bytes_of_one(whole, killed, synthetic_corpus, tmp_path):
    out = tmp_path / "labels"
    (tmp_path / "shot.py").write_text(SHOT)
    words = arguments(synthetic_corpus, out)
    assert run_on_two([sys.executable, tmp_path / "shot.py"], words, KILLED=killed).returncode != 0
    with pytest.raises(UserError, match="half written"):
        PseudoLabels.load(out)
    assert len(list(out.glob("batch-*"))) >= 2
    if killed == "0":
        done = run_on_two([Path(sys.executable).parent / "ser"], words)
        assert done.returncode == 0, done.stderr
        assert "distributed_backend=gloo" in done.stderr
        assert done.stdout.count("K = 10") == 1
    else:
        assert ser(*words) == 0
    assert contents(out) == whole
