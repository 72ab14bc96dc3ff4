"""`ser demo`: the whole method on synthetic speech, a line per stage, and three things to open at the end."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import time
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from ser_personal.errors import UserError
from ser_personal.files import check_empty

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEMS = ("vanilla", "tapt", "papt")
EXPECT = """What to expect: {minutes:.0f} minutes of speech by invented voices, and 0.2 million random weights in
HuBERT's place. It shows that every step runs, and how it reports. Ridge regression should do about
as well, and no figure says anything about people.
"""


def demo(
    out: str, speakers: int = 60, utterances: int = 16, seed: int = 0, *, full: bool = False, verbose: bool = False
) -> None:
    """Run the whole method on synthetic speech: corpus, PAPT, fine-tuning, a test with controls, report and timeline.

    Every command that it stands for is in commands.sh, and works when pasted; what they printed is in log.txt. They run
    in one process, since lightning and transformers take 10 to 20 s to import.

    Args:
        out: an empty or new folder for everything that is made.
        speakers: of the corpus, in all three sets together.
        utterances: of each speaker.
        seed: of the corpus.
        full: train Vanilla-FT and TAPT-FT as well, and compare the three.
        verbose: show each command, and all that it prints.
    """
    folder = Path(out)
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    stages = Stages(folder, 12 if full else 7, verbose=verbose)
    # utterances are of 2 to 4 s
    print(EXPECT.format(minutes=speakers * utterances * 3 / 60))
    run = _pipeline(stages, folder, speakers, utterances, seed, full=full)
    _look(stages, folder, run, seed, speakers)
    if full:
        stages.run("compare", *(folder / system for system in SYSTEMS), "--baseline", "vanilla", shown=True)
    print(f"""
{(time.perf_counter() - started) / 60:.1f} minutes. Open
  {folder / "report.html"}    what the model can do, for whom it fails, and what calibration changes
  {folder / "timeline.html"}  a conversation of two voices that it has never heard, with sound
and do the same with a recording of your own, whose values mean nothing before a model has heard real speech:
  ser annotate yours.wav --model {folder / "bundle"} --out yours.csv
  ser report yours.csv
