"""Reading Lightning's checkpoints without running anything that is in them."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import torch

from ser_personal.errors import UserError

DESCRIPTION = "personalized_encoder"


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
    return checkpoint
