"""The audit of a test run: groups that the model serves worse, speakers whom calibration harms, what vectors reveal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_personal.calibration.divergence import pearson
from ser_personal.evaluation.run_files import RunFiles, ScoredSet, SpeakerVectors
from ser_personal.report.bootstrap import Bootstrap, Estimate, speaker_gains
from ser_personal.scores import Values, ccc_from_sums, concordance, rows_by_speaker

METRICS = {"overall_ccc": "O-CCC", "average_ccc": "A-CCC", "bias": "bias", "mean_absolute_error": "mean absolute error"}


@dataclass(frozen=True)
class GroupScores:
    """A group's scores, or its difference to everyone else."""

    overall_ccc: Estimate
    average_ccc: Estimate
    bias: Estimate  # mean of prediction minus label, label points
    mean_absolute_error: Estimate  # label points
    speakers: int  # with a labelled utterance
    counted_speakers: int  # with enough of them for A-CCC
    utterances: int  # labelled


def speaker_sums(
    predictions: Values, labels: Values, rows_of: Sequence[NDArray[np.int64]], min_utterances: int
) -> Values:
    """Each speaker's part in the scores of a group, by their rows of predictions and labels (utterances,).

    Returns:
        (speakers, 10): count, and sums of p, l, p², l², pl, p - l and |p - l|, for prediction p and label l minus the
        mean label, which keeps their precision; then whether the speaker counts in A-CCC, and the CCC, else 0.
    """
    middle = np.nanmean(labels)
    sums = []
    for all_rows in rows_of:
        rows = all_rows[~np.isnan(labels[all_rows])]
        p, label = predictions[rows] - middle, labels[rows] - middle
        summands = (np.ones(len(rows)), p, label, p**2, label**2, p * label, p - label, np.abs(p - label))
        ccc = concordance(predictions[rows], labels[rows]) if len(rows) >= min_utterances else np.nan
        sums.append([*(summand.sum() for summand in summands), *((0, 0) if np.isnan(ccc) else (1, ccc))])
    return np.reshape(sums, (-1, 10))


def figures(sums: Values, weights: Values) -> dict[str, Values]:
    """Compute each of `METRICS`, (draws,), of `speaker_sums` for weights (draws, speakers) of the speakers."""
    *moments, error, absolute, counted, ccc = (weights @ sums).T
    with np.errstate(invalid="ignore", divide="ignore"):
        values = ccc_from_sums(*moments), ccc / counted, error / moments[0], absolute / moments[0]
    return dict(zip(METRICS, values, strict=True))


@dataclass(frozen=True)
class GroupComparison:
    """A group's scores, and the gap: the group's minus everyone else's; None where there is nobody else."""

    scores: GroupScores
    gap: GroupScores | None


def compare_groups(
    predictions: Values,
    labels: Values,
    speaker_ids: Sequence[str | None],
    group_of: Mapping[str, str],
    *,
    min_utterances: int,
    bootstrap: Bootstrap,
) -> dict[str, GroupComparison]:
    """Score each group of speakers and compare it with all others; groups keep their sizes in every draw.

    Predictions and labels (utterances,) are in label points, NaN where missing.
    """
    rows_of = {speaker: rows for speaker, rows in rows_by_speaker(speaker_ids).items() if speaker in group_of}
    member = np.array([group_of[speaker] for speaker in rows_of])
    weights = bootstrap.weights(member.tolist())
    sums = speaker_sums(predictions, labels, list(rows_of.values()), min_utterances)
    compared = {}
    for name in np.unique(member).tolist():
        own, rest = member == name, member != name
        of_group, of_rest = figures(sums[own], weights[:, own]), figures(sums[rest], weights[:, rest])
        gap = {metric: of_group[metric] - of_rest[metric] for metric in METRICS}
        compared[name] = GroupComparison(
            _scores([sums[own]], of_group, bootstrap),
            _scores([sums[own], sums[rest]], gap, bootstrap) if rest.any() else None,
        )
    return compared


