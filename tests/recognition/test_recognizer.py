from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from garbage import refused
from tiny_models import emotion_data, finetuning, trainer

from ser_personal import EmotionRecognizer, calibrate
from ser_personal.audio import decode
from ser_personal.calibration.conformal import ConformalTable, HalfWidths
from ser_personal.calibration.few_labels import LabelPrior
from ser_personal.calibration.pldc import PLDCSettings
from ser_personal.data.dataset import Example, collate
from ser_personal.recognition.profiles import SpeakerProfiles
from ser_personal.recognition.raw import PredictedUtterance, Utterances
from ser_personal.recognition.recordings import Recording
from ser_personal.recognition.segmenters import BySpeech, ByWindows, Segment, energy_speech

RAW = ["arousal_raw", "valence_raw"]
CALIBRATED = ["arousal_calibrated", "valence_calibrated"]


@pytest.fixture
def lightning(synthetic_corpus, tested_checkpoint, tmp_path):
    """What Trainer.predict says of the test set: path -> predictions, pooled, speaker."""
    data = emotion_data(synthetic_corpus)
    batches = trainer(tmp_path).predict(finetuning(), datamodule=data, ckpt_path=tested_checkpoint)
    names = ("indices", "predictions", "pooled", "speaker_ids")
    rows = (row for batch in batches for row in zip(*(batch[name] for name in names), strict=True))
    paths = [utterance.path for utterance in data.utterances]
    return {paths[index]: (prediction.numpy(), pooled.numpy(), speaker) for index, prediction, pooled, speaker in rows}


def test_the_encoder_alone_is_in_bfloat16_where_that_is_asked_for(bundle_folder, recordings):
    exact = EmotionRecognizer.from_pretrained(bundle_folder, device="cpu").predict(recordings[:3])[RAW]
    rounding = EmotionRecognizer.from_pretrained(bundle_folder, device="cpu", bf16=True)
    rounded = rounding.predict(recordings[:3])[RAW]
    network, expected = rounding.bundle.network, []
    for path in recordings[:3]:
        with torch.inference_mode():
            with torch.autocast("cpu", torch.bfloat16):
                output = network.personalized(collate([Example(0, None, decode(path))]))
            expected.append(network.interpreter(output._replace(frames=output.frames.float()))[0].tolist())
    np.testing.assert_allclose(rounded, expected, atol=1e-6)
    assert 0 < np.abs(rounded - exact).to_numpy().max() < 0.1


def test_predictions_are_those_of_the_trainer(recognizer, lightning):
    frame = recognizer.predict(list(lightning))
    assert list(frame["file"]) == [str(path) for path in lightning]
    np.testing.assert_allclose(frame[RAW], [prediction for prediction, _, _ in lightning.values()], atol=1e-5)
    np.testing.assert_array_equal(frame[CALIBRATED], frame[RAW])
    assert (frame["calibration_utterances"] == 0).all()
    assert frame["speaker"].isna().all()
    assert frame[["arousal_low", "valence_high"]].isna().all(axis=None)
    assert list(recognizer.predict([]).columns) == recognizer.columns_of([])


def test_training_speakers_get_their_own_embeddings_only_when_asked(bundle, synthetic_corpus):
    data = emotion_data(synthetic_corpus)
    utterances = [data.utterances[index] for index in data.train_indices[:5]]
    paths, speakers = [u.path for u in utterances], [u.speaker_id for u in utterances]
    waveforms = [decode(path) for path in paths]
    known, unseen = (bundle.network.recognize(waveforms, ids).predictions for ids in (speakers, [None] * 5))
    assert np.abs(known - unseen).max() > 1e-4
    for asked, expected in ((False, unseen), (True, known)):
        recognizer = EmotionRecognizer(bundle, training_speakers=asked, device="cpu")
        np.testing.assert_allclose(recognizer.predict(paths, speakers, calibrate=False)[RAW], expected, atol=1e-5)


