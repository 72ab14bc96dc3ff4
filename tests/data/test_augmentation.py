from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from garbage import refused

from ser_personal.data.augmentation import Augmentation, add_noise, reverberate
from ser_personal.data.emotion import EmotionDataModule


def noise(samples, seed=0):
    return (np.random.default_rng(seed).normal(size=samples) / 10).astype(np.float32)


def power(waveform):
    return np.mean(np.square(waveform.astype(np.float64)))


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """A folder of two noises, one of them shorter than any utterance and at 8 kHz."""
    folder = tmp_path_factory.mktemp("noises")
    (folder / "deeper").mkdir()
    soundfile.write(folder / "long.wav", noise(64_000, 1), 16_000)
    soundfile.write(folder / "deeper" / "short.flac", noise(1_600, 2), 8_000)
    return folder


@pytest.fixture
def everything(noises):
    masks = {"time_mask": 0.2, "frequency_mask": 0.2}
    return Augmentation(str(noises), reverberation=str(noises), gain=(-6, 6), speed=(0.8, 1.2), **masks)


def module(corpus, augmentation, **options):
    return EmotionDataModule(corpus, augmentation=augmentation, **{"num_workers": 0, "max_batch": 4} | options)


def heard(batches):
    """Each utterance's samples, by its position."""
    rows = ((batch, row, index) for batch in batches for row, index in enumerate(batch["indices"].tolist()))
    return {index: batch["waveforms"][row, : batch["num_samples"][row]].numpy().copy() for batch, row, index in rows}


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[index], two[index]) for index in one)


def in_epoch(datamodule, epoch):
    loader = datamodule.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return heard(loader)


def applied(augmentation, speech, seed):
    return augmentation(speech, np.random.default_rng(seed))


@pytest.mark.parametrize(("length", "snr"), [(8_000, 5.0), (900, -3.0)])
def test_the_ratio_of_speech_to_noise_is_what_was_asked_for(length, snr):
    speech = noise(8_000)
    noisy = add_noise(speech, 3 * noise(length, 1), snr)
    assert 10 * np.log10(power(speech) / power(noisy.astype(np.float64) - speech)) == pytest.approx(snr, abs=1e-3)
    np.testing.assert_array_equal(add_noise(speech, np.zeros(100, np.float32), snr), speech)


def test_reverberation_is_a_convolution_that_keeps_length_level_and_place():
    speech, response = noise(900), noise(200, 1)
    response[70] = -2
    slow = np.convolve(speech.astype(np.float64), response)[70 : 70 + 900]
    slow *= np.sqrt(power(speech) / power(slow))
    np.testing.assert_allclose(reverberate(speech, response), slow, atol=1e-5)


def test_speed_is_torchaudios_and_stays_within_the_budget_of_a_batch(corpus):
    speech = noise(4_001)
    expected, _ = torchaudio.functional.speed(torch.from_numpy(speech), 16_000, 1.25)
    np.testing.assert_allclose(applied(Augmentation(speed=(1.25, 1.25), prob=1), speech, 0), expected, atol=1e-5)
    assert len(applied(Augmentation(speed=(2, 2), prob=1), noise(400), 0)) == 400
    slow = Augmentation(speed=(0.5, 0.5), prob=1)
    for batch in module(corpus, slow, max_batch=None, batch_seconds=4, max_samples=24_000).train_dataloader():
        assert batch["waveforms"].numel() <= 4 * 16_000
        assert batch["num_samples"].max() <= 24_000


def test_gain_lies_in_its_range_and_each_happens_with_its_probability():
    gains = [20 * np.log10(applied(Augmentation(gain=(-6, 3), prob=1), noise(9), s) / noise(9)) for s in range(50)]
    assert all(np.ptp(gain) < 1e-3 for gain in gains)
    assert -6 <= np.min(gains) < -5 < 2 < np.max(gains) <= 3
    for prob, least, most in ((0.0, 0, 0), (0.3, 8, 30)):
        changing = Augmentation(gain=(1, 6), time_mask=0.5, prob=prob)
        changed = [applied(changing, noise(4_000), seed) != noise(4_000) for seed in range(60)]
        # a mask leaves something as it is, but for rounding, and a gain nothing
        assert least <= sum(each.all() for each in changed) <= most


