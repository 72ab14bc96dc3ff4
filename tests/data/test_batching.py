from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_models import trainer

from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.resumable_loader import BucketBatchSampler, batch_sizes

LENGTHS = st.lists(st.integers(400, 250_000), min_size=1, max_size=80)
SHUFFLE = st.booleans()


def sampler(lengths, **options):
    options = {"batch_seconds": 40.0, "max_batch": 8, "shuffle": True, **options}
    return BucketBatchSampler([10 * i for i in range(len(lengths))], lengths, **options)


def msp_podcast_lengths(count):
    """Of 2.75 to 11 s, mostly short, the median 5 s."""
    return ((2.75 + 8.25 * np.random.default_rng(1).beta(1.3, 2.6, count)) * 16_000).astype(int).tolist()


@given(lengths=LENGTHS, shuffle=SHUFFLE, epoch=st.integers(0, 3))
def test_plan_holds_every_utterance_once_within_the_budget(lengths, shuffle, epoch):
    plan = sampler(lengths, shuffle=shuffle).plan(epoch)
    in_order = list(chain.from_iterable(plan))
    assert sorted(in_order) == [10 * i for i in range(len(lengths))]
    if not shuffle:
        assert [lengths[i // 10] for i in in_order] == sorted(lengths, reverse=True)
    for batch in plan:
        assert 1 <= len(batch) <= 8
        assert len(batch) * max(lengths[i // 10] for i in batch) <= 40 * 16_000


@given(lengths=LENGTHS, shuffle=SHUFFLE, world_size=st.integers(1, 5), epoch=st.integers(0, 2))
def test_ranks_share_the_plan_evenly(lengths, shuffle, world_size, epoch):
    ranks = [sampler(lengths, shuffle=shuffle, rank=rank, world_size=world_size) for rank in range(world_size)]
    for rank in ranks:
        rank.sampler.set_epoch(epoch)
    # the epoch travels in the keys of training alone
    assert {key.epoch for rank in ranks for batch in rank for key in batch} == {epoch if shuffle else None}
    dealt = [[[key.index for key in batch] for batch in rank] for rank in ranks]
    assert {len(batches) for batches in dealt} == {len(ranks[0])}
    in_turn = list(chain.from_iterable(zip(*dealt, strict=True)))
    plan = sampler(lengths, shuffle=shuffle).plan(epoch)
    assert in_turn[: len(plan)] == plan
    repeated = in_turn[len(plan) :]
    assert len(repeated) < world_size
    assert repeated == (plan * world_size)[: len(repeated)]


def test_plan_depends_on_seed_and_epoch_alone():
    lengths = msp_podcast_lengths(300)
    plans = [sampler(lengths, seed=seed).plan(epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert plans[0] == sampler(lengths, seed=0, rank=1, world_size=3).plan(0)
    assert all(plans[i] != plans[j] for i in range(4) for j in range(i))
    assert len({len(plan) for plan in plans}) == 1
    assert len({*map(frozenset, plans[0])} & {*map(frozenset, plans[1])}) < 0.2 * len(plans[0])


def test_padding_at_msp_podcast_durations():
    lengths = msp_podcast_lengths(1_000)
    plan = sampler(lengths, batch_seconds=200.0, max_batch=None).plan(1)
    # random batches under the same budget hold 14 to 39 % of padding
    assert 1 - sum(lengths) / sum(len(batch) * max(lengths[i // 10] for i in batch) for batch in plan) <= 0.05


@given(lengths=LENGTHS, budget=st.integers(250_000, 900_000), max_batch=st.integers(3, 10))
def test_a_last_batch_of_one_means_no_other_batch_could_give(lengths, budget, max_batch):
    sizes = batch_sizes(np.sort(lengths)[::-1], budget, max_batch)
    assert sum(sizes) == len(lengths)
    if sizes[-1] == 1:
        assert max(sizes) <= 2
    # no batch of one where it can be avoided: 8 at most, and one too many
    assert min(batch_sizes(np.full(8 * max_batch + 1, 16_000), 40 * 16_000, 8)) >= 4


def test_utterance_longer_than_the_budget():
    refused(r"the longest utterance, 15\.62 s, .* 10 s", sampler, [250_000, 16_000], batch_seconds=10.0)


def test_a_loader_that_is_saved_again_before_its_first_batch_keeps_its_place(corpus):
    loader = data(corpus).train_dataloader()
    for position, resumed in (2, 2), (len(loader), 0):
        loader.load_state_dict({"position": position})
        assert loader.state_dict() == {"position": resumed}


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_epoch_is_shuffled_anew_and_a_resumed_run_sees_what_was_left(corpus, tmp_path, num_workers):
    whole, datamodule = Listener(), data(corpus, num_workers)
    each_step = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"max_epochs": 3, "enable_checkpointing": True}
    trainer(tmp_path, **options, callbacks=[each_step]).fit(whole, datamodule)
    batches = datamodule.train_dataloader().batch_sampler
    assert whole.seen == [(epoch, batch) for epoch in range(3) for batch in batches.plan(epoch)]
    assert batches.plan(0) != batches.plan(1)
    # within an epoch, and at its end
    for step in (4,) if num_workers else (1, 6, 9):
        resumed, checkpoint = Listener(), tmp_path / f"step={step}.ckpt"
        trainer(tmp_path, **options).fit(resumed, data(corpus, num_workers), ckpt_path=checkpoint, weights_only=True)
        assert resumed.seen == whole.seen[step:]


def test_mistake_in_a_worker_arrives_as_one_line(corpus, tmp_path):
    corpus.utterances = [replace(each, path=tmp_path / each.path.name) for each in corpus.utterances]
    refused(r"^\S*u33\.wav: no such audio file\. \S.*$", list, data(corpus, 1).share_dataloader("test2"))
