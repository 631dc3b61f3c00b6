"""The inputs for images to start from, of which a run shows only those that it can use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from kgen import ConfigError
from kgen_plugin_studio.studio import Abilities
from kgen_plugin_studio.uploads import keep_image, keep_mask

Source = dict[str, Any]
"""Arguments of `ImageRequest`."""


def source_inputs(abilities: Abilities, folder: Path) -> tuple[list[gr.components.Component], Callable[..., Source]]:
    """Builds the inputs.

    Args:
        abilities: What the run can do.
        folder: The folder for the images of the browser.

    Returns:
        The components, and the function that turns their values into arguments of `ImageRequest`.
    """
    if abilities.blends:
        return _two_images(folder)
    if abilities.strength is None:
        return [], dict
    default = abilities.strength
    wanted, inputs = _optional("Start from an image")
    with inputs:
        if abilities.inpaints:
            gr.HTML(
                '<p class="studio-empty">Paint over the part that shall change, or nothing to change all of it.</p>'
            )
            editor = gr.ImageEditor(
                type="pil",
                format="png",
                label="Image",
                brush=gr.Brush(colors=["#ffffff"], color_mode="fixed"),
                transforms=(),
                layers=False,
                elem_id="source",
                interactive=True,
            )
        else:
            editor = gr.Image(type="pil", format="png", label="Image", elem_id="source", interactive=True)
        share = gr.Slider(
            0.01,
            1.0,
            default,
            step=0.01,
            label="Strength",
            info="How much the image changes",
            elem_id="strength",
            interactive=True,
        )

    def read(wanted: bool, value: Any, share: float) -> Source:
        """The image, the mask if something is painted, and the strength if it is not the default."""
        if not wanted:
            return {}
        image, layers = (value["background"], value["layers"]) if isinstance(value, dict) else (value, [])
        if image is None or (image.mode == "RGBA" and image.getbbox() is None):  # an empty canvas is transparent
            return {}
        strength = None if share == default else share
        return {"images": (keep_image(folder, image),), "mask": keep_mask(folder, layers or []), "strength": strength}

    return [wanted, editor, share], read


def _optional(label: str) -> tuple[gr.Checkbox, gr.Column]:
    """A checkbox, and a column that is shown while it is checked. A hidden image editor would not know its width."""
    wanted, inputs = gr.Checkbox(False, label=label, interactive=True), gr.Column(visible=False)
    wanted.change(lambda shown: gr.Column(visible=shown), wanted, inputs, show_progress="hidden")
    return wanted, inputs


def _two_images(folder: Path) -> tuple[list[gr.components.Component], Callable[..., Source]]:
    """The inputs for a decoder of embeddings of images: two images, and positions between them."""
    wanted, inputs = _optional("Blend two images")
    with inputs:
        with gr.Row():
            images = [
                gr.Image(type="pil", format="png", label=label, min_width=120, interactive=True)
                for label in ("One", "Other")
            ]
        positions = gr.Textbox(
            "0 0.25 0.5 0.75 1",
            label="Positions",
            info="From 0, the first image, to 1, the other one",
            elem_id="blend",
            interactive=True,
        )

    def read(wanted: bool, one: Any, other: Any, text: str) -> Source:
        """The two images and the positions, if there is an image."""
        given = [image for image in (one, other) if wanted and image is not None]
        if not given:
            return {}
        if len(given) == 1:
            raise ConfigError("there is one image, but a blend is between two: choose the other one, too")
        try:
            blend = tuple(float(word) for word in text.split())
        except ValueError as error:
            raise ConfigError(f"positions {text!r}: must be numbers from 0 to 1, such as 0 0.5 1") from error
        return {"images": tuple(keep_image(folder, image) for image in given), "blend": blend or (0.5,)}

    return [wanted, *images, positions], read
