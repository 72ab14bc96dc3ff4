import json
import os
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from shutil import copy, copytree
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from garbage import refused
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_models import emotion_data, finetuning, newest_run, trainer

from ser_personal.calibration.controls import AffineMap
from ser_personal.calibration.divergence import speaker_shifts
from ser_personal.calibration.pldc import PLDCSettings, calibrate
from ser_personal.evaluation.pldc_callback import PLDCCallback, bank_fingerprint
from ser_personal.evaluation.run_files import read_run, read_vectors
from ser_personal.scores import score
from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder

ATTRIBUTES = ("arousal", "valence")
SETTINGS = {"k": 3, "shift_mean": True, "draws": 2}


def run_test(folder, corpus, checkpoint, **data):
    """Test with PLDC; -> what it wrote, the bank and the model."""
    callback, module = PLDCCallback(**SETTINGS), finetuning()
    running = trainer(folder, callbacks=[callback])
    running.test(module, datamodule=emotion_data(corpus, **data), ckpt_path=checkpoint, verbose=False)
    run = newest_run(folder)
    metrics = json.loads((run / "metrics.json").read_text())
    frame = pd.read_csv(run / "predictions.csv", dtype={"speaker": str})
    logged = {name: float(value) for name, value in running.callback_metrics.items()}
    return SimpleNamespace(folder=run, metrics=metrics, frame=frame, bank=callback.bank, logged=logged, module=module)


def predict(module, data, split, folder):
    outputs = trainer(folder).predict(module, dataloaders=data.share_dataloader(split))
    names = ("indices", "pooled", "predictions", "labels")
    joined = {name: torch.cat([out[name] for out in outputs]).numpy() for name in names}
    return SimpleNamespace(**joined, speaker_ids=[id_ for out in outputs for id_ in out["speaker_ids"]])


def columns(frame, kind):
    return frame[[f"{attribute}_{kind}" for attribute in ATTRIBUTES]].to_numpy()


def ccc_of(values, frame):
    scores = score(values, columns(frame, "label"), frame["speaker"].tolist(), ATTRIBUTES)
    return pytest.approx({name: scores[name].overall_ccc for name in ATTRIBUTES}, abs=1e-5)


def written_ccc(rows, name):
    return {attribute: scores["overall_ccc"] for attribute, scores in rows[name]["attributes"].items()}