@pytest.mark.parametrize("masked", ["time_mask", "frequency_mask"])
def test_masks_silence_a_span_and_leave_the_rest(masked):
    augmentation = Augmentation(**{masked: 0.3}, masks=1, prob=1)
    shares = []
    for seed in range(20):
        speech = noise(16_000, seed)
        masking = applied(augmentation, speech, seed)
        assert (masking.dtype, len(masking)) == (np.float32, len(speech))
        if masked == "time_mask":
            before, after = (np.square(w).reshape(-1, 160).mean(1) for w in (speech, masking))
        else:
            spectra = (np.square(np.abs(np.fft.rfft(w)))[:8_000] for w in (speech, masking))
            before, after = (spectrum.reshape(100, 80).mean(1) for spectrum in spectra)
        # all but the ends of the span, where windows overlap
        touched = ~np.isclose(after, before, rtol=0.02)
        assert touched.sum() - (after < 1e-3 * before).sum() <= 8
        shares.append(touched.mean())
    # of the mel scale, the upper part is wider in Hz
    assert 0.05 < np.mean(shares) < 0.3
    assert max(shares) < (0.35 if masked == "time_mask" else 0.7)


def test_training_hears_it_anew_in_each_epoch_and_nothing_else_does(corpus, everything):
    plain, augmented = module(corpus, None), module(corpus, everything)
    first, second = in_epoch(augmented, 0), in_epoch(augmented, 1)
    assert first.keys() == second.keys() == set(range(24))
    assert sum(not np.array_equal(first[index], second[index]) for index in first) > 20
    assert sum(not np.array_equal(waveform, first[index]) for index, waveform in in_epoch(plain, 0).items()) > 18
    # validation, a speaker bank's pass, a test and statistics
    for load in (
        lambda data: heard(data.val_dataloader()),
        lambda data: heard(data.share_dataloader("train")),
        lambda data: heard(data.test_dataloader()),
        lambda data: dict(enumerate(data.training_audio(5))),
    ):
        assert same(load(plain), load(augmented))


def test_draws_are_the_same_whatever_the_workers_and_devices(corpus, everything):
    alone = in_epoch(module(corpus, everything), 3)
    assert same(in_epoch(module(corpus, everything, num_workers=1), 3), alone)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    together = {}
    for rank in range(2):
        data = module(corpus, everything)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, accumulate_grad_batches=1)
        together |= in_epoch(data, 3)
    assert same(together, alone)
    assert not same(in_epoch(module(corpus, everything, seed=1), 3), alone)


def test_a_fit_is_resumed_with_the_same_augmentation_alone(corpus, noises, everything, tmp_path):
    copied = copytree(noises, tmp_path / "copied")
    one, again = (module(corpus, Augmentation(given)).settings() for given in (str(noises), copied))
    assert one == again
    assert one["augmentation.snr"] == [5, 20]
    soundfile.write(copied / "more.wav", noise(500), 16_000)
    others = ((Augmentation(noises, snr=(0, 10)), "snr"), (everything, "gain"), (None, "noise"))
    for other, name in (*others, (Augmentation(copied), "noise")):
        assert module(corpus, other).settings()[f"augmentation.{name}"] != one[f"augmentation.{name}"]


def test_ranges_that_cant_be_are_refused_at_once():
    for snr in ((20, 5), (0, np.inf), (np.nan, 5)):
        refused(r"augmentation\.snr: .* is no such range", Augmentation, snr=snr)
    refused("--data.augmentation: changes nothing", Augmentation)


def test_a_folder_that_cant_be_used_is_refused_before_training(corpus, tmp_path):
    data = module(corpus, Augmentation(str(tmp_path / "sounds")))
    data.setup("test")
    refused(r"sounds: no such folder", data.setup, "fit")
    (tmp_path / "sounds").mkdir()
    soundfile.write(tmp_path / "sounds" / "a.wav", np.ones(200), 16_000)
    refused(r"a\.wav: is shorter than one frame", data.setup, "fit")
