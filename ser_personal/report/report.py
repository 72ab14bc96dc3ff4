"""`ser report`: one page about a test run, with an audit of its errors by group, or about annotated recordings."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt  # resolved at run time

from ser_personal.calibration.table import LEGEND, decimal
from ser_personal.errors import UserError
from ser_personal.evaluation.run_files import read_run
from ser_personal.files import atomic_write, write_json
from ser_personal.report.audit import MEANING, METRICS, SHIFTS, SYSTEMS, audit, probes
from ser_personal.report.bootstrap import COVERAGE, Bootstrap, Resamples, interval, signed_interval, verdicts
from ser_personal.report.figures import as_svg, dumbbells, forest, style
from ser_personal.report.timeline import TABLES, render, write_timelines

TEMPLATE = Path(__file__).with_name("report.html.j2")


def report(
    run: str,
    resamples: Resamples = 2000,
    seed: NonNegativeInt = 0,
    audio: str | None = None,
    out: str | None = None,
) -> None:
    """Write a page of a test run, report.html with audit.json, into its folder; or of annotated recordings.

    Of a table that `ser annotate` wrote, it is timeline.html beside it: each speaker's values over time, with the sound
    of short recordings. Of several recordings, it lists a page for each in timeline/. Of a model of categories, the
    values are probabilities. A page of another table isn't replaced.

    Args:
        run: the folder that `ser test` with PLDC wrote predictions.csv and metrics.json to; or a table of annotated
            recordings, .csv or .parquet.
        resamples: draws of the speakers for each interval.
        seed: of these draws.
        audio: of annotated recordings, the folder that the table's files lie in, by their paths or, where no two
            are called alike, by their names; the others are looked for in the current folder and the table's.
        out: of annotated recordings, the page; timeline.html beside the table if null.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if Path(run).suffix.lower() in TABLES and not Path(run).is_dir():
        places = (None if place is None else Path(place) for place in (audio, out))
        for line in write_timelines(Path(run), *places):
            console.print(line, markup=False)
        return

    if Path(run).is_file():
        remedy = "Give .csv or .parquet, or the folder of a test run"
        raise UserError("isn't a table of annotated recordings", where=run, remedy=remedy)
    if audio is not None or out is not None:
        what = "is a test run, and --audio and --out are for annotated recordings"
        raise UserError(what, where=run, remedy="Leave them out")

    read, bootstrap = read_run(run), Bootstrap(resamples, seed)
    audits, probed = [audit(read, test, bootstrap) for test in read.sets], probes(read, bootstrap)
    numbers = (decimal, interval, signed_interval)
    filters: dict[str, Any] = {"svg": as_svg, **{function.__name__: function for function in numbers}}
    texts = {"meaning": MEANING, "systems": SYSTEMS, "metrics": METRICS, "shift_names": SHIFTS, "legend": LEGEND}
    found: dict[str, Any] = {"run": read, "bootstrap": bootstrap, "audits": audits, "probes": probed}
    asked, figures = {}, {}
    with style():
        for test in read.sets:
            asked[test.name] = {each: verdicts(read, test, each, bootstrap) for each in read.attributes}
            forests = (forest(read, test, each, bootstrap) for each in read.attributes)
            speakers = (dumbbells(read, test, each) for each in read.attributes)
            figures[test.name] = {"forest": [*filter(None, forests)], "speakers": [*filter(None, speakers)]}
        content = render(TEMPLATE, filters, **texts, **found, verdicts=asked, figures=figures)
    page = read.folder / "report.html"
    atomic_write(page, content)
    of_run = {"interval": COVERAGE, "min_utterances": read.min_utterances, "calibration": read.chosen}
    written = {"bootstrap": asdict(bootstrap), "sets": [*map(asdict, audits)], "probes": [*map(asdict, probed)]}
    write_json(read.folder / "audit.json", {"meaning": MEANING, **of_run, **written})
    console.print(f"written: {page} and audit.json", markup=False)
