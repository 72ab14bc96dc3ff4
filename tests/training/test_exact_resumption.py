"""A fit stopped after any of its steps and resumed has to be the fit that nobody stopped."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from ser_personal.training.checkpoints import ExactResumption, Interrupted, StageCheckpoint
from ser_personal.training.interruption import Interruption

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BATCHES = 6
EPOCHS = 2
OPTIONS: list[dict[str, Any]] = [
    {},
    {"accumulate_grad_batches": 2},
    {"val_check_interval": 2},
    {"val_check_interval": 0.5, "accumulate_grad_batches": 2},
    {"val_check_interval": 4, "check_val_every_n_epoch": None},
    {"check_val_every_n_epoch": 2},
    {"limit_val_batches": 0},
]


class Numbers:
    """Batches 0 to 5, from where it is told to."""

    def __init__(self) -> None:
        self.position = self.first = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[float]:
        self.position, self.first = self.first, 0
        while self.position < BATCHES:
            self.position += 1
            yield float(self.position)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["position"] % BATCHES


class Walk(LightningModule):
    """Its weight depends on the order of all batches and on chance."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, number: float, batch_idx: int) -> torch.Tensor:
        return self.weight * (number + torch.rand(()))

    def validation_step(self, number: float, batch_idx: int) -> None:
        self.log("val_loss", self.weight, batch_size=1)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (total + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class StopsAt(Callback):
    """Sends this process SIGTERM while it takes a step."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


class Validations(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append((trainer.global_step, float(trainer.callback_metrics["val_loss"])))


def fit(folder: Path, options: dict[str, Any], *callbacks: Callback, checkpoint: Path | None = None) -> float:
    """Fit, and give the weight that came out."""
    seed_everything(0, verbose=False)
    module = Walk()
    ours = [ExactResumption(), Interruption(), StageCheckpoint("walk", "val_loss", "min"), *callbacks]
    Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=ours,
        **options,
    ).fit(module, Numbers(), [0.0], ckpt_path=checkpoint)
    return module.weight.item()


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:.*could not find the monitored key")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_fit_resumed_after_any_step_is_the_unbroken_one(options, tmp_path):
    validations = Validations()
    whole = fit(tmp_path / "whole", options, validations)
    for batch in range(BATCHES * EPOCHS):
        folder, seen = tmp_path / f"{batch}", Validations()
        try:
            assert fit(folder, options, StopsAt(batch), seen) == whole
        except Interrupted:
            assert fit(folder, options, seen, checkpoint=folder / "walk-last.ckpt") == whole
        else:
            assert batch > BATCHES * (EPOCHS - 1), "it ended before it could stop"
        assert seen.seen == validations.seen


def test_signals_go_back_to_whom_they_belonged(tmp_path):
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    fit(tmp_path, {})
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


def test_without_a_seed_nothing_is_seeded(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    ExactResumption().on_train_batch_start(Trainer(logger=False, accelerator="cpu"), Walk(), None, 0)
    assert torch.equal(torch.get_rng_state(), before)