@pytest.fixture(scope="module")
def tested(finetuned_checkpoint, synthetic_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tested")
    checkpoint = copy(finetuned_checkpoint, folder / "finetune.ckpt")
    run = run_test(folder, synthetic_corpus, checkpoint)
    run.checkpoint, run.corpus, run.data = checkpoint, synthetic_corpus, emotion_data(synthetic_corpus)
    run.predicted = predict(run.module, run.data, "test1", folder)
    inputs = run.predicted.predictions, run.predicted.speaker_ids, run.predicted.pooled
    run.calibration = calibrate(*inputs, run.bank, k=3, shift_mean=True)
    return run


@pytest.fixture
def own(tested, tmp_path):
    """A copy of the tested checkpoint, with its bank."""
    copy(tested.checkpoint.with_suffix(".speaker_bank.safetensors"), tmp_path)
    return Path(copy(tested.checkpoint, tmp_path))


def test_bank_next_to_the_checkpoint_is_that_of_the_training_predictions(tested, tmp_path):
    bank = SpeakerBank.load(tested.checkpoint.with_suffix(".speaker_bank.safetensors"))
    train = predict(tested.module, tested.data, "train", tmp_path)
    expected = SpeakerBank.from_utterances(train.speaker_ids, train.pooled, train.labels, ATTRIBUTES)
    assert bank.speaker_ids == expected.speaker_ids == tuple(str(number) for number in range(1, 9))
    for name in ("vectors", "count", "label_mean", "label_std"):
        np.testing.assert_allclose(getattr(bank, name), getattr(expected, name), rtol=1e-5, atol=1e-5)
    assert bank.scale == (1, 7)
    assert bank.fingerprint == tested.metrics["model"]


@pytest.fixture
def built(monkeypatch):
    """Counts how often a bank is built."""
    calls, build = [], SpeakerBankBuilder.build

    def spy(builder):
        # the oracle makes a bank of the test speakers, without a fingerprint
        if builder.fingerprint:
            calls.append(builder.fingerprint)
        return build(builder)

    monkeypatch.setattr(SpeakerBankBuilder, "build", spy)
    return calls


def test_bank_is_built_once_for_a_model_and_a_training_set(tested, own, tmp_path, built, relabelled, monkeypatch):
    bank = own.with_suffix(".speaker_bank.safetensors")
    again = run_test(tmp_path / "again", tested.corpus, own)
    assert built == []
    assert again.metrics["splits"] == tested.metrics["splits"]
    pd.testing.assert_frame_equal(again.frame, tested.frame)
    replace(SpeakerBank.load(bank), attributes=("valence", "arousal")).save(bank)
    run_test(tmp_path / "turned", tested.corpus, own)
    assert len(built) == 1
    assert SpeakerBank.load(bank).attributes == ATTRIBUTES
    with monkeypatch.context() as patch:
        # this process finds a bank, the first one doesn't
        patch.setattr(SingleDeviceStrategy, "broadcast", lambda _self, value, *_: True if value is False else value)
        run_test(tmp_path / "first", tested.corpus, own)
    assert len(built) == 2
    weights = torch.load(own, weights_only=True)
    weights["state_dict"]["personalized.encoder.network.masked_spec_embed"] += 1
    torch.save(weights, own)
    # with a speaker more it is another corpus than the model's, whose bank stays
    corpus = relabelled(lambda row: row.update(Split_Set="Train") if row["Split_Set"] == "Development" else None)
    before = bank.read_bytes()
    changed = run_test(tmp_path / "changed", corpus, own)
    assert (len(set(built)), len(built)) == (2, 3)
    assert bank.read_bytes() == before
    assert SpeakerBank.load(next((tmp_path / "changed").glob("*.speaker_bank.safetensors"))).speaker_ids[-1] == "9"
    # without a validation set there is no affine row
    assert "affine" not in changed.metrics["splits"]["test1"]["rows"]


def test_a_fingerprint_is_of_all_that_a_bank_depends_on(tested, tmp_path):
    corpus, model = copytree(tested.corpus, tmp_path / "corpus"), deepcopy(tested.module.personalized)

    def fingerprint(precision="32-true", changes=(), **options):
        data = emotion_data(corpus, **options)
        first = data.train_indices[0]
        data.utterances[first] = replace(data.utterances[first], **dict(changes))
        return bank_fingerprint(model, data, precision)

    def touch(split):
        path = corpus / "Audios" / tested.data.utterances[tested.data.split_indices(split)[0]].path.name
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))

    reference = fingerprint()
    touch("test1")
    assert fingerprint() == reference
    labels = tested.data.utterances[tested.data.train_indices[0]].labels
    changes = [{"utterance_id": "c"}, {"speaker_id": None}, {"start": 0.1}, {"seconds": 0.1}]
    changes += [{"labels": labels | {"arousal": 4.5}}, {"labels": labels | {"valence": float("nan")}}]
    others = [fingerprint(changes=each) for each in changes]
    others += [fingerprint("bf16-mixed"), fingerprint(max_samples=16_000)]
    touch("train")
    others.append(fingerprint())
    # the part after the hyphen is of its model alone
    assert {each.rpartition("-")[2] for each in others} == {reference.rpartition("-")[2]}
    (weight, *_) = model.state_dict().values()
    weight.reshape(-1).view(torch.uint8)[0] ^= 1
    others.append(fingerprint())
    model.speakers.permute = True
    others.append(fingerprint())
    model.encoder.network.config.normalize = True
    others.append(fingerprint())
    assert len({each.rpartition("-")[2] for each in others}) == 1 + 3
    assert len({reference, *others}) == 1 + len(others)


def test_predictions_csv_and_its_scores_in_metrics_json(tested):
    metrics, frame, order = tested.metrics, tested.frame, tested.predicted.indices.argsort()
    names = [tested.data.utterances[index].utterance_id for index in tested.predicted.indices[order]]
    assert frame["utterance"].tolist() == names
    (split,) = metrics["splits"].values()
    rows = split["rows"]
    assert " ".join(rows) == "raw mu sigma both affine population random_speakers own_statistics"
    predicted = {"raw": tested.predicted.predictions, "calibrated": tested.calibration.predictions}
    for name, (kind, values) in zip(("raw", "both"), predicted.items(), strict=True):
        np.testing.assert_allclose(columns(frame, kind), values[order], rtol=1e-4, atol=1e-4)
        assert written_ccc(rows, name) == ccc_of(columns(frame, kind), frame)
    logged = {attribute: tested.logged[f"test_{attribute}_overall_ccc"] for attribute in ATTRIBUTES}
    assert written_ccc(rows, "raw") == pytest.approx(logged, abs=1e-6)
    assert (split["utterances"], split["speakers"]) == (18, {"unseen": 3})
    assert metrics["pldc"] == asdict(PLDCSettings(k=3, shift_mean=True))
    assert metrics["training_speakers"] == 8
    assert metrics["checkpoint"] == str(tested.checkpoint)


