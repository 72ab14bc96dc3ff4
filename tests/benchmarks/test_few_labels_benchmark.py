from __future__ import annotations

import numpy as np
from enrolment import Line
from few_labels import FEWEST_SCORED, NUMBERS, of_draw

from ser_personal.calibration.few_labels import LabelPrior


def test_utterances_with_labels_are_never_scored_nor_scored_ones_labelled() -> None:
    rng = np.random.default_rng(0)
    x, y, order = rng.normal(4, 1, 30), rng.normal(4, 1, 30), rng.permutation(30)
    lines, priors = {"raw": Line(np.ones(1), np.zeros(1))}, {"raw": LabelPrior()}
    scored = order[-FEWEST_SCORED:]
    other, elsewhere = y.copy(), y.copy()
    other[order[:-FEWEST_SCORED]] += rng.normal(size=20)
    elsewhere[scored] += 1e-9
    found, changed = (of_draw(x, labels, lines, priors, x, order) for labels in (y, other))
    np.testing.assert_array_equal(found["raw"], changed["raw"])
    assert (found["own map"][1:] != changed["own map"][1:]).all()
    np.testing.assert_allclose(of_draw(x, elsewhere, lines, priors, x, order)["own map"], found["own map"], atol=1e-6)
    assert len(found["labels on raw"]) == len(NUMBERS)
