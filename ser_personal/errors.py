"""The one exception a user can cause, ranges of numbers, and warnings that are silenced."""

from __future__ import annotations

import logging
import warnings
from math import inf, isfinite
from numbers import Real


class UserError(Exception):
    """A mistake the user can correct: the command line prints it as one line and exits with code 2.

    Args:
        what: what is wrong, a clause without a full stop.
        where: the file, argument or speaker it is wrong at.
        remedy: what to do about it, a sentence without a full stop.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        place = f"{where}: " if where is not None else ""
        super().__init__(" ".join(f"{place}{what}. {remedy}.".split()))


# faiss takes no larger one
LARGEST_SEED = 2**31 - 1


def require_range(name: str, value: float, low: float, high: float = inf, *, above: bool = False) -> None:
    """Refuse a number that an argument can't have; NaN and infinity are none that it can.

    Args:
        name: the argument.
        value: what was given for it.
        low: the least that it may be.
        high: the most that it may be.
        above: `low` itself is too little.

    Raises:
        UserError: the number lies outside.
    """
    # null in a YAML comes through where a number is due
    if not isinstance(value, Real) or not isfinite(value) or not low <= value <= high or (above and value == low):
        if isfinite(high):
            allowed = f"above {low} and at most {high}" if above else f"from {low} to {high}"
        else:
            allowed = f"above {low}" if above else f"of at least {low}"
        raise UserError(f"{value} is out of range", where=name, remedy=f"Give a number {allowed}")


def require_scale(scale: tuple[float, float]) -> None:
    """Refuse a label scale that has nothing between its ends.

    Raises:
        UserError: the second label isn't above the first.
    """
    if not scale[0] < scale[1]:
        raise UserError(f"{scale} is an empty range", where="scale", remedy="Give the lowest, then the highest label")


def silence_warnings() -> None:
    """Silence what Lightning says on every run and no user of this project can act on."""
    warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # scores are computed over all devices before they are logged
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
