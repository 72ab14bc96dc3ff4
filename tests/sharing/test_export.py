import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from command_line import ser
from garbage import refused
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import emotion_data, finetuning, fit, trainer

from ser_personal import EmotionRecognizer, MSPPodcast, SpeakerBank, calibrate
from ser_personal.audio import decode
from ser_personal.calibration.conformal import ConformalTable
from ser_personal.calibration.few_labels import LabelPrior
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.calibration.table import decimal
from ser_personal.corpus.csv_corpus import write_corpus
from ser_personal.encoder.module import DESCRIPTION
from ser_personal.encoder.raw import MFCCEncoder
from ser_personal.evaluation.prediction_collector import PredictionWriter
from ser_personal.recognition.network import EmotionNetwork
from ser_personal.sharing.anonymise import grouped_bank, similar_speakers
from ser_personal.sharing.export import _check_reads_audio, export
from ser_personal.sharing.model_card import CardOptions
from ser_personal.speakers.features import FixedSpeakerFeatures


def card_of(folder):
    """Metadata and text, in a single line."""
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), " ".join(text.split())


@pytest.fixture
def exported(tested_checkpoint, tmp_path, capsys):
    """Export the tested checkpoint; -> the recognizer of the bundle, the text of its card, and what was said."""

    def run(*flags, name="bundle", checkpoint=tested_checkpoint):
        assert ser("export", checkpoint, "--out", tmp_path / name, *flags) == 0
        recognizer = EmotionRecognizer.from_pretrained(tmp_path / name, device="cpu")
        return recognizer, card_of(tmp_path / name)[1], capsys.readouterr().out

    return run


@pytest.fixture
def moved(tested_checkpoint, tmp_path):
    """The tested checkpoint and its bank in a folder of their own, without the test's results."""
    bank = ".speaker_bank.safetensors"
    shutil.copy(tested_checkpoint.with_suffix(bank), tmp_path / f"moved{bank}")
    return shutil.copy(tested_checkpoint, tmp_path / "moved.ckpt")


@pytest.fixture
def metrics(tested_checkpoint):
    """What the test of the tested checkpoint measured."""
    (path,) = tested_checkpoint.parent.rglob("metrics.json")
    return json.loads(path.read_text())


def test_the_card_is_filled_from_the_test_and_says_what_is_prohibited(tested_checkpoint, metrics, tmp_path):
    card = CardOptions(name="Ours", language=["en"], license="cc-by-nc-4.0", datasets=["MSP-Podcast"])
    export(str(tested_checkpoint), str(tmp_path / "bundle"), card=card)
    metadata, text = card_of(tmp_path / "bundle")
    stated = {"language": ["en"], "license": "cc-by-nc-4.0", "datasets": ["MSP-Podcast"]}
    assert metadata | stated | {"library_name": "ser_personal"} == metadata
    rows = metrics["splits"]["test1"]["rows"]
    sigma = rows["sigma"]["attributes"]["arousal"]
    listed = {entry["name"]: entry["value"] for entry in metadata["model-index"][0]["results"][0]["metrics"]}
    assert listed["O-CCC of valence, raw"] == round(rows["raw"]["attributes"]["valence"]["overall_ccc"], 4)
    assert listed["A-CCC of arousal, calibrated"] == round(sigma["average_ccc"], 4)
    said = [f"| sigma | {decimal(sigma['overall_ccc'])} |", "Order of the outputs: arousal, then valence."]
    said += ["of 8 speakers", "Label scale: 1 (least) to 7 (most)", "test1: 18 utterances; speakers: 3 unseen."]
    said += ["Inferring emotions of people at work or in education", "Decisions about a person"]
    said += ["AI Act, Regulation (EU) 2024/1689, Article 5(1)(f)", "Use without the consent"]
    said += ["Voice vectors are biometric data, with or without names"]
    assert [words for words in said if words not in text] == []
    for words in ("own_statistics", "The model knew some of the tested speakers", str(tested_checkpoint.parent)):
        assert words not in text


def test_a_moved_checkpoint_needs_the_run_of_its_own_test_beside_it(moved, metrics, tmp_path):
    export(moved, str(tmp_path / "without"))
    assert "No test result was found" in card_of(tmp_path / "without")[1]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics | {"model": "other"}))
    (tmp_path / "run").mkdir()
    metrics["splits"]["test1"]["speakers"] = {"unseen": 2, "adaptation": 1}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics))
    export(moved, str(tmp_path / "beside"))
    text = card_of(tmp_path / "beside")[1]
    assert "The model knew some of the tested speakers" in text
    assert "Speakers with an embedding learnt in pre-training: 8." in text


