from collections import Counter
from functools import partial
from pathlib import Path
from shutil import copy, copytree
from types import SimpleNamespace

import pytest
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.trainer.states import TrainerFn
from tiny_models import pretrain_data

from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.data.emotion import EmotionDataModule
from ser_personal.data.pretrain import hold_out
from ser_personal.types import Utterance

IDS = st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(0, 10**6)), max_size=60, unique=True)
pretrain = partial(pretrain_data, min_samples=9_600)


def indices(loader):
    return [index for batch in loader for index in batch["indices"].tolist()]


def test_emotion_sets(corpus_folder, caplog):
    datamodule = EmotionDataModule(str(corpus_folder), max_batch=4, num_workers=0)
    with caplog.at_level("INFO"):
        datamodule.setup("fit")
        datamodule.setup("test")
    assert caplog.messages == ["train: 24 utterances used; left out: 1 without labels, 1 unknown speaker"]
    assert sorted(indices(datamodule.train_dataloader())) == list(range(24))
    assert sorted(indices(datamodule.val_dataloader())) == list(range(26, 30))
    assert sorted(indices(datamodule.test_dataloader())) == list(range(30, 34))
    assert indices(datamodule.share_dataloader("train")) == list(range(23, -1, -1))
    batch = next(iter(datamodule.train_dataloader()))
    for row, index in enumerate(batch["indices"].tolist()):
        assert batch["speaker_ids"][row] == datamodule.utterances[index].speaker_id
        assert batch["labels"][row, 0] == datamodule.utterances[index].labels["arousal"]
    assert datamodule.train_speaker_ids == ["s0", "s1", "s2", "s3"]
    of_some = [round((0.5 + 0.05 * k) * 16_000) for k in (0, 6, 12, 18)]
    assert [len(waveform) for waveform in datamodule.training_audio(4)] == of_some


def test_wanted_test_sets_each_once_and_unknown_speakers(corpus):
    datamodule = EmotionDataModule(corpus, test_splits=["test2", "Test2"], known_speakers_only=False, num_workers=0)
    assert indices(datamodule.test_dataloader()) == [33]
    assert sorted(indices(datamodule.train_dataloader())) == list(range(25))


def test_pretrain_sets(corpus_folder, pseudo_labels_folder):
    datamodule = pretrain(corpus_folder, pseudo_labels_folder)
    datamodule.setup("fit")
    held_out, unseen = (indices(loader) for loader in datamodule.val_dataloader())
    assert sorted(indices(datamodule.train_dataloader()) + held_out) == list(range(2, 24))
    assert Counter(datamodule.utterances[i].speaker_id for i in held_out) == {f"s{k}": 1 for k in range(4)}
    assert sorted(unseen) == list(range(26, 30))
    # of a test set as well
    more = pretrain(corpus_folder, pseudo_labels_folder, splits=["train", "Train", "test1"], unseen_splits=["test1"])
    assert (more.train_speaker_ids, len(more.val_dataloader())) == (["s0", "s1", "s2", "s3", "t1"], 1)


@given(rows=IDS, share=st.floats(0.01, 0.99))
def test_hold_out_leaves_every_speaker_on_both_sides(rows, share):
    utterances = [Utterance(f"{speaker}-{k}", Path(), "train", speaker_id=speaker) for speaker, k in rows]
    held_out = hold_out(utterances, share)
    assert held_out == hold_out(utterances[::-1], share)
    for speaker, count in Counter(speaker for speaker, _ in rows).items():
        kept_out = sum(f"{speaker}-{k}" in held_out for s, k in rows if s == speaker)
        assert kept_out == (0 if count == 1 else min(max(1, round(share * count)), count - 1))


def test_mistakes_in_the_arguments(corpus_folder, corpus, pseudo_labels_folder):
    refused("none can be held out", pretrain(corpus_folder, pseudo_labels_folder, splits=["test2"]).setup, "fit")
    untested = CSVCorpus(str(corpus.label_file))
    untested.utterances = [each for each in corpus.utterances if not each.split.startswith("test")]
    refused("split test: no utterance is left to use", EmotionDataModule(untested).setup, "test")
    small = EmotionDataModule(corpus, num_workers=0, batch_seconds=1.7)
    refused("a training batch would be a single utterance", small.setup, "fit")
    small.setup("test")


def on_rank(corpus, rank=0, world_size=1, **options):
    datamodule = EmotionDataModule(str(corpus), **{"num_workers": 0} | options)
    standing = {"global_rank": rank, "world_size": world_size, "accumulate_grad_batches": 2, "limit_val_batches": 1.0}
    module, state = SimpleNamespace(attributes=("arousal",)), SimpleNamespace(fn=TrainerFn.FITTING)
    datamodule.trainer = SimpleNamespace(**standing, lightning_module=module, state=state)
    return datamodule


