from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ser_personal.corpus.csv_corpus import CSVCorpus
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

    def predict_step(self, batch):
        return batch["indices"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(corpus, num_workers=0):
    return EmotionDataModule(corpus, max_batch=4, num_workers=num_workers)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **quiet, **options)


def test_every_epoch_is_shuffled_anew_by_lightning(corpus, tmp_path):
    model, datamodule = Listener(), data(corpus)
    trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(model, datamodule)
    sampler = datamodule.train_dataloader().batch_sampler
    assert model.seen == [(epoch, batch) for epoch in range(3) for batch in sampler.plan(epoch)]
    assert sampler.plan(0) != sampler.plan(1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_sees_what_was_left(corpus, tmp_path, num_workers):
    whole = Listener()
    each_step = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(tmp_path, max_epochs=3, callbacks=[each_step]).fit(whole, data(corpus, num_workers))
    # within an epoch, and at its end
    for step in (4, 6) if num_workers else (1, 4, 6, 9):
        resumed, checkpoint = Listener(), tmp_path / f"step={step}.ckpt"
        trainer(tmp_path, max_epochs=3).fit(resumed, data(corpus, num_workers), ckpt_path=checkpoint, weights_only=True)
        assert resumed.seen == whole.seen[step:]


def test_predict_goes_through_the_test_sets_once(corpus, tmp_path):
    batches = trainer(tmp_path).predict(Listener(), data(corpus))
    assert sorted(index for batch in batches for index in batch) == [30, 31, 32, 33]


def test_workers_give_the_same_batches_in_every_epoch(corpus):
    alone, helped = (data(corpus, num_workers).train_dataloader() for num_workers in (0, 2))
    for epoch in range(2):
        for loader in (alone, helped):
            loader.batch_sampler.sampler.set_epoch(epoch)
        for batch, same in zip(alone, helped, strict=True):
            assert batch["speaker_ids"] == same["speaker_ids"]
            torch.testing.assert_close(batch["waveforms"], same["waveforms"], rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_mistake_in_a_worker_arrives_as_one_line(corpus_folder, num_workers):
    corpus = CSVCorpus(str(corpus_folder / "corpus.csv"))
    loader = data(corpus, num_workers).split_dataloader("test2")
    hidden = corpus.utterances[33].path.rename(corpus_folder / "hidden.wav")
    with pytest.raises(UserError, match=r"^\S*u33\.wav: no such audio file\. \S.*$"):
        list(loader)
    hidden.rename(corpus.utterances[33].path)
