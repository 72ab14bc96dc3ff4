from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny_models import emotion_data, finetuning, newest_run, trainer

from ser_personal.calibration.divergence import speaker_shifts
from ser_personal.calibration.pldc import PLDCSettings, calibrate
from ser_personal.corpus.msp_podcast import MSPPodcast
from ser_personal.errors import UserError
from ser_personal.evaluation.pldc_callback import PLDCCallback, bank_fingerprint, predict_split
from ser_personal.evaluation.run_files import read_vectors
from ser_personal.evaluation.run_writers import conditions_of
from ser_personal.finetune.module import EmotionFineTuning
from ser_personal.scores import score
from ser_personal.speakers.bank import SpeakerBank, SpeakerBankBuilder
from ser_personal.speakers.representation import SpeakerQuery
from ser_personal.types import Utterance, utterance_hashes

ATTRIBUTES = ("arousal", "valence")
SETTINGS = {"k": 3, "shift_mean": True, "draws": 2}


@pytest.fixture
def checkpoint(finetuned_checkpoint, tmp_path):
    return copy(finetuned_checkpoint, tmp_path / "finetune.ckpt")


def run_test(folder, corpus, checkpoint, callback=None, **data):
    """Test with PLDC; -> what it wrote, the bank and the model."""
    callback = callback or PLDCCallback(**SETTINGS)
    module = finetuning()
    running = trainer(folder, callbacks=[callback])
    running.test(module, datamodule=emotion_data(corpus, **data), ckpt_path=checkpoint, verbose=False)
    run = newest_run(folder)
    metrics = json.loads((run / "metrics.json").read_text())
    frame = pd.read_csv(run / "predictions.csv", dtype={"speaker": str})
    logged = {name: float(value) for name, value in running.callback_metrics.items()}
    return SimpleNamespace(folder=run, metrics=metrics, frame=frame, bank=callback.bank, logged=logged, module=module)


def predict(module, data, split, folder):
    outputs = trainer(folder).predict(module, dataloaders=data.split_dataloader(split))
    joined = {
        name: torch.cat([out[name] for out in outputs]) for name in ("indices", "pooled", "predictions", "labels")
    }
    return SimpleNamespace(**joined, speaker_ids=[id_ for out in outputs for id_ in out["speaker_ids"]])


