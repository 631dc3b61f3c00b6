"""The tab that watches the training of a run, stops it and continues it."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
import pandas as pd

from kgen import KgenError
from kgen_plugin_studio.studio import Studio
from kgen_plugin_studio.tabs.messages import shown
from kgen_plugin_studio.training import Progress, read_progress, resume, stop

SECONDS = 2
"""Time between two looks at the files of a run."""


def train_tab(studio: Studio) -> None:
    """Builds the tab."""
    names = list(studio.runs)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            run = gr.Dropdown(names, value=names[0], label="Run", elem_id="training")
            summary = gr.HTML(elem_id="progress")
            with gr.Row():
                stopping = gr.Button("Stop with a checkpoint", elem_id="stop")
                resuming = gr.Button("Resume", elem_id="resume")
            answer = gr.HTML(elem_id="answer")
        with gr.Column(scale=3, min_width=320):
            loss = gr.LinePlot(_frame([]), x="step", y="value", color="name", title="Loss", height=260)
            sample = gr.Image(label="Newest samples", interactive=False, elem_id="sample", buttons=["fullscreen"])

    def look(name: str) -> tuple[Any, ...]:
        """Reads the files of the run."""
        try:
            progress = read_progress(studio.runs[name])
        except KgenError as error:
            return shown([f"error: {error}"]), _frame([]), None
        newest = None if progress.sample is None else str(progress.sample)
        return summary_of(progress, studio.report(name)), _frame(progress.losses), newest

    def stop_it(name: str) -> str:
        """Stops the training."""
        try:
            process = stop(studio.runs[name])
        except (KgenError, OSError) as error:
            return shown([f"error: {error}"])
        return shown([f"process {process} saves a checkpoint after its current step, and ends"])

    def resume_it(name: str) -> str:
        """Continues the training."""
        log = studio.output / f"{studio.runs[name].resolve().name}.log"
        try:
            started = resume(studio.runs[name], log)
        except (KgenError, OSError) as error:
            return shown([f"error: {error}"])
        studio.started.append(started)
        return shown([f"process {started.pid} continues the training; its output is in {log}"])

    outputs = [summary, loss, sample]
    timer = gr.Timer(SECONDS)
    gr.on([timer.tick, run.change], look, run, outputs, show_progress="hidden", concurrency_limit=None)
    stopping.click(stop_it, run, answer)
    resuming.click(resume_it, run, answer)


def summary_of(progress: Progress, report: str | None) -> str:
    """The progress as HTML.

    Args:
        report: The address of the report; None: there is no report yet.
    """
    running = "no process trains" if progress.process is None else f"process {progress.process} trains"
    facts = {"step": f"{progress.step:,} of {progress.steps:,}", "state": running}
    if progress.losses:
        facts["last loss"] = f"{progress.losses[-1][2]:.4g}"
    if progress.images_per_second is not None:
        facts["images per second"] = f"{progress.images_per_second:,.1f}"
    if progress.seconds_left is not None and progress.process is not None:
        facts["time left"] = f"{progress.seconds_left / 60:,.0f} min"
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in facts.items()
    )
    link = f'<a href="{report}" target="_blank">report</a>' if report else ""
    return f'<table class="studio-facts">{lines}</table>{link}'


def _frame(losses: list[tuple[int, str, float]]) -> pd.DataFrame:
    return pd.DataFrame(losses, columns=["step", "name", "value"])
