"""The audit of a test run: whom the model serves worse, whom calibration harms, what speaker vectors give away."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.run_files import write_json
from ser_personal.calibration.shift import ShiftTable
from ser_personal.corpus.table import Row, known, read_csv_rows
from ser_personal.errors import UserError
from ser_personal.report.bootstrap import COVERAGE, Bootstrap, Estimate
from ser_personal.scores import ccc_from_sums, concordance, rows_by_speaker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from ser_personal.calibration.run_files import RunFolder, ScoredSet, SpeakerVectors
    from ser_personal.report.bootstrap import Bootstrap

METRICS = ("overall_ccc", "average_ccc", "bias", "mean_absolute_error")


@dataclass(frozen=True)
class GroupScores:
    """How well predictions follow the labels within a group, or how much better than elsewhere.

    Attributes:
        overall_ccc: one CCC over all utterances.
        average_ccc: mean over speakers of each one's own CCC.
        bias: mean of prediction minus label, label points.
        mean_absolute_error: label points.
        speakers: with a labelled utterance.
        counted_speakers: with enough of them to count in A-CCC.
        utterances: labelled.
    """

    overall_ccc: Estimate
    average_ccc: Estimate
    bias: Estimate
    mean_absolute_error: Estimate
    speakers: int
    counted_speakers: int
    utterances: int


@dataclass(frozen=True, eq=False)
class SpeakerSums:
    """What each speaker adds to the figures of a group.

    Attributes:
        moments: (speakers, 8): count, and the sums of p, l, p², l², pl, p - l and |p - l|, for prediction p and label l
            around `middle`, so that no digits are lost.
        ccc: (speakers,), each one's own CCC, NaN where undefined or of too few utterances.
    """

    moments: NDArray[np.float64]
    ccc: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        predictions: NDArray[np.float64],
        labels: NDArray[np.float64],
        rows_of: Sequence[NDArray[np.int64]],
        min_utterances: int,
    ) -> SpeakerSums:
        """Sum up each speaker's rows; rows without a label are left out.

        Args:
            predictions: (utterances,), label points.
            labels: (utterances,), NaN where missing.
            rows_of: (speakers,), the rows of each in the group.
            min_utterances: labelled utterances a speaker must have to count in A-CCC.
        """
        middle = np.nanmean(labels)
        moments, cccs = np.zeros((len(rows_of), 8)), np.full(len(rows_of), np.nan)
        for place, all_rows in enumerate(rows_of):
            rows = all_rows[~np.isnan(labels[all_rows])]
            p, label = predictions[rows] - middle, labels[rows] - middle
            error = p - label
            summands = (np.ones(len(rows)), p, label, p**2, label**2, p * label, error, np.abs(error))
            moments[place] = [summand.sum() for summand in summands]
            if len(rows) >= min_utterances:
                cccs[place] = concordance(predictions[rows], labels[rows])
        return cls(moments, cccs)

    @property
    def speakers(self) -> int:
        """Number with a labelled utterance."""
        return int((self.moments[:, 0] > 0).sum())

    @property
    def counted_speakers(self) -> int:
        """Number that A-CCC counts."""
        return int((~np.isnan(self.ccc)).sum())

    def figures(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Compute each of `METRICS`, (draws,), for weights (draws, speakers) of the speakers."""
        with np.errstate(invalid="ignore", divide="ignore"):
            *sums, error, absolute = (weights @ self.moments).T
            defined = ~np.isnan(self.ccc)
            return {
                "overall_ccc": ccc_from_sums(*sums),
                "average_ccc": (weights[:, defined] @ self.ccc[defined]) / weights[:, defined].sum(axis=1),
                "bias": error / sums[0],
                "mean_absolute_error": absolute / sums[0],
            }


@dataclass(frozen=True)
class GroupComparison:
    """A group's scores, and the gap: the group's minus everyone else's; None where there is nobody else."""

    scores: GroupScores
    gap: GroupScores | None


