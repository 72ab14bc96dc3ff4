from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ser_personal.data.emotion import EmotionDataModule
from ser_personal.errors import UserError


class Listener(LightningModule):
    """Notes which utterances each step saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch):
        self.seen.append((self.current_epoch, batch["indices"].tolist()))
        assert all(isinstance(speaker, str) for speaker in batch["speaker_ids"])
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(corpus, num_workers=0):
    return EmotionDataModule(corpus, max_batch=4, num_workers=num_workers)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **quiet, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_epoch_is_shuffled_anew_and_a_resumed_run_sees_what_was_left(corpus, tmp_path, num_workers):
    whole, datamodule = Listener(), data(corpus, num_workers)
    each_step = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(tmp_path, max_epochs=3, callbacks=[each_step]).fit(whole, datamodule)
    sampler = datamodule.train_dataloader().batch_sampler
    assert whole.seen == [(epoch, batch) for epoch in range(3) for batch in sampler.plan(epoch)]
    assert sampler.plan(0) != sampler.plan(1)
    # within an epoch, and at its end
    for step in (4,) if num_workers else (1, 6, 9):
        resumed, checkpoint = Listener(), tmp_path / f"step={step}.ckpt"
        trainer(tmp_path, max_epochs=3).fit(resumed, data(corpus, num_workers), ckpt_path=checkpoint, weights_only=True)
        assert resumed.seen == whole.seen[step:]


def test_mistake_in_a_worker_arrives_as_one_line(corpus, monkeypatch):
    loader = data(corpus, 1).split_dataloader("test2")
    monkeypatch.chdir(corpus.utterances[33].path.parent)
    hidden = corpus.utterances[33].path.rename("hidden.wav")
    try:
        with pytest.raises(UserError, match=r"^\S*u33\.wav: no such audio file\. \S.*$"):
            list(loader)
    finally:
        hidden.rename(corpus.utterances[33].path)
