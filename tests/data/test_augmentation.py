from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from ser_personal.data.augmentation import Augmentation, add_noise, reverberate
from ser_personal.data.emotion import CachedEmotionDataModule, EmotionDataModule
from ser_personal.errors import UserError


def noise(samples, seed=0):
    return (np.random.default_rng(seed).normal(size=samples) / 10).astype(np.float32)


def power(waveform):
    return np.mean(np.square(waveform.astype(np.float64)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two noises, one of them shorter than any utterance and at 8 kHz, and an impulse response."""
    folder = tmp_path_factory.mktemp("sounds")
    for name in ("noise", "noise/deeper", "responses"):
        (folder / name).mkdir()
    soundfile.write(folder / "noise" / "long.wav", noise(64_000, 1), 16_000)
    soundfile.write(folder / "noise" / "deeper" / "short.flac", noise(1_600, 2), 8_000)
    response = noise(2_000, 3) * np.exp(-np.arange(2_000) / 300)
    response[40] = 0.9
    soundfile.write(folder / "responses" / "room.wav", response, 16_000, subtype="FLOAT")
    return {"noise": str(folder / "noise"), "reverberation": str(folder / "responses")}


@pytest.fixture
def everything(folders):
    return Augmentation(**folders, gain=(-6, 6), speed=(0.8, 1.2), time_mask=0.2, frequency_mask=0.2)


def module(corpus, augmentation, **options):
    return EmotionDataModule(corpus, augmentation=augmentation, **{"num_workers": 0, "max_batch": 4} | options)


def heard(batches):
    """Each utterance's samples, by its position."""
    return {
        index: batch["waveforms"][row, : batch["num_samples"][row]].numpy().copy()
        for batch in batches
        for row, index in enumerate(batch["indices"].tolist())
    }


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[index], two[index]) for index in one)


def in_epoch(datamodule, epoch):
    loader = datamodule.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return heard(loader)


@pytest.mark.parametrize(("length", "snr"), [(8_000, 5.0), (900, -3.0), (8_000, 20.0)])
def test_the_ratio_of_speech_to_noise_is_what_was_asked_for(length, snr):
    speech, added = noise(8_000), 3 * noise(length, 1)
    noisy = add_noise(speech, added, snr)
    rest = noisy.astype(np.float64) - speech
    assert 10 * np.log10(power(speech) / power(rest)) == pytest.approx(snr, abs=1e-3)
    repeated = np.tile(added, 9)[:8_000]
    expected = torchaudio.functional.add_noise(*map(torch.from_numpy, (speech, repeated)), torch.tensor(snr))
    np.testing.assert_allclose(noisy, expected, atol=1e-6)
    np.testing.assert_array_equal(add_noise(speech, np.zeros(100, np.float32), snr), speech)


def test_reverberation_is_a_convolution_that_keeps_length_level_and_place():
    speech, response = noise(3_000), noise(500, 1)
    response[70] = -2
    slow = np.zeros(3_000)
    for sample in range(3_000):
        for tap in range(500):
            if 0 <= sample + 70 - tap < 3_000:
                slow[sample] += response[tap] * speech[sample + 70 - tap]
    slow *= np.sqrt(power(speech) / power(slow))
    np.testing.assert_allclose(reverberate(speech, response), slow, atol=1e-5)
    direct = np.zeros(900, np.float32)
    direct[200] = 0.3
    np.testing.assert_allclose(reverberate(speech, direct), speech, atol=1e-6)


def test_speed_is_torchaudios(everything):
    speech = noise(4_001)
    fast = Augmentation(speed=(1.25, 1.25), speed_prob=1)(speech, np.random.default_rng(0))
    expected, _ = torchaudio.functional.speed(torch.from_numpy(speech), 16_000, 1.25)
    np.testing.assert_allclose(fast, expected, atol=1e-5)
    shortest = Augmentation(speed=(2, 2), speed_prob=1)(noise(400), np.random.default_rng(0))
    assert len(shortest) == 400
    for seed in range(20):
        slowed = everything(speech, np.random.default_rng(seed))
        assert len(slowed) <= everything.longest(len(speech)) == 5_002


def test_gain_lies_in_its_range():
    gains = [
        20 * np.log10(Augmentation(gain=(-6, 3), gain_prob=1)(noise(400), np.random.default_rng(seed)) / noise(400))
        for seed in range(50)
    ]
    assert all(np.ptp(gain) < 1e-3 for gain in gains)
    assert -6 <= np.min(gains) < -5 < 2 < np.max(gains) <= 3