def compare_groups(
    predictions: NDArray[np.float64],
    labels: NDArray[np.float64],
    speaker_ids: Sequence[str | None],
    membership: Sequence[str | None],
    groups: Sequence[str],
    *,
    min_utterances: int,
    bootstrap: Bootstrap,
) -> dict[str, GroupComparison]:
    """Score each group of utterances and compare it with all others.

    Where each speaker is in one group, groups keep their numbers of speakers in every draw; else all speakers are drawn
    together, so that a gap within speakers is measured within speakers.

    Args:
        predictions: (utterances,), label points.
        labels: (utterances,), NaN where missing.
        speaker_ids: (utterances,); unknown speakers (None) are left out, they can't be resampled.
        membership: (utterances,), the group of each, None for none.
        groups: their names, in the order wanted.
        min_utterances: labelled utterances a speaker must have within the group to count in A-CCC.
        bootstrap: makes the intervals.
    """
    member = np.array([group or "" for group in membership], dtype=object)
    placed = [id_ if group else None for id_, group in zip(speaker_ids, member, strict=True)]
    rows_of = rows_by_speaker(placed)
    groups_of = [frozenset(member[rows]) for rows in rows_of.values()]
    disjoint = all(len(groups) == 1 for groups in groups_of)
    weights = bootstrap.weights(groups_of if disjoint else [None] * len(groups_of))
    ones = np.ones((1, len(rows_of)))

    compared = {}
    for name in groups:
        inside = [rows[member[rows] == name] for rows in rows_of.values()]
        outside = [rows[member[rows] != name] for rows in rows_of.values()]
        group, rest = (SpeakerSums.of(predictions, labels, rows, min_utterances) for rows in (inside, outside))
        compared[name] = GroupComparison(
            _scores([group], group.figures(ones), group.figures(weights), bootstrap),
            None if len(groups) < 2 else _gap(group, rest, ones, weights, bootstrap),
        )
    return compared


def _gap(
    group: SpeakerSums,
    rest: SpeakerSums,
    ones: NDArray[np.float64],
    weights: NDArray[np.float64],
    bootstrap: Bootstrap,
) -> GroupScores:
    value, resampled = (
        {metric: group.figures(w)[metric] - rest.figures(w)[metric] for metric in METRICS} for w in (ones, weights)
    )
    return _scores([group, rest], value, resampled, bootstrap)


def _scores(
    sides: Sequence[SpeakerSums],
    value: dict[str, NDArray[np.float64]],
    resampled: dict[str, NDArray[np.float64]],
    bootstrap: Bootstrap,
) -> GroupScores:
    speakers, counted = min(side.speakers for side in sides), min(side.counted_speakers for side in sides)
    estimates = {
        metric: bootstrap.estimate(
            float(value[metric][0]), resampled[metric], counted if metric == "average_ccc" else speakers
        )
        for metric in METRICS
    }
    return GroupScores(
        **estimates,
        speakers=speakers,
        counted_speakers=counted,
        utterances=int(min(side.moments[:, 0].sum() for side in sides)),
    )


_ENOUGH_FOR_THIRDS = 30


@dataclass(frozen=True)
class Partition:
    """Groups of utterances.

    Attributes:
        name: what divides them.
        groups: their names, in order.
        membership: (utterances,), the group of each, None for none.
        note: what a reader must know to read the groups rightly.
        attribute: the only one it is meant for, None for all.
    """

    name: str
    groups: tuple[str, ...]
    membership: tuple[str | None, ...]
    note: str
    attribute: str | None = None


def by_gender(test: ScoredSet) -> Partition:
    """Divide by the gender that the corpus records."""
    recorded = tuple(test.utterances["gender"])
    return Partition(
        "gender",
        _sorted(recorded),
        recorded,
        "As the corpus spells it; recorded by its makers, not asked of the speakers.",
    )


