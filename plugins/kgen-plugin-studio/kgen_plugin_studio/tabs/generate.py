"""The tab that generates images from prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from kgen import ConfigError, ImageRequest, KgenError
from kgen_plugin_studio.fields import BOOLEANS, Field, settings_of
from kgen_plugin_studio.studio import Outcome, Studio
from kgen_plugin_studio.tabs.messages import shown
from kgen_plugin_studio.tabs.numbers import MODEL, number_input, seed_input, whole
from kgen_plugin_studio.tabs.results import command_box, image_gallery
from kgen_plugin_studio.tabs.sources import source_inputs


def generate_tab(studio: Studio, known: gr.State) -> list[gr.Dropdown]:
    """Builds the tab. Returns the choice of the run.

    Args:
        studio: The runs.
        known: The names of the runs that the page offers, which changes when there are new ones.
    """
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            common = _choices(list(studio.runs))
            run, others, prompts = common[:3]
            form = gr.Column()
        with gr.Column(scale=3, min_width=320):
            results = _results()

    with form:

        @gr.render(inputs=run, concurrency_id=MODEL, concurrency_limit=1)
        def options(name: str) -> None:
            """Shows the fields of a run, and the button."""
            try:
                abilities = studio.abilities(name)
            except KgenError as error:
                gr.HTML(shown([f"error: {error}"]))
                return
            fields = abilities.fields
            inputs = _inputs(fields)
            sources, read_sources = source_inputs(abilities, studio.output / "uploads")
            button = gr.Button("Generate", variant="primary", elem_id="generate")

            def generate(*values: Any) -> Iterator[tuple[Any, ...]]:
                """Generates the images of a click."""
                run, others, prompts, number, seed, shared, steps, *more = values
                given = {field.key: _text(value) for field, value in zip(fields, more[: len(fields)], strict=True)}
                settings = settings_of(fields, given)
                try:
                    source = read_sources(*more[len(fields) :])
                    request = _request(studio.runs[run], prompts, number, seed, shared, settings, source)
                    if not request.prompts and not request.blend:
                        raise ConfigError(f"there is no prompt: type one{', or blend two images' * abilities.blends}")
                except KgenError as error:
                    yield _to_results(Outcome(messages=[f"error: {error}"]))
                    return
                yield from _made(studio, [run, *others], request, steps)

            gr.on(
                [button.click, prompts.submit],
                generate,
                inputs=[*common, *inputs, *sources],
                outputs=results,
                concurrency_id=MODEL,
            )

    def offer(name: str, chosen: list[str]) -> gr.Dropdown:
        """Offers all runs but the chosen one for the comparison."""
        return gr.Dropdown(
            [other for other in studio.runs if other != name], value=[other for other in chosen if other != name]
        )

    gr.on([run.change, known.change], offer, [run, others], others, show_progress="hidden")
    return [run]


def _choices(names: list[str]) -> list[gr.components.Component]:
    """The inputs that all runs have: run, other runs, prompts, number, seed, shared noise, steps."""
    run = gr.Dropdown(names, value=names[0], label="Run", elem_id="run", interactive=True)
    others = gr.Dropdown(
        names[1:], value=[], multiselect=True, label="Compare with", elem_id="others", interactive=True
    )
    prompts = gr.Textbox(
        label="Prompt", info="One prompt per line", lines=2, elem_id="prompt", interactive=True, autofocus=True
    )
    with gr.Row():
        number = number_input(1, "Images per prompt", "number")
        seed = seed_input("seed")
    shared = gr.Checkbox(False, label="All prompts share the noise", interactive=True)
    steps = gr.Checkbox(
        False,
        label="Show the steps",
        info="The images are then sampled twice",
        elem_id="show-steps",
        interactive=True,
    )
    return [run, others, prompts, number, seed, shared, steps]


def _made(studio: Studio, names: list[str], request: ImageRequest, steps: bool) -> Iterator[tuple[Any, ...]]:
    """Yields the values of the components after each sampling step, if they are to be shown, and at the end."""
    if not steps:
        yield _to_results(studio.generate(names, request))
        return
    for made in studio.watch(names, request):
        if isinstance(made, Outcome):
            yield _to_results(made)
        else:
            images = gr.Gallery(
                [Image.fromarray(image.squeeze()) for image in made], columns=min(len(made), 4), selected_index=None
            )
            yield ("", images, *(gr.skip() for _ in range(3)))


def _request(
    run: Path,
    prompts: str,
    number: int | None,
    seed: int | None,
    shared: bool,
    settings: tuple[str, ...],
    source: dict[str, Any],
) -> ImageRequest:
    """The request of a click; raises ConfigError if a number is missing."""
    number, seed = whole("Images per prompt", number), whole("Seed", seed)
    lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
    return ImageRequest(
        run=run, prompts=lines, number=number, seed=seed, shared_noise=shared, settings=settings, **source
    )


def _inputs(fields: Sequence[Field]) -> list[gr.components.Component]:
    """A component for each field; all but the main ones are folded away."""
    first = [field for field in fields if field.main]
    made = {field.key: _input(field) for field in first}
    with gr.Accordion("More options", open=False):
        made |= {field.key: _input(field) for field in fields if field not in first}
    return [made[field.key] for field in fields]


def _input(field: Field) -> gr.components.Component:
    """The component of a field, whose value is a text or, for a checkbox, a boolean."""
    shared: dict[str, Any] = {"label": field.key, "info": field.help, "interactive": True}
    shared["elem_id"] = f"option-{field.key.replace('.', '-')}"
    if field.choices == BOOLEANS[::-1] or field.choices == BOOLEANS:
        return gr.Checkbox(field.default == "true", **shared)
    if field.choices:
        choices = list(dict.fromkeys([field.default, *field.choices]))
        return gr.Dropdown(choices, value=field.default, allow_custom_value=True, **shared)
    return gr.Textbox(placeholder=field.default, **shared)


def _results() -> list[gr.components.Component]:
    """The components that show an outcome: messages, images, metadata, command lines and files."""
    message = gr.HTML(elem_id="message")
    gallery = image_gallery("images")
    facts = gr.JSON(label="Metadata of the selected image", visible=False, elem_id="facts")
    command = command_box("The command that makes the same files", "command")
    files = gr.Files(label="Download", interactive=False, visible=False, elem_id="files")

    def select(images: list[Any], event: gr.SelectData) -> Any:
        """Reads the metadata of the selected image."""
        return gr.JSON(facts_of(Path(images[event.index][0])), visible=True)

    gallery.select(select, gallery, facts)
    return [message, gallery, facts, command, files]


def facts_of(file: Path) -> dict[str, str]:
    """The metadata of a PNG that kgen wrote: its prompt, seed, options and others."""
    with Image.open(file) as image:
        return {key: str(value) for key, value in getattr(image, "text", {}).items()}


def _to_results(outcome: Outcome) -> tuple[Any, ...]:
    """The values of the components. Images of several runs stand side by side: a row for each prompt and number."""
    by_run: dict[str, list[Path]] = {}
    for path, name in outcome.files:
        by_run.setdefault(name, []).append(path)
    files = [str(path) for paths in by_run.values() for path in paths]
    shown_images: list[Any] = list(files)
    if len(by_run) > 1:
        rows = zip(*by_run.values(), strict=True)
        shown_images = [(str(path), name) for row in rows for path, name in zip(row, by_run, strict=True)]
    return (
        shown(outcome.messages),
        gr.Gallery(
            shown_images, columns=len(by_run) if len(by_run) > 1 else min(len(files), 4) or 1, selected_index=None
        ),
        gr.JSON(None, visible=False),
        gr.Code("\n".join(outcome.commands), visible=bool(outcome.commands)),
        gr.Files(files, visible=bool(files)),
    )


def _text(value: Any) -> str:
    """The value of a component, as a user would write it after `--set KEY=`."""
    return str(value).lower() if isinstance(value, bool) else str(value or "")
