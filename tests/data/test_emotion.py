from dataclasses import replace
from shutil import copy, copytree

import numpy as np
import pytest
from garbage import refused

from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.data.emotion import CachedEmotionDataModule, EmotionDataModule
from ser_personal.data.frame_store import FeatureCache
from ser_personal.data.speaker_features import CachedSpeakerFeatures, ConcatFeatures, SpeakerFeatures, SpeakerVectorFile
from ser_personal.types import FeatureSource

SOURCE = FeatureSource(encoder="noise", dim=4, frame_seconds=0.02)


def write(folder, corpus, source=SOURCE, leave_out=""):
    rng = np.random.default_rng(0)
    store = FeatureCache.create(folder, source)
    for number, utterance in enumerate(corpus.utterances):
        if utterance.utterance_id != leave_out:
            frames = rng.normal(number, 1 + number / 10, size=(3 + number % 5, source.dim))
            store.write({utterance.utterance_id: frames}, {utterance.utterance_id: utterance})
    store.finish()
    return folder


@pytest.fixture
def cache_folder(corpus, tmp_path):
    return write(tmp_path / "cache", corpus)


def module(corpus, folder, **options):
    return CachedEmotionDataModule(corpus, cache=str(folder), **{"num_workers": 0, "max_batch": 5} | options)


def test_batches_hold_each_utterances_own_frames(corpus, cache_folder):
    data = module(corpus, cache_folder, num_workers=1, batch_seconds=0.32, max_batch=100)
    data.setup("fit")
    cache = FeatureCache.load(cache_folder)
    seen = []
    for batch in data.train_dataloader():
        # the budget is in seconds of frames
        assert batch["features"].shape[0] * batch["features"].shape[1] * 0.02 <= 0.32 + 1e-9
        assert "waveforms" not in batch
        for row, index in enumerate(batch["indices"].tolist()):
            utterance, frames = data.utterances[index], batch["num_frames"][row]
            np.testing.assert_array_equal(batch["features"][row, :frames], cache[utterance.utterance_id])
            assert not batch["features"][row, frames:].any()
            assert batch["labels"][row, 0] == utterance.labels["arousal"]
            seen.append(index)
    assert sorted(seen) == data.train_indices


@pytest.mark.parametrize("knows_audio", [False, True])
def test_a_bank_knows_cached_frames_by_their_audio_or_else_by_their_file(knows_audio, corpus, tmp_path):
    one, other = [each for each in corpus.utterances if each.speaker_id == "s1"][:2]

    def key(name, *, normalize_speakers=False, of_other=1.0):
        store = FeatureCache.create(tmp_path / name, SOURCE)
        for each in (one, other):
            frames = np.full((3, SOURCE.dim), of_other if each is other else 1.0)
            store.write({each.utterance_id: frames}, {each.utterance_id: each} if knows_audio else None)
        store.finish()
        return module(corpus, store.folder, normalize_speakers=normalize_speakers).input_key(one)

    corpus.utterances = [one, other]
    assert key("cache") == key("cache")
    assert (key("copy") == key("cache")) is knows_audio
    assert len({key("cache"), *(key(f"{mean}", normalize_speakers=True, of_other=mean) for mean in (1.0, 2.0))}) == 3


def test_speakers_are_normalised_by_their_own_frames(corpus, cache_folder):
    data = module(corpus, cache_folder, normalize_speakers=True, known_speakers_only=False)
    cache = FeatureCache.load(cache_folder)
    frames_of: dict[str | None, list[np.ndarray]] = {}
    for utterance in corpus.utterances:
        frames_of.setdefault(utterance.speaker_id, []).append(cache[utterance.utterance_id].astype(np.float64))
    training = np.concatenate([cache[data.utterances[i].utterance_id].astype(np.float64) for i in data.train_indices])
    for split in ("train", "validation"):
        for batch in data.share_dataloader(split):
            for row, index in enumerate(batch["indices"].tolist()):
                speaker, frames = batch["speaker_ids"][row], batch["features"][row, : batch["num_frames"][row]]
                own = training if speaker is None else np.concatenate(frames_of[speaker])
                raw = cache[data.utterances[index].utterance_id].astype(np.float64)
                np.testing.assert_allclose(frames.double(), (raw - own.mean(0)) / own.std(0), atol=5e-3)
    # without a training set, too
    corpus.utterances = [replace(each, split="test1") for each in corpus.utterances if each.speaker_id in (None, "s1")]
    list(module(corpus, cache_folder, normalize_speakers=True).test_dataloader())
    unknown = module(corpus, cache_folder, normalize_speakers=True, known_speakers_only=False)
    refused("no training set to normalise unknown speakers by", list, unknown.test_dataloader())


def test_missing_features_and_changed_audio_are_refused_and_missing_audio_is_not(corpus_folder, corpus, tmp_path):
    lacking = write(tmp_path / "lacking", corpus, leave_out="u03")
    refused("no cached features of 1 of 25 utterances, u03 the", module(corpus, lacking).setup, "fit")
    copied = CSVCorpus(str(copytree(corpus_folder, tmp_path / "corpus") / "corpus.csv"))
    folder = write(tmp_path / "cache", copied)
    copied.utterances[0].path.unlink()
    data = module(CSVCorpus(str(copied.label_file)), folder)
    data.setup("fit")
    assert len(data.train_indices) == 24
    copy(copied.utterances[2].path, copied.utterances[1].path)
    changed = module(CSVCorpus(str(copied.label_file)), folder)
    refused(r"u01\.wav: audio has changed since its cached features in .* were made", changed.setup, "fit")


