"""The looks of the page: fonts of the system, so that it loads nothing from other hosts."""

from __future__ import annotations

import gradio as gr

CSS = """
.studio-message {white-space: pre-wrap; overflow-wrap: anywhere; border-left: 4px solid var(--color-accent);
  padding: 0.5em 0.8em; background: var(--background-fill-secondary); color: var(--body-text-color)}
.studio-message.error {border-color: var(--error-icon-color, #c00)}
.studio-facts th {text-align: left; padding-right: 1em; font-weight: normal; color: var(--body-text-color-subdued)}
#sample img, #images img {image-rendering: pixelated}
"""


def theme() -> gr.themes.Base:
    """Gradio's theme, light or dark as the browser prefers."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
