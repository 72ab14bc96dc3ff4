"""What a few labels of a new speaker are worth: A-CCC after 0, 3, 5, 10, 20 and 40 of them.

    python benchmarks/few_labels.py --corpus ravdess=ravdess/corpus.csv emodb=emodb/corpus.csv --out DIR

On the simulated speakers of calibration_simulation.py, and on corpora by leave-speakers-out folds, where predictions
are those of a ridge regression on MFCC functionals and these, standardised, are the pooled vectors. Of each test
speaker 40 utterances at random, or all but 10 where there are fewer than 50, may be labelled; the others are scored,
the same ones however many labels there are. As in `ser test`, all of the speaker's predictions are known without their
labels.

Written to DIR: few_labels.md, a table, and few_labels.png; what is measured already, in its .json files, isn't measured
again.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from calibration_simulation import simulate
from enrolment import Line
from record import record

from ser_personal.calibration.controls import AffineMap, raw
from ser_personal.calibration.few_labels import LabelPrior, labelled_moments, with_labels
from ser_personal.calibration.pldc import PLDC
from ser_personal.calibration.posterior import PosteriorCalibrator
from ser_personal.calibration.table import PredictedSet, decimal
from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.scores import Moments, concordance, rows_by_speaker
from ser_personal.speakers.bank import SpeakerBank
from ser_personal.types import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from ser_personal.calibration.controls import Calibrator

NUMBERS = (0, 3, 5, 10, 20, 40)
FEWEST_SCORED = 10
STRENGTHS = (0.0, 0.6, 0.9)
FOLDS = {"ravdess": 6}
VALIDATION_FOLDS = 2
OWN, AFFINE = "own map", "global map"
# row -> (numbers of labels,) CCCs of each speaker
Rows = dict[str, list["NDArray[np.float64]"]]
Means = dict[str, "NDArray[np.float64]"]


def main() -> None:
    """Measure, write table and figure, and record the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="*", default=[], help="NAME=TABLE of labelled corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--seeds", type=int, default=10, help="of the simulation")
    parser.add_argument(
        "--draws", type=int, default=40, help="random draws of labels a speaker, a quarter of it in the simulation"
    )
    arguments = parser.parse_args()
    started = time.perf_counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    means: dict[str, Means] = {}
    for strength in STRENGTHS:
        measure = partial(of_simulation, strength, arguments.seeds, max(arguments.draws // 4, 1))
        means |= once(arguments.out / f"simulation-{strength:g}.json", measure)
    for name, _, table in (each.partition("=") for each in arguments.corpus):
        means |= once(arguments.out / f"{name}.json", partial(of_corpus, name, table, arguments.draws))
    (arguments.out / "few_labels.md").write_text("\n".join(table_of(means)) + "\n", encoding="utf-8")
    draw(means, arguments.out / "few_labels.png")
    print("\n".join(table_of(means)))
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    record(f"{summary(means)}; {seconds:.0f} s", ("numpy", "scikit-learn"))


def once(path: Path, measure: Callable[[], Mapping[str, Rows]]) -> dict[str, Means]:
    """Title -> row -> mean over speakers, (numbers of labels,): measured, and kept in a file from which it is read."""
    if not path.exists():
        means = {
            title: {row: np.mean(values, axis=0).tolist() for row, values in rows.items()}
            for title, rows in measure().items()
        }
        atomic_write(path, json.dumps(means).encode())
    kept = json.loads(path.read_text())
    return {title: {row: np.array(values) for row, values in rows.items()} for title, rows in kept.items()}


def of_simulation(strength: float, seeds: int, draws: int) -> dict[str, Rows]:
    """Rows of simulated speakers."""
    rows: Rows = {}
    for seed in range(seeds):
        sets = simulate(strength, np.random.default_rng([seed, round(100 * strength)]))
        add(rows, rows_of(sets, ("arousal",), draws, seed)["arousal"])
    return {f"simulation, strength {strength:g}": rows}


def of_corpus(name: str, table: str, draws: int) -> dict[str, Rows]:
    """Rows of a corpus, every speaker tested once."""
    of_attribute: dict[str, Rows] = {attribute: {} for attribute in ATTRIBUTES}
    for seed, sets in enumerate(folds_of(table, FOLDS.get(name, 5))):
        for attribute, found in rows_of(sets, ATTRIBUTES, draws, seed).items():
            add(of_attribute[attribute], found)
    return {f"{name}, {attribute}": found for attribute, found in of_attribute.items()}


def rows_of(sets: Mapping[str, PredictedSet], attributes: tuple[str, ...], draws: int, seed: int) -> dict[str, Rows]:
    """Attribute -> rows, by calibrators fitted on the sets `train` and `validation`, of the speakers of `test`."""
    train, validation, test = (sets[name] for name in ("train", "validation", "test"))
    bank = SpeakerBank.from_utterances(train.speaker_ids, train.pooled, train.labels, attributes)
    bases: dict[str, Calibrator] = {"raw": raw, "PLDC": PLDC(bank, attributes)}
    left_out = {
        name: base(validation.predictions, validation.speaker_ids, validation.pooled) for name, base in bases.items()
    }
    try:
        bases["posterior"] = _posterior(bank, attributes, validation)
        left_out["posterior"] = _left_out_posterior(bank, attributes, validation)
    except UserError:
        pass
    calibrated = {name: base(test.predictions, test.speaker_ids, test.pooled) for name, base in bases.items()}
    affine = AffineMap.fit(validation.predictions, validation.labels)
    found: dict[str, Rows] = {}
    for column, attribute in enumerate(attributes):
        priors = {
            name: LabelPrior.fit(values[:, column], validation.labels[:, column], validation.speaker_ids)
            for name, values in left_out.items()
        }
        rng, rows = np.random.default_rng(seed), found.setdefault(attribute, {})
        for own_rows in rows_by_speaker(test.speaker_ids).values():
            if len(own_rows) < 2 * FEWEST_SCORED:
                continue
            lines = {
                name: Line.through(test.predictions[own_rows, column, None], values[own_rows, column, None])
                for name, values in calibrated.items()
            }
            x, y = test.predictions[own_rows, column], test.labels[own_rows, column]
            each = [
                of_draw(
                    x, y, lines, priors, affine.slope[column] * x + affine.intercept[column], rng.permutation(len(x))
                )
                for _ in range(draws)
            ]
            add(rows, {name: [np.mean([one[name] for one in each], axis=0)] for name in each[0]})
    return found


def of_draw(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    lines: Mapping[str, Line],
    priors: Mapping[str, LabelPrior],
    mapped: NDArray[np.float64],
    order: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Row -> CCC (numbers of labels,) of a speaker's scored utterances; the first of `order` are labelled."""
    most = min(NUMBERS[-1], len(x) - FEWEST_SCORED)
    scored = order[most:]
    own = Moments.of(x[:, None])
    found: dict[str, list[float]] = {}
    for number in NUMBERS:
        labelled = order[: min(number, most)]
        maps = {OWN: AffineMap.fit(x[labelled, None], y[labelled, None])} if number else {}
        moments = labelled_moments(x[labelled, None], y[labelled, None])
        for name, line in lines.items():
            base = AffineMap(line.slope, line.intercept)
            found.setdefault(name, []).append(concordance(base.apply(x[scored]), y[scored]))
            maps[f"labels on {name}"] = with_labels(base, own, moments, [priors[name]])
        for name, each in maps.items():
            found.setdefault(name, [np.nan] * (name == OWN)).append(concordance(each.apply(x[scored]), y[scored]))
        found.setdefault(AFFINE, []).append(concordance(mapped[scored], y[scored]))
    return {name: np.array(values) for name, values in found.items()}


def _posterior(bank: SpeakerBank, attributes: tuple[str, ...], validation: PredictedSet) -> PosteriorCalibrator:
    return PosteriorCalibrator(bank, attributes).fit(
        validation.predictions, validation.speaker_ids, validation.pooled, validation.labels
    )


def _left_out_posterior(
    bank: SpeakerBank, attributes: tuple[str, ...], validation: PredictedSet
) -> NDArray[np.float64]:
    """The validation speakers by posteriors fitted without them."""
    values = np.empty_like(validation.predictions)
    speakers = list(rows_by_speaker(validation.speaker_ids).values())
    for some in (speakers[first::5] for first in range(5)):
        rows = np.isin(np.arange(len(values)), np.concatenate(some))
        part = validation.part(rows)
        posterior = _posterior(bank, attributes, validation.part(~rows))
        values[rows] = posterior(part.predictions, part.speaker_ids, part.pooled)
    return values


def folds_of(table: str, number: int) -> list[dict[str, PredictedSet]]:
    """The three sets of each fold of a corpus, predicted by the fold's ridge regression."""
    from ser_personal.audio import decode_utterance
    from ser_personal.corpus.csv_corpus import open_corpus
    from ser_personal.corpus.folds import leave_speakers_out
    from ser_personal.encoder.raw import mfcc_functionals
    from ser_personal.report.baseline import ridge_baseline

    utterances = open_corpus(table).utterances
    features = {each.utterance_id: mfcc_functionals(decode_utterance(each)) for each in utterances}
    folds = []
    for splits in leave_speakers_out(utterances, number, validation_folds=VALIDATION_FOLDS, seed=0):
        named = {"train": splits.train, "validation": splits.validation, "test": splits.sets["test1"]}
        x = {name: np.stack([features[each.utterance_id] for each in part]) for name, part in named.items()}
        y = {
            name: np.array([[each.labels[attribute] for attribute in ATTRIBUTES] for each in part])
            for name, part in named.items()
        }
        center, spread = x["train"].mean(axis=0), x["train"].std(axis=0)
        folds.append(
            {
                name: PredictedSet(
                    predictions=ridge_baseline(x["train"], y["train"], x[name]),
                    speaker_ids=tuple(each.speaker_id for each in part),
                    pooled=((x[name] - center) / spread).astype(np.float64),
                    labels=y[name],
                )
                for name, part in named.items()
            }
        )
    return folds


def add(rows: Rows, more: Mapping[str, list[NDArray[np.float64]]]) -> None:
    """Add the speakers of `more`."""
    for name, values in more.items():
        rows.setdefault(name, []).extend(values)


def table_of(means: Mapping[str, Means]) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| A-CCC | labels: " + " | ".join(map(str, NUMBERS)) + " |", "|---|" + "---:|" * len(NUMBERS)]
    for name, rows in means.items():
        lines.append(f"| **{name}** |" + " |" * len(NUMBERS))
        lines += [f"| {row} | {' | '.join(map(decimal, values))} |" for row, values in rows.items()]
    return lines


def summary(means: Mapping[str, Means]) -> str:
    """The least that labels on PLDC, and on the posterior, gain over raw and PLDC, and over the own map."""
    parts = []
    for row in ("labels on PLDC", "labels on posterior"):
        found = {name: rows for name, rows in means.items() if row in rows}
        best = {name: rows[row] - np.maximum(rows["raw"], rows["PLDC"]) for name, rows in found.items()}
        worst = min(best, key=lambda name: best[name][1:].min())
        upto = NUMBERS.index(20) + 1
        over_own = min((rows[row] - rows[OWN])[1:upto].min() for rows in found.values())
        parts.append(
            f"{row}: from 3 labels on at least {best[worst][1:].min():+.3f} A-CCC against the better of raw and PLDC "
            f"({worst}), up to 20 labels at least {over_own:+.3f} against the speaker's own map"
        )
    return "; ".join(parts)


def draw(means: Mapping[str, Means], path: Path) -> None:
    """Draw A-CCC against labels, a panel a corpus and attribute."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    series = {
        "raw": ("#666666", ":"),
        AFFINE: ("#000000", "--"),
        "PLDC": ("#56B4E9", "--"),
        OWN: ("#E69F00", "-"),
        "labels on PLDC": ("#0072B2", "-"),
        "labels on posterior": ("#D55E00", "-"),
    }
    figure, panels = plt.subplots(
        -(-len(means) // 3), 3, figsize=(10, 8), sharex=True, layout="constrained", squeeze=False
    )
    places = range(len(NUMBERS))
    for axes, (title, rows) in zip(panels.flat, means.items(), strict=False):
        for name in (name for name in series if name in rows):
            colour, line = series[name]
            axes.plot(
                places, rows[name], line, color=colour, label=name, marker="o" if line == "-" else "", markersize=4
            )
        axes.set_title(title, fontsize=10)
        # at three labels, the own map would flatten everything else
        axes.set_ylim(bottom=max(axes.get_ylim()[0], rows["raw"][0] - 0.1))
        axes.set_xticks(places, [str(number) for number in NUMBERS])
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    for axes in panels[:, 0]:
        axes.set_ylabel("A-CCC")
    for axes in panels[-1]:
        axes.set_xlabel("labels of the speaker")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
