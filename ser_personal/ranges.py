"""Ranges of numbers: types of arguments that `jsonargparse.typing` lacks, and checks for Python's own callers."""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, TypeAlias

from jsonargparse.typing import restricted_number_type

from ser_personal.errors import UserError

# faiss takes no larger one
LARGEST_SEED = 2**31 - 1

# jsonargparse runs the TYPE_CHECKING block of the module that declares a signature: use these types by import only
if TYPE_CHECKING:
    AtLeastTwo: TypeAlias = int
    NonNegativeFinite: TypeAlias = float
    Port: TypeAlias = int
    PositiveFinite: TypeAlias = float
    Seed: TypeAlias = int
    Share: TypeAlias = float
else:
    AtLeastTwo = restricted_number_type("AtLeastTwo", int, (">=", 2))
    NonNegativeFinite = restricted_number_type("NonNegativeFinite", float, [(">=", 0), ("<", inf)])
    Port = restricted_number_type("Port", int, [(">=", 0), ("<=", 65_535)])
    PositiveFinite = restricted_number_type("PositiveFinite", float, [(">", 0), ("<", inf)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", LARGEST_SEED)])
    Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])


def require_range(name: str, value: float, low: float, high: float = inf, *, above: bool = False) -> None:
    """Refuse a number outside an argument's range, NaN and infinity always; `above` excludes `low` itself."""
    if not isfinite(value) or not low <= value <= high or (above and value == low):
        if isfinite(high):
            allowed = f"above {low} and at most {high}" if above else f"from {low} to {high}"
        else:
            allowed = f"above {low}" if above else f"of at least {low}"
        raise UserError(f"{value} is out of range", where=name, remedy=f"Give a number {allowed}")


def require_scale(scale: tuple[float, float]) -> None:
    """Refuse a label scale that has nothing between its ends."""
    if not scale[0] < scale[1]:
        raise UserError(f"{scale} is an empty range", where="scale", remedy="Give the lowest, then the highest label")