def test_calibration_is_causal(bundle_folder, lightning):
    """Of each speaker, the n-th utterance comes out as PLDC over the first n has it, whatever follows."""
    pldc = PLDCSettings(k=3, prior_utterances=0)
    recognizer = EmotionRecognizer.from_pretrained(bundle_folder, pldc=pldc, device="cpu")
    paths, speakers = list(lightning), [speaker for _, _, speaker in lightning.values()]
    frame = recognizer.predict(paths, speakers)
    seen = {}
    for row, (prediction, pooled, speaker) in enumerate(lightning.values()):
        so_far = seen.setdefault(speaker, [])
        so_far.append((prediction, pooled))
        predictions, vectors = zip(*so_far, strict=True)
        whole = calibrate(predictions, [speaker] * len(so_far), vectors, recognizer.bundle.bank, k=3)
        np.testing.assert_allclose(frame.loc[row, CALIBRATED].astype(float), whole.predictions[-1], atol=1e-4)
        assert frame.loc[row, "calibration_utterances"] == len(so_far)


def test_enrolling_at_once_or_in_parts_is_one(bundle, recordings):
    once, parts, straight = (EmotionRecognizer(bundle, device="cpu") for _ in range(3))
    once.enroll("anna", recordings[:6])
    for some in (recordings[0], recordings[1:6]):
        parts.enroll("anna", some)
    frames = [each.predict(recordings[6:9], "anna") for each in (once, parts)]
    assert list(frames[0]["calibration_utterances"]) == [7, 8, 9]
    for frame in [*frames[1:], straight.predict(recordings[:9], "anna")[6:].reset_index(drop=True)]:
        pd.testing.assert_frame_equal(frame, frames[0], atol=1e-4)


def test_profiles_of_the_enrolled_are_kept_from_call_to_call_and_no_others(bundle_folder, recordings, tmp_path):
    options = {"profiles": tmp_path / "profiles.safetensors", "device": "cpu"}
    first = EmotionRecognizer.from_pretrained(bundle_folder, **options)
    first.enroll("anna", recordings[:3])
    first.predict(recordings[3:6], ["anna", "bela", "anna"])
    again = EmotionRecognizer.from_pretrained(bundle_folder, **options)
    assert (again.profiles.ids, again.profiles["anna"].utterances) == (["anna"], 5)
    again.predict(recordings[3:6], "anna", calibrate=False)
    assert again.profiles["anna"].utterances == 5
    again.profiles.delete("anna")
    assert list(again.predict(recordings[3], "anna")["calibration_utterances"]) == [1]


def test_a_name_is_one_person_however_it_is_spelled(recognizer, recordings, tmp_path):
    for name, file in zip(("Jos\u00e9", "Jose\u0301", " Jos\u00e9 "), recordings, strict=False):
        recognizer.enroll(name, file)
    assert recognizer.profiles.ids == ["Jos\u00e9"]
    (tmp_path / "turns.csv").write_text(f"path,start,end,speaker\n{recordings[3].name},0,,Jose\u0301\n")
    for options in ({"speaker_ids": "Jose\u0301"}, {"segments": tmp_path / "turns.csv"}):
        assert recognizer.predict(recordings[3], **options)["calibration_utterances"].tolist() == [4]


@pytest.fixture
def with_intervals(bundle):
    """Makes a recogniser whose raw predictions have intervals of +-0.5, and calibrated ones of +-1."""
    table = ConformalTable(0.9, dict.fromkeys(bundle.attributes, HalfWidths((0, 1), (0.5, 1.0), (20, 20))))
    return partial(EmotionRecognizer, replace(bundle, conformal=table), device="cpu")


