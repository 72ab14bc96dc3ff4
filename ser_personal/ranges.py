"""Numbers that arguments may be, beside those of `jsonargparse.typing`; `ser --help` imports `errors` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from jsonargparse.typing import restricted_number_type

from ser_personal.errors import LARGEST_SEED

if TYPE_CHECKING:
    AtLeastTwo: TypeAlias = int
    Seed: TypeAlias = int
    Share: TypeAlias = float
else:
    AtLeastTwo = restricted_number_type("AtLeastTwo", int, (">=", 2))
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", LARGEST_SEED)])
    Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])