@pytest.fixture(scope="module")
def tested(finetuned_checkpoint, synthetic_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tested")
    checkpoint = copy(finetuned_checkpoint, folder / "finetune.ckpt")
    run = run_test(folder, synthetic_corpus, checkpoint)
    run.checkpoint, run.data = checkpoint, emotion_data(synthetic_corpus)
    run.predicted = predict(run.module, run.data, "test1", folder)
    inputs = run.predicted.predictions, run.predicted.speaker_ids, run.predicted.pooled
    run.calibration = calibrate(*inputs, run.bank, k=3, shift_mean=True)
    return run


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


def test_bank_is_built_once_for_a_model_and_a_training_set(synthetic_corpus, checkpoint, tmp_path, built, relabelled):
    first = run_test(tmp_path / "first", synthetic_corpus, checkpoint)
    again = run_test(tmp_path / "again", synthetic_corpus, checkpoint)
    assert len(built) == 1
    assert again.metrics["splits"] == first.metrics["splits"]
    pd.testing.assert_frame_equal(again.frame, first.frame)

    weights = torch.load(checkpoint, weights_only=True)
    weights["state_dict"]["personalized.encoder.network.masked_spec_embed"] += 1
    torch.save(weights, checkpoint)
    run_test(tmp_path / "changed", synthetic_corpus, checkpoint)
    assert len(set(built)) == len(built) == 2

    other = relabelled(lambda row: row.update(EmoAct="7.0") if row["SpkrID"] == "1" else None)
    assert run_test(tmp_path / "other", other, checkpoint).bank.label_mean[0, 0] == 7
    assert len(set(built)) == len(built) == 3


def test_bank_of_other_attributes_is_not_taken(synthetic_corpus, checkpoint, tmp_path, built):
    run_test(tmp_path, synthetic_corpus, checkpoint)
    path = tmp_path / "finetune.speaker_bank.safetensors"
    bank = SpeakerBank.load(path)
    SpeakerBank(**{**vars(bank), "attributes": ("valence", "arousal")}).save(path)
    run_test(tmp_path, synthetic_corpus, checkpoint)
    assert len(built) == 2
    assert SpeakerBank.load(path).attributes == ATTRIBUTES


TRAINING = [
    Utterance(name, Path(name), "train", speaker_id="s1", labels={"arousal": 4.0, "valence": float("nan")})
    for name in ("a", "b")
]


def weights():
    torch.manual_seed(0)
    return {
        "linear": torch.randn(3, 4),
        "half": torch.randn(2).bfloat16(),
        "scalar": torch.tensor(1.5),
        "count": torch.tensor(7),
        "turned": torch.randn(4, 3).T,
    }


def test_a_fingerprint_is_of_all_that_a_bank_depends_on():
    reference = bank_fingerprint(weights(), ("mean", False), TRAINING)
    moved = [replace(utterance, path=Path("elsewhere")) for utterance in TRAINING]
    assert bank_fingerprint(weights(), ("mean", False), moved) == reference
    assert len(reference) == 32
    renamed = {f"{name}_": weight for name, weight in weights().items()}
    others = [
        bank_fingerprint(weights(), ("mean", True), TRAINING),
        bank_fingerprint(renamed, ("mean", False), TRAINING),
        bank_fingerprint(weights(), ("mean", False), TRAINING[:1]),
    ]
    for name, weight in weights().items():
        # one bit of it
        raw = weight.contiguous().reshape(-1).view(torch.uint8)
        raw[0] ^= 1
        changed = weights() | {name: raw.view(weight.dtype).reshape(weight.shape)}
        others.append(bank_fingerprint(changed, ("mean", False), TRAINING))
    for name, value in (
        ("utterance_id", "c"),
        ("speaker_id", "s2"),
        ("speaker_id", None),
        ("labels", {"arousal": 4.5, "valence": float("nan")}),
        ("labels", {"arousal": 4.0, "valence": 4.0}),
    ):
        changed_set = [TRAINING[0], replace(TRAINING[1], **{name: value})]
        others.append(bank_fingerprint(weights(), ("mean", False), changed_set))
    assert len({reference, *others}) == 1 + len(others) == 14


def test_predict_split_is_the_trainers_own_prediction(synthetic_corpus, finetuned_checkpoint, tmp_path):
    data, running = emotion_data(synthetic_corpus), trainer(tmp_path)
    module = EmotionFineTuning.load_from_checkpoint(finetuned_checkpoint).eval()
    expected = running.predict(module, datamodule=data)
    with torch.no_grad():
        predicted = list(predict_split(running, module, "test1"))
    for mine, theirs in zip(predicted, expected, strict=True):
        for name in ("indices", "pooled", "predictions", "labels"):
            assert torch.equal(mine[name], theirs[name])


def test_first_process_decides_whether_all_build(synthetic_corpus, checkpoint, tmp_path, built, monkeypatch):
    run_test(tmp_path, synthetic_corpus, checkpoint)
    # this process finds a bank, the first one doesn't
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda _self, value, *_: True if value is False else value)
    run_test(tmp_path, synthetic_corpus, checkpoint)
    assert len(built) == 2


def test_predictions_csv(tested):
    frame, order = tested.frame, tested.predicted.indices.argsort()
    utterances = [tested.data.utterances[index] for index in tested.predicted.indices[order]]
    assert frame["utterance"].tolist() == [utterance.utterance_id for utterance in utterances]
    assert frame["speaker"].tolist() == [utterance.speaker_id for utterance in utterances]
    assert set(frame["split"]) == {"test1"}
    for column, attribute in enumerate(ATTRIBUTES):
        expected = {
            "label": [utterance.labels[attribute] for utterance in utterances],
            "raw": tested.predicted.predictions[order, column],
            "calibrated": tested.calibration.predictions[order, column],
        }
        for name, values in expected.items():
            np.testing.assert_allclose(frame[f"{attribute}_{name}"], values, rtol=1e-4, atol=1e-4)
    for name in ("gender", "seconds", "emotion"):
        assert frame[name].tolist() == [getattr(utterance, name) for utterance in utterances]
    assert len(frame.columns) == 3 + 3 * len(ATTRIBUTES) + 3


