"""The looks of the page: fonts of the system, so that it loads nothing from other hosts."""

from __future__ import annotations

import gradio as gr

CSS = """
.studio-message {white-space: pre-wrap; overflow-wrap: anywhere; border-left: 4px solid var(--color-accent);
  padding: 0.5em 0.8em; background: var(--background-fill-secondary); color: var(--body-text-color)}
.studio-message.error {border-color: var(--error-icon-color, #c00)}
.studio-facts {border-collapse: collapse; width: auto}
.studio-facts :is(th, td) {border: 0; padding: 0.15em 1em 0.15em 0; text-align: left; vertical-align: top}
.studio-facts th {font-weight: normal; white-space: nowrap; color: var(--body-text-color-subdued)}
.studio-grid {width: 100%; max-width: 640px; image-rendering: pixelated}
.studio-runs {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 1em}
.studio-run {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 0.8em; min-width: 0;
  overflow-wrap: anywhere}
.studio-run h3 {margin: 0 0 0.4em}
.studio-empty {color: var(--body-text-color-subdued)}
#images img, #processed img {image-rendering: pixelated}
"""


def theme() -> gr.themes.Base:
    """Gradio's theme, light or dark as the browser prefers."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
