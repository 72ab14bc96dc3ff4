"""`ser cache` on a corpus with audio that can't be used, and training on what it wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ser_personal.data.datamodule import AudioDataModule
from ser_personal.data.emotion import CachedEmotionDataModule
from ser_personal.data.frame_store import FeatureCache, GrowingWriter
from ser_personal.encoder.hubert import TinyEncoder
from ser_personal.errors import UserError
from ser_personal.pretrain.cache import cache

UTTERANCES = 72


@pytest.fixture(scope="module")
def make(damaged_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")

    def run(out, corpus=damaged_corpus, max_bad_share=0.1, batch_seconds=6.0):
        options = {"on_bad_audio": "skip", "max_bad_share": max_bad_share}
        encoder = TinyEncoder(dim=16, layers=1, heads=2, feed_forward_dim=32)
        data = AudioDataModule(str(corpus), batch_seconds=batch_seconds, **options)
        cache(data, encoder, stride=5, out=str(folder / out), accelerator="cpu")
        return folder / out

    return run


@pytest.fixture(scope="module")
def whole(make):
    return make("whole")


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_good_utterances_are_cached_and_bad_ones_listed(whole, damaged_corpus, bad_ids):
    held = FeatureCache.load(whole)
    names = {utterance.utterance_id for utterance in AudioDataModule(str(damaged_corpus)).utterances}
    assert {name for name in names if name in held} == names - {*bad_ids}
    skipped = json.loads((whole / "skipped_audio.json").read_text())["skipped"]
    assert sorted(one["utterance"] for one in skipped) == sorted(bad_ids)


def test_bad_audio_changes_nothing_of_other_audio(make, whole, damaged_corpus, bad_ids):
    """Against batches of other make-up, where no utterance has the same mates."""
    alone, held = FeatureCache.load(make("alone", batch_seconds=2.0)), FeatureCache.load(whole)
    for utterance in AudioDataModule(str(damaged_corpus)).utterances:
        if utterance.utterance_id not in bad_ids:
            name = utterance.utterance_id
            np.testing.assert_allclose(held[name], alone[name], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("written", [0, 30, UTTERANCES - 5])
def test_an_interrupted_run_ends_with_the_same_bytes(make, whole, monkeypatch, written):
    append = GrowingWriter.append

    def interrupted(writer, *arguments):
        if len(writer._written) == written:
            raise InterruptedError
        append(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GrowingWriter, "append", interrupted)
        with pytest.raises(InterruptedError):
            make(f"broken{written}")
    assert contents(make(f"broken{written}")) == contents(whole)
    assert contents(make(f"broken{written}")) == contents(whole)


def test_more_than_the_share_stops_the_run(make):
    with pytest.raises(UserError, match=r"split .*: 5\.6% of the audio can't be used, more than the 5\.0%"):
        make("stopped", max_bad_share=0.05)


def test_training_skips_what_was_skipped(whole, damaged_corpus, bad_ids):
    options = {"cache": str(whole), "num_workers": 0, "max_batch": 8}
    with pytest.raises(UserError, match=r"no features of 4 of 48 .* data\.on_bad_audio=skip skips too"):
        CachedEmotionDataModule(str(damaged_corpus), **options).setup("fit")
    with pytest.raises(UserError, match=r"split train: 8\.3% of the audio can't be used, more than the 8\.0%"):
        CachedEmotionDataModule(str(damaged_corpus), **options, on_bad_audio="skip", max_bad_share=0.08).setup("fit")
    data = CachedEmotionDataModule(str(damaged_corpus), **options, on_bad_audio="skip", max_bad_share=0.1)
    data.setup("fit")
    used = [index for batch in data.train_dataloader() for index in batch["indices"].tolist()]
    training = {utterance.utterance_id for utterance in data.corpus.splits.sets["train"]}
    assert sorted(data.utterances[index].utterance_id for index in used) == sorted(training - {*bad_ids})
    assert {one.utterance_id for one in data.skipped_audio} == {*bad_ids}