def test_a_checkpoint_of_other_features_is_refused(corpus, cache_folder, tmp_path):
    state = module(corpus, cache_folder).state_dict()
    other = module(corpus, write(tmp_path / "other", corpus, replace(SOURCE, encoder="silence")))
    refused(r"was trained with data\.cache\.encoder noise, not silence\. Give it", other.load_state_dict, state)
    other = module(corpus, cache_folder, normalize_speakers=True)
    refused(r"was trained with data\.normalize_speakers False, not True", other.load_state_dict, state)


def test_a_checkpoint_of_another_scale_is_refused_where_there_are_labels(corpus_folder):
    state = EmotionDataModule(CSVCorpus(str(corpus_folder), scale=(1, 9))).state_dict()
    flags = rf"CSVCorpus --data.corpus.path {corpus_folder} --data.corpus.scale '\[1,9]'"
    line = f"trained on labels from 1 to 9, and this corpus's scale is 1 to 7. .*as `--data.corpus {flags}`"
    load = EmotionDataModule(CSVCorpus(str(corpus_folder))).load_state_dict
    refused(line, load, state)
    refused(r"to 5, and .* to that scale, in a table\.$", load, state | {"scale": [1.0, 5.0]})
    unlabelled = CSVCorpus(str(corpus_folder))
    unlabelled.utterances = [replace(each, labels={}) for each in unlabelled.utterances]
    EmotionDataModule(unlabelled).load_state_dict(state)


def test_what_was_cut_off_for_adaptation_is_not_tested(synthetic_corpus):
    corpus = MSPPodcast(str(synthetic_corpus), cut_test="Test", adaptation_seconds=4)
    assert EmotionDataModule(corpus).tested_splits == ["test1_evaluation"]
    assert 0 < sum(each.seconds for each in corpus.splits.test["test1_adaptation"]) <= 3 * 4


def test_statistics_of_speakers(corpus, cache_folder):
    cache = FeatureCache.load(cache_folder)
    utterances = [u for u in corpus.utterances if u.speaker_id == "s1"]
    frames = [cache[u.utterance_id].astype(np.float64) for u in utterances]
    means = np.array([of_one.mean(0) for of_one in frames])
    every = np.concatenate(frames)
    expected = {"mean": means.mean(0), "max": means.max(0), "moments": np.concatenate([every.mean(0), every.std(0)])}
    for statistics, vector in expected.items():
        features = CachedSpeakerFeatures(str(cache_folder), statistics).read(corpus.utterances)
        assert sorted(features.vectors) == ["s0", "s1", "s2", "s3", "t1", "t2", "v0"]
        np.testing.assert_allclose(features.of(["s1"])[0], vector, rtol=1e-3)
    both = ConcatFeatures([CachedSpeakerFeatures(str(cache_folder), name) for name in ("mean", "moments")])
    joined = both.read(corpus.utterances).of(["s1"])[0]
    np.testing.assert_allclose(joined, np.concatenate([expected["mean"], expected["moments"]]), rtol=1e-3)
    strangers = [replace(utterance, speaker_id=None) for utterance in corpus.utterances]
    refused("holds no utterance of a known speaker", CachedSpeakerFeatures(str(cache_folder)).read, strangers)


def test_permuted_features_are_all_somebody_elses():
    features = SpeakerFeatures({f"s{number}": np.full(2, number, np.float32) for number in range(20)}, "here")
    permuted = features.permuted()
    moved = [permuted.vectors[f"s{number}"][0] for number in range(20)]
    assert sorted(moved) == list(range(20))
    assert all(value != number for number, value in enumerate(moved))
    assert permuted.fingerprint() == features.permuted().fingerprint() != features.fingerprint()


def test_batches_carry_features_of_speakers(corpus, tmp_path):
    ids = sorted({u.speaker_id for u in corpus.utterances if u.speaker_id is not None})
    path = tmp_path / "speakers.csv"
    path.write_text("\n".join(["speaker,a,b", *(f"{speaker},{row},{-row}" for row, speaker in enumerate(ids))]))
    source = SpeakerVectorFile(str(path))
    loaded = EmotionDataModule(corpus, num_workers=0, known_speakers_only=False, speaker_features=source)
    batch = next(iter(loaded.share_dataloader("train")))
    wanted = [[np.nan] * 2 if id_ is None else [ids.index(id_), -ids.index(id_)] for id_ in batch["speaker_ids"]]
    np.testing.assert_array_equal(batch["speaker_features"], wanted)
    assert "speaker_features" not in next(iter(EmotionDataModule(corpus, num_workers=0).share_dataloader("train")))
    features = source.read([])
    refused(r"speakers\.csv: no features of speaker bela and 1 other\. Make them", features.of, ["dora", "bela", "s1"])
    path.write_text("\n".join(path.read_text().splitlines()[:3]))
    without = EmotionDataModule(corpus, num_workers=0, speaker_features=source)
    refused("no features of speaker", without.share_dataloader, "train")
    path.write_text("speaker,a\nx,nan\n")
    refused(r"speakers\.csv: a value of speaker x isn't a finite number", source.read, [])