def test_metrics_json(tested):
    metrics, frame = tested.metrics, tested.frame
    assert metrics["checkpoint"] == str(tested.checkpoint)
    assert metrics["attributes"] == list(ATTRIBUTES)
    assert metrics["pldc"] == asdict(PLDCSettings(k=3, shift_mean=True))
    assert list(metrics["splits"]) == ["test1"]
    split = metrics["splits"]["test1"]
    assert (split["utterances"], split["speakers"]) == (18, {"unseen": 3})
    rows = split["rows"]
    calibrated = ["mu", "sigma", "both", "affine", "population", "random_speakers"]
    assert list(rows) == ["raw", *calibrated, "own_statistics"]
    assert [name for name, row in rows.items() if row["is_oracle"]] == ["own_statistics"]
    for attribute in ATTRIBUTES:
        for name, column in (("raw", "raw"), ("both", "calibrated")):
            inputs = frame[f"{attribute}_{column}"].to_numpy()[:, None], frame[f"{attribute}_label"].to_numpy()[:, None]
            expected = score(*inputs, frame["speaker"].tolist(), [attribute], min_utterances=3)[attribute]
            reached = rows[name]["attributes"][attribute]
            assert reached["overall_ccc"] == pytest.approx(expected.overall_ccc, abs=1e-6)
            assert reached["average_ccc"] == pytest.approx(expected.average_ccc, abs=1e-6)
        logged = tested.logged[f"test_{attribute}_overall_ccc"]
        assert rows["raw"]["attributes"][attribute]["overall_ccc"] == pytest.approx(logged, abs=1e-6)


def test_speakers_and_their_neighbours(tested):
    test, calibrated = tested.predicted, tested.calibration.speakers
    record = json.loads((tested.folder / "speakers.json").read_text())
    vectors = read_vectors(tested.folder / "speakers.safetensors")
    shifts = speaker_shifts(test.speaker_ids, test.pooled, test.labels, tested.bank, ATTRIBUTES)
    assert list(record["splits"]["test1"]) == [speaker.speaker_id for speaker in calibrated] == ["10", "11", "12"]
    for row, speaker in enumerate(calibrated):
        own = [u for u in tested.data.utterances if u.speaker_id == speaker.speaker_id]
        written = record["splits"]["test1"][speaker.speaker_id]
        assert (written["gender"], written["utterances"]) == (own[0].gender, 6)
        assert written["seconds"] == pytest.approx(sum(u.seconds for u in own))
        assert written["neighbours"] == list(speaker.neighbours)
        np.testing.assert_allclose(written["cosines"], speaker.cosines, atol=1e-5)
        for name in ("mu", "sigma", "mu_bar", "sigma_bar"):
            np.testing.assert_allclose([written[name][a] for a in ATTRIBUTES], getattr(speaker, name), atol=1e-4)
        shift = shifts[speaker.speaker_id]
        assert written["feature_shift"] == pytest.approx(shift.feature, rel=1e-3)
        assert written["label_shift"] == pytest.approx(shift.label, rel=1e-3)
        mine = [id_ == speaker.speaker_id for id_ in test.speaker_ids]
        np.testing.assert_allclose(vectors["test1"].vectors[row], test.pooled[mine].mean(0), atol=1e-5)
    correlated = tested.metrics["splits"]["test1"]["shift"]
    assert {attribute: found["speakers"] for attribute, found in correlated.items()} == dict.fromkeys(ATTRIBUTES, 3)
    assert all(-1 <= found["feature_shift_and_ccc"] <= 1 for found in correlated.values())
    assert vectors["training"].speaker_ids == tuple(record["training"]) == tested.bank.speaker_ids
    np.testing.assert_allclose(vectors["training"].vectors, tested.bank.vectors, rtol=1e-6)
    known = tested.module.personalized.speakers
    assert vectors["embeddings"].speaker_ids == tuple(known.ids)
    np.testing.assert_allclose(vectors["embeddings"].vectors, known(SpeakerQuery(known.ids)).detach(), rtol=1e-6)


def test_cost(tested):
    cost, personalized = json.loads((tested.folder / "cost.json").read_text()), tested.module.personalized
    assert cost["parameters"] == sum(weight.numel() for weight in tested.module.parameters())
    frozen = [personalized.encoder.network.masked_spec_embed, *personalized.speakers.parameters()]
    assert cost["parameters"] - cost["trained_parameters"] == sum(weight.numel() for weight in frozen)
    assert cost["test_speech_seconds"] == pytest.approx(tested.frame["seconds"].sum())
    assert cost["test_seconds"] > 0


