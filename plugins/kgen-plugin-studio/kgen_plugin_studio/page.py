"""The page: one tab for each thing to do."""

from __future__ import annotations

import gradio as gr

from kgen_plugin_studio.studio import Studio
from kgen_plugin_studio.tabs.generate import generate_tab
from kgen_plugin_studio.tabs.train import train_tab


def build(studio: Studio) -> gr.Blocks:
    """Builds the page of a studio."""
    with gr.Blocks(title="kgen studio", analytics_enabled=False, fill_width=True) as page:
        with gr.Tab("Generate", id="generate"):
            generate_tab(studio)
        with gr.Tab("Train", id="train"):
            train_tab(studio)
    return page