def by_label_region(test: ScoredSet, attribute: str, scale: tuple[float, float]) -> Partition:
    """Divide by thirds of the label scale."""
    labels = test.values(attribute, "label")
    low, high = scale
    first, second = low + (high - low) / 3, low + 2 * (high - low) / 3
    names = (
        f"low labels (below {first:g})",
        f"middle labels ({first:g} to {second:g})",
        f"high labels (above {second:g})",
    )
    region = np.where(labels < first, 0, np.where(labels <= second, 1, 2))
    return Partition(
        f"label of {attribute}",
        names,
        tuple(None if np.isnan(label) else names[which] for label, which in zip(labels, region, strict=True)),
        "Thirds of the scale. Within a third the labels hardly differ, which lowers any CCC, and predictions that keep "
        "to the middle are off in opposite directions at both ends: compare bias and error, not CCC.",
        attribute,
    )


def by_amount_of_speech(test: ScoredSet) -> Partition:
    """Divide the speakers by how much speech there is of each, in thirds, or halves where they are few."""
    amounts = {speaker: recorded.seconds for speaker, recorded in test.speakers.items()}
    unit = "s"
    if any(np.isnan(list(amounts.values()))):
        amounts = {speaker: float(recorded.utterances) for speaker, recorded in test.speakers.items()}
        unit = "utterances"
    groups, names = _cut(np.array(list(amounts.values())), len(amounts), unit)
    name_of = dict(zip(amounts, names, strict=True))
    membership = tuple(None if speaker is None else name_of[speaker] for speaker in test.speaker_ids)
    note = "All test speech of a speaker, which is also what calibrates them."
    return Partition("amount of speech", groups, membership, note)


def by_column(name: str, values: Sequence[str | None], speaker_ids: Sequence[str | None]) -> Partition:
    """Divide by a column of the corpus; one of many different numbers is cut into thirds, or halves.

    Args:
        name: of the column.
        values: (utterances,), None where blank.
        speaker_ids: (utterances,), None where unknown.
    """
    given = sorted({value for value in values if value is not None})
    numbers = _numbers(given)
    if numbers is None or len(given) <= 6:
        return Partition(name, _sorted(values), tuple(values), "As the table has it.")
    filled = [row for row, value in enumerate(values) if value is not None]
    amounts = np.array([float(values[row] or "nan") for row in filled])
    groups, names = _cut(amounts, len(rows_by_speaker(speaker_ids)), "")
    name_of = dict(zip(filled, names, strict=True))
    membership = tuple(name_of.get(row) for row in range(len(values)))
    return Partition(name, groups, membership, "Numbers, cut where they divide evenly.")


def _sorted(values: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value is not None}))


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _cut(values: NDArray[np.float64], speakers: int, unit: str) -> tuple[tuple[str, ...], list[str]]:
    """Cut values at their quantiles: names of the parts in use, in order, and of each value's part."""
    parts = 3 if speakers >= _ENOUGH_FOR_THIRDS else 2
    cuts = np.unique(np.quantile(values, np.arange(1, parts) / parts))
    texts = [f"{cut:.3g} {unit}".strip() for cut in cuts]
    names = [f"up to {texts[0]}", *(f"{a} to {b}" for a, b in pairwise(texts)), f"over {texts[-1]}"]
    part = np.searchsorted(cuts, values, side="left")
    return tuple(names[which] for which in np.unique(part)), [names[which] for which in part]


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


NAMES = {
    "feature_shift_and_ccc": "feature shift and CCC",
    "label_shift_and_ccc": "label shift and CCC",
    "feature_shift_and_label_shift": "feature shift and label shift",
}


@dataclass(frozen=True)
class ShiftAnalysis:
    """Of one attribute.

    Attributes:
        speakers: that the correlations are over.
        correlations: name -> Pearson correlation.
    """

    speakers: int
    correlations: dict[str, Estimate]


def shift_table(test: ScoredSet, attribute: str) -> ShiftTable:
    """Shifts of a set's speakers, and the CCC of their raw predictions."""
    shifts = {name: speaker.shift for name, speaker in test.speakers.items()}
    return ShiftTable.join(shifts, test.row("raw").scores[attribute].per_speaker, attribute)