def _scores(sides: Sequence[Values], values: dict[str, Values], bootstrap: Bootstrap) -> GroupScores:
    of_sides = [((sums[:, 0] > 0).sum(), sums[:, 8].sum(), sums[:, 0].sum()) for sums in sides]
    speakers, counted, utterances = np.min(of_sides, axis=0).astype(int).tolist()
    estimates = {
        metric: bootstrap.estimate(values[metric], counted if metric == "average_ccc" else speakers)
        for metric in METRICS
    }
    return GroupScores(**estimates, speakers=speakers, counted_speakers=counted, utterances=utterances)


def by_gender(test: ScoredSet) -> dict[str, str]:
    """Speaker -> the gender that the corpus records, of those of whom it does."""
    return {name: speaker.gender for name, speaker in test.speakers.items() if speaker.gender is not None}


def by_amount_of_speech(test: ScoredSet) -> dict[str, str]:
    """Speaker -> the half that they are in by their number of utterances."""
    middle = int(np.median([speaker.utterances for speaker in test.speakers.values()] or [0]))
    return {
        name: f"{'at most' if speaker.utterances <= middle else 'over'} {middle} utterances"
        for name, speaker in test.speakers.items()
    }


SYSTEMS = ("raw", "calibrated")
MEANING = (
    "The scores of a group measure how well this model follows the labels of its speakers; the gap is the difference "
    "to everyone else. If its interval contains 0, these speakers don't establish a difference, which doesn't mean "
    "that there is none; with few speakers only large gaps can be detected. Labels are emotion as annotators "
    "perceived it, not what anyone felt. A gap may therefore come from the model, from the labels, or from what was "
    "recorded, and this audit cannot separate these: no difference shows that a group's trait causes it. Each interval "
    "misses its true value about once in twenty times, more often where speakers are few; many are listed, so some "
    "gaps will appear by chance. What isn't recorded can't be audited, and a gap that is absent here may exist for "
    "other people."
)


@dataclass(frozen=True)
class Harm:
    """What calibration does to the speakers' CCC of one attribute."""

    speakers: int  # with a CCC before and after
    harmed: int  # whose CCC fell
    share: Estimate  # of harmed speakers
    mean_change: Estimate  # of the CCC, over all these speakers
    worst_loss: float
    worst_speaker: str | None