The commands are in {folder / "commands.sh"}, what they printed in {folder / "log.txt"}.""")


class Stages:
    """Runs `ser` commands in this process, a line per stage; its folder gets commands.sh and log.txt."""

    def __init__(self, folder: Path, number: int, *, verbose: bool) -> None:
        self._folder, self._number, self._verbose = folder, number, verbose
        self._done = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """One stage; the first entry of the list stands on its line, further ones below."""
        self._done += 1
        title = f"{self._done}/{self._number} {name:10}"
        if not self._verbose:
            print(title, end=" ", flush=True)
        found: list[str] = []
        started = time.perf_counter()
        yield found
        first, *more = found
        print(f"{f'{title} ' if self._verbose else ''}{first:<64}{time.perf_counter() - started:4.0f} s")
        for line in more:
            print(f"{'':{len(title)}} {line}")

    def run(self, name: str, *arguments: object, shown: bool = False) -> None:
        """Run a command, its output in log.txt, or on the screen where all is shown."""
        # else its log would write to this file even after it is closed
        import lightning.pytorch  # noqa: F401

        from ser_personal.cli import dispatch

        words = [str(argument) for argument in arguments]
        line = shlex.join(["ser", name, *words])
        with ExitStack() as stack:
            for file, text in (("commands.sh", line), ("log.txt", f"$ {line}")):
                log = stack.enter_context((self._folder / file).open("a", encoding="utf-8"))
                print(text, file=log, flush=True)
            if shown or self._verbose:
                print(f"\n$ {line}", flush=True)
            else:
                stack.enter_context(redirect_stdout(log))
                stack.enter_context(redirect_stderr(log))
                stack.callback(logging.disable, logging.root.manager.disable)
                logging.disable(logging.INFO)
            code = dispatch([name, *words])
        if code:
            raise UserError(f"ended with exit code {code}", where=f"ser {name}", remedy="log.txt says why")


def _configs(*names: str) -> list[str]:
    return [piece for name in names for piece in ("--config", name)]


def _pipeline(stages: Stages, folder: Path, speakers: int, utterances: int, seed: int, *, full: bool) -> Path:
    from ser_personal.calibration.table import decimal
    from ser_personal.data.frame_store import PseudoLabels

    corpus, labels = folder / "corpus", folder / "pseudo_labels"
    with stages.stage("corpus") as found:
        stages.run("synth", "--out", corpus, "--speakers", speakers, "--utterances", utterances, "--seed", seed)
        found.append(f"{speakers * utterances:,} utterances of {speakers} synthetic speakers")
    data = ["--data.corpus", corpus]
    with stages.stage("clusters") as found:
        kmeans = _configs("kmeans.yaml", "tiny/kmeans.yaml")
        # no process has to be started for so little audio
        stages.run("kmeans", *kmeans, *data, "--data.num_workers", 0, "--out", labels)
        found.append(f"{PseudoLabels.load(labels).source.num_clusters}, by k-means of MFCC frames")

    # the stages share this process, which a second device would leave
    device = ["--trainer.devices", 1, "--trainer.default_root_dir"]
    pretrain = [*_configs("papt.yaml", "tiny/papt.yaml"), *data, "--data.pseudo_labels", labels, *device, folder]
    for name in ("tapt", "papt") if full else ("papt",):
        with stages.stage(name.upper()) as found:
            stages.run("fit", *pretrain, *(_configs("tapt.yaml") if name == "tapt" else []))
            losses = json.loads((folder / f"{name}.scores.json").read_text(encoding="utf-8"))
            own, others = losses["val_loss"], losses["val_loss_unseen_speakers"]
            found.append(f"masked prediction {own:.2f} nats per frame, of unseen speakers {others:.2f}")
    finetune = [*_configs("finetune.yaml", "tiny/finetune.yaml"), *data]
    for system in SYSTEMS if full else ("papt",):
        root = folder / system
        with stages.stage("fine-tune") as found:
            source = [] if system == "vanilla" else ["--model.papt_checkpoint", folder / f"{system}.ckpt"]
            stages.run("fit", *finetune, *source, *device, root)
            scores = json.loads((root / "finetune.scores.json").read_text(encoding="utf-8"))
            found.append(f"{system}, validation CCC {decimal(scores['val_ccc'])}")
        with stages.stage("test") as found:
            test = [*_configs("pldc.yaml", "ridge.yaml"), "--ckpt_path", root / "finetune.ckpt"]
            stages.run("test", *finetune, *test, *device, root)
            (run,) = (path.parent for path in root.rglob("metrics.json"))
            found.extend(_tested(run))
    return run


def _tested(folder: Path) -> list[str]:
    from ser_personal.calibration.table import decimal
    from ser_personal.evaluation.run_files import RIDGE, read_run
    from ser_personal.report.bootstrap import Bootstrap, signed, verdicts

    run = read_run(folder)
    (test,) = run.sets

    rows = ("raw", run.chosen, "random_speakers", RIDGE)
    raw, calibrated, random, ridge = (decimal(test.row(row).scores["arousal"].average_ccc) for row in rows)
    found = verdicts(run, test, "arousal", Bootstrap())
    gain = found[0].gain
    between = gain.refused or f"{signed(gain.low)} to {signed(gain.high)}"
    return [
        f"{len(test.speakers)} people it has never heard",
        f"arousal A-CCC   raw {raw}   calibrated {calibrated} ({signed(gain.value)}, {between})",
        f"                random speakers {random}   ridge {ridge}",
        *wrap(f"-> {'; '.join(verdict.text for verdict in found)}", 72, subsequent_indent="   "),
        *wrap(run.no_controls, 72, subsequent_indent="   "),
    ]


def _look(stages: Stages, folder: Path, run: Path, seed: int, speakers: int) -> None:
    from ser_personal.corpus.synthetic import converse

    with stages.stage("report") as found:
        stages.run("report", run)
        shutil.copy(run / "report.html", folder / "report.html")
        found.append(str(folder / "report.html"))
    with stages.stage("annotate") as found:
        stem, table = folder / "conversation", folder / "conversation.csv"
        # of another group each, a low and a high one
        converse(stem, {name: speakers + 1 + 2 * number for number, name in enumerate(("ben", "ada"))}, seed)
        stages.run("export", run.parents[1] / "finetune.ckpt", "--out", folder / "bundle")
        turns = ["--segments", stem.with_suffix(".rttm")]
        stages.run("annotate", stem.with_suffix(".wav"), "--model", folder / "bundle", *turns, "--out", table)
        stages.run("report", table)
        found.append(f"{stem.with_suffix('.wav')}, two new voices -> {folder / 'timeline.html'}")