def analyse_shifts(test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> ShiftAnalysis:
    """Correlate shifts and CCC over the speakers, who are drawn anew for the intervals."""
    table = shift_table(test, attribute)
    number = len(table.speakers)
    drawn = table.correlations(bootstrap.weights([None] * number)) if number else {}
    found = {
        name: bootstrap.estimate(float(value[0]), drawn.get(name, value), number)
        for name, value in table.correlations().items()
    }
    return ShiftAnalysis(number, found)


# column of the table -> what it says of an utterance that it names; CSV corpora and MSP-Podcast
_UTTERANCE_KEYS: dict[str, Callable[[str], str]] = {
    "utterance": str,
    "id": str,
    "path": lambda cell: str(PurePosixPath(cell).with_suffix("")),
    "FileName": lambda cell: PurePosixPath(cell).stem,
}
_SPEAKER_KEYS = ("speaker", "SpkrID")


def column_of(utterances: pd.DataFrame, column: str, table: str | None) -> list[str | None]:
    """Look a column up for each utterance, None where it is blank.

    Args:
        utterances: rows of predictions.csv.
        column: of the table.
        table: a CSV with a row an utterance (`utterance`, `id`, `path` or `FileName`) or a speaker (`speaker` or
            `SpkrID`); predictions.csv itself if None.

    Raises:
        UserError: the table has no such column, no column that names utterances or speakers, or names none of these.
    """
    if table is None:
        if column not in utterances.columns:
            raise UserError(
                f"no column {column} in predictions.csv",
                where="--by",
                remedy=f"Give the table that has it, --table corpus.csv, or one of {', '.join(utterances.columns)}",
            )
        present = utterances[column].notna()
        return [known(str(cell)) if there else None for cell, there in zip(utterances[column], present, strict=True)]
    rows = read_csv_rows(Path(table), required=(column,))
    value_of, ids = _by_utterance(rows, column, utterances) or _by_speaker(rows, column, utterances, table)
    if not set(value_of) & set(ids):
        raise UserError(
            "names none of the run's utterances or speakers",
            where=table,
            remedy="Give the table of the corpus that was tested, with its own ids",
        )
    return [known(value_of.get(id_, "")) for id_ in ids]


def _by_utterance(rows: list[Row], column: str, utterances: pd.DataFrame) -> tuple[dict[str, str], list[str]] | None:
    key = next((name for name in _UTTERANCE_KEYS if name in rows[0]), None)
    if key is None:
        return None
    return {_UTTERANCE_KEYS[key](row[key]): row[column] for row in rows}, list(utterances["utterance"])


def _by_speaker(rows: list[Row], column: str, utterances: pd.DataFrame, table: str) -> tuple[dict[str, str], list[str]]:
    key = next((name for name in _SPEAKER_KEYS if name in rows[0]), None)
    if key is None:
        raise UserError(
            "names neither utterances nor speakers",
            where=table,
            remedy=f"Give it one of the columns {', '.join([*_UTTERANCE_KEYS, *_SPEAKER_KEYS])}",
        )
    return {row[key]: row[column] for row in rows}, [speaker or "" for speaker in utterances["speaker"]]


FOLDS, REPEATS = 5, 10


@dataclass(frozen=True)
class Probe:
    """How well gender is read from some vectors.

    Attributes:
        vectors: which ones.
        of_run: the run that they come from.
        accuracy: balanced accuracy over speakers whom the probe wasn't fitted on.
        chance: what guessing reaches.
        speakers: gender -> number of speakers.
    """

    vectors: str
    of_run: str
    accuracy: Estimate
    chance: float
    speakers: dict[str, int]


def probes(run: RunFolder, bootstrap: Bootstrap) -> list[Probe]:
    """Probe every kind of speaker vector that a run has."""
    probed = [probe("speaker vectors, training speakers", run, run.training, run.training_gender, bootstrap)]
    if run.embeddings is not None:
        name = "learnt embeddings e_s, training speakers"
        probed.append(probe(name, run, run.embeddings, run.training_gender, bootstrap))
    for test in run.sets:
        gender_of = {speaker: recorded.gender for speaker, recorded in test.speakers.items()}
        probed.append(probe(f"speaker vectors, {test.name} speakers", run, test.vectors, gender_of, bootstrap))
    return probed


def probe(
    name: str, run: RunFolder, vectors: SpeakerVectors, gender_of: Mapping[str, str | None], bootstrap: Bootstrap
) -> Probe:
    """Guess gender by logistic regression, cross-validated over speakers (ours).

    Genders of fewer speakers than an interval takes are left out. The interval resamples speakers among the guesses
    that the cross-validation made; the probe isn't fitted anew.

    Args:
        name: of the vectors.
        run: that they come from.
        vectors: one a speaker.
        gender_of: speaker -> gender, None where unknown.
        bootstrap: makes the interval and gives the seed.
    """
    genders = np.array([gender_of.get(speaker) or "" for speaker in vectors.speaker_ids])
    counted = {gender: n for gender, n in sorted(Counter(genders.tolist()).items()) if gender}
    kept = [gender for gender, n in counted.items() if n >= bootstrap.fewest]
    if len(kept) < 2:
        listed = ", ".join(f"{n} {gender}" for gender, n in counted.items()) or "none with a recorded gender"
        refused = f"a probe takes two genders of {bootstrap.fewest} speakers each; here: {listed}"
        return Probe(name, run.name, Estimate(np.nan, refused=refused), np.nan, counted)
    rows = np.isin(genders, kept)
    correct = _share_guessed(vectors.vectors[rows].astype(np.float64), genders[rows], bootstrap.seed)
    weights = bootstrap.weights(genders[rows].tolist())
    of_gender = [(genders[rows] == gender).astype(np.float64) for gender in kept]
    value = np.mean([correct[mine == 1].mean() for mine in of_gender])
    resampled = np.mean([weights @ (mine * correct) / mine.sum() for mine in of_gender], axis=0)
    accuracy = bootstrap.estimate(float(value), resampled, min(counted[gender] for gender in kept))
    return Probe(name, run.name, accuracy, 1 / len(kept), {gender: counted[gender] for gender in kept})


def _share_guessed(vectors: NDArray[np.float64], genders: NDArray[np.str_], seed: int) -> NDArray[np.float64]:
    """How often each speaker's gender is guessed right by probes that didn't see them, (speakers,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import RepeatedStratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right = np.zeros(len(genders))
    folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=seed)
    for fitted, held_out in folds.split(vectors, genders):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(vectors[fitted], genders[fitted])
        right[held_out] += model.predict(vectors[held_out]) == genders[held_out]
    return right / REPEATS


SYSTEMS = ("raw", "calibrated")
MEANING = (
    "A group's figures say how well this model followed the labels of these speakers, and the gap says how much better "
    "or worse than for everyone else. An interval that holds 0 means that these speakers can't tell the groups apart, "
    "not that they are treated alike; with few speakers only large gaps show at all. Labels are emotion as annotators "
    "perceived it, not what anyone felt, so a gap may lie in the model, in the labels, or in what was recorded of "
    "whom, and nothing here tells these apart: no difference says that a group's trait causes it. Each interval misses "
    "its true value about once in twenty times, more often where speakers are few, and many are listed, so some will "
    "seem to find something by chance. What isn't recorded can't be audited, and a gap that is absent here may be "
    "present for other people."
)


@dataclass(frozen=True)
class PartitionAudit:
    """The groups of one partition.

    Attributes:
        name: what divides them.
        note: what a reader must know.
        left_out: utterances in none of the groups, or of unknown speakers.
        groups: attribute -> system -> group -> scores and gap; empty where nothing is recorded.
    """

    name: str
    note: str
    left_out: int
    groups: dict[str, dict[str, dict[str, GroupComparison]]]


@dataclass(frozen=True)
class SetAudit:
    """The audit of one test set.

    Attributes:
        name: of the set.
        partitions: its groups.
        harm: attribute -> whom calibration harms.
        shifts: attribute -> how shifts from the training set go with CCC.
    """

    name: str
    partitions: tuple[PartitionAudit, ...]
    harm: dict[str, Harm]
    shifts: dict[str, ShiftAnalysis]


@dataclass(frozen=True)
class Audit:
    """The audit of a run.

    Attributes:
        bootstrap: how intervals were made.
        sets: one a test set.
        probes: of this run's speaker vectors.
        before: of another run's, None where none was given.
    """

    bootstrap: Bootstrap
    sets: tuple[SetAudit, ...]
    probes: tuple[Probe, ...]
    before: tuple[Probe, ...] | None


def audit(
    run: RunFolder,
    bootstrap: Bootstrap,
    *,
    by: str | None = None,
    table: str | None = None,
    before: RunFolder | None = None,
) -> Audit:
    """Audit a run.

    Args:
        run: the run.
        bootstrap: makes the intervals.
        by: a column to divide by besides, None for none.
        table: the table that has the column; predictions.csv if None.
        before: a run without personalisation, whose speaker vectors are probed beside this run's.
    """
    return Audit(
        bootstrap=bootstrap,
        sets=tuple(_audit_set(run, test, bootstrap, by, table) for test in run.sets),
        probes=tuple(probes(run, bootstrap)),
        before=None if before is None else tuple(probes(before, bootstrap)),
    )


def small_groups(found: Audit) -> list[str]:
    """Groups of too few speakers for any interval, with their numbers."""
    named = {
        f"{of_set.name}, {partition.name} {group} ({compared.scores.speakers})"
        for of_set in found.sets
        for partition in of_set.partitions
        for systems in partition.groups.values()
        for group, compared in systems["raw"].items()
        if compared.scores.speakers < found.bootstrap.fewest
    }
    return sorted(named)


def write_audit(path: Path, found: Audit, run: RunFolder) -> None:
    """Write audit.json; NaN becomes null."""
    content = {
        "meaning": MEANING,
        "interval": COVERAGE,
        "min_utterances": run.min_utterances,
        "calibration": run.chosen,
        **_without_nan(asdict(found)),
    }
    write_json(path, content)


def _audit_set(run: RunFolder, test: ScoredSet, bootstrap: Bootstrap, by: str | None, table: str | None) -> SetAudit:
    partitions = [by_gender(test), by_amount_of_speech(test)]
    if by is not None:
        values = column_of(test.utterances, by, table)
        partitions.append(by_column(by, values, test.speaker_ids))
    partitions += [by_label_region(test, attribute, run.scale) for attribute in run.attributes]
    return SetAudit(
        name=test.name,
        partitions=tuple(_audit_partition(run, test, partition, bootstrap) for partition in partitions),
        harm={attribute: harm(run, test, attribute, bootstrap) for attribute in run.attributes},
        shifts={attribute: analyse_shifts(test, attribute, bootstrap) for attribute in run.attributes},
    )


def _audit_partition(run: RunFolder, test: ScoredSet, partition: Partition, bootstrap: Bootstrap) -> PartitionAudit:
    placed = sum(
        group is not None and speaker is not None
        for group, speaker in zip(partition.membership, test.speaker_ids, strict=True)
    )
    attributes = run.attributes if partition.attribute is None else (partition.attribute,)
    groups = {
        attribute: {
            system: compare_groups(
                test.values(attribute, system),
                test.values(attribute, "label"),
                test.speaker_ids,
                partition.membership,
                partition.groups,
                min_utterances=run.min_utterances,
                bootstrap=bootstrap,
            )
            for system in SYSTEMS
        }
        for attribute in attributes
    }
    return PartitionAudit(partition.name, partition.note, len(test.utterances) - placed, groups if placed else {})


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
