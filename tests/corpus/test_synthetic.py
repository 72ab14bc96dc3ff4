from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
from command_line import ser

from ser_personal.corpus.synthetic import SHARED_EXPRESSION, VOICE_LABEL_LINK, _rng, draw_speakers, synth
from ser_personal.corpus.synthetic_speech import WORDS, Delivery, speak

SHORT = {"min_seconds": 0.5, "max_seconds": 0.8}
# Without any noise but friction, so that what is left is voice.
PLAIN = Delivery(150, 0, -30, -6, 1, 1, -200, -200, words=np.full(WORDS, 1 / WORDS))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "corpus"
    synth(str(folder), speakers=10, utterances=3, seed=5, **SHORT)
    return folder


def people(how_many):
    return list(draw_speakers(0, range(1, how_many + 1)))


def audio_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "Audios").iterdir())}


def test_layout_is_msp_podcasts(corpus):
    labels = pd.read_csv(corpus / "Labels" / "labels_consensus.csv")
    assert list(labels) == ["FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set"]
    assert set(labels.FileName) == set(audio_bytes(corpus))
    assert labels.FileName[0] == "MSP-PODCAST_0001_0001.wav"
    assert set(labels.EmoClass) <= set("ASHN")
    assert labels[["EmoAct", "EmoVal", "EmoDom"]].stack().between(1, 7).all()
    assert (labels.groupby("SpkrID").Split_Set.nunique() == 1).all()
    assert set(labels.Split_Set) == {"Train", "Development", "Test1"}
    for path in (corpus / "Audios").iterdir():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.5 <= info.duration <= 0.8


def test_the_seed_decides_every_byte_whatever_the_size_of_the_corpus(corpus, tmp_path):
    for seed in (5, 6):
        synth(str(tmp_path / str(seed)), speakers=4, utterances=2, seed=seed, **SHORT)
    same, other = audio_bytes(tmp_path / "5"), audio_bytes(tmp_path / "6")
    assert len(same) == 8
    assert same.items() <= audio_bytes(corpus).items()
    assert not other.items() & audio_bytes(corpus).items()


def test_label_distributions_follow_from_the_voice_in_part():
    speakers = people(400)
    voices = np.column_stack([np.stack([speaker.voice for speaker in speakers]), np.ones(400)])
    targets = np.stack([[*speaker.label_mean, *np.log(speaker.label_std)] for speaker in speakers])
    left = targets - voices @ np.linalg.lstsq(voices, targets)[0]
    assert 1 - left.var(0) / targets.var(0) == pytest.approx(np.full(6, VOICE_LABEL_LINK**2), abs=0.12)
    assert targets[:, :3].std(0) == pytest.approx(np.full(3, 0.45), abs=0.07)


def test_arousal_is_louder():
    speaker = replace(people(1)[0], expression=SHARED_EXPRESSION)

    def decibels(arousal, seed):
        waveform = speak(speaker.deliver(np.array([arousal, 4, 4]), _rng(seed)), 32_000, _rng(seed))
        return 20 * np.log10(np.sqrt(np.mean(np.square(waveform))))

    louder = np.mean([decibels(6, seed) - decibels(2, seed) for seed in range(10)])
    assert louder == pytest.approx(4 * SHARED_EXPRESSION[2, 0], abs=2)


@pytest.mark.parametrize("pitch", [90, 240])
def test_pitch_is_heard_at_its_frequency(pitch):
    waveform = speak(replace(PLAIN, pitch=pitch), 64_000, _rng(3))
    correlation = np.fft.irfft(np.abs(np.fft.rfft(waveform, 131_072)) ** 2)
    shortest, longest = int(16_000 / pitch / 1.3), int(16_000 / pitch * 1.3)
    period = shortest + correlation[shortest:longest].argmax()
    assert 16_000 / period == pytest.approx(pitch, rel=0.06)


@pytest.mark.parametrize("flag", ["--speakers=3", "--utterances=1", "--seed=-1", "--min-seconds=.1", "--max-seconds=1"])
def test_refuses_what_makes_no_corpus(tmp_path, flag, capsys):
    assert ser("synth", "--out", tmp_path / "corpus", flag) == 2
    assert flag.split("=")[0].replace("-", "_").strip("_") in capsys.readouterr().err.replace("-", "_")
    assert not (tmp_path / "corpus").exists()
