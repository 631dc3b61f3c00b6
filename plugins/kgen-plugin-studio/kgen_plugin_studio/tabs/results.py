"""The components for results: images, and the command lines that make them."""

from __future__ import annotations

import gradio as gr


def image_gallery(ident: str) -> gr.Gallery:
    """A gallery of images, which enlarges one by a click."""
    return gr.Gallery(
        label="Images",
        show_label=False,  # it would lie on the first image
        columns=4,
        object_fit="contain",
        interactive=False,
        elem_id=ident,
        buttons=["fullscreen"],
    )


def command_box(label: str, ident: str) -> gr.Code:
    """A box for command lines to copy, which is hidden as long as there are none."""
    return gr.Code(
        label=label, language="shell", interactive=False, wrap_lines=True, visible=False, elem_id=ident, lines=1
    )
