"""`ser demo`: the whole method on a synthetic corpus, by the very commands that it prints."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from ser_personal.config_files import with_found_configs
from ser_personal.errors import UserError

SYSTEMS = {"vanilla": "Vanilla-FT", "tapt": "TAPT-FT", "papt": "PAPT-FT"}
CAVEAT = "These results are of synthetic speech: they show that the method runs, and say nothing about people."


def demo(out: str, speakers: int = 80, utterances: int = 24, seed: int = 0) -> None:
    """Run the whole pipeline on a synthetic corpus, printing each command that it stands for.

    Synthetic corpus, k-means, TAPT and PAPT, fine-tuning without them and from each, and a test of all three with PLDC
    and its controls. Every printed line works when pasted. The stages run in one process, since lightning and
    transformers take 10 to 20 s to import.

    Args:
        out: an empty or new folder for everything that is made.
        speakers: of the corpus, in all three sets together.
        utterances: of each speaker.
        seed: of the corpus.

    Raises:
        UserError: the folder isn't empty.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise UserError("isn't empty", where=out, remedy="Give --out another folder, or delete this one")
    started = time.perf_counter()
    corpus, labels = folder / "corpus", folder / "pseudo_labels"
    data = ["--data.corpus", str(corpus)]
    # the stages share this process, which a second device would leave
    one_device = ["--trainer.devices", "1"]
    root = [*one_device, "--trainer.default_root_dir", str(folder)]

    def config(*names: str) -> list[str]:
        return [piece for name in names for piece in ("--config", name)]

    _plain("synth", "--out", corpus, "--speakers", speakers, "--utterances", utterances, "--seed", seed)
    _plain("check", corpus)
    _plain("kmeans", *config("kmeans.yaml", "tiny/kmeans.yaml"), *data, "--out", labels)

    masked_prediction = {}
    pretrain = [*config("papt.yaml", "tiny/papt.yaml"), *data, "--data.pseudo_labels", str(labels), *root]
    tapt = config("tapt.yaml")
    _stage("fit", *pretrain, *tapt)
    _stage("fit", *pretrain)
    for name, arguments in {
        "TAPT": [*tapt, "--ckpt_path", str(folder / "tapt.ckpt")],
        "PAPT": ["--ckpt_path", str(folder / "papt.ckpt")],
        "PAPT, speakers permuted": [
            *("--ckpt_path", str(folder / "papt.ckpt")),
            *("--model.speakers", "SpeakerEmbedding", "--model.speakers.permute", "true"),
        ],
    }.items():
        masked_prediction[name] = _stage("validate", *pretrain, *arguments)

    finetune = [*config("finetune.yaml", "tiny/finetune.yaml"), *data]
    metrics, baseline = {}, {}
    for system in SYSTEMS:
        system_root = [*one_device, "--trainer.default_root_dir", str(folder / system)]
        source = [] if system == "vanilla" else ["--model.papt_checkpoint", str(folder / f"{system}.ckpt")]
        _stage("fit", *finetune, *source, *system_root)
        ridge = config("ridge.yaml") if system == "vanilla" else []
        checkpoint = ["--ckpt_path", str(folder / system / "finetune.ckpt")]
        _stage("test", *finetune, *config("pldc.yaml"), *ridge, *checkpoint, *system_root)
        metrics[system] = _newest(folder / system, "metrics.json")
        if ridge:
            baseline = _newest(folder / system, "baseline.json")
    seconds = time.perf_counter() - started
    results = {"masked_prediction": masked_prediction, "baseline": baseline, "systems": metrics, "seconds": seconds}
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    _summary(results, folder)


def _announce(arguments: list[str]) -> None:
    from rich.console import Console

    Console().print(
        f"\n$ {shlex.join(['ser', *arguments])}", style="bold", markup=False, soft_wrap=True, highlight=False
    )


def _plain(name: str, *arguments: object) -> None:
    from ser_personal.cli import run_command

    words = [str(argument) for argument in arguments]
    _announce([name, *words])
    code = run_command(name, with_found_configs(words))
    if code:
        raise UserError(f"ended with exit code {code}", where=f"ser {name}", remedy="What it printed says why")


def _stage(name: str, *arguments: str) -> dict[str, float]:
    from ser_personal.stages.stage_cli import run

    _announce([name, *arguments])
    trainer = run(with_found_configs([name, *arguments])).trainer
    return {metric: float(value) for metric, value in trainer.callback_metrics.items()}


def _newest(folder: Path, name: str) -> dict[str, Any]:
    newest = max(folder.rglob(name), key=lambda path: path.stat().st_mtime_ns)
    content: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))
    return content


def _summary(results: dict[str, Any], folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ser_personal.calibration.table import format_scores, score_table
    from ser_personal.scores import from_json

    console = Console()
    losses = Table(title="Masked prediction, nats per masked frame", title_justify="left", box=box.SIMPLE)
    for heading in ("", "held-out utterances", "unseen speakers"):
        losses.add_column(heading, justify="right" if heading else "left")
    for name, metrics in results["masked_prediction"].items():
        losses.add_row(name, f"{metrics['val_loss']:.3f}", f"{metrics['val_loss_unseen_speakers']:.3f}")
    console.print(losses)

    (baseline,) = (from_json(split["rows"]["ridge"]["attributes"]) for split in results["baseline"]["splits"].values())
    table = score_table("Emotion, unseen speakers", list(baseline))
    table.add_row("ridge on MFCC", *format_scores(baseline.values()), end_section=True)
    for system, metrics in results["systems"].items():
        for split in metrics["splits"].values():
            table.add_row(SYSTEMS[system], style="bold")
            for name, row in split["rows"].items():
                scores = from_json(row["attributes"])
                table.add_row(f"  {name}", *format_scores(scores.values()), style="dim" if row["is_oracle"] else None)
    console.print(table)
    console.print(
        f"{results['seconds'] / 60:.1f} minutes; everything is in {escape(str(folder))}, the figures in results.json."
    )
    console.print(CAVEAT, style="bold")
