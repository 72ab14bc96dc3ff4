"""`ser report`: what a test run says, for people who read and for people who are spoken of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_personal.calibration.run_files import points
from ser_personal.errors import UserError
from ser_personal.files import atomic_write
from ser_personal.report import formatting
from ser_personal.report.audit import MEANING, METRICS, NAMES, SYSTEMS
from ser_personal.report.figures import as_svg, style

if TYPE_CHECKING:
    from markupsafe import Markup
    from numpy.typing import NDArray

    from ser_personal.calibration.run_files import RunFolder
    from ser_personal.report.audit import Audit
    from ser_personal.report.figures import Drawing, Figures
    from ser_personal.report.training_curves import Fit


def report(
    run: str,
    by: str | None = None,
    table: str | None = None,
    before: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Write report.html, audit.json and TensorBoard images of a test run, into its folder.

    Args:
        run: the folder that `ser test` with PLDC wrote predictions.csv and metrics.json to.
        by: a column to audit by besides gender, amount of speech and label: of `table`, or of predictions.csv.
        table: a table of the corpus that has the column, such as corpus.csv, with a row an utterance or a speaker.
        before: test run of a model without personalisation, whose speaker vectors are probed beside this run's.
        resamples: draws of the speakers behind each interval.
        seed: of these draws.

    Raises:
        UserError: a folder isn't a test run, the column isn't there, or too few resamples are asked for.
    """
    from rich.console import Console

    from ser_personal.calibration.run_files import read_run
    from ser_personal.report.audit import audit, small_groups, write_audit
    from ser_personal.report.bootstrap import Bootstrap
    from ser_personal.report.figures import draw_all
    from ser_personal.report.training_curves import fits_behind

    if table is not None and by is None:
        raise UserError("says nothing without a column", where="--table", remedy="Name one: --by COLUMN")
    if resamples < 100:
        raise UserError(f"{resamples} is too few for an interval", where="--resamples", remedy="Give at least 100")
    read = read_run(run)
    fits = fits_behind(read)
    earlier = None if before is None else read_run(before)
    found = audit(read, Bootstrap(resamples, seed), by=by, table=table, before=earlier)
    figures = draw_all(read, fits, found)
    page = read.folder / "report.html"
    atomic_write(page, render(read, fits, found, figures).encode())
    write_audit(read.folder / "audit.json", found, read)
    write_tensorboard(read, figures)
    console = Console(soft_wrap=True, highlight=False)
    if few := small_groups(found):
        console.print(f"No interval under {found.bootstrap.fewest} speakers: {'; '.join(few)}", style="dim")
    console.print(f"written: {page}, audit.json and TensorBoard images beside it")


TEMPLATE = Path(__file__).with_name("report.html.j2")


def render(run: RunFolder, fits: list[Fit], found: Audit, figures: Figures) -> str:
    """Fill the template."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "points": points,
        "decimal": formatting.decimal,
        "amount": formatting.amount,
        "signed": formatting.signed,
        "interval": formatting.interval,
        "signed_interval": formatting.signed_interval,
        "duration": formatting.duration,
        "svg": _inline,
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with style():
        return template.render(
            run=run,
            fits=fits,
            found=found,
            figures=figures,
            words=formatting,
            meaning=MEANING,
            systems=SYSTEMS,
            metrics=METRICS,
            shift_names=NAMES,
            probe_pairs=_probe_pairs(found),
        )


def _probe_pairs(found: Audit) -> list[dict[str, Any]]:
    """Each probe of this run, beside the same vectors' of the other run, None where there are none."""
    earlier = {probe.vectors: probe for probe in found.before or ()}
    return [{"after": probe, "before": earlier.get(probe.vectors)} for probe in found.probes]


def _inline(drawing: Drawing) -> Markup:
    from markupsafe import Markup

    opening, drawn = Markup('<svg role="img" aria-label="{}" '), as_svg(drawing).removeprefix("<svg ")
    # what matplotlib writes is safe: it escapes all text that it draws
    return opening.format(drawing.alt) + Markup(drawn)  # noqa: S704


_SUFFIX = ".report"
_PROJECTOR = ("projector_config.pbtxt", "00000")
_DPI = 130


def write_tensorboard(run: RunFolder, figures: Figures) -> None:
    """Write images and embeddings, in place of those of an earlier report."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    for events in run.folder.glob(f"events.*{_SUFFIX}"):
        events.unlink()
    (run.folder / _PROJECTOR[0]).unlink(missing_ok=True)
    shutil.rmtree(run.folder / _PROJECTOR[1], ignore_errors=True)
    with SummaryWriter(str(run.folder), filename_suffix=_SUFFIX) as writer, style():
        for drawing in figures.all:
            writer.add_image(f"report/{drawing.name}", _pixels(drawing), dataformats="HWC")
        vectors, rows = _projected(run)
        writer.add_embedding(
            torch.from_numpy(vectors), rows, tag="speaker_vectors", metadata_header=["speaker", "set", "gender"]
        )


def _pixels(drawing: Drawing) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawing.figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _projected(run: RunFolder) -> tuple[NDArray[np.float32], list[list[str]]]:
    """Vectors of all speakers, and each one's id, set and gender."""
    vectors = [run.training.vectors, *(test.vectors.vectors for test in run.sets)]
    rows = [[id_, "training", run.training_gender.get(id_) or "unknown"] for id_ in run.training.speaker_ids]
    for test in run.sets:
        rows += [[id_, test.name, test.speakers[id_].gender or "unknown"] for id_ in test.vectors.speaker_ids]
    return np.concatenate(vectors).astype(np.float32), rows
