"""The page: one tab for each thing to do."""

from __future__ import annotations

from typing import Any

import gradio as gr

from kgen_plugin_studio.studio import Studio
from kgen_plugin_studio.tabs.generate import generate_tab
from kgen_plugin_studio.tabs.images import images_tab
from kgen_plugin_studio.tabs.runs import list_runs, runs_tab
from kgen_plugin_studio.tabs.train import train_tab

SECONDS = 5
"""Time between two looks for new runs."""


def build(studio: Studio) -> gr.Blocks:
    """Builds the page of a studio."""
    with gr.Blocks(title="kgen studio", analytics_enabled=False, fill_width=True) as page:
        known = gr.State(list(studio.runs))
        with gr.Tab("Generate", id="generate"):
            choices = generate_tab(studio, known)
        with gr.Tab("Images", id="images"):
            choices += images_tab(studio)
        with gr.Tab("Train", id="train"):
            choices += train_tab(studio)
        with gr.Tab("Runs", id="runs") as runs:
            shown = runs_tab(studio)

        def look(known: list[str]) -> list[Any]:
            """Offers new runs wherever a run can be chosen."""
            names = studio.names()
            if names == known:
                return [gr.skip()] * (1 + len(choices))
            return [names, *(gr.Dropdown(choices=names) for _ in choices)]

        gr.on([gr.Timer(SECONDS).tick, page.load], look, known, [known, *choices], show_progress="hidden")
        gr.on([runs.select, known.change], lambda: list_runs(studio), None, shown, show_progress="hidden")
    return page
