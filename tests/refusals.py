"""What is refused, and in what words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ser_personal.errors import UserError


def refused(line: str, call: Callable[..., object], *arguments: object, **options: object) -> None:
    """Call it, and find an error of the user's that this pattern is part of."""
    with pytest.raises(UserError, match=line):
        call(*arguments, **options)