def test_predictions_never_see_a_label_of_the_test_set(synthetic_corpus, checkpoint, tmp_path, relabelled):
    def turn(row):
        if row["Split_Set"] == "Test1":
            row.update(EmoAct=str(8 - float(row["EmoAct"])), EmoVal=row["EmoDom"], EmoDom="")

    honest = run_test(tmp_path / "honest", synthetic_corpus, checkpoint)
    turned = run_test(tmp_path / "turned", relabelled(turn), checkpoint)
    assert not np.allclose(honest.frame["arousal_label"], turned.frame["arousal_label"])
    unlabelled = ["utterance", "arousal_raw", "arousal_calibrated", "valence_raw", "valence_calibrated"]
    pd.testing.assert_frame_equal(honest.frame[unlabelled], turned.frame[unlabelled], check_exact=True)
    scores = [left.metrics["splits"]["test1"]["rows"] for left in (honest, turned)]
    assert scores[0]["raw"] != scores[1]["raw"]


def test_each_test_set_is_calibrated_by_itself(synthetic_corpus, checkpoint, tmp_path, relabelled):
    def cut(row):
        # speaker 11 stands in both sets
        if row["SpkrID"] == "12" or (row["SpkrID"] == "11" and row["FileName"].endswith(("1.wav", "2.wav", "3.wav"))):
            row["Split_Set"] = "Test2"

    left = run_test(tmp_path, relabelled(cut), checkpoint)
    assert {name: (of["utterances"], of["speakers"]) for name, of in left.metrics["splits"].items()} == {
        "test1": (9, {"unseen": 2}),
        "test2": (9, {"unseen": 2}),
    }
    for split, frame in left.frame.groupby("split"):
        rows = left.metrics["splits"][split]["rows"]
        inputs = frame[["arousal_calibrated"]].to_numpy(), frame[["arousal_label"]].to_numpy()
        expected = score(*inputs, frame["speaker"].tolist(), ["arousal"], min_utterances=3)["arousal"]
        assert rows["both"]["attributes"]["arousal"]["overall_ccc"] == pytest.approx(expected.overall_ccc, abs=1e-6)
    only = run_test(tmp_path / "only", tmp_path / "relabelled", checkpoint, test_splits=["test2"])
    assert list(only.metrics["splits"]) == ["test2"]
    of_both = left.frame[left.frame["split"] == "test2"].reset_index(drop=True)
    np.testing.assert_allclose(only.frame["arousal_calibrated"], of_both["arousal_calibrated"], rtol=1e-4, atol=1e-4)


def test_conditions_of_the_test_speakers(synthetic_corpus, checkpoint, tmp_path, relabelled):
    left = run_test(tmp_path, synthetic_corpus, checkpoint, test_splits=["validation", "train"])
    assert left.metrics["splits"]["validation"]["speakers"] == {"unseen": 1}
    assert left.metrics["splits"]["train"]["speakers"] == {"transductive": 8}
    assert left.metrics["splits"]["train"]["conditions"] == {}

    # speaker 8's audio was in PAPT, under another set's name; its labels are no longer trained on
    corpus = relabelled(lambda row: row.update(Split_Set="Test1") if row["SpkrID"] == "8" else None)
    left = run_test(tmp_path, corpus, checkpoint)
    assert left.metrics["splits"]["test1"]["speakers"] == {"transductive": 1, "unseen": 3}
    apart = left.metrics["splits"]["test1"]["conditions"]
    raw, labels = [[f"{name}_{kind}" for name in ATTRIBUTES] for kind in ("raw", "label")]
    for name, mine in (("transductive", left.frame["speaker"] == "8"), ("unseen", left.frame["speaker"] != "8")):
        part = left.frame[mine]
        expected = score(part[raw], part[labels], part["speaker"].tolist(), ATTRIBUTES)
        assert apart[name]["utterances"] == len(part)
        for attribute in ATTRIBUTES:
            found = apart[name]["rows"]["raw"]["attributes"][attribute]["overall_ccc"]
            assert found == pytest.approx(expected[attribute].overall_ccc, abs=1e-5)

    no_pretraining = torch.load(checkpoint, weights_only=True)
    no_pretraining["personalized_encoder"]["pretrained_on"] = ""
    torch.save(no_pretraining, checkpoint)
    left = run_test(tmp_path, synthetic_corpus, checkpoint, test_splits=["train"])
    assert left.metrics["splits"]["train"]["speakers"] == {"labelled": 8}


