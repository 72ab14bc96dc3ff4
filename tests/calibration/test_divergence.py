import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_personal.calibration.divergence import gaussian_kl, pearson, speaker_shifts
from ser_personal.speakers.bank import SpeakerBank

ATTRIBUTES = ("arousal", "valence")
NAN = float("nan")


@given(st.lists(st.floats(-5, 5), min_size=1), st.floats(-5, 5), st.floats(0.1, 5))
def test_divergence_is_never_negative_and_a_constant_dimension_says_nothing(values, mean, std):
    values = np.stack([values, np.ones(len(values))], axis=1)
    found = gaussian_kl(values, np.array([mean, 1.0]), np.array([std, 0.0]))
    assert found[0] >= -1e-12
    assert np.isnan(found[1])


def test_shifts_against_a_loop():
    rng = np.random.default_rng(3)
    train_speakers = [None if number == 5 else f"t{number}" for number in rng.integers(0, 6, 80)]
    train_pooled, train_labels = rng.normal(2, [1, 2, 3], (80, 3)), rng.uniform(1, 7, (80, 2))
    train_labels[rng.random((80, 2)) < 0.3] = NAN
    bank = SpeakerBank.from_utterances(train_speakers, train_pooled, train_labels, ATTRIBUTES)
    known = [row for row, speaker in enumerate(train_speakers) if speaker is not None]
    speakers = ["b", "a", None, "b", "a", "b", "c"]
    pooled, labels = rng.normal(1, 2, (7, 3)), rng.uniform(1, 7, (7, 2))
    labels[[0, 6], 0] = NAN
    got = speaker_shifts(speakers, pooled, labels, bank, ("valence", "arousal"))
    assert list(got) == ["a", "b", "c"]

    def divergence(values, training):
        mean, variance = np.mean(training), np.var(training)
        own = (len(values) * np.var(values) + variance) / (len(values) + 1)
        return 0.5 * (np.log(variance / own) + (own + (np.mean(values) - mean) ** 2) / variance - 1)

    for speaker in ("a", "b", "c"):
        rows = [row for row, each in enumerate(speakers) if each == speaker]
        features = [divergence(pooled[rows, dim], train_pooled[known, dim]) for dim in range(3)]
        assert got[speaker].feature == pytest.approx(np.mean(features))
        # the columns are given in another order than the bank's
        for column, attribute in enumerate(("valence", "arousal")):
            own = [value for value in labels[rows, column] if not np.isnan(value)]
            training = train_labels[known, ATTRIBUTES.index(attribute)]
            expected = divergence(own, training[~np.isnan(training)]) if own else NAN
            assert got[speaker].label[attribute] == pytest.approx(expected, nan_ok=True)


def test_weighted_correlations_are_those_of_repeated_pairs():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 9))
    weights = rng.multinomial(9, np.full(9, 1 / 9), size=20).astype(float)
    repeated = [np.corrcoef(np.repeat(x, times), np.repeat(y, times))[0, 1] for times in weights.astype(int)]
    np.testing.assert_allclose(pearson(x, y, weights), repeated)
    once = np.ones((1, 9))
    np.testing.assert_allclose(pearson(x, y, once), np.corrcoef(x, y)[0, 1])
    # none of constants or of few
    for few in (np.full(3, 0.1), x[:2], x[:0]):
        assert np.isnan(pearson(few, y[: len(few)], once[:, : len(few)])).all()
