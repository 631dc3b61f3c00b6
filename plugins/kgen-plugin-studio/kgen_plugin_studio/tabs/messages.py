"""Messages and command lines on the page."""

from __future__ import annotations

import html
from collections.abc import Sequence

import gradio as gr


def shown(messages: Sequence[str]) -> str:
    """Errors and warnings as HTML; "" if there are none."""
    kinds = ((text, "error" if text.startswith("error:") else "warning") for text in messages)
    return "".join(f'<div role="alert" class="studio-message {kind}">{html.escape(text)}</div>' for text, kind in kinds)


def command_box(label: str, ident: str) -> gr.Code:
    """A box for command lines to copy, which is hidden as long as there are none."""
    return gr.Code(
        label=label, language="shell", interactive=False, wrap_lines=True, visible=False, elem_id=ident, lines=1
    )
