"""The tab that runs commands on images: variations, larger images, captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from kgen import ConfigError, KgenError
from kgen_plugin_studio.image_commands import COMMANDS, ImageCommand
from kgen_plugin_studio.studio import Outcome, Studio
from kgen_plugin_studio.tabs.messages import shown
from kgen_plugin_studio.tabs.numbers import MODEL, number_input, seed_input, whole
from kgen_plugin_studio.tabs.results import command_box, image_gallery
from kgen_plugin_studio.uploads import keep_image


def images_tab(studio: Studio) -> list[gr.Dropdown]:
    """Builds the tab. Returns the choice of the run."""
    names = list(studio.runs)
    labels = {f"{command.label} (kgen {command.name})": command for command in COMMANDS}
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            chosen = gr.Radio(
                list(labels), value=next(iter(labels)), label="Command", elem_id="image-command", interactive=True
            )
            run = gr.Dropdown(names, value=names[0], label="Run", elem_id="image-run", interactive=True)
            files = gr.Files(label="Images", file_types=["image"], elem_id="image-files", height=160, interactive=True)
            prompt = gr.Textbox(
                label="Prompt", info="For decoders that read a text", elem_id="image-prompt", interactive=True
            )
            with gr.Row():
                number = number_input(4, "Variations per image", "image-number")
                seed = seed_input("image-seed")
            settings = gr.Textbox(
                label="Options", info="One KEY=VALUE per line", lines=2, elem_id="image-options", interactive=True
            )
            button = gr.Button("Run", variant="primary", elem_id="process")
        with gr.Column(scale=3, min_width=320):
            message = gr.HTML()
            gallery = image_gallery("processed")
            text = gr.Textbox(label="Captions", lines=4, visible=False, interactive=False, elem_id="captions")
            command = command_box("The command that gives the same", "image-line")

    def process(
        label: str, run: str, files: list[str] | None, prompt: str, number: int, seed: int, settings: str
    ) -> tuple[Any, ...]:
        """Runs the command."""
        try:
            images = _kept(files, studio.output / "uploads")
            given = [line.strip() for line in settings.splitlines() if line.strip()]
            options = {"prompt": prompt.strip(), "seed": whole("Seed", seed), "settings": given}
            outcome = _processed(studio, labels[label], run, images, number, options)
        except KgenError as error:
            outcome = Outcome(messages=[f"error: {error}"])
        paths = [str(path) for path, _ in outcome.files]
        return (
            shown(outcome.messages),
            gr.Gallery(paths, columns=min(len(paths), 2) or 1),
            outcome.text,
            gr.Code("\n".join(outcome.commands), visible=bool(outcome.commands)),
        )

    shown_fields = [prompt, number, gallery, text]
    chosen.change(lambda label: _fields_of(labels[label]), chosen, shown_fields, show_progress="hidden")
    button.click(
        process,
        [chosen, run, files, prompt, number, seed, settings],
        [message, gallery, text, command],
        concurrency_id=MODEL,
    )
    return [run]


def _fields_of(command: ImageCommand) -> tuple[Any, ...]:
    """Shows the fields that a command has."""
    return (
        gr.Textbox(visible=command.takes_prompt),
        gr.Number(visible=command.takes_number),
        gr.Gallery(visible=command.output is not None),
        gr.Textbox(visible=command.output is None),
    )


def _processed(
    studio: Studio, command: ImageCommand, run: str, images: list[Path], number: Any, options: dict[str, Any]
) -> Outcome:
    if command.takes_number:
        options["number"] = whole("Variations per image", number)
    return studio.process_images(command, run, images, options)


def _kept(files: list[str] | None, folder: Path) -> list[Path]:
    """The images of the browser as PNG files that stay. Raises ConfigError if there are none, or one is damaged."""
    if not files:
        raise ConfigError("there is no image: choose one or several under Images")
    kept = []
    for file in files:
        try:
            with Image.open(file) as image:
                kept.append(keep_image(folder, image))
        except OSError as error:
            raise ConfigError(f"{Path(file).name} cannot be read as an image: {error}") from error
    return kept
