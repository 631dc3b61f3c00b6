"""The tab that watches the training of a run, stops it and continues it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from kgen import KgenError
from kgen_plugin_studio.runs import address_of, report_of
from kgen_plugin_studio.studio import Studio
from kgen_plugin_studio.tabs.messages import shown
from kgen_plugin_studio.training import Progress, read_progress, resume, stop

SECONDS = 2
"""Time between two looks at the files of a run."""


def train_tab(studio: Studio) -> list[gr.Dropdown]:
    """Builds the tab. Returns the choice of the run."""
    names = list(studio.runs)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            run = gr.Dropdown(names, value=names[0], label="Run", elem_id="training", interactive=True)
            summary = gr.HTML(elem_id="progress")
            with gr.Row():
                stopping = gr.Button("Stop with a checkpoint", elem_id="stop")
                resuming = gr.Button("Resume", elem_id="resume")
            answer = gr.HTML(elem_id="answer")
        with gr.Column(scale=3, min_width=320):
            loss = gr.LinePlot(
                x="step", y="value", color="name", title="Loss", y_title=" ", color_title=" ", height=260
            )
            samples = gr.HTML(elem_id="samples")

    def look(name: str) -> tuple[Any, ...]:
        """Reads the files of the run."""
        try:
            progress = read_progress(studio.runs[name])
        except KgenError as error:
            return shown([f"error: {error}"]), _plot([]), ""
        return summary_of(progress), _plot(progress.losses), _linked(name, studio.runs[name], progress.sample)

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

    outputs = [summary, loss, samples]
    timer = gr.Timer(SECONDS)
    gr.on([timer.tick, run.change], look, run, outputs, show_progress="hidden", concurrency_limit=None)
    stopping.click(stop_it, run, answer)
    resuming.click(resume_it, run, answer)
    return [run]


def summary_of(progress: Progress) -> str:
    """The progress as HTML."""
    running = "no process trains" if progress.process is None else f"process {progress.process} trains"
    facts = {"step": f"{progress.step:,} of {progress.steps:,}", "state": running}
    facts |= {name: f"{value:.4g}" for _, name, value in progress.losses}  # the last of each name
    if progress.images_per_second is not None:
        facts["images per second"] = f"{progress.images_per_second:,.1f}"
    if progress.seconds_left is not None and progress.process is not None:
        facts["time left"] = _duration(progress.seconds_left)
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in facts.items()
    )
    return f'<table class="studio-facts">{lines}</table>'


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _linked(name: str, run: Path, grid: Path | None) -> str:
    """The newest samples, and a link to the report if there is one."""
    report, link = report_of(run), ""
    if report.is_file():
        link = f'<p><a href="{html.escape(address_of(name, "report", report))}" target="_blank">report</a></p>'
    if grid is None:
        return f'<p class="studio-empty">no samples yet</p>{link}'
    address = html.escape(address_of(name, "samples", grid))
    image = f'<img class="studio-grid" src="{address}" alt="newest samples">'
    return f'<a href="{address}" target="_blank">{image}</a>{link}'


def _plot(losses: list[tuple[int, str, float]]) -> gr.LinePlot:
    """The plot of the losses, or of nothing if there are none, because an empty one would keep its axes and colors.

    The axis has a margin at both ends, where Vega would move the labels towards their neighbors.
    """
    if not losses:
        return gr.LinePlot(None)
    frame = pd.DataFrame(losses, columns=["step", "name", "value"])
    first, last = int(frame["step"].min()), int(frame["step"].max())
    margin = max(0.03 * (last - first), 1)
    return gr.LinePlot(frame, x_lim=[first - margin, last + margin])
