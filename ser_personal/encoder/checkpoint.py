"""Reading Lightning's checkpoints without running anything that is in them."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from ser_personal.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTION = "personalized_encoder"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project.

    Raises:
        UserError: the file is missing, truncated, unsafe, or no checkpoint of this project.
    """
    remedy = "give a checkpoint written by `ser fit`, such as papt.ckpt"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError("no such checkpoint", where=path, remedy=remedy) from error
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        raise UserError("is truncated or no checkpoint", where=path, remedy=remedy) from error
    if not isinstance(checkpoint, dict) or DESCRIPTION not in checkpoint:
        raise UserError("isn't a checkpoint of ser_personal", where=path, remedy=remedy)
    return checkpoint
