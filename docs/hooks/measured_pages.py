"""Pages of measurements join the navigation by lying in docs/: what no entry names stands under `Measured`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

TITLE = "Measured"
LINK_BESIDE = re.compile(r"\[([^\]]+)\]\((\w+\.md)(?:#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the section before the reference, where there is a page for it."""
    named = set(_pages(config.nav))
    measured = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    if measured:
        config.nav.insert(-1, {TITLE: measured})
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Leave the words alone of a measurement's link to another that has not been made."""
    if page.parent is None or page.parent.title != TITLE:
        return markdown
    folder = Path(config.docs_dir)
    return LINK_BESIDE.sub(lambda link: link[0] if (folder / link[2]).is_file() else link[1], markdown)


def _pages(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [page for each in inner for page in _pages(each)]
