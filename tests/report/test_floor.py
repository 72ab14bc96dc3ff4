from __future__ import annotations

import numpy as np
import pytest

from ser_personal.report.baseline import ridge_floor


def task(utterances=300, features=6):
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((utterances, features)) * rng.uniform(0.1, 100, features) + 5
    labels = 4 + inputs / inputs.std(0) @ rng.standard_normal((features, 3))
    return inputs.astype(np.float32), labels


def test_a_linear_relation_is_found():
    features, labels = task()
    assert ridge_floor(features[:200], labels[:200], features[200:]) == pytest.approx(labels[200:], abs=0.02)


def test_missing_labels_are_left_out_attribute_by_attribute():
    features, labels = task()
    gaps = labels.copy()
    gaps[:50, 1] = np.nan
    predictions = ridge_floor(features, gaps, features)
    assert predictions[:, [1]] == pytest.approx(ridge_floor(features[50:], labels[50:, [1]], features))
    assert predictions[:, [0, 2]] == pytest.approx(ridge_floor(features, labels[:, [0, 2]], features))


def test_an_attribute_without_labels_is_not_predicted():
    features, labels = task()
    labels[:, 2] = np.nan
    predictions = ridge_floor(features, labels, features)
    assert np.isnan(predictions).all(0).tolist() == [False, False, True]
