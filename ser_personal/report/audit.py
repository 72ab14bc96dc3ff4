"""The audit of a test run: groups that the model serves worse, speakers whom calibration harms, what vectors reveal."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.divergence import pearson
from ser_personal.files import write_json
from ser_personal.report.bootstrap import COVERAGE, Bootstrap, Estimate, speaker_gains
from ser_personal.report.groups import (
    GroupComparison,
    Partition,
    by_amount_of_speech,
    by_gender,
    by_label_region,
    compare_groups,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ser_personal.evaluation.run_files import RunFiles, ScoredSet, SpeakerVectors

SYSTEMS = ("raw", "calibrated")
MEANING = (
    "The scores of a group measure how well this model follows the labels of its speakers; the gap is the difference "
    "to everyone else. If its interval contains 0, these speakers show no difference between the groups, which doesn't "
    "mean that there is none; with few speakers only large gaps can be detected. Labels are emotion as annotators "
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
    harmed_of_gender: dict[str, tuple[int, int]]  # gender -> harmed speakers, all speakers


def harm(run: RunFiles, test: ScoredSet, attribute: str, bootstrap: Bootstrap) -> Harm:
    """Describe the speakers of a set whom calibration harms."""
    change_of = speaker_gains(test, attribute, run.chosen, "raw")
    speakers, changes = list(change_of), np.array(list(change_of.values()))
    harmed = changes < 0
    weights = bootstrap.weights([None] * len(speakers))
    worst = int(np.argmin(changes)) if harmed.any() else None

    genders = np.array([test.speakers[speaker].gender or "unknown" for speaker in speakers])

    def mean(values: NDArray[Any]) -> Estimate:
        means = weights @ values / len(values) if len(values) else np.full(len(weights), np.nan)
        return bootstrap.estimate(means, len(values))

    return Harm(
        speakers=len(speakers),
        harmed=int(harmed.sum()),
        share=mean(harmed.astype(np.float64)),
        mean_change=mean(changes),
        worst_loss=0.0 if worst is None else float(-changes[worst]),
        worst_speaker=None if worst is None else speakers[worst],
        harmed_of_gender={
            str(name): (int(harmed[genders == name].sum()), int((genders == name).sum())) for name in np.unique(genders)
        },
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
        (speaker.shift.feature, speaker.shift.label[attribute], ccc_of[name])
        for name, speaker in test.speakers.items()
        if name in ccc_of
    ]
    feature, label, ccc = np.reshape([row for row in rows if not np.isnan(row).any()], (-1, 3)).T
    number = len(ccc)
    weights = bootstrap.weights([None] * number) if number else None
    pairs = dict(zip(SHIFTS, ((feature, ccc), (label, ccc), (feature, label)), strict=True))
    correlations = {name: bootstrap.estimate(pearson(*pair, weights), number) for name, pair in pairs.items()}
    return ShiftAnalysis(number, correlations)


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
class PartitionAudit:
    """The groups of one partition."""

    name: str
    note: str  # how to read the groups
    left_out: int  # utterances in no group, or of unknown speakers
    groups: dict[str, dict[str, dict[str, GroupComparison]]]  # attribute -> system -> group; empty without any record


@dataclass(frozen=True)
class SetAudit:
    """The audit of one test set."""

    name: str
    partitions: tuple[PartitionAudit, ...]
    harm: dict[str, Harm]  # by attribute, as shifts
    shifts: dict[str, ShiftAnalysis]


@dataclass(frozen=True)
class Audit:
    """The audit of a run."""

    bootstrap: Bootstrap
    sets: tuple[SetAudit, ...]
    probes: tuple[Probe, ...]  # of its speaker vectors


def audit(run: RunFiles, bootstrap: Bootstrap) -> Audit:
    """Audit a run."""
    return Audit(
        bootstrap=bootstrap,
        sets=tuple(_audit_set(run, test, bootstrap) for test in run.sets),
        probes=tuple(probes(run, bootstrap)),
    )


def _audit_set(run: RunFiles, test: ScoredSet, bootstrap: Bootstrap) -> SetAudit:
    regions = [by_label_region(test, attribute, run.scale) for attribute in run.attributes]
    partitions = [by_gender(test), by_amount_of_speech(test), *regions]
    return SetAudit(
        name=test.name,
        partitions=tuple(_audit_partition(run, test, partition, bootstrap) for partition in partitions),
        harm={attribute: harm(run, test, attribute, bootstrap) for attribute in run.attributes},
        shifts={attribute: analyse_shifts(test, attribute, bootstrap) for attribute in run.attributes},
    )


def _audit_partition(run: RunFiles, test: ScoredSet, partition: Partition, bootstrap: Bootstrap) -> PartitionAudit:
    pairs = zip(partition.membership, test.speaker_ids, strict=True)
    placed = sum(group is not None and speaker is not None for group, speaker in pairs)
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


def write_audit(path: Path, found: Audit, run: RunFiles) -> None:
    """Write audit.json."""
    settings = {"interval": COVERAGE, "min_utterances": run.min_utterances, "calibration": run.chosen}
    write_json(path, {"meaning": MEANING, **settings, **asdict(found)})
