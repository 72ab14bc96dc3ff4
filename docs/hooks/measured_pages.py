"""Pages of measurements join the navigation by lying in docs/: what no entry names stands under `Measured`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the section before the reference, where there is a page for it."""
    named = set(_pages(config.nav))
    measured = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    if measured:
        config.nav.insert(-1, {"Measured": measured})
    return config


def _pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for each in inner for page in _pages(each)]
