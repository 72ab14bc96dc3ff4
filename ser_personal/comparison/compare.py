"""`ser compare`: recipes side by side, their scores with paired intervals over speakers, and what each costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ser_personal.calibration.table import MOMENTS
from ser_personal.comparison.runs import (
    ComparedRun,
    added_run,
    find_runs,
    named_folder,
    pretraining_scores,
    recipe_costs,
    ridge_runs,
)
from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.report.bootstrap import Bootstrap, Estimate, Resamples, without_rounding
from ser_personal.scores import Values, ccc_from_sums
from ser_personal.types import ATTRIBUTES, AtLeastTwo, Seed


def compare(
    runs: list[str],
    baseline: str | None = None,
    out: str | None = None,
    name: str = "comparison",
    min_utterances: AtLeastTwo = 10,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    add: list[str] | str | None = None,
    latex: str | None = None,
) -> None:
    """Compare test runs: O-CCC and A-CCC of each recipe and calibration with 95 % intervals, and their cost.

    For a study of the personalisation gap it adds the gap by the number of training speakers; for a study with
    pre-training, it adds the masked-prediction scores.

    Args:
        runs: folders of test runs, or one with many, such as a study's; NAME=FOLDER gives a run another name than its
            folder's.
        baseline: what the others are compared with: a recipe, whose raw predictions count, or one with its calibration,
            such as papt/sigma; the first recipe if None.
        out: folder for the comparison's .md, .csv and .png; the first of `runs` if None.
        name: of these files.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        resamples: bootstrap resamples of the speakers for each interval.
        seed: of the bootstrap.
        add: another method as NAME=FILE.csv, or several as '[A=a.csv,B=b.csv]': columns utterance, and arousal, valence
            or dominance, whichever it predicts, on the utterances that the runs were tested on. NAME=FILE.csv:sigma
            reads arousal_sigma and so on, of a table with several columns for an attribute.
        latex: file for the table that the screen shows, for a paper.
    """
    from ser_personal.comparison import compare_page as pages

    found = ridge_runs(find_runs(runs))
    found += [added_run(argument, found) for argument in ([add] if isinstance(add, str) else add or [])]
    tests = join_runs(found)
    base, bootstrap = find_baseline(tests, baseline or tests[0].systems[0].recipe), Bootstrap(resamples, seed)
    sets = [compare_systems(test, base, bootstrap, min_utterances, gap_sides(found)) for test in tests]
    costs, pretrained = recipe_costs(found), pretraining_scores(found)
    stem = (named_folder(runs[0])[1] if out is None else Path(out)) / name
    texts = {
        f"{stem}.md": pages.page(sets, costs, pretrained, base, bootstrap),
        f"{stem}.csv": pages.flat(sets, costs).to_csv(index=False),
    }
    if len(pretrained):
        texts[f"{stem}_pretraining.csv"] = pretrained.to_csv(index=False)
    if latex is not None:
        texts[latex] = pages.latex(sets, base)
    for path, text in texts.items():
        atomic_write(Path(path), text.encode())
    pages.draw_forest(sets, base, Path(f"{stem}_forest.png"))
    pages.show_sets(sets, base, f"{stem}.md")
    print(f"written: {', '.join([*texts, f'{stem}_forest.png'])}")


@dataclass(frozen=True, eq=False)
class System:
    """A row of the comparison, on one test set and attribute; scores are means over seeds and random draws."""

    recipe: str
    calibration: str  # raw, sigma, posterior, ...
    is_oracle: bool  # it reads test labels
    seeds: int
    utterances: Values  # (speakers,), labelled, the same in every replicate
    moments: Values  # (replicates, speakers, 5), the columns of `MOMENTS`
    ccc: Values  # (replicates, speakers), NaN where undefined

    @property
    def name(self) -> str:
        """Recipe and calibration, as a baseline is named."""
        return f"{self.recipe}/{self.calibration}"

    def overall_ccc(self, weights: Values) -> Values:
        """O-CCC (resamples,) over all utterances, each speaker as often as weights (resamples, speakers) say."""
        n, (mean, label_mean, variance, label_variance, covariance) = self.utterances, np.moveaxis(self.moments, -1, 0)
        middle = n @ label_mean[0] / n.sum()
        p, label = mean - middle, label_mean - middle
        squares = variance + p**2, label_variance + label**2, covariance + p * label
        # each speaker's part, (replicates, speakers, 6), around the mean label
        sums = np.stack(np.broadcast_arrays(n, n * p, n * label, *(n * each for each in squares)), axis=-1)
        return np.asarray(ccc_from_sums(*np.moveaxis(weights @ sums, -1, 0)).mean(axis=0))

    def average_ccc(self, weights: Values, counted: NDArray[np.bool_]) -> Values:
        """A-CCC (resamples,) over the counted speakers (speakers,), each one's CCC averaged over replicates first."""
        own = self.ccc[:, counted].mean(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(weights[:, counted] @ own / weights[:, counted].sum(axis=1))


@dataclass(frozen=True, eq=False)
class JoinedSet:
    """The systems of one test set and attribute, in the order of the runs."""

    split: str
    attribute: str
    speakers: tuple[str, ...]  # sorted; the same for all systems
    systems: tuple[System, ...]  # a recipe's calibrations together, its raw predictions first
    notes: tuple[str, ...]  # seeds that lack speakers, controls that permuted no speaker; one sentence each

    @property
    def title(self) -> str:
        """Set and attribute."""
        return f"{self.split}: {self.attribute}"


def join_runs(runs: Sequence[ComparedRun]) -> list[JoinedSet]:
    """Join the folds of each seed, then the seeds of each recipe, for every test set and attribute."""
    table = pd.concat(
        run.moments.assign(recipe=run.name, seed="" if run.seed is None else str(run.seed)) for run in runs
    )
    twice = table[table.duplicated(["recipe", "seed", "split", "row", "draw", "attribute", "speaker"])]
    if len(twice):
        first = twice.iloc[0]
        what = f"speaker {first['speaker']} is tested twice on {first['split']}"
        remedy = "List each run once; give runs that share a name different ones, as NAME=FOLDER"
        raise UserError(what, where=first["recipe"], remedy=remedy)
    sets = [_join(part, runs) for _, part in table.groupby(["split", "attribute"], sort=False)]
    return sorted(sets, key=lambda test: (test.split, ATTRIBUTES.index(test.attribute)))


def _join(table: pd.DataFrame, runs: Sequence[ComparedRun]) -> JoinedSet:
    split, attribute = str(table["split"].iloc[0]), str(table["attribute"].iloc[0])
    speakers = sorted(table["speaker"].unique())
    systems: list[System] = []
    incomplete: dict[str, list[str]] = {}
    for (recipe, row), part in table.groupby(["recipe", "row"], sort=False):
        of_seeds = [own for _, own in part.groupby("seed", sort=False)]
        # folds whose validation speakers were too few for it lack a row
        whole = [own for own in of_seeds if own["speaker"].nunique() == len(speakers)]
        if len(whole) < len(of_seeds):
            incomplete.setdefault(str(recipe), []).append(str(row))
        if whole:
            system = _system(str(recipe), str(row), whole, speakers)
            _require_same_labels(systems[0] if systems else system, system, speakers)
            systems.append(system)
    if not systems:
        what = f"no recipe was tested on all {len(speakers)} speakers of {split} that the others were tested on"
        remedy = "Compare runs on the same test set; to complete the folds of a study, run it again"
        raise UserError(what, where=attribute, remedy=remedy)
    notes = [
        f"{recipe} has seeds without all {len(speakers)} speakers, which are left out of {', '.join(rows)}"
        for recipe, rows in incomplete.items()
    ]
    notes += [
        f"{run.name} permuted no speaker of {split}, so it is not a control: it repeats the unpermuted model"
        for run in runs
        if run.metrics.get("splits", {}).get(split, {}).get("permuted_speakers") == 0
    ]
    return JoinedSet(split, attribute, tuple(speakers), tuple(systems), tuple(dict.fromkeys(notes)))


def _system(recipe: str, row: str, parts: Sequence[pd.DataFrame], speakers: Sequence[str]) -> System:
    replicates = [draw.set_index("speaker").loc[list(speakers)] for part in parts for _, draw in part.groupby("draw")]
    return System(
        recipe=recipe,
        calibration=row,
        is_oracle=bool(parts[0]["is_oracle"].iloc[0]),
        seeds=len(parts),
        utterances=replicates[0]["utterances"].to_numpy(dtype=np.float64),
        moments=np.stack([draw[list(MOMENTS)].to_numpy(dtype=np.float64) for draw in replicates]),
        ccc=np.stack([draw["ccc"].to_numpy(dtype=np.float64) for draw in replicates]),
    )


def _require_same_labels(first: System, system: System, speakers: Sequence[str]) -> None:
    same_means = np.isclose(first.moments[0, :, 1], system.moments[:, :, 1]).all(axis=0)
    same = np.isclose(first.utterances, system.utterances) & same_means
    if not same.all():
        what = f"other utterances or labels of speaker {speakers[int(np.argmin(same))]} than in the first run"
        remedy = "Compare runs on one test set with the same labels"
        raise UserError(what, where=system.name, remedy=remedy)


@dataclass(frozen=True)
class ComparedRow:
    """The scores of one system, by metric: `overall_ccc` and `average_ccc`."""

    system: System
    scores: dict[str, Estimate]
    gains: dict[str, Estimate] | None  # over the baseline, paired; None of the baseline itself


@dataclass(frozen=True)
class ComparedSet:
    """All systems on one test set and attribute."""

    test: JoinedSet
    rows: tuple[ComparedRow, ...]
    gaps: dict[str, dict[str, Estimate]]  # name of each dependent system -> paired difference to the independent one
    counted: int  # speakers in A-CCC, the same for all rows
    min_utterances: int  # that they have


def find_baseline(tests: Sequence[JoinedSet], name: str) -> str:
    """Complete the name of a baseline: `papt/sigma` is one calibration, `papt` its first, the raw predictions."""
    systems = [system for test in tests for system in test.systems]
    found = next((each.name for each in systems if name in {each.name, each.recipe}), None)
    if found is None:
        recipes = ", ".join(dict.fromkeys(each.recipe for each in systems))
        remedy = f"Choose one of {recipes}, or one with its calibration, such as {systems[0].name}"
        raise UserError(f"no recipe {name} to compare with", where="--baseline", remedy=remedy)
    return found


def compare_systems(
    test: JoinedSet,
    baseline: str,
    bootstrap: Bootstrap,
    min_utterances: int = 10,
    sides: Mapping[str, str] | None = None,
) -> ComparedSet:
    """Score every system by the same bootstrap resamples of the speakers.

    A-CCC counts the speakers with enough utterances whose CCC is defined in every system. Differences are to the system
    `baseline`, NaN where this set lacks it, and between the `sides` of the personalisation gap.
    """
    weights = bootstrap.weights([None] * len(test.speakers))
    defined = ~np.isnan(np.concatenate([system.ccc for system in test.systems])).any(axis=0)
    counted = np.asarray(defined & (test.systems[0].utterances >= min_utterances))
    number = {"overall_ccc": len(test.speakers), "average_ccc": int(counted.sum())}
    drawn = {
        system.name: {"overall_ccc": system.overall_ccc(weights), "average_ccc": system.average_ccc(weights, counted)}
        for system in test.systems
    }
    drawn.setdefault(baseline, dict.fromkeys(number, np.full(len(weights), np.nan)))

    def estimates(values: dict[str, Values]) -> dict[str, Estimate]:
        return {metric: bootstrap.estimate(values[metric], number[metric]) for metric in number}

    def difference(name: str, other: str) -> dict[str, Estimate]:
        return estimates({metric: without_rounding(drawn[name][metric] - drawn[other][metric]) for metric in number})

    rows = [
        ComparedRow(
            each, estimates(drawn[each.name]), difference(each.name, baseline) if each.name != baseline else None
        )
        for each in test.systems
    ]
    gaps = {one: difference(one, other) for one, other in (sides or {}).items() if {one, other} <= drawn.keys()}
    return ComparedSet(test, tuple(rows), gaps, number["average_ccc"], min_utterances)


def gap_sides(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """The sides of the personalisation gap, uncalibrated, by number of training speakers: dependent -> independent."""
    of_gap = sorted((run for run in runs if run.training_speakers), key=lambda run: run.training_speakers or 0)
    names = ([replace(run, side=side).name for side in ("dependent", "independent")] for run in of_gap)
    return {f"{dependent}/raw": f"{independent}/raw" for dependent, independent in names}