def test_intervals_are_those_of_the_bundles_own_calibration(bundle, with_intervals, recordings):
    own, other = {"calibration": "pldc", "pldc": bundle.pldc}, {"pldc": PLDCSettings(k=1)}
    for options, width in (({}, 2.0), (own, 2.0), (other, np.nan), ({"calibration": "none"}, 1.0)):
        frame = with_intervals(**options).predict(recordings[0], "anna")
        np.testing.assert_allclose(frame["arousal_high"] - frame["arousal_low"], width)


def test_labels_have_their_default_weight_where_the_bundles_was_measured_with_another_calibration(bundle, recordings):
    with_priors = replace(bundle, label_priors={"pldc": dict.fromkeys(bundle.attributes, LabelPrior(shift=2.0))})
    labels = {"arousal": [2.0, 5.0, 6.0], "valence": [2.0, 5.0, 6.0]}
    other = PLDCSettings(k=1, shift_mean=True)

    def predicted(model, **options):
        recognizer = EmotionRecognizer(model, **options, device="cpu")
        recognizer.enroll("anna", recordings[:3], labels)
        return recognizer.predict(recordings[3:6], "anna")[CALIBRATED].to_numpy()

    assert np.abs(predicted(with_priors) - predicted(bundle)).min() > 0.1
    np.testing.assert_array_equal(predicted(with_priors, pldc=bundle.pldc), predicted(with_priors))
    np.testing.assert_array_equal(predicted(with_priors, pldc=other), predicted(bundle, pldc=other))


def test_whom_python_enrols(recognizer, recordings):
    speech = recordings[0]
    assert recognizer.enroll(7, speech).utterances == 1
    assert recognizer.predict(speech, 7.0)["speaker"].tolist() == ["7"]
    for nobody in (None, float("nan"), "unknown", " "):
        refused(r"^speaker '.*': names no speaker", recognizer.enroll, nobody, speech)
    refused("audio: holds no recording", recognizer.enroll, "anna", [])
    assert recognizer.profiles.ids == ["7"]


def test_predictions_at_once_leave_torch_its_threads(bundle, recordings):
    before, waveform = torch.get_num_threads(), decode(recordings[0])
    try:
        torch.set_num_threads(3)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: bundle.network.recognize([waveform], [None]), range(40)))
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_no_thread_forgets_what_another_adds(bundle, recordings, tmp_path):
    profiles = SpeakerProfiles(bundle.model, tmp_path / "people")
    recognizer = EmotionRecognizer(bundle, profiles=profiles, device="cpu")
    recognizer.enroll("anna", recordings[0])
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda path: recognizer.predict(path, "anna"), recordings[1:6]))
    assert recognizer.profiles["anna"].utterances == 6


def test_where_one_recording_can_not_be_recognised_nobody_is_enrolled(recognizer, recordings, tmp_path):
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
    for ask in (recognizer.predict, lambda paths: recognizer.enroll("anna", paths)):
        refused(r"noise.wav: no speech was found in it", ask, [recordings[0], tmp_path / "noise.wav"])
    assert recognizer.profiles.ids == []


def test_without_a_bank_no_speaker_is_left_uncalibrated_unnoticed(bundle):
    refused("holds no speaker bank", EmotionRecognizer, replace(bundle, bank=None), device="cpu")


