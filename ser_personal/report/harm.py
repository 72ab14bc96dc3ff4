"""Whom calibration harms: how many speakers' CCC falls, by how much, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ser_personal.finetune.scores import rows_by_speaker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ser_personal.report.bootstrap import Bootstrap, Estimate
    from ser_personal.report.run_folder import RunFolder, ScoredSet


@dataclass(frozen=True)
class SharedTrait:
    """A trait of speakers, held against how their CCC changed.

    Attributes:
        name: of the trait.
        harmed: its median over harmed speakers, NaN where there are none.
        others: its median over the others.
        correlation: Spearman's, of the trait with the change: negative where calibration serves speakers worse the more
            they have of it.
    """

    name: str
    harmed: float
    others: float
    correlation: Estimate


@dataclass(frozen=True)
class Harm:
    """What calibration did to the speakers' CCC of one attribute.

    Attributes:
        speakers: that A-CCC counts before and after.
        harmed: their number whose CCC fell.
        share: of harmed speakers.
        mean_change: of the CCC, over all these speakers.
        mean_loss: among the harmed, NaN where there are none.
        worst_loss: the greatest.
        worst_speaker: whose it is, None where nobody is harmed.
        error_harmed: number of speakers whose mean absolute error rose.
        harmed_of_gender: gender -> harmed speakers and all, "unknown" where it isn't recorded.
        traits: what the harmed may share.
    """

    speakers: int
    harmed: int
    share: Estimate
    mean_change: Estimate
    mean_loss: float
    worst_loss: float
    worst_speaker: str | None
    error_harmed: int
    harmed_of_gender: dict[str, tuple[int, int]]
    traits: tuple[SharedTrait, ...]


def speaker_changes(run: RunFolder, test: ScoredSet, attribute: str) -> dict[str, float]:
    """Speaker -> CCC after calibration minus CCC before, for those who have both."""
    before, after = (test.row(name).scores[attribute].per_speaker for name in ("raw", run.chosen))
    changes = {speaker: after[speaker] - before[speaker] for speaker in before}
    return {speaker: change for speaker, change in changes.items() if not np.isnan(change)}


def harm(run: RunFolder, test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> Harm:
    """Count and describe the speakers of a set whom calibration harms."""
    change_of = speaker_changes(run, test, attribute)
    speakers, changes = list(change_of), np.array(list(change_of.values()))
    harmed = changes < 0
    weights = bootstrap.weights([None] * len(speakers))
    worst = int(np.argmin(changes)) if harmed.any() else None

    def mean(values: NDArray[np.float64]) -> Estimate:
        average = float(values.mean()) if len(values) else np.nan
        return bootstrap.estimate(average, weights @ values / max(len(values), 1), len(values))

    return Harm(
        speakers=len(speakers),
        harmed=int(harmed.sum()),
        share=mean(harmed.astype(np.float64)),
        mean_change=mean(changes),
        mean_loss=float(-changes[harmed].mean()) if harmed.any() else np.nan,
        worst_loss=0.0 if worst is None else float(-changes[worst]),
        worst_speaker=None if worst is None else speakers[worst],
        error_harmed=_error_harmed(test, attribute, speakers),
        harmed_of_gender=_by_gender(test, speakers, harmed),
        traits=tuple(
            SharedTrait(
                name, _median(values[harmed]), _median(values[~harmed]), _rank_correlation(values, changes, bootstrap)
            )
            for name, values in _traits(test, attribute, speakers).items()
        ),
    )


def _traits(test: ScoredSet, attribute: str, speakers: list[str]) -> dict[str, NDArray[np.float64]]:
    rows_of, labels = rows_by_speaker(test.speaker_ids), test.values(attribute, "label")
    own = [labels[rows_of[speaker]] for speaker in speakers]
    recorded = [test.speakers[speaker] for speaker in speakers]
    raw = test.row("raw").scores[attribute].per_speaker
    deviation = np.array([np.nanstd(values) for values in own])
    predicted = np.array([speaker.sigma[attribute] for speaker in recorded])
    borrowed = np.array([speaker.sigma_bar[attribute] for speaker in recorded])
    traits = {
        "CCC before calibration": [raw[speaker] for speaker in speakers],
        "mean label": [np.nanmean(values) for values in own],
        "deviation of the labels": deviation,
        "deviation of the predictions": predicted,
        "neighbours' deviation, minus the labels'": borrowed - deviation,
        "mean cosine to the neighbours": [speaker.cosines.mean() for speaker in recorded],
        "seconds of speech": [speaker.seconds for speaker in recorded],
        "utterances": [float(speaker.utterances) for speaker in recorded],
    }
    return {name: np.asarray(values, dtype=np.float64) for name, values in traits.items()}


def _error_harmed(test: ScoredSet, attribute: str, speakers: list[str]) -> int:
    rows_of, labels = rows_by_speaker(test.speaker_ids), test.values(attribute, "label")
    raw, calibrated = (np.abs(test.values(attribute, kind) - labels) for kind in ("raw", "calibrated"))
    return sum(bool(np.nanmean(calibrated[rows_of[s]]) > np.nanmean(raw[rows_of[s]])) for s in speakers)


def _by_gender(test: ScoredSet, speakers: list[str], harmed: NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
    genders = np.array([test.speakers[speaker].gender or "unknown" for speaker in speakers])
    return {
        str(name): (int(harmed[genders == name].sum()), int((genders == name).sum())) for name in np.unique(genders)
    }


def _median(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64], bootstrap: Bootstrap) -> Estimate:
    """Spearman's correlation of (speakers,) and (speakers,), each draw ranked anew."""
    known = ~np.isnan(x)
    x, y = x[known], y[known]
    if len(x) < 2:
        return bootstrap.estimate(np.nan, np.full(1, np.nan), len(x))
    drawn = np.random.default_rng(bootstrap.seed).integers(len(x), size=(bootstrap.resamples, len(x)))
    value = _spearman(x[None], y[None])
    return bootstrap.estimate(float(value[0]), _spearman(x[drawn], y[drawn]), len(x))


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, (draws, n) and (draws, n) -> (draws,); NaN where either is constant."""
    import pandas as pd

    ranks = [pd.DataFrame(values).rank(axis=1).to_numpy() for values in (x, y)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: NDArray[np.float64] = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return correlation