def test_whom_tapt_heard_is_known_without_a_table(synthetic_corpus):
    utterances = MSPPodcast(str(synthetic_corpus)).utterances
    first, second = [each for each in utterances if each.speaker_id == utterances[0].speaker_id][:2]
    audio = SimpleNamespace(speaker_ids=[], pretrained_on=utterance_hashes([first.utterance_id]))
    model = SimpleNamespace(personalized=SimpleNamespace(speaker_audio=audio))
    data = SimpleNamespace(train_speaker_ids=[], utterances=utterances)
    assert conditions_of(model, data, [second]).tolist() == ["adaptation"]
    assert conditions_of(model, data, [first]).tolist() == ["transductive"]


def test_hidden_test_labels(synthetic_corpus, checkpoint, tmp_path, relabelled):
    def hide(row):
        if row["Split_Set"] == "Test1":
            row.update(EmoAct="", EmoVal="", EmoDom="")

    left = run_test(tmp_path, relabelled(hide), checkpoint)
    assert left.frame["arousal_label"].isna().all()
    assert left.frame["arousal_calibrated"].notna().all()
    assert left.metrics["splits"]["test1"]["rows"]["raw"]["attributes"]["arousal"]["overall_ccc"] is None


def test_without_a_validation_set_there_is_no_affine_row(synthetic_corpus, checkpoint, tmp_path, relabelled):
    corpus = relabelled(lambda row: row.update(Split_Set="Train") if row["Split_Set"] == "Development" else None)
    callback = PLDCCallback(**SETTINGS)
    assert "affine" in run_test(tmp_path, synthetic_corpus, checkpoint, callback).metrics["splits"]["test1"]["rows"]
    assert "affine" not in run_test(tmp_path, corpus, checkpoint, callback).metrics["splits"]["test1"]["rows"]


def test_a_bank_where_nobody_may_write_beside_the_checkpoint(
    synthetic_corpus, checkpoint, tmp_path, built, monkeypatch
):
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != checkpoint.parent)
    runs = [run_test(tmp_path / "runs", synthetic_corpus, checkpoint) for _ in range(2)]
    assert len(built) == 1
    (bank,) = tmp_path.rglob("*.speaker_bank.safetensors")
    assert bank == tmp_path / "runs" / f"{runs[0].metrics['model'][:8]}-finetune.speaker_bank.safetensors"
    assert runs[0].metrics["splits"] == runs[1].metrics["splits"]


def test_a_control_that_permutes_says_how_many_it_permuted(synthetic_corpus, checkpoint, tmp_path):
    module, running = finetuning(), trainer(tmp_path, callbacks=[PLDCCallback(**SETTINGS)])
    module.personalized.speakers.permute = True
    data = emotion_data(synthetic_corpus, test_splits=["train", "test1"])
    running.test(module, datamodule=data, ckpt_path=checkpoint, verbose=False)
    splits = json.loads((newest_run(tmp_path) / "metrics.json").read_text())["splits"]
    assert {name: split["permuted_speakers"] for name, split in splits.items()} == {"test1": 0, "train": 8}


def test_loaders_alone_are_refused(synthetic_corpus, tmp_path):
    running = trainer(tmp_path, callbacks=[PLDCCallback()])
    loader = emotion_data(synthetic_corpus).split_dataloader("test1")
    with pytest.raises(UserError, match=r"PLDCCallback: has to know.*trainer.test\(model, datamodule=Emo"):
        running.test(finetuning(), dataloaders=loader, verbose=False)


class NoEmotion(LightningModule):
    def test_step(self, batch, batch_idx):
        return None


def test_a_model_without_attributes(synthetic_corpus, tmp_path):
    running = trainer(tmp_path, callbacks=[PLDCCallback()])
    with pytest.raises(UserError, match=r"NoEmotion predicts no emotion attributes.*--config configs/finetune\.yaml"):
        running.test(NoEmotion(), datamodule=emotion_data(synthetic_corpus), verbose=False)
