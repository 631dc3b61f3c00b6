"""The looks of the page: fonts of the system, so that it loads nothing from other hosts."""

from __future__ import annotations

import gradio as gr

CSS = """
.studio-message {white-space: pre-wrap; overflow-wrap: anywhere; border-left: 4px solid var(--color-accent);
  padding: 0.5em 0.8em; background: var(--background-fill-secondary); color: var(--body-text-color)}
.studio-message.error {border-color: var(--error-icon-color, #c00)}
.block:has(> .html-container > .prose:empty) {display: none}
.studio-facts {border-collapse: collapse; width: auto}
.studio-facts, .studio-facts tr, .studio-facts :is(th, td) {border: 0 !important; background: none !important}
.studio-facts :is(th, td) {padding: 0.15em 1em 0.15em 0 !important; text-align: left; vertical-align: top;
  overflow-wrap: break-word}
.studio-facts th {font-weight: normal; white-space: nowrap; color: var(--body-text-color-subdued)}
.studio-grid {width: 100%; max-width: 640px; image-rendering: pixelated}
.studio-runs {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 1em}
.studio-run {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 0.8em; min-width: 0;
  overflow-wrap: anywhere}
.studio-run th {white-space: normal}
.studio-run h3 {margin: 0 0 0.4em}
.studio-empty {color: var(--body-text-color-subdued)}
:is(#images, #processed) img {image-rendering: pixelated}
:is(#images, #processed) .grid-wrap {height: auto; min-height: 0; max-height: none; overflow: visible}
#images .grid-container {grid-template-columns: repeat(var(--grid-cols), minmax(0, 340px)); padding-top: 0}
#processed .grid-container {grid-template-columns: repeat(var(--grid-cols), minmax(0, 640px)); padding-top: 0}
.gallery-container:has(.preview) {min-height: 420px}
#processed .thumbnail-item, #processed .thumbnail-item img {height: auto; aspect-ratio: auto}
#files button[aria-label="Remove this file"] {display: none}
"""


def theme() -> gr.themes.Base:
    """Gradio's theme, light or dark as the browser prefers, with a darker gray for remarks in the light one."""
    chosen = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return chosen.set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500")
