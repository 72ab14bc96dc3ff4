"""UserError, the checks of arguments that raise it, and the warnings that are silenced."""

from __future__ import annotations

import logging
import sys
import warnings
from functools import partial
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can correct: the command line prints it as one line and exits with code 2.

    Args:
        what: what is wrong, a clause without a full stop.
        where: the file, argument or speaker it is wrong at.
        remedy: what to do about it, a sentence without a full stop.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        prefix = f"{where}: " if where not in (None, "") else ""
        stop = "" if remedy.endswith("?") else "."
        # what is wrong and what to do about it, for a list that says where
        self.reason = " ".join(f"{what}. {remedy}{stop}".split())
        super().__init__(" ".join(f"{prefix}{self.reason}".split()))

    def __reduce__(self) -> tuple[Any, ...]:
        # a loader's worker hands it to the process that trains
        return partial(UserError, where=self.where, remedy=self.remedy), (self.what,)


def require_range(name: str, value: float, low: float, high: float = inf, *, above: bool = False) -> None:
    """Refuse a number outside an argument's range, NaN and infinity always; `above` excludes `low` itself."""
    if not isfinite(value) or not low <= value <= high or (above and value == low):
        allowed = f"above {low}" if above else f"of at least {low}"
        allowed += f" and at most {high}" if isfinite(high) else ""
        raise UserError(f"{value} is out of range", where=name, remedy=f"Give a number {allowed}")


def require_one_of(name: str, value: str, choice: Any) -> None:
    """Refuse what isn't one of the strings of a `Literal`, which Python's callers may misspell."""
    if value not in get_args(choice):
        raise UserError(f"there is no {value!r}", where=name, remedy=f"Give one of {', '.join(get_args(choice))}")


def as_names(where: str, names: Iterable[str]) -> tuple[str, ...]:
    """Make a tuple of a list of names; a single text, whose letters would count as names, is refused."""
    if isinstance(names, str):
        raise UserError("is text", where=where, remedy=f"Give a list, such as [{names!r}]")
    return tuple(names)


def require_scale(scale: tuple[float, float]) -> None:
    """Refuse a label scale that has nothing between its ends, or no ends."""
    if len(scale) != 2 or not -inf < scale[0] < scale[1] < inf:
        remedy = "Give the lowest, then the highest label"
        raise UserError(f"{scale} is an empty range or an endless one", where="scale", remedy=remedy)


def counted(count: int, noun: str) -> str:
    """Write a number of things: 1 recording, 2 recordings."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _is_ours(record: logging.LogRecord) -> bool:
    # from which checkpoint training is resumed, also of a job that SLURM queued again
    resumes = record.getMessage().startswith("Restoring states")
    return resumes or not record.pathname.startswith(sys.modules["lightning"].__path__[0])


def silence_warnings(*, verbose: bool = False) -> None:
    """Silence what Lightning says on every run and no user can act on; `verbose` lets it say what it found."""
    warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # scores are computed over all devices before they are logged
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
    warnings.filterwarnings("default" if verbose else "ignore", message="The number of training batches")
    # where Lightning logs what it found, and this package what it did
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed"):
        logger = logging.getLogger(f"lightning.{name}")
        (logger.removeFilter if verbose else logger.addFilter)(_is_ours)
