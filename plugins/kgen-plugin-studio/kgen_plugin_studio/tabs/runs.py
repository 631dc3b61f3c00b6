"""The tab that lists the runs, with their samples and scores."""

from __future__ import annotations

import html

import gradio as gr

from kgen_plugin_studio.runs import Summary, summarize
from kgen_plugin_studio.studio import Studio


def runs_tab(studio: Studio) -> gr.HTML:
    """Builds the tab. Returns the list, which `list_runs` fills."""
    return gr.HTML(list_runs(studio), elem_id="runs")


def list_runs(studio: Studio) -> str:
    """The runs as HTML."""
    cards = "".join(_card(summarize(name, studio.runs[name])) for name in studio.names())
    return f'<div class="studio-runs">{cards}</div>'


def _card(run: Summary) -> str:
    name = html.escape(run.name)
    facts = {"model": run.parts, "steps": run.steps, "state": run.state}
    facts |= {label: f"{value:.4g}" for label, value in run.scores.items()}
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{html.escape(text)}</td></tr>" for label, text in facts.items() if text
    )
    grid = '<p class="studio-empty">no samples yet</p>'
    if run.samples is not None:
        address = html.escape(run.samples)
        grid = (
            f'<a href="{address}" target="_blank"><img class="studio-grid" src="{address}" alt="samples of {name}"></a>'
        )
    report = f'<a href="{html.escape(run.report)}" target="_blank">report</a>' if run.report else ""
    return f'<div class="studio-run"><h3>{name}</h3>{grid}<table class="studio-facts">{rows}</table>{report}</div>'
