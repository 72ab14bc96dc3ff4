"""One `ser` command of a study, whose words may hold names in braces for what the grid puts in their place."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_BRACES = re.compile(r"\{(\w+)\}")
ROOT = "{root}"


@dataclass(frozen=True)
class Stage:
    """One `ser` command of a run.

    Attributes:
        name: fit, test, or the command.
        words: behind `ser`; {root} stands for the study's folder.
        configs: YAMLs among them.
        out: folder that the command writes to, relative to the study's.
    """

    name: str
    words: tuple[str, ...]
    configs: tuple[str, ...]
    out: str

    def filled(self, values: Mapping[str, str]) -> Stage:
        """Put values in the place of names in braces; other names stay."""
        fill = (_BRACES.sub(lambda match: values.get(match[1], match[0]), word) for word in self.words)
        return replace(self, words=tuple(fill))


def names_in(text: str) -> list[str]:
    """Names in braces, in their order."""
    names: list[str] = _BRACES.findall(text)
    return names
