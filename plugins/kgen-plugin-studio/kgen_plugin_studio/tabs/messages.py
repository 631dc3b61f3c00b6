"""Messages on the page."""

from __future__ import annotations

import html
from collections.abc import Sequence


def shown(messages: Sequence[str]) -> str:
    """Errors and warnings as HTML; "" if there are none."""
    kinds = ((text, "error" if text.startswith("error:") else "warning") for text in messages)
    return "".join(f'<div role="alert" class="studio-message {kind}">{html.escape(text)}</div>' for text, kind in kinds)
