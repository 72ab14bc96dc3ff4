"""Every figure of a report, by the section that shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ser_personal.report.figures.canvas import Drawing, style
from ser_personal.report.figures.curves import training_figures
from ser_personal.report.figures.distributions import distributions
from ser_personal.report.figures.dumbbells import dumbbells
from ser_personal.report.figures.groups import QUANTITIES, group_figure
from ser_personal.report.figures.neighbour_map import neighbour_matrix, neighbour_plane
from ser_personal.report.figures.reliability import reliability
from ser_personal.report.figures.shift_scatter import shift_scatter

if TYPE_CHECKING:
    from ser_personal.report.audit import Audit, SetAudit
    from ser_personal.report.run_folder import RunFolder, ScoredSet
    from ser_personal.report.training_curves import Fit


@dataclass(frozen=True, eq=False)
class SetFigures:
    """The figures of one test set.

    Attributes:
        speakers: CCC of each speaker before and after.
        distributions: of single speakers.
        neighbours: who calibrated whom.
        calibration: mean label over prediction.
        groups: of the audit.
        shifts: from the training set, against CCC.
    """

    speakers: tuple[Drawing, ...]
    distributions: tuple[Drawing, ...]
    neighbours: tuple[Drawing, ...]
    calibration: tuple[Drawing, ...]
    groups: tuple[Drawing, ...]
    shifts: tuple[Drawing, ...]

    @property
    def all(self) -> tuple[Drawing, ...]:
        """In the order of the page."""
        return self.speakers + self.distributions + self.neighbours + self.calibration + self.shifts + self.groups


@dataclass(frozen=True, eq=False)
class Figures:
    """All figures.

    Attributes:
        of_set: test set -> its figures.
        training: of the fits behind the checkpoint.
    """

    of_set: dict[str, SetFigures]
    training: tuple[Drawing, ...]

    @property
    def all(self) -> tuple[Drawing, ...]:
        """In the order of the page."""
        return (*(drawing for figures in self.of_set.values() for drawing in figures.all), *self.training)


def draw_all(run: RunFolder, fits: list[Fit], found: Audit) -> Figures:
    """Draw every figure."""
    with style():
        return Figures(
            {test.name: _draw_set(run, test, of_set) for test, of_set in zip(run.sets, found.sets, strict=True)},
            tuple(drawing for fit in fits for drawing in training_figures(fit)),
        )


def _draw_set(run: RunFolder, test: ScoredSet, audited: SetAudit) -> SetFigures:
    scattered = [shift_scatter(test, attribute, audited.shifts[attribute]) for attribute in run.attributes]
    single = [distributions(run, test, attribute) for attribute in run.attributes]
    return SetFigures(
        speakers=tuple(dumbbells(run, test, attribute) for attribute in run.attributes),
        distributions=tuple(drawing for drawing in single if drawing is not None),
        neighbours=(neighbour_plane(run, test), neighbour_matrix(test)) if test.speakers else (),
        calibration=tuple(reliability(run, test, attribute) for attribute in run.attributes),
        groups=tuple(group_figure(audited, attribute, name) for attribute in run.attributes for name in QUANTITIES),
        shifts=tuple(drawing for drawing in scattered if drawing is not None),
    )
