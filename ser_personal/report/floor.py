"""The floor that a network has to reach: ridge regression on functionals of MFCC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

PENALTIES = np.logspace(-1, 5, 13)


def ridge_floor(
    train_features: NDArray[np.float32], train_labels: NDArray[np.float64], test_features: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Predict each attribute by a ridge regression whose penalty is chosen by leave-one-out on the training set.

    Args:
        train_features: (training utterances, features).
        train_labels: (training utterances, attributes), label points, NaN where missing.
        test_features: (test utterances, features).

    Returns:
        (test utterances, attributes), NaN for an attribute that no training utterance is labelled with.
    """
    predictions = np.full((len(test_features), train_labels.shape[1]), np.nan)
    for attribute, labels in enumerate(train_labels.T):
        labelled = ~np.isnan(labels)
        if labelled.any():
            model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
            model.fit(train_features[labelled], labels[labelled])
            predictions[:, attribute] = model.predict(test_features)
    return predictions