def test_shares_hold_each_utterance_once_and_may_be_empty(corpus_folder):
    for world_size in (1, 3, 5):
        ranks = [on_rank(corpus_folder, rank, world_size, max_batch=1) for rank in range(world_size)]
        shares = [indices(data.share_dataloader("validation")) for data in ranks]
        assert sorted(index for share in shares for index in share) == list(range(26, 30))
        assert sum(not share for share in shares) == max(0, world_size - 4)


def test_a_step_is_of_as_many_utterances_on_any_number_of_devices(corpus_folder):
    for devices, a_device in ((1, 8), (4, 2)):
        data = on_rank(corpus_folder, world_size=devices, max_batch=8)
        assert {len(batch) for batch in data.train_dataloader().batch_sampler.plan(0)} == {a_device}
        assert max(len(batch) for batch in data.share_dataloader("train").batch_sampler.plan(0)) == 8
    for devices in (9, 25):
        data = on_rank(corpus_folder, world_size=devices, max_batch=8)
        refused(f"{devices} processes for 24 training utterances in batches of 8", data.train_dataloader)


def test_a_fit_says_what_a_step_is_and_what_is_trained_on_twice(corpus_folder, caplog):
    with caplog.at_level("INFO"):
        on_rank(corpus_folder, world_size=4, max_batch=8).train_dataloader()
        # of the three batches of each device two are accumulated, and then one
        step = "a step: 12.0 utterances, 13 s on average over all devices (4); an epoch: 3 batches on each"
        assert step in caplog.text
        assert "twice" not in caplog.text
        on_rank(corpus_folder, world_size=5, max_batch=20).train_dataloader()
    assert "4 batches of an epoch are trained on twice" in caplog.text


def test_workers_without_the_shared_memory_that_they_need(corpus_folder, monkeypatch):
    monkeypatch.setattr("ser_personal.data.datamodule.SHARED_MEMORY", corpus_folder)
    # 24 utterances of at most 1.65 s in four batches of 6: a worker of two has two batches of 634 kB
    data = on_rank(corpus_folder, num_workers=2, max_batch=6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    refused(r"has 1 MB left, 2 workers need 3 MB\. .*--shm-size.*num_workers 0", data.train_dataloader)
    on_rank(corpus_folder, max_batch=6).train_dataloader()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4_000_000))
    data.train_dataloader()


def test_a_fit_is_not_resumed_with_other_batches(corpus_folder):
    state = on_rank(corpus_folder, max_batch=8).state_dict()
    on_rank(corpus_folder, max_batch=8, num_workers=3).load_state_dict(state)
    changes = {"max_batch": (8, 4), "batch_seconds": (360.0, 99.0), "seed": (0, 1), "max_samples": (250000, 9000)}
    for name, (began, now) in changes.items():
        changed = on_rank(corpus_folder, **{"max_batch": 8} | {name: now})
        refused(rf"was trained with data\.{name} {began}, not {now}\.", changed.load_state_dict, state)


@pytest.mark.parametrize("change", ["label", "row", "length"])
def test_a_fit_is_not_resumed_on_another_file_of_the_same_speakers(corpus_folder, tmp_path, change):
    folder = copytree(corpus_folder, tmp_path / "corpus")
    state = on_rank(folder).state_dict()
    if change == "length":
        copy(folder / "u04.wav", folder / "u00.wav")
    else:
        edited = "u00.wav,s0,train,2,\n" if change == "label" else ""
        (folder / "corpus.csv").write_text((folder / "corpus.csv").read_text().replace("u00.wav,s0,train,1,\n", edited))
    refused("trained on other utterances, lengths or labels", on_rank(folder).load_state_dict, state)


def test_a_validation_set_that_chooses_no_model(corpus_folder, tmp_path, caplog):
    with caplog.at_level("INFO"):
        data = on_rank(corpus_folder)
        data.trainer.lightning_module.attributes = ("arousal", "valence")
        data.setup("fit")
    assert "validation has no two different labels of valence: the best epoch is chosen without" in caplog.text
    folder = copytree(corpus_folder, tmp_path / "corpus")
    table = (folder / "corpus.csv").read_text().splitlines()
    constant = [line[: line.rindex("validation") + 11] + "4," if "validation" in line else line for line in table]
    (folder / "corpus.csv").write_text("\n".join(constant))
    refused("split validation: has fewer than two different labels of arousal: no", on_rank(folder).setup, "fit")
    on_rank(folder).setup("test")
    unvalidated = on_rank(folder)
    unvalidated.trainer.limit_val_batches = 0
    unvalidated.setup("fit")
