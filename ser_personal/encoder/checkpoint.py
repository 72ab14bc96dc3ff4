"""Reading Lightning's checkpoints without running anything that is in them, and without trusting what they say."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import torch

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = "personalized_encoder"
# what a fit goes on with, beside the weights
TRAINING_STATE = ("optimizer_states", "lr_schedulers", "loops")
# what building networks from a wrong description, or loading wrong weights into them, ends in
UNFIT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project.

    Raises:
        UserError: the file is missing, truncated, unsafe, or no checkpoint of this project.
    """
    remedy = "give a checkpoint written by `ser fit`, such as papt.ckpt"
    if not Path(path).is_file():
        raise UserError("no such checkpoint", where=path, remedy=remedy)
    # What isn't a zip file would go to torch's old unpickler, which fails on junk in a dozen ways.
    if not is_zipfile(path):
        raise UserError("is truncated or no checkpoint", where=path, remedy=remedy)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, UnpicklingError) as error:
        raise UserError("is damaged, or holds more than weights and settings", where=path, remedy=remedy) from error
    if not isinstance(checkpoint, dict) or DESCRIPTION not in checkpoint:
        raise UserError("isn't a checkpoint of ser_personal", where=path, remedy=remedy)
    for part in (DESCRIPTION, "state_dict", "hyper_parameters"):
        if not isinstance(checkpoint.get(part), dict):
            raise UserError(f"is a checkpoint without its {part}", where=path, remedy=remedy)
    return checkpoint


def require_training_state(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuse to resume a fit from weights alone: it would begin anew, unnoticed.

    Raises:
        UserError: the checkpoint lacks the state of the optimiser or of the loops.
    """
    missing = [part for part in TRAINING_STATE if part not in checkpoint]
    if missing or not checkpoint["optimizer_states"]:
        raise UserError(
            f"holds no {missing[0] if missing else TRAINING_STATE[0]}, so a fit can't go on from it",
            where=path,
            remedy="Give the newest checkpoint of the fit, such as papt-last.ckpt, or start a fresh fit",
        )


@contextmanager
def using(path: object) -> Iterator[None]:
    """Call it the checkpoint's mistake where its description or weights turn out not to fit.

    Raises:
        UserError: they don't.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except UNFIT as error:
        raise unfit(path, error) from error


def unfit(path: object, error: Exception) -> UserError:
    """Say in a line what doesn't fit in a checkpoint."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0] if lines else type(error).__name__
    return UserError(
        f"is damaged, or was written by another version ({type(error).__name__}: {reason.rstrip('.')})",
        where=path,
        remedy="Give a whole checkpoint that this version's `ser fit` wrote",
    )
