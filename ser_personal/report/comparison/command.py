"""`ser compare`: recipes side by side."""

from __future__ import annotations

from pathlib import Path

from ser_personal.errors import UserError
from ser_personal.files import write_whole
from ser_personal.ranges import LARGEST_SEED, require_range


def compare(
    runs: list[str],
    baseline: str | None = None,
    out: str | None = None,
    name: str = "comparison",
    min_utterances: int = 10,
    resamples: int = 2000,
    seed: int = 0,
    *,
    paper: bool = False,
) -> None:
    """Compare test runs: O-CCC and A-CCC of each recipe and calibration with 95 % intervals, beside their cost.

    Where the runs are of a study of the personalisation gap, the gap over the number of training speakers comes beside;
    where a study pre-trained, how well each of its pre-trainings predicts masked frames.

    Args:
        runs: folders of test runs, or one with many, such as a study's.
        baseline: what the others are held against: a recipe, whose raw predictions count, or one with its calibration,
            such as papt/sigma.
        out: folder for the comparison's .md, .csv and .png; the first of `runs` if None.
        name: of these files.
        min_utterances: labelled utterances a speaker must have to count in A-CCC.
        resamples: draws of the speakers behind each interval.
        seed: of these draws.
        paper: put the paper's rows beside.

    Raises:
        UserError: a folder holds no test run, the runs can't be compared, or the baseline isn't among them.
    """
    from rich.console import Console

    from ser_personal.report.bootstrap import Bootstrap
    from ser_personal.report.comparison.compare_systems import compare_systems, find_baseline
    from ser_personal.report.comparison.compared_runs import find_runs
    from ser_personal.report.comparison.gap import find_gaps
    from ser_personal.report.comparison.gap_page import draw_gaps, flat_gaps, gap_section
    from ser_personal.report.comparison.markdown import flat, page
    from ser_personal.report.comparison.plot import draw_costs
    from ser_personal.report.comparison.pretraining import flat_pretraining, pretraining_rows, pretraining_section
    from ser_personal.report.comparison.recipe_cost import recipe_costs
    from ser_personal.report.comparison.screen import show_sets
    from ser_personal.report.comparison.systems import join_runs

    require_range("min_utterances", min_utterances, 2)
    require_range("seed", seed, 0, LARGEST_SEED)
    if resamples < 100:
        raise UserError(f"{resamples} is too few for an interval", where="--resamples", remedy="Give at least 100")
    found = find_runs(runs)
    tests = join_runs(found)
    base, bootstrap = find_baseline(tests, baseline), Bootstrap(resamples, seed)
    sets = [compare_systems(test, base, bootstrap, min_utterances) for test in tests]
    costs = recipe_costs(found)
    stem = Path(runs[0] if out is None else out) / name
    text = page(sets, costs, baseline=base, bootstrap=bootstrap, min_utterances=min_utterances, paper=paper)
    gaps = find_gaps(tests, found, bootstrap, min_utterances)
    pretrained = pretraining_rows(found)
    if pretrained:
        text += pretraining_section(pretrained)
        write_whole(f"{stem}_pretraining.csv", flat_pretraining(pretrained).to_csv(index=False).encode())
    if gaps:
        text += gap_section(gaps)
        write_whole(f"{stem}_gap.csv", flat_gaps(gaps).to_csv(index=False).encode())
        draw_gaps(gaps, Path(f"{stem}_gap.png"))
    write_whole(f"{stem}.md", text.encode())
    write_whole(f"{stem}.csv", flat(sets, costs, paper=paper).to_csv(index=False).encode())
    drawn = draw_costs(sets, costs, Path(f"{stem}.png"))
    show_sets(sets, base, min_utterances)
    written = f"{stem}.md and .csv" if not drawn else f"{stem}.md, .csv and .png"
    written += f", {stem}_pretraining.csv" if pretrained else ""
    written += f", {stem}_gap.csv and .png" if gaps else ""
    Console(soft_wrap=True, highlight=False).print(f"written: {written}", markup=False)
