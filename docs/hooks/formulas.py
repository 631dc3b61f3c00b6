"""Formulas of the lecture's pages: LaTeX becomes MathML, which browsers show without a script."""

from __future__ import annotations

import re

_CODE_OR_FORMULA = re.compile(
    r"^```.*?^```|^ {4}[^\n]*|`[^`\n]*`|^\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$",
    re.MULTILINE | re.DOTALL,
)
"""Code, or a formula: `$$...$$` on lines of its own, or `$...$` within a line."""


def with_mathml(text: str) -> str:
    """Replaces the formulas of a page in Markdown, `$...$` and `$$...$$`, by MathML. Code is left as it is.

    Args:
        text: The Markdown.
    """
    from latex2mathml.converter import convert

    def replaced(found: re.Match[str]) -> str:
        if found["block"] is not None:
            return f"<p>{convert(found['block'].strip(), display='block')}</p>"
        if found["inline"] is not None:  # in a span: Markdown would end the paragraph at a line that begins with <math>
            return f"<span>{convert(found['inline'])}</span>"
        return found[0]

    return _CODE_OR_FORMULA.sub(replaced, text)
