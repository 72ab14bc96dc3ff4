"""Checkpoints that are on disk whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ser_personal.files import whole_file


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside its place, to the disk, and renames it.

    Lightning writes to the system's temporary folder and moves from there: where that is another disk, a kill while it
    copies leaves half a checkpoint in the place of the good one; and a crash of the machine may leave an empty one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; what a killed writer left of an earlier one is removed."""
        path = Path(path)
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink(missing_ok=True)
        with whole_file(path) as file:
            torch.save(checkpoint, file)