def test_speakers_and_their_neighbours(tested):
    test, calibrated = tested.predicted, tested.calibration.speakers
    record = json.loads((tested.folder / "speakers.json").read_text())
    vectors = read_vectors(tested.folder / "speakers.safetensors")
    shifts = speaker_shifts(test.speaker_ids, test.pooled, test.labels, tested.bank, ATTRIBUTES)
    assert list(record["splits"]["test1"]) == [speaker.speaker_id for speaker in calibrated] == ["10", "11", "12"]
    for row, speaker in enumerate(calibrated):
        own = [u for u in tested.data.utterances if u.speaker_id == speaker.speaker_id]
        written, shift = record["splits"]["test1"][speaker.speaker_id], shifts[speaker.speaker_id]
        assert (written["gender"], written["utterances"]) == (own[0].gender, 6)
        assert written["seconds"] == pytest.approx(sum(u.seconds for u in own))
        assert written["neighbours"] == list(speaker.neighbours)
        np.testing.assert_allclose(written["cosines"], speaker.cosines, atol=1e-5)
        for name in ("mu", "sigma", "mu_bar", "sigma_bar"):
            np.testing.assert_allclose([written[name][a] for a in ATTRIBUTES], getattr(speaker, name), atol=1e-4)
        assert written["feature_shift"] == pytest.approx(shift.feature, rel=1e-3)
        mine = [id_ == speaker.speaker_id for id_ in test.speaker_ids]
        np.testing.assert_allclose(vectors["test1"].vectors[row], test.pooled[mine].mean(0), atol=1e-5)
    assert vectors["training"].speaker_ids == tuple(record["training"]) == tested.bank.speaker_ids
    np.testing.assert_allclose(vectors["training"].vectors, tested.bank.vectors, rtol=1e-6)
    known = tested.module.personalized.speakers
    assert vectors["embeddings"].speaker_ids == tuple(known.ids)
    np.testing.assert_allclose(vectors["embeddings"].vectors, known(known.ids).detach(), rtol=1e-6)
    (of_set,) = read_run(tested.folder).sets
    assert of_set.speakers["10"].shift.label == pytest.approx(shifts["10"].label, rel=1e-3)


def test_predictions_never_see_a_label_of_the_test_set(tested, own, tmp_path, relabelled):
    def turn(row):
        if row["Split_Set"] == "Test1":
            row.update(EmoAct=str(8 - float(row["EmoAct"])), EmoVal="")

    changed = run_test(tmp_path, relabelled(turn), own)
    seen = ["utterance", "arousal_raw", "arousal_calibrated", "valence_raw", "valence_calibrated"]
    pd.testing.assert_frame_equal(tested.frame[seen], changed.frame[seen], check_exact=True)
    before, after = (written_ccc(run.metrics["splits"]["test1"]["rows"], "raw") for run in (tested, changed))
    assert before["arousal"] != after["arousal"]
    assert after["valence"] is None


def test_each_test_set_is_calibrated_by_itself_and_each_condition_scored(tested, own, tmp_path, relabelled):
    def cut(row):
        # speaker 8's labels were trained on, under another set's name
        if row["SpkrID"] == "8":
            row["Split_Set"] = "Test1"
        # speaker 11 stands in both sets
        if row["SpkrID"] == "12" or (row["SpkrID"] == "11" and row["FileName"].endswith(("1.wav", "2.wav", "3.wav"))):
            row["Split_Set"] = "Test2"

    left = run_test(tmp_path, relabelled(cut), own)
    assert {name: (of["utterances"], of["speakers"]) for name, of in left.metrics["splits"].items()} == {
        "test1": (15, {"labelled": 1, "unseen": 2}),
        "test2": (9, {"unseen": 2}),
    }
    for split, frame in left.frame.groupby("split"):
        assert written_ccc(left.metrics["splits"][split]["rows"], "both") == ccc_of(columns(frame, "calibrated"), frame)
    test1 = left.frame[left.frame["split"] == "test1"]
    apart = left.metrics["splits"]["test1"]["conditions"]
    for name, part in ("labelled", test1[test1["speaker"] == "8"]), ("unseen", test1[test1["speaker"] != "8"]):
        assert apart[name]["utterances"] == len(part)
        assert written_ccc(apart[name]["rows"], "raw") == ccc_of(columns(part, "raw"), part)
    only = run_test(tmp_path / "only", tmp_path / "relabelled", own, test_splits=["test2"])
    assert list(only.metrics["splits"]) == ["test2"]
    of_both = left.frame[left.frame["split"] == "test2"].reset_index(drop=True)
    np.testing.assert_allclose(only.frame["arousal_calibrated"], of_both["arousal_calibrated"], rtol=1e-4, atol=1e-4)