def test_a_bank_that_lies_elsewhere_is_named(exported, tested_checkpoint, moved):
    Path(moved).with_suffix(".speaker_bank.safetensors").unlink()
    bank = tested_checkpoint.with_suffix(".speaker_bank.safetensors")
    recognizer, text, _ = exported("--bank", bank, checkpoint=moved)
    assert recognizer.bundle.bank.fingerprint == SpeakerBank.load(bank).fingerprint
    assert "test1: 18 utterances; speakers: 3 unseen." in text


def test_a_model_of_speaker_features_isnt_shared():
    module = finetuning(speakers=FixedSpeakerFeatures(), fusion="last")
    module.personalized.speakers.build(["a", "b"], 4, np.eye(2, dtype=np.float32))
    what = r"reads speaker features \(FixedSpeakerFeatures\), which new recordings"
    refused(what, _check_reads_audio, module, "f.ckpt", onnx=False)


def test_without_any_test_a_bundle_is_raw_and_works(exported, finetuned_checkpoint, recordings):
    recognizer, text, shown = exported(checkpoint=finetuned_checkpoint)
    assert "calibration none: no speaker bank lies beside the checkpoint" in shown
    assert "no intervals" in shown
    assert recognizer.predict(recordings[:2], "anna")["arousal_raw"].notna().all()
    assert "No test result was found" in text
    assert "calibrated to each speaker" not in text
    assert recognizer.bundle.bank is None


def test_a_test_without_pldc_fills_the_card_without_a_bank(exported, finetuned_checkpoint, synthetic_corpus, tmp_path):
    checkpoint = shutil.copy(finetuned_checkpoint, tmp_path / "finetune.ckpt")
    running = trainer(tmp_path, callbacks=[PredictionWriter()])
    running.test(finetuning(), datamodule=emotion_data(synthetic_corpus), ckpt_path=checkpoint, verbose=False)
    _, text, _ = exported(checkpoint=checkpoint)
    assert "test1: 18 utterances; speakers: 3 unseen." in text
    assert text.count("| raw |") == 1


def test_intervals_and_weights_of_labels_are_measured_on_validation_speakers(exported, synthetic_corpus, monkeypatch):
    monkeypatch.setattr(ConformalTable, "fit", partial(ConformalTable.fit, coverage=0.5))
    recognizer, text, shown = exported("--corpus", synthetic_corpus)
    assert "intervals of about 50% measured on 1 validation speakers" in shown
    assert "Half-width of 50% intervals" in text
    audio = sorted((synthetic_corpus / "Audios").glob("*_0009_*.wav"))
    labels = pd.read_csv(synthetic_corpus / "Labels" / "labels_consensus.csv", index_col="FileName")["EmoAct"]
    labels = labels[[path.name for path in audio]].to_numpy()
    errors = np.abs(labels - recognizer.predict(audio, "anna")["arousal_calibrated"])
    # half of two speakers, one of them still to come, is all of the one: the greatest error from 5 utterances on
    assert recognizer.bundle.conformal.half_width("arousal", 99) == pytest.approx(errors[4:].max(), abs=1e-4)
    recognizer.enroll("anna", audio)
    frame = recognizer.predict(audio, "anna")
    for calibration, column in (("pldc", "arousal_calibrated"), ("none", "arousal_raw")):
        expected = LabelPrior.fit(frame[column].to_numpy(), labels, ["anna"] * 6, (1, 7))
        assert vars(recognizer.bundle.label_priors[calibration]["arousal"]) == pytest.approx(vars(expected), abs=1e-3)


