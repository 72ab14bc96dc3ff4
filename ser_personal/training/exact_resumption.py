"""What a resumed fit needs to be the fit that was broken off, and Lightning's checkpoints don't give it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class ExactResumption(Callback):
    """Puts the loader where it stood, and makes the randomness of a step a function of the step.

    Ours. Every step is seeded by the fit's seed, the epoch, the batch and the rank: dropout, for one, would otherwise
    differ after resuming. Without `--seed_everything` nothing is seeded.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the loader's place in the epoch.

        Lightning does so when it sets the data up. A schedule that asks for the number of steps has it do that before
        the checkpoint's loops are read, and the epoch would begin again, unnoticed.
        """
        trainer.fit_loop._load_combined_loader_states()  # noqa: SLF001

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Seed."""
        seed = os.environ.get("PL_GLOBAL_SEED")
        if seed is not None:
            step = [int(seed), trainer.current_epoch, batch_idx, trainer.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(step).generate_state(1)[0]))