@pytest.mark.parametrize("masked", ["time_mask", "frequency_mask"])
def test_masks_silence_a_span_and_leave_the_rest(masked):
    augmentation = Augmentation(**{masked: 0.3}, masks=1, mask_prob=1)
    shares = []
    for seed in range(30):
        speech = noise(16_000, seed)
        masking = augmentation(speech, np.random.default_rng(seed))
        assert masking.dtype == np.float32
        assert len(masking) == len(speech)
        if masked == "time_mask":
            before, after = (np.square(w).reshape(-1, 160).mean(1) for w in (speech, masking))
        else:
            before, after = (
                np.square(np.abs(np.fft.rfft(w)))[:8_000].reshape(100, 80).mean(1) for w in (speech, masking)
            )
        silent = after < 1e-3 * before
        # all but the ends of the span, where windows overlap
        touched = ~np.isclose(after, before, rtol=0.02)
        assert touched.sum() - silent.sum() <= 8
        shares.append(touched.mean())
    # of the mel scale, the upper part is wider in Hz
    assert 0.05 < np.mean(shares) < 0.3
    assert max(shares) < (0.35 if masked == "time_mask" else 0.7)


@pytest.mark.parametrize("name", ["noise", "reverberation", "gain", "speed", "mask"])
def test_each_happens_with_its_probability(folders, name):
    asked = {"gain": {"gain": (1, 6)}, "speed": {"speed": (1.1, 1.2)}, "mask": {"time_mask": 0.5}}
    arguments = asked.get(name, {name: folders.get(name)})
    changed = {
        share: sum(
            not np.array_equal(Augmentation(**arguments, **{f"{name}_prob": share})(noise(4_000), rng), noise(4_000))
            for rng in map(np.random.default_rng, range(60))
        )
        for share in (0.0, 0.3, 1.0)
    }
    assert changed[0.0] == 0
    assert 8 <= changed[0.3] <= 30
    assert changed[1.0] == 60


def test_training_hears_it_anew_in_each_epoch_and_nothing_else_does(corpus, everything):
    plain, augmented = module(corpus, None), module(corpus, everything)
    first, second = in_epoch(augmented, 0), in_epoch(augmented, 1)
    assert first.keys() == second.keys() == set(range(24))
    assert sum(not np.array_equal(first[index], second[index]) for index in first) > 20
    changed = [index for index, waveform in in_epoch(plain, 0).items() if not np.array_equal(waveform, first[index])]
    assert len(changed) > 18
    for split in ("train", "validation", "test1"):
        assert same(*(heard(data.split_dataloader(split)) for data in (plain, augmented)))
        assert same(*(heard(data.share_dataloader(split)) for data in (plain, augmented)))
    assert same(*(heard(data.predict_dataloader()) for data in (plain, augmented)))
    for one, other in zip(plain.training_audio(5), augmented.training_audio(5), strict=True):
        np.testing.assert_array_equal(one, other)
    labels = [batch["labels"][:, 0].tolist() for batch in augmented.train_dataloader()]
    assert labels == [
        [corpus.utterances[i].labels["arousal"] for i in batch]
        for batch in augmented.train_dataloader().batch_sampler.plan(0)
    ]


def test_draws_are_the_same_whatever_the_workers_and_devices(corpus, everything):
    alone = in_epoch(module(corpus, everything), 3)
    assert same(in_epoch(module(corpus, everything, num_workers=2), 3), alone)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    together = {}
    for rank in range(2):
        data = module(corpus, everything)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, accumulate_grad_batches=1)
        together |= in_epoch(data, 3)
    assert same(together, alone)
    assert not same(in_epoch(module(corpus, everything, seed=1), 3), alone)


