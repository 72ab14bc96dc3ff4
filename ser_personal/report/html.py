"""report.html: one file without links, which a phone can show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_personal.calibration.results import points
from ser_personal.report import words
from ser_personal.report.audit import MEANING, SYSTEMS
from ser_personal.report.figures.canvas import as_svg, style
from ser_personal.report.group_scores import METRICS
from ser_personal.report.shifts import NAMES

if TYPE_CHECKING:
    from markupsafe import Markup

    from ser_personal.report.audit import Audit
    from ser_personal.report.figures.all_figures import Figures
    from ser_personal.report.figures.canvas import Drawing
    from ser_personal.report.run_folder import RunFolder
    from ser_personal.report.training_curves import Fit

TEMPLATE = Path(__file__).with_name("report.html.j2")


def render(run: RunFolder, fits: list[Fit], found: Audit, figures: Figures) -> str:
    """Fill the template."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "points": points,
        "decimal": words.decimal,
        "amount": words.amount,
        "signed": words.signed,
        "interval": words.interval,
        "signed_interval": words.signed_interval,
        "duration": words.duration,
        "svg": _inline,
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with style():
        return template.render(
            run=run,
            fits=fits,
            found=found,
            figures=figures,
            words=words,
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