def harm(run: RunFiles, test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> Harm:
    """Describe the speakers of a set whom calibration harms."""
    change_of = speaker_gains(test, attribute, run.chosen, "raw")
    changes = np.array([*change_of.values()])
    losses = {speaker: -change for speaker, change in change_of.items() if change < 0}
    return Harm(
        speakers=len(change_of),
        harmed=len(losses),
        share=bootstrap.mean(changes < 0),
        mean_change=bootstrap.mean(changes),
        worst_loss=max(losses.values(), default=0.0),
        worst_speaker=max(losses, key=losses.__getitem__, default=None),
    )


SHIFTS = {
    "feature_shift_and_ccc": "feature shift and CCC",
    "label_shift_and_ccc": "label shift and CCC",
    "feature_shift_and_label_shift": "feature shift and label shift",
}


@dataclass(frozen=True)
class ShiftAnalysis:
    """Pearson correlations over speakers between one attribute's shifts from the training set and CCC."""

    speakers: int
    correlations: dict[str, Estimate]


def analyse_shifts(test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> ShiftAnalysis:
    """Correlate shifts and CCC over the speakers who have all three; they are resampled for the intervals."""
    ccc_of = test.row("raw").scores[attribute].per_speaker
    rows = [
        (speaker.shift.feature, speaker.shift.label[attribute], ccc_of.get(name, np.nan))
        for name, speaker in test.speakers.items()
    ]
    feature, label, ccc = np.reshape([row for row in rows if not np.isnan(row).any()], (-1, 3)).T
    weights = bootstrap.weights([None] * len(ccc))
    pairs = zip(SHIFTS, ((feature, ccc), (label, ccc), (feature, label)), strict=True)
    correlations = {name: bootstrap.estimate(pearson(*pair, weights), len(ccc)) for name, pair in pairs}
    return ShiftAnalysis(len(ccc), correlations)


FOLDS, REPEATS = 5, 10


@dataclass(frozen=True)
class Probe:
    """How well gender can be predicted from speaker vectors."""

    vectors: str
    accuracy: Estimate  # balanced, over speakers whom the probe was not fitted on
    chance: float
    speakers: dict[str, int]  # gender -> number of speakers


def probes(run: RunFiles, bootstrap: Bootstrap) -> list[Probe]:
    """Probe every kind of speaker vector that a run has."""
    probed = [("speaker vectors, training speakers", run.training, run.training_gender)]
    if run.embeddings is not None:
        probed.append(("learnt embeddings e_s, training speakers", run.embeddings, run.training_gender))
    for test in run.sets:
        gender_of = {speaker: recorded.gender for speaker, recorded in test.speakers.items()}
        probed.append((f"speaker vectors, {test.name} speakers", test.vectors, gender_of))
    return [probe(name, vectors, gender_of, bootstrap) for name, vectors, gender_of in probed]


def probe(name: str, vectors: SpeakerVectors, gender_of: Mapping[str, str | None], bootstrap: Bootstrap) -> Probe:
    """Predict gender by logistic regression, cross-validated over speakers (ours).

    Genders of fewer speakers than an interval needs are left out. The interval resamples speakers among the predictions
    of the cross-validation; the probe isn't fitted again.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import RepeatedStratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    genders = np.array([gender_of.get(speaker) or "" for speaker in vectors.speaker_ids])
    counted = {gender: n for gender, n in sorted(Counter(genders.tolist()).items()) if gender}
    kept = [gender for gender, n in counted.items() if n >= bootstrap.fewest]
    if len(kept) < 2:
        listed = ", ".join(f"{n} {gender}" for gender, n in counted.items()) or "none with a recorded gender"
        refused = f"a probe needs two genders of {bootstrap.fewest} speakers each; here: {listed}"
        return Probe(name, Estimate(np.nan, refused=refused), np.nan, counted)
    rows = np.isin(genders, kept)
    x, y = vectors.vectors[rows].astype(np.float64), genders[rows]
    right = np.zeros(len(y))
    folds = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=bootstrap.seed)
    for train, test in folds.split(x, y):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x[train], y[train])
        right[test] += model.predict(x[test]) == y[test]
    right /= REPEATS
    weights = bootstrap.weights(y.tolist())
    values = np.mean([weights @ ((y == gender) * right) / (y == gender).sum() for gender in kept], axis=0)
    accuracy = bootstrap.estimate(values, min(counted[gender] for gender in kept))
    return Probe(name, accuracy, 1 / len(kept), {gender: counted[gender] for gender in kept})


@dataclass(frozen=True)
class Partition:
    """A division of the speakers into groups."""

    name: str
    note: str  # how to read the groups
    left_out: int  # utterances in no group, or of unknown speakers
    groups: dict[str, dict[str, dict[str, GroupComparison]]]  # attribute -> system -> group; empty without any record


@dataclass(frozen=True)
class SetAudit:
    """The audit of one test set."""

    name: str
    partitions: tuple[Partition, ...]
    harm: dict[str, Harm]  # by attribute, as shifts
    shifts: dict[str, ShiftAnalysis]


def audit(run: RunFiles, test: ScoredSet, bootstrap: Bootstrap) -> SetAudit:
    """Audit one test set of a run."""

    def partition(name: str, note: str, group_of: Mapping[str, str]) -> Partition:
        groups = {
            attribute: {
                system: compare_groups(
                    test.values(attribute, system),
                    test.values(attribute, "label"),
                    test.speaker_ids,
                    group_of,
                    min_utterances=run.min_utterances,
                    bootstrap=bootstrap,
                )
                for system in SYSTEMS
            }
            for attribute in run.attributes
        }
        left_out = sum(speaker not in group_of for speaker in test.speaker_ids)
        return Partition(name, note, left_out, groups if group_of else {})

    recorded = "As the corpus records it, which need not be what the speakers would say."
    counted = "All test utterances of a speaker, labelled or not, which is also what calibrates them."
    gender = partition("gender", recorded, by_gender(test))
    return SetAudit(
        name=test.name,
        partitions=(gender, partition("amount of speech", counted, by_amount_of_speech(test))),
        harm={attribute: harm(run, test, attribute, bootstrap) for attribute in run.attributes},
        shifts={attribute: analyse_shifts(test, attribute, bootstrap) for attribute in run.attributes},
    )
