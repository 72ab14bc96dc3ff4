from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from ser_personal.training.checkpoints import StageCheckpoint

SCORES = [3.0, 1.0, 2.0]


class Epochs(LightningModule):
    """Counts its epochs in its one weight and scores each as `SCORES` says."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, example: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return -self.epochs

    def validation_step(self, example: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", SCORES[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1.0)


def run(folder: Path, mode: str, epochs: int = 3) -> None:
    examples = DataLoader(torch.zeros(1))
    Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=StageCheckpoint("papt", "val_loss", mode),
    ).fit(Epochs(), examples, examples)


def epoch_of(path: Path) -> float:
    return torch.load(path, weights_only=True)["state_dict"]["epochs"].item()


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_best_and_newest_model_under_the_stage_s_name(tmp_path, mode, best):
    run(tmp_path, mode)
    assert sorted(path.name for path in tmp_path.glob("**/*.ckpt")) == ["papt-last.ckpt", "papt.ckpt"]
    assert epoch_of(tmp_path / "papt.ckpt") == best
    assert epoch_of(tmp_path / "papt-last.ckpt") == 3
    # those of the best model, not of the newest
    assert json.loads((tmp_path / "papt.scores.json").read_text()) == {"val_loss": SCORES[best - 1]}


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_second_run_replaces_the_first(tmp_path):
    run(tmp_path, "min")
    run(tmp_path, "min", epochs=1)
    assert sorted(path.name for path in tmp_path.glob("**/*.ckpt")) == ["papt-last.ckpt", "papt.ckpt"]
    assert epoch_of(tmp_path / "papt.ckpt") == epoch_of(tmp_path / "papt-last.ckpt") == 1


def test_folder_is_the_trainers_even_from_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Path("runs"), "min", epochs=1)
    assert (tmp_path / "runs" / "papt.ckpt").is_file()
