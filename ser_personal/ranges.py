"""Types of numeric arguments that `jsonargparse.typing` lacks."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, TypeAlias

from jsonargparse.typing import restricted_number_type

from ser_personal.errors import LARGEST_SEED

# jsonargparse runs the TYPE_CHECKING block of the module that declares a signature: use these types by import only
if TYPE_CHECKING:
    AtLeastTwo: TypeAlias = int
    PositiveFinite: TypeAlias = float
    Seed: TypeAlias = int
    Share: TypeAlias = float
else:
    AtLeastTwo = restricted_number_type("AtLeastTwo", int, (">=", 2))
    PositiveFinite = restricted_number_type("PositiveFinite", float, [(">", 0), ("<", inf)])
    Seed = restricted_number_type("Seed", int, [(">=", 0), ("<=", LARGEST_SEED)])
    Share = restricted_number_type("Share", float, [(">", 0), ("<=", 1)])
