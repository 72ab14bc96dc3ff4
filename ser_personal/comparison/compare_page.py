"""The comparison as a page of Markdown, as flat tables, on the screen, and as figures."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ser_personal.calibration.table import decimal
from ser_personal.report.formatting import duration, gain, operations, with_interval
from ser_personal.report.verdicts import RIDGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from ser_personal.comparison.compare import ComparedRow, ComparedSet, GapRow
    from ser_personal.comparison.runs import PretrainingRow, RecipeCost, RecipeStage
    from ser_personal.report.bootstrap import Bootstrap, Estimate

METRICS = {"overall_ccc": "O-CCC", "average_ccc": "A-CCC"}
SIDES = ("independent", "dependent", "gap")
READ_TOTALS = (
    "Cost of training one model from the corpus, shared steps included: the mean over a recipe's runs. Operations are "
    "those of the steps that count them."
)
READ_STAGES = (
    "Peak memory is that of the largest run. Audio is counted each time it passes through the model. Floating-point "
    "operations are counted on one batch and scaled by audio. Shared steps serve several recipes, and are listed with "
    "each that needs them. A dash means: not measured."
)
READ_PRETRAINING = (
    "Of the checkpoint that each pre-training kept: cross-entropy in nats per masked frame, and the share of masked "
    "frames whose cluster is found, on held-out utterances of pre-training speakers, and on speakers outside "
    "pre-training. Losses compare only where the pseudo-labels are the same."
)
READ_GAP = (
    "Both sides have the same test speakers, as many training speakers and as many training utterances; the dependent "
    "one has other utterances of the test speakers among them. Predictions are uncalibrated, and the gap is dependent "
    "minus independent over the same draws of the speakers."
)
SOURCE = (
    "Tran, Yin and Soleymani (Interspeech 2023), MSP-Podcast v1.6, test-b: 8,434 utterances of 50 speakers, "
    "HuBERT-large. A paired difference would need the paper's predictions on the same test set."
)
# attribute -> system -> O-CCC and A-CCC
PAPER = {
    "arousal": {
        "Vanilla-FT": (0.712, 0.512),
        "B2, data weighting": (0.735, 0.517),
        "TAPT-FT": (0.717, 0.518),
        "PAPT-FT": (0.740, 0.531),
        "PAPT-FT, mu": (0.722, 0.528),
        "PAPT-FT, sigma": (0.732, 0.541),
        "PAPT-FT, both": (0.713, 0.540),
    },
    "valence": {
        "Vanilla-FT": (0.607, 0.514),
        "B2, data weighting": (0.650, 0.569),
        "TAPT-FT": (0.630, 0.542),
        "PAPT-FT": (0.663, 0.569),
        "PAPT-FT, mu": (0.660, 0.566),
        "PAPT-FT, sigma": (0.662, 0.578),
        "PAPT-FT, both": (0.657, 0.575),
    },
}


def page(
    sets: Sequence[ComparedSet],
    costs: Sequence[RecipeCost],
    pretrained: Sequence[PretrainingRow],
    baseline: str | None,
    bootstrap: Bootstrap,
    min_utterances: int,
    *,
    paper: bool,
) -> str:
    """Write the page: a section for each test set and attribute, then costs, pre-training and gaps."""
    against = f" Differences are to {baseline}, over the same draws." if baseline else ""
    parts = [
        "# Comparison",
        f"O-CCC is one CCC over all utterances, A-CCC the mean of speakers' own, over those with at least "
        f"{min_utterances} utterances. In brackets 95 % intervals from {bootstrap.resamples} draws of the test "
        "speakers, the same draws for every row, each speaker's CCC averaged over seeds first; they say how far other "
        f"speakers could change a figure, not other seeds.{against} An oracle reads test labels and is never a result.",
    ]
    for compared in sets:
        parts += _section(compared, min_utterances, with_gains=baseline is not None)
        if paper and compared.attribute in PAPER:
            scores = [[system, *map(decimal, pair)] for system, pair in PAPER[compared.attribute].items()]
            parts += [f"### The paper's {compared.attribute}", _table(["system", "O-CCC", "A-CCC"], scores), SOURCE]
    parts += _costs(costs)
    if pretrained:
        headings = ["pre-training", "runs", "loss", "accuracy", "loss, unseen speakers", "accuracy, unseen speakers"]
        rows = [
            [of.step, str(of.runs), *(_or_dash(each, decimal) for each in asdict(of.scores).values())]
            for of in pretrained
        ]
        parts += ["## Pre-training", _table(headings, rows), READ_PRETRAINING]
    return "\n\n".join([*parts, *_gaps(sets, min_utterances)]) + "\n"


def _section(compared: ComparedSet, min_utterances: int, *, with_gains: bool) -> list[str]:
    gains = ["O-CCC difference", "A-CCC difference"] if with_gains else []
    recipes: dict[str, list[ComparedRow]] = {}
    for row in compared.rows:
        recipes.setdefault(row.recipe, []).append(row)
    notes = [*refusals(compared), *(f"{note}." for note in compared.notes)]
    raw = [[rows[0].recipe, *_figures(rows[0], with_gains=with_gains)] for rows in recipes.values()]
    parts = [
        f"## {compared.split}: {compared.attribute}",
        " ".join([f"{compared.speakers} speakers; A-CCC over {compared.counted[min_utterances]} of them.", *notes]),
        _table(["recipe, uncalibrated", "seeds", "O-CCC", "A-CCC", *gains], raw),
    ]
    calibrated = {recipe: {_name(row): row for row in rows} for recipe, rows in recipes.items() if len(rows) > 1}
    if calibrated:
        names = list(dict.fromkeys(name for of_recipe in calibrated.values() for name in of_recipe))
        matrix = [
            [recipe, *(_both(of_recipe[name]) if name in of_recipe else "-" for name in names)]
            for recipe, of_recipe in calibrated.items()
        ]
        every = [[row.recipe, _name(row), *_figures(row, with_gains=with_gains)] for row in compared.rows]
        parts += [_table(["O-CCC / A-CCC", *names], matrix), "Each of them with its intervals:"]
        parts.append(_table(["recipe", "calibration", "seeds", "O-CCC", "A-CCC", *gains], every))
    least = sorted(compared.counted)
    numbers = ", ".join(f"{compared.counted[each]} have at least {each} utterances" for each in least)
    sensitivity = [
        [row.recipe, _name(row), *(decimal(row.sensitivity[each]) for each in least)] for row in compared.rows
    ]
    headings = ["recipe", "calibration", *(f"at least {each}" for each in least)]
    return [
        *parts,
        f"A-CCC by the utterances that a speaker must have; of the speakers {numbers}:",
        _table(headings, sensitivity),
    ]


def _name(row: ComparedRow) -> str:
    return row.calibration + (" (oracle)" if row.is_oracle else "")


def _both(row: ComparedRow) -> str:
    return f"{decimal(row.overall_ccc.value)} / {decimal(row.average_ccc.value)}"


def _figures(row: ComparedRow, *, with_gains: bool) -> list[str]:
    gains = [gain(row.overall_gain), gain(row.average_gain)] if with_gains else []
    return [str(row.seeds), with_interval(row.overall_ccc), with_interval(row.average_ccc), *gains]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # a | would end the cell
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _or_dash(value: Any, formatted: Callable[[Any], str]) -> str:
    return "-" if value is None else formatted(value)


def refusals(compared: ComparedSet) -> list[str]:
    """Reasons why scores of a set have no interval, each once."""
    estimates = [estimate for row in compared.rows for estimate in (row.overall_ccc, row.average_ccc)]
    return [f"No interval: {reason}." for reason in dict.fromkeys(each.refused for each in estimates) if reason]


def _costs(costs: Sequence[RecipeCost]) -> list[str]:
    if not costs:
        return []
    totals = [
        [
            cost.recipe,
            duration(cost.training_seconds),
            _or_dash(cost.training_cpu_seconds, duration),
            _or_dash(cost.training_flops, operations),
        ]
        for cost in costs
        if cost.training_seconds
    ]
    headings = ["recipe", "stage", "trained parameters", "time", "CPU time", "audio", "operations", "peak memory"]
    stages = _table(headings, [[cost.recipe, *_stage(stage)] for cost in costs for stage in cost.stages])
    trained = [_table(["training", "time", "CPU time", "operations"], totals), READ_TOTALS] if totals else []
    return ["## Cost", *trained, stages, READ_STAGES]


def _stage(stage: RecipeStage) -> list[str]:
    cost = stage.cost
    return [
        stage.name + (" (shared)" if stage.is_shared else ""),
        _or_dash(cost.trained_parameters, "{:,}".format),
        duration(cost.seconds),
        _or_dash(cost.cpu_seconds, duration),
        _or_dash(cost.speech_seconds, duration),
        _or_dash(cost.flops, operations),
        _or_dash(cost.peak_memory, lambda size: f"{size / 2**30:.2f} GiB"),
    ]


def _gaps(sets: Sequence[ComparedSet], min_utterances: int) -> list[str]:
    with_gap = [compared for compared in sets if compared.gaps]
    parts = ["## Personalisation gap", READ_GAP] if with_gap else []
    headings = ["recipe", "training speakers", "seeds"]
    headings += [f"{name} {what}" for name in METRICS.values() for what in SIDES]

    def cells(row: GapRow) -> list[str]:
        scores = [getattr(row, metric) for metric in METRICS]
        sides = [[with_interval(of["independent"]), with_interval(of["dependent"]), gain(of["gap"])] for of in scores]
        return [row.recipe, str(row.training_speakers), str(row.seeds), *sides[0], *sides[1]]

    for compared in with_gap:
        counted = f"{compared.speakers} speakers; A-CCC over {compared.counted[min_utterances]} of them."
        table = _table(headings, [cells(row) for row in compared.gaps])
        parts += [f"### {compared.split}: {compared.attribute}", counted, table]
    return parts


def flat(sets: Sequence[ComparedSet], costs: Sequence[RecipeCost], *, paper: bool) -> pd.DataFrame:
    """One line a system, test set and attribute, with what its recipe costs; blank where undefined."""
    import pandas as pd

    seconds = {cost.recipe: cost.training_seconds for cost in costs}
    lines: list[dict[str, object]] = [
        {
            "split": compared.split,
            "attribute": compared.attribute,
            "recipe": row.recipe,
            "calibration": row.calibration,
            "is_oracle": row.is_oracle,
            "seeds": row.seeds,
            "speakers": compared.speakers,
            **_numbers({"overall_ccc": row.overall_ccc, "average_ccc": row.average_ccc}),
            **_numbers({"overall_ccc_difference": row.overall_gain, "average_ccc_difference": row.average_gain}),
            **{f"average_ccc_from_{least}_utterances": value for least, value in row.sensitivity.items()},
            **{f"speakers_from_{least}_utterances": number for least, number in compared.counted.items()},
            "training_seconds": seconds.get(row.recipe),
        }
        for compared in sets
        for row in compared.rows
    ]
    if paper:
        lines += [
            {"split": "paper, test-b", "attribute": attribute, "recipe": system, "is_oracle": False}
            | {"overall_ccc": overall, "average_ccc": average}
            for attribute, systems in PAPER.items()
            for system, (overall, average) in systems.items()
        ]
    return pd.DataFrame(lines)


def flat_pretraining(rows: Sequence[PretrainingRow]) -> pd.DataFrame:
    """One line a pre-training step; blank where undefined."""
    import pandas as pd

    return pd.DataFrame({"step": row.step, "runs": row.runs, **asdict(row.scores)} for row in rows)


def flat_gaps(sets: Sequence[ComparedSet], min_utterances: int) -> pd.DataFrame:
    """One line a recipe, number of training speakers, test set and attribute; blank where undefined."""
    import pandas as pd

    return pd.DataFrame(
        {
            "split": compared.split,
            "attribute": compared.attribute,
            "recipe": row.recipe,
            "training_speakers": row.training_speakers,
            "seeds": row.seeds,
            "speakers": compared.speakers,
            "average_ccc_speakers": compared.counted[min_utterances],
            **_numbers({f"{metric}_{side}": getattr(row, metric)[side] for metric in METRICS for side in SIDES}),
        }
        for compared in sets
        for row in compared.gaps
    )


def _numbers(estimates: dict[str, Estimate | None]) -> dict[str, float | None]:
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {
        f"{name}{end}": None if estimate is None else getattr(estimate, field)
        for name, estimate in estimates.items()
        for end, field in ends.items()
    }


def summary(compared: ComparedSet) -> list[ComparedRow]:
    """The rows of the summary: each recipe's raw predictions and, where there are any, PLDC's."""
    firsts = {row.recipe: row.calibration for row in reversed(compared.rows)}
    return [row for row in compared.rows if row.calibration in {firsts[row.recipe], "sigma"}]


def row_label(row: ComparedRow) -> str:
    """The name of a row of the summary, by its recipe."""
    return row.recipe if row.calibration in {"raw", RIDGE} else f"{row.recipe} + PLDC"


def show_sets(sets: Sequence[ComparedSet], baseline: str | None, min_utterances: int, page: str) -> None:
    """Print one table: recipe, O-CCC, A-CCC and the difference in A-CCC to the baseline, by test set and attribute."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1))
    for heading in ("recipe", "O-CCC", "A-CCC", "difference in A-CCC"):
        table.add_column(heading, justify="left" if heading == "recipe" else "right")
    for compared in sets:
        if len(sets) > 1:
            table.add_row(f"[bold]{escape(compared.split)}: {escape(compared.attribute)}[/]")
        for row in summary(compared):
            scores = [decimal(row.overall_ccc.value), decimal(row.average_ccc.value)]
            table.add_row(escape(row_label(row)), *scores, gain(row.average_gain))
        table.add_section()
    console.print(table)
    for compared in sets:
        console.print(
            f"{compared.split}, {compared.attribute}: {compared.speakers} speakers, A-CCC over "
            f"{compared.counted[min_utterances]}.",
            *refusals(compared),
            *(f"{note}." for note in compared.notes),
            style="dim",
            markup=False,
        )
    under = f"Differences are to {baseline}, paired, with 95 % intervals over speakers; the controls are in {page}."
    console.print(under, markup=False, soft_wrap=True)


def latex(sets: Sequence[ComparedSet], baseline: str | None) -> str:
    """The table of the screen for a paper, with booktabs' lines."""
    escapes = str.maketrans({sign: f"\\{sign}" for sign in "&%$#_{}"})

    def signs(text: str) -> str:
        return text.translate(escapes)

    lines = [f"% differences in A-CCC to {baseline}, paired, 95 % intervals over speakers", r"\begin{tabular}{lrrr}"]
    lines += [r"\toprule", r"Recipe & O-CCC & A-CCC & Difference in A-CCC \\"]
    for compared in sets:
        lines += [r"\midrule", rf"\multicolumn{{4}}{{l}}{{{signs(f'{compared.split}, {compared.attribute}')}}} \\"]
        for row in summary(compared):
            cells = [
                row_label(row),
                decimal(row.overall_ccc.value),
                decimal(row.average_ccc.value),
                gain(row.average_gain),
            ]
            lines.append(rf"{' & '.join(map(signs, cells))} \\".replace("-.", "$-$.").replace("+.", "$+$."))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