def test_what_is_fitted_on_validation_isnt_scored_on_its_speakers(tested, own, tmp_path, relabelled, capsys):
    def move(row):
        # speaker 9 validates, and is tested in part; speaker 8 validates alone
        if row["SpkrID"] == "9" and row["FileName"].endswith(("1.wav", "2.wav", "3.wav")):
            row["Split_Set"] = "Test2"
        if row["SpkrID"] == "8":
            row["Split_Set"] = "Development"

    run = run_test(tmp_path, relabelled(move), own, test_splits=["validation", "test1", "test2"])
    said = [line for line in capsys.readouterr().out.splitlines() if "shares speakers with validation" in line]
    assert [line.split(":")[0] for line in said] == ["test2", "validation"]
    of_validation, test1, test2 = (run.metrics["splits"][name] for name in ("validation", "test1", "test2"))
    assert [name for name in test1["rows"] if name not in of_validation["rows"]] == ["affine"]
    assert "intervals" not in of_validation
    assert [of["intervals"]["validation_speakers"] for of in (test1, test2)] == [2, 1]
    of_8, of_test2 = run.frame[run.frame["speaker"] == "8"], run.frame[run.frame["split"] == "test2"]
    mapped = AffineMap.fit(columns(of_8, "raw"), columns(of_8, "label")).apply(columns(of_test2, "raw"))
    assert written_ccc(test2["rows"], "affine") == ccc_of(mapped, of_test2)


def test_a_bank_where_nobody_may_write_beside_the_checkpoint(tested, tmp_path, built, monkeypatch):
    checkpoint = Path(copy(tested.checkpoint, tmp_path / "finetune.ckpt"))
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != checkpoint.parent)
    runs = [run_test(tmp_path / "runs", tested.corpus, checkpoint) for _ in range(2)]
    assert len(built) == 1
    (bank,) = tmp_path.rglob("*.speaker_bank.safetensors")
    assert bank == tmp_path / "runs" / f"{runs[0].metrics['model'][:8]}-finetune.speaker_bank.safetensors"
    assert runs[0].metrics["splits"] == runs[1].metrics["splits"]


def test_controls_say_how_many_speakers_they_permuted_and_that_k_of_k_speakers_are_none(tested, own, tmp_path, capsys):
    module, running = finetuning(), trainer(tmp_path, callbacks=[PLDCCallback(**SETTINGS | {"k": 8})])
    module.personalized.speakers.permute = True
    data = emotion_data(tested.corpus, test_splits=["train", "test1"])
    running.test(module, datamodule=data, ckpt_path=own, verbose=False)
    splits = json.loads((newest_run(tmp_path) / "metrics.json").read_text())["splits"]
    assert {name: split["permuted_speakers"] for name, split in splits.items()} == {"test1": 0, "train": 8}
    assert splits["train"]["speakers"] == {"labelled": 8}
    assert splits["train"]["conditions"] == {}
    assert "k = 8 takes all 8 training speakers" in " ".join(capsys.readouterr().out.split())


def test_loaders_alone_and_a_model_without_attributes_are_refused(synthetic_corpus, tmp_path):
    data, running = emotion_data(synthetic_corpus), trainer(tmp_path, max_epochs=1, callbacks=[PLDCCallback()])
    test, module = partial(running.test, verbose=False), finetuning()
    line = "PLDCCallback: needs the datamodule: dataloaders alone don't name .*datamodule=EmotionDataModule"
    refused(line, test, finetuning(), dataloaders=data.share_dataloader("test1"))
    running.fit(module, datamodule=data)
    refused(line, test, module, dataloaders=emotion_data(synthetic_corpus).test_dataloader())
    line = r"BoringModel predicts no emotion attributes.*--config configs/finetune\.yaml"
    refused(line, test, BoringModel(), datamodule=data)