class Listener(LightningModule):
    """Notes what each step heard."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.heard = []

    def training_step(self, batch):
        self.heard.append((batch["indices"].tolist(), batch["waveforms"]))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_fit_resumed_inside_an_epoch_hears_what_was_left(corpus, everything, tmp_path, num_workers):
    def fit(model, **options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        trainer = Trainer(default_root_dir=tmp_path, max_epochs=2, **quiet, callbacks=options.pop("callbacks", None))
        trainer.fit(model, module(corpus, everything, num_workers=num_workers), **options)

    whole, resumed = Listener(), Listener()
    fit(whole, callbacks=[ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)])
    step = len(whole.heard) // 2 + 2
    fit(resumed, ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
    assert len(resumed.heard) == len(whole.heard) - step > 0
    for (indices, waveforms), (wanted, expected) in zip(resumed.heard, whole.heard[step:], strict=True):
        assert indices == wanted
        assert torch.equal(waveforms, expected)


def test_slowed_batches_stay_within_their_budget_and_utterances_within_theirs(corpus):
    slow = Augmentation(speed=(0.5, 0.5), speed_prob=1)
    data = module(corpus, slow, max_batch=None, batch_seconds=4, max_samples=24_000)
    for batch in data.train_dataloader():
        assert batch["waveforms"].numel() <= 4 * 16_000
        assert batch["num_samples"].max() <= 24_000
    with pytest.raises(UserError, match=r"longest utterance, 3\.30 s, doesn't fit a batch of 3 s"):
        module(corpus, slow, batch_seconds=3).train_dataloader()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"snr": (0, 10)}, r"data\.augmentation\.snr \[5\.0, 20\.0\], not \[0, 10\]"),
        ({"gain": None}, r"data\.augmentation\.gain \[-6, 6\], not None"),
        ({"reverberation": None}, r"data\.augmentation\.reverberation 1 file, \w+, not None"),
        (None, r"data\.augmentation\.noise 2 files, \w+, not None"),
    ],
)
def test_a_fit_is_resumed_with_the_same_augmentation_alone(corpus, folders, change, says):
    arguments = {**folders, "gain": (-6, 6)}
    state = module(corpus, Augmentation(**arguments)).state_dict()

    def resume(augmentation, state=state, function=TrainerFn.FITTING):
        data = module(corpus, augmentation)
        data.trainer = SimpleNamespace(
            state=SimpleNamespace(fn=function), global_rank=0, world_size=1, accumulate_grad_batches=1
        )
        data.load_state_dict(state)

    resume(Augmentation(**arguments))
    other = None if change is None else Augmentation(**{**arguments, **change})
    with pytest.raises(UserError, match=says):
        resume(other)
    resume(other, function=TrainerFn.TESTING)
    earlier = {name: value for name, value in state.items() if not name.startswith("augmentation")}
    resume(None, earlier)
    with pytest.raises(UserError, match=r"data\.augmentation\.noise None, not 2 files"):
        resume(Augmentation(**arguments), earlier)


def test_a_folder_is_known_by_what_is_in_it(folders, tmp_path):
    def settings(folder):
        return Augmentation(noise=str(folder)).settings()["noise"]

    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / f"{'x' if name == 'c' else 'n'}.wav", noise(500), 16_000)
    assert settings(tmp_path / "a") == settings(tmp_path / "b") != settings(tmp_path / "c")
    soundfile.write(tmp_path / "b" / "n.wav", noise(501), 16_000)
    assert settings(tmp_path / "a") != settings(tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "--data.augmentation: changes nothing"),
        ({"noise": "n", "snr": (20, 5)}, r"augmentation\.snr: 20 is above 5\. Give the lower end first"),
        ({"gain": (1, -1)}, r"augmentation\.gain: 1 is above -1"),
        ({"gain": (float("nan"), 1)}, r"augmentation\.gain: nan is out of range"),
        ({"speed": (1.2, 0.9)}, r"augmentation\.speed: 1\.2 is above 0\.9"),
        ({"speed": (0, 1)}, r"augmentation\.speed: 0 is out of range\. Give a number from 0\.5 to 2"),
    ],
)
def test_ranges_that_cant_be_are_refused_at_once(arguments, says):
    with pytest.raises(UserError, match=says):
        Augmentation(**arguments)


@pytest.mark.parametrize("kind", ["noise", "reverberation"])
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (None, None, "sounds: no such folder. Give a folder with wav"),
        ("notes.txt", b"no sound", "sounds: holds no sound file"),
        ("a.wav", b"no sound", r"a\.wav: can't be decoded .* Write it again, or take it out of the folder"),
        ("a.wav", np.ones(200), r"a\.wav: is shorter than one frame.* take it out of the folder"),
    ],
)
def test_a_folder_that_cant_be_used_is_refused_before_training(corpus, tmp_path, kind, name, content, says):
    folder = tmp_path / "sounds"
    if name:
        folder.mkdir()
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            soundfile.write(folder / name, content, 16_000)
    with pytest.raises(UserError, match=says):
        module(corpus, Augmentation(**{kind: str(folder)})).setup("fit")
    module(corpus, Augmentation(**{kind: str(folder)})).setup("test")


def test_a_file_that_is_silent_says_what_to_do_in_its_folder(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(600), 16_000)
    with pytest.raises(UserError, match=r"silence\.wav: is silent .* take it out of the folder"):
        Augmentation(reverberation=str(tmp_path), reverberation_prob=1)(noise(500), np.random.default_rng(0))


def test_cached_features_hold_no_audio_to_change(corpus):
    with pytest.raises(UserError, match=r"--data\.augmentation: changes audio, and batches hold cached features"):
        CachedEmotionDataModule(corpus, augmentation=Augmentation(gain=(-3, 3)))