def test_calibrations_are_compared_on_validation_and_the_option_decides(exported, moved, relabelled, recordings):
    path = Path(moved).with_suffix(".speaker_bank.safetensors")
    bank = SpeakerBank.load(path)
    arrays = {name: getattr(bank, name)[:5] for name in ("speaker_ids", "vectors", "count", "label_mean", "label_std")}
    replace(bank, **arrays).save(path)
    validated = relabelled(lambda row: row["SpkrID"] in arrays["speaker_ids"] or row.update(Split_Set="Development"))
    for name, corpus in (("posterior", ["--corpus", validated]), ("none", [])):
        recognizer, text, shown = exported("--calibration", name, *corpus, name=name, checkpoint=moved)
        assert f"calibration {name}\n" in shown
        if corpus:
            (line,) = [line for line in shown.splitlines() if "over 7 validation speakers" in line]
            assert all(f"{other} " in line for other in ("none", "pldc", "posterior"))
            assert "The bundle holds pldc and posterior." in text
            assert text.count("need 9 validation speakers. Where there were fewer") == 1
        assert recognizer.bundle.calibration == name
        frame = recognizer.predict(recordings[:4], "anna")
        assert frame["calibration_utterances"].tolist() == ([0] * 4 if name == "none" else [1, 2, 3, 4])
        assert (frame["arousal_calibrated"] == frame["arousal_raw"]).all() == (name == "none")


def test_groups_in_the_place_of_training_speakers(exported, bundle, recordings):
    recognizer, text, _ = exported("--group_speakers", 3)
    bank = recognizer.bundle.bank
    assert sorted(bank.speaker_ids) == ["speaker-1", "speaker-2"]
    assert bank.count.sum() == bundle.bank.count.sum()
    assert not any(np.isclose(bank.vectors, vector).all(axis=1).any() for vector in bundle.bank.vectors)
    assert (recognizer.bundle.network.personalized.speakers.ids, recognizer.bundle.pldc.k) == (["anyone"], 1)
    assert recognizer.predict(recordings[:3], "anna")["arousal_calibrated"].notna().all()
    assert "of 8 speakers. `speaker_bank.safetensors` holds 2 groups of similar ones, no single speaker" in text


def test_anonymised_bundles_name_nobody_and_predict_strangers_the_same(exported, bundle, recordings):
    recognizer, *_ = exported("--anonymise")
    bank = recognizer.bundle.bank
    assert (bank.speaker_ids, bank.fingerprint) == (tuple(f"speaker-{n}" for n in range(1, 9)), "")
    rows = [np.abs(bundle.bank.vectors - vector).sum(axis=1).argmin() for vector in bank.vectors]
    assert sorted(rows) == list(range(8))
    np.testing.assert_array_equal(bank.label_mean, bundle.bank.label_mean[rows])
    assert recognizer.bundle.network.personalized.speakers.ids == ["anyone"]
    theirs = EmotionRecognizer(bundle, device="cpu").predict(recordings, "anna")
    pd.testing.assert_frame_equal(recognizer.predict(recordings, "anna"), theirs, atol=1e-5)


@pytest.fixture
def not_exported(mistake, tmp_path):
    def run(checkpoint, *flags, what):
        assert what in mistake("export", checkpoint, "--out", tmp_path / "bundle", *flags)
        assert not (tmp_path / "bundle").exists()

    return run


def test_what_can_not_be_exported(not_exported, tested_checkpoint, moved, synthetic_corpus, tmp_path, monkeypatch):
    posterior = ("--calibration", "posterior")
    not_exported(tested_checkpoint, *posterior, what="holds no posterior. Export it with --corpus")
    not_exported(tested_checkpoint, *posterior, "--corpus", synthetic_corpus, what="0 validation speakers have labels")
    not_exported(tested_checkpoint, "--group_speakers", "9", what="8 training speakers can't be put in groups of 9")
    not_exported(tested_checkpoint, "--push", "voices", what="voices isn't a name on")
    bank = Path(moved).with_suffix(".speaker_bank.safetensors")
    replace(SpeakerBank.load(bank), scale=(1, 5)).save(bank)
    not_exported(moved, "--corpus", synthetic_corpus, what="on a scale of 1 to 7, the speaker bank's on 1 to 5")
    (tmp_path / "metrics.json").write_text("{")
    not_exported(moved, what="metrics.json: isn't JSON")
    monkeypatch.setattr("ser_personal.recognition.network.find_spec", lambda _: None)
    not_exported(tested_checkpoint, "--onnx", what="--onnx: needs the package onnx")


def test_a_bank_that_a_replaced_model_left_is_refused(not_exported, moved):
    content = torch.load(moved, weights_only=True)
    content["state_dict"]["personalized.encoder.network.masked_spec_embed"] += 1
    torch.save(content, moved)
    not_exported(moved, what=f"moved.speaker_bank.safetensors: was made by another model than {moved}")