def test_a_row_says_where_who_what_and_how_sure(bundle, with_intervals):
    recognizer = with_intervals()
    recognizer._with_labels = lambda prediction, _: prediction - 1

    def rows(first, second):
        """Of an utterance of Anna and one of somebody, whose arousal is predicted so."""
        said = ((Segment(0, 16_000), "anna", first, 1), (Segment(24_000, 48_000), None, second, 2))
        utterances = [PredictedUtterance(at, who, np.zeros(16), np.array([raw, 2.0]), n) for at, who, raw, n in said]
        return recognizer.rows(Utterances(Recording("talk.wav", np.zeros(0, np.float32)), utterances), {})

    first, second = rows(4.0, 6.5)
    names = [f"{attribute}_{name}" for attribute in bundle.attributes for name in ("low", "high", "raw")]
    assert list(first) == ["speaker", "start", "end", *CALIBRATED, *names, "calibration_utterances", "file"]
    place = {"file": "talk.wav", "start": 0.0, "end": 1.0, "speaker": "anna", "calibration_utterances": 1}
    values = {"arousal_raw": 4.0, "arousal_calibrated": 3.0, "arousal_low": 2.0, "arousal_high": 4.0}
    assert first | place | values == first
    place = {"start": 1.5, "end": 3.0, "speaker": None, "calibration_utterances": 0}
    values = {"arousal_raw": 6.5, "arousal_calibrated": 6.5, "arousal_low": 6.0, "arousal_high": 7.0}
    assert second | place | values == second
    for value, interval in ((1.5, (1, 2.0)), (0.0, (1, 1)), (9.0, (7, 7))):
        _, row = rows(value, value)
        assert (row["arousal_low"], row["arousal_high"], row["arousal_calibrated"]) == (*interval, value)


def read_in_blocks(monkeypatch):
    """Have recordings of more than a second read in blocks of 3.1 seconds."""
    monkeypatch.setattr("ser_personal.recognition.raw.CHUNK_SECONDS", 1.0)
    monkeypatch.setattr("ser_personal.recognition.raw.BLOCK", 49_600)
    monkeypatch.setattr("ser_personal.audio.PIECE", 20_000)


@pytest.fixture
def long(recordings, tmp_path):
    """Speech with a second of nothing after each utterance, in two channels."""
    speech = np.concatenate([piece for path in recordings[:8] for piece in (decode(path), np.zeros(16_000))])
    soundfile.write(tmp_path / "long.wav", np.stack([speech, speech / 2], 1), 16_000, subtype="FLOAT")
    return tmp_path / "long.wav"


@pytest.mark.parametrize("cut", ["windows", "energy", "turns"])
def test_blocks_give_what_the_whole_gives(bundle, long, cut, monkeypatch):
    segmenter = ByWindows(24_000, 10_000) if cut == "windows" else BySpeech(energy_speech, 40_000)
    recognizer = EmotionRecognizer(bundle, segmenter=segmenter, device="cpu")
    turns = [(0, 9, "anna"), (2, 4.5, "ben"), (4, 4.2, "anna"), (9.5, 11, "ben"), (9, 14, "anna")]
    options = {"segments": turns} if cut == "turns" else {"speaker_ids": "anna"}
    whole = recognizer.predict(long, **options)
    assert len(whole) > 4
    read_in_blocks(monkeypatch)
    in_blocks = recognizer.predict(long, **options)
    moved = np.abs(in_blocks[["start", "end"]] - whole[["start", "end"]]).max(axis=1)
    # by the level of noise of a block, a pause ends a frame of 10 ms earlier or later
    assert moved.max() < (0.05 if cut == "energy" else 1e-4)
    columns = [name for name in whole if not (cut == "energy" and name.endswith("calibrated"))]
    same = moved < 1e-4
    pd.testing.assert_frame_equal(in_blocks.loc[same, columns], whole.loc[same, columns], atol=1e-4)


def test_a_long_recording_is_refused_as_a_short_one_is(recognizer, long, tmp_path, monkeypatch):
    read_in_blocks(monkeypatch)
    samples, rate = soundfile.read(long, dtype="float32")
    late = np.append(samples[:-100], np.full((100, 2), np.nan, dtype=np.float32), axis=0)
    noise = np.random.default_rng(0).normal(0, 0.1, samples.shape).astype(np.float32)
    silence = "is silent from beginning to end", samples * 0
    for what, sound in (silence, ("holds NaN, infinity", late), ("no speech was found in it", noise)):
        soundfile.write(tmp_path / "a.wav", sound, rate, subtype="FLOAT")
        refused(rf"a\.wav: .*{what}", recognizer.predict, tmp_path / "a.wav", "anna")
