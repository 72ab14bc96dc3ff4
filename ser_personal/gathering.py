"""What the processes of one run hand each other: through files, so that no process needs the memory of all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lightning.pytorch import Trainer

Result = TypeVar("Result")


def gather_files(
    trainer: Trainer, root: str | Path, write: Callable[[Path], None], read: Callable[[Sequence[Path]], Result]
) -> Result | None:
    """Have each process write a file, and the first read them all. Call it on every process.

    Args:
        trainer: of the run.
        root: a folder that every process sees; the files are gone from it afterwards.
        write: writes this process's file.
        read: reads the files, in the order of ranks.

    Returns:
        What `read` made of them on the first process, None on the others.
    """
    folder = Path(trainer.strategy.broadcast(_new_folder(root) if trainer.is_global_zero else ""))
    write(folder / str(trainer.global_rank))
    trainer.strategy.barrier("files written")
    result = None
    if trainer.is_global_zero:
        try:
            result = read([folder / str(rank) for rank in range(trainer.world_size)])
        finally:
            shutil.rmtree(folder)
    trainer.strategy.barrier("files read")
    return result


def on_first_process(trainer: Trainer, work: Callable[[], Result]) -> Result:
    """Have the first process do something that all need the outcome of. Call it on every process.

    Raises:
        UserError: on the first process, what `work` raised; the others end without a word.
    """
    result: Any = None
    mistake: UserError | None = None
    if trainer.is_global_zero:
        try:
            result = work()
        except UserError as error:
            mistake = error
    failed, outcome = trainer.strategy.broadcast((mistake is not None, result))
    if mistake is not None:
        raise mistake
    if failed:
        raise SystemExit(2)
    shared: Result = outcome
    return shared


def _new_folder(root: str | Path) -> str:
    """Make a folder that no other run has."""
    Path(root).mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=".gather-", dir=root)