def test_a_bank_of_a_test_on_other_labels_is_refused_and_training_audio_may_be_gone(
    not_exported, exported, tested_checkpoint, synthetic_corpus, tmp_path
):
    corpus = shutil.copytree(synthetic_corpus, tmp_path / "corpus")
    utterances = MSPPodcast(str(corpus)).utterances
    flipped = [replace(each, labels={name: 8 - label for name, label in each.labels.items()}) for each in utterances]
    write_corpus(flipped, tmp_path / "flipped.csv")
    what = "--corpus: has other training speakers or labels than the speaker bank"
    not_exported(tested_checkpoint, "--corpus", tmp_path / "flipped.csv", what=what)
    for each in MSPPodcast(str(corpus)).splits.train:
        each.path.unlink()
    exported("--corpus", corpus)


def test_a_bundle_of_raw_features_predicts_as_its_checkpoint_and_takes_as_long_audio(synthetic_corpus, tmp_path):
    data, module = emotion_data(synthetic_corpus, max_samples=40_000), finetuning(encoder=MFCCEncoder())
    checkpoint = tmp_path / "finetune.ckpt"
    fit(module, data, tmp_path, max_steps=1).save_checkpoint(checkpoint)
    export(str(checkpoint), str(tmp_path / "bundle"))
    waveform = decode(data.utterances[0].path)
    expected = EmotionNetwork(module.personalized, module.interpreter).recognize([waveform], [None]).predictions
    recognizer = EmotionRecognizer.from_pretrained(tmp_path / "bundle")
    assert recognizer.bundle.max_samples == 40_000
    predicted = recognizer.predict([waveform], calibrate=False)
    np.testing.assert_allclose(predicted[["arousal_raw", "valence_raw"]], expected, rtol=1e-4)
    content = torch.load(checkpoint, weights_only=True)
    content[DESCRIPTION]["encoder"] = "Own"
    torch.save(content, tmp_path / "own.ckpt")
    what = "encodes by Own, a custom encoder, which bundles"
    refused(what, export, str(tmp_path / "own.ckpt"), str(tmp_path / "none"))
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    refused("--onnx: MFCCEncoder can't be written as ONNX", export, str(checkpoint), str(tmp_path / "none"), onnx=True)


@given(st.integers(2, 6), st.integers(0, 60), st.integers(0, 1000))
def test_everybody_is_in_one_group_of_enough(least, more, seed):
    groups = similar_speakers(np.random.default_rng(seed).normal(size=(least + more, 3)), least)
    assert sorted(np.concatenate(groups).tolist()) == list(range(least + more))
    assert all(least <= len(group) < 2 * least for group in groups)


def test_near_ones_come_together():
    rng = np.random.default_rng(0)
    middles = np.repeat(10 * np.eye(4), 5, axis=0)
    order = rng.permutation(20)
    groups = similar_speakers((middles + 0.1 * rng.normal(size=(20, 4)))[order], 5)
    assert sorted(sorted(order[group].tolist()) for group in groups) == np.arange(20).reshape(4, 5).tolist()


def some_bank(rng):
    ids, labels = [f"s{row % 12:02}" for row in range(240)], rng.uniform(1, 7, size=(240, 2))
    return SpeakerBank.from_utterances(ids, rng.normal(size=(240, 3)), labels, ("arousal", "valence"))


@pytest.mark.parametrize("statistics", ["average", "pooled"])
def test_pldc_towards_a_single_group_is_that_towards_all_its_speakers(statistics):
    rng = np.random.default_rng(0)
    bank = some_bank(rng)
    groups = grouped_bank(bank, 12, PLDCSettings(statistics=statistics))
    predictions, pooled = rng.normal(4, 1, size=(9, 2)), rng.normal(size=(9, 3))
    options = {"k": 12, "shift_mean": True, "statistics": statistics}
    ours, theirs = (calibrate(predictions, ["new"] * 9, pooled, one, **options) for one in (groups, bank))
    assert len(groups.speaker_ids) == 1
    np.testing.assert_allclose(ours.predictions, theirs.predictions)
    np.testing.assert_allclose(groups.vectors[0], bank.vectors.mean(axis=0))
    assert (groups.count == 240).all()


def test_labels_of_too_few_count_as_none():
    bank = some_bank(np.random.default_rng(0))
    bank.count[:10, 1] = 0
    bank.label_mean[:10, 1] = bank.label_std[:10, 1] = np.nan
    groups = grouped_bank(bank, 4, PLDCSettings())
    assert (groups.count[:, 0] > 0).all()
    assert (groups.count[:, 1] == 0).all()
    assert np.isnan(groups.label_mean[:, 1]).all()
