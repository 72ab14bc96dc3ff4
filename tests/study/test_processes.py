from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ser_personal.study import runner as runner_file
from ser_personal.study.runner import ForkRunner, SubprocessRunner


@pytest.fixture(params=["fork", "subprocess"])
def runner(request, monkeypatch):
    if request.param == "subprocess":
        yield SubprocessRunner(os.open(os.devnull, os.O_RDONLY))
        return
    # what a warm server imports takes longer than the test
    monkeypatch.setattr(runner_file, "WARM", [])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield ForkRunner(threads=1)


def test_a_command_runs_in_a_process_that_is_measured(runner, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    code, measured = runner.run(
        ["synth", "--out", str(tmp_path / "corpus"), "--speakers", "4", "--utterances", "2"], log
    )
    assert code == 0
    assert len(list((tmp_path / "corpus" / "Audios").iterdir())) == 8
    assert log.read_text().startswith("before\nSynthesising")
    assert measured["cpu_seconds"] > 0
    assert 2**25 < measured["peak_memory"] < 2**35


def test_a_mistake_is_its_exit_code_and_a_line_in_the_log(runner, tmp_path, capfd):
    code, _ = runner.run(["check", str(tmp_path / "nowhere")], tmp_path / "log.txt")
    assert code == 2
    assert (tmp_path / "log.txt").read_text().startswith(f"ser: {tmp_path / 'nowhere'}: no such corpus")
    assert capfd.readouterr().out == ""


STUDY = """
import sys
from pathlib import Path
from ser_personal.study import runner as runner_file
runner_file.WARM = []
folder = Path(sys.argv[1])
words = ["synth", "--out", str(folder / "corpus"), "--speakers", "4000", "--utterances", "1000"]
runner_file.ForkRunner(threads=1).run(words, folder / "log.txt")
"""


def files(folder):
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def wait_until(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_fork_ends_with_the_study_that_was_killed(tmp_path):
    audio = tmp_path / "corpus" / "Audios"
    study = subprocess.Popen([sys.executable, "-c", STUDY, str(tmp_path)])
    wait_until(lambda: files(audio) > 3)
    study.kill()
    study.wait()

    def stands_still():
        before = files(audio)
        time.sleep(1)
        return files(audio) == before

    wait_until(stands_still, seconds=20)
