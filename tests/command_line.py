"""Running `ser` in this process, on stages small enough for a test, and functions in two others."""

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

from torch.multiprocessing import start_processes

from ser_personal.cli import main
from ser_personal.stages.stage_cli import StageCLI, run

REPOSITORY = Path(__file__).parents[1]
# Lightning starts the processes of further devices by this path
SER = str(Path(sys.executable).parent / "ser")
PRELOADED = ["command_line", "faiss", "jsonargparse", "ser_personal.pretrain.kmeans", "ser_personal.stages.stage_cli"]
PRELOADED += ["torch.utils.tensorboard", "transformers.models.hubert.modeling_hubert"]


def forkserver() -> ForkServerContext:
    """Processes forked from one that has imported everything, so that none waits for imports."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    return server


def on_two_ranks(function: Callable[..., None], *arguments: object) -> None:
    """Call a function with the rank, 0 and 1, in two processes, and wait for them."""
    forkserver()
    start_processes(function, arguments, nprocs=2, start_method="forkserver")


def ser(*arguments: object) -> int:
    """Run `ser ARGUMENTS` and return its exit code."""
    with patch.object(sys, "argv", [SER, *map(str, arguments)]):
        return main()


def stage(*arguments: object) -> StageCLI:
    """Run a stage and return what it ran, for a look at its model, data and trainer."""
    with patch.object(sys, "argv", [SER, *map(str, arguments)]):
        return run([str(argument) for argument in arguments])


def configs(*names: str) -> list[str]:
    return [piece for name in names for piece in ("--config", str(REPOSITORY / "configs" / name))]


def trainer_flags(folder: Path, max_epochs: int = 1) -> list[str]:
    flags = {"accelerator": "cpu", "devices": 1, "default_root_dir": folder, "max_epochs": max_epochs}
    flags |= dict.fromkeys(("enable_progress_bar", "enable_model_summary"), "false")
    return [piece for name, value in flags.items() for piece in (f"--trainer.{name}", str(value))]


def papt_arguments(corpus: Path, pseudo_labels: Path) -> list[str]:
    data = ["--data.corpus", str(corpus), "--data.pseudo_labels", str(pseudo_labels)]
    return [*configs("papt.yaml", "tiny/papt.yaml"), *data, "--data.min_samples", "8000"]


def finetune_arguments(corpus: Path) -> list[str]:
    return [*configs("finetune.yaml", "tiny/finetune.yaml"), "--data.corpus", str(corpus)]
