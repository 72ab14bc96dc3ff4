"""The audit of a test run: whom the model serves worse, whom calibration harms, what speaker vectors give away."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ser_personal.calibration.results import write_json
from ser_personal.report.bootstrap import COVERAGE, Bootstrap
from ser_personal.report.corpus_column import column_of
from ser_personal.report.group_scores import GroupComparison, compare_groups
from ser_personal.report.harm import Harm, harm
from ser_personal.report.partitions import Partition, by_amount_of_speech, by_column, by_gender, by_label_region
from ser_personal.report.probe import Probe, probes
from ser_personal.report.shifts import ShiftAnalysis, analyse_shifts

if TYPE_CHECKING:
    from pathlib import Path

    from ser_personal.report.run_folder import RunFolder, ScoredSet

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
        values = column_of(test.utterances, by, table, run.key)
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
