"""Formulas as MathML, which browsers draw by themselves: `.. math::` and `:math:` of docstrings, ```math of pages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

if TYPE_CHECKING:
    from markdown import Markdown
    from mkdocs.config.defaults import MkDocsConfig

DISPLAYED = re.compile(r"^\.\. math::\n\n((?:[ \t]+\S.*\n|\n)+)|^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r":math:`([^`]+)`")


class FormulaPreprocessor(Preprocessor):
    """Puts MathML where formulas stand, before Markdown reads their backslashes."""

    def run(self, lines: list[str]) -> list[str]:
        """Replace the formulas of a text."""
        text = DISPLAYED.sub(self._displayed, "\n".join(lines) + "\n")
        # a formula may be broken over two lines
        return INLINE.sub(lambda found: self._keep(found[1], "inline"), text).split("\n")

    def _displayed(self, found: re.Match[str]) -> str:
        return f"\n{self._keep(found[1] or found[2], 'block')}\n\n"

    def _keep(self, latex: str, display: str) -> str:
        return self.md.htmlStash.store(convert(" ".join(latex.split()), display=display))


class FormulaExtension(Extension):
    """Registers the preprocessor."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register it after whitespace is normalised, and before fences are taken for code."""
        md.preprocessors.register(FormulaPreprocessor(md), "formulas", priority=28)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the extension to pages and docstrings."""
    config.markdown_extensions.append(FormulaExtension())
    return config
