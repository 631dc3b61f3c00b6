"""`report.html`: one page, without references to other files, that shows what a run did."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from kgen.reporting.page import page, picture, table
from kgen.reporting.plot import Line, line_plot
from kgen.runs.directory import RunDirectory
from kgen.runs.manifest import TRAINED
from kgen.storage.files import write_text
from kgen.training.journal import read_rows

MAX_GRIDS = 8

MAX_SKIPPED = 10

_BODY = Template("""<h1>$name</h1>
<p class="quiet">$summary</p>
<h2>Final pictures</h2>
$final
<h2>Scores</h2>
$scores
$decoder
<h2>Loss</h2>
$curve
$over_time
<h2>Made of</h2>
$parts
$skipped
<h2>Timings</h2>
$timings
<h2>Configuration</h2>
<pre>$config</pre>
<footer><p>$credit</p></footer>""")


def write_report(directory: RunDirectory, credit: str) -> None:
    """Writes the page from what lies in the run directory.

    Args:
        credit: The credit line that the pictures' licence asks for.
    """
    manifest = directory.read_manifest(*TRAINED)
    software = manifest["software"]
    body = _BODY.substitute(
        name=html.escape(manifest["name"]),
        summary=html.escape(
            f"{manifest['data']['pictures']} pictures, {manifest.get('step', 0)} steps, seed {manifest['seed']}, "
            f"Keras {software['keras']} on {software['backend']} {software.get(software['backend'], '')}"
        ),
        final=picture(directory.final_grid, "drawn after the last step"),
        scores=_scores(directory),
        decoder=_decoder(directory.decoder_stage),
        curve=_curve(read_rows(directory.metrics)),
        over_time=_over_time(directory),
        parts=table(
            ("part", "component", "distribution"),
            ((kind, c["id"], f"{c['distribution']} {c['version']}") for kind, c in manifest["components"].items()),
        ),
        skipped=_skipped(manifest["data"].get("skipped", [])),
        timings=table(("", "seconds"), ((k.replace("_seconds", ""), str(v)) for k, v in manifest["timings"].items())),
        config=html.escape(directory.config.read_text(encoding="utf-8")),
        credit=html.escape(credit),
    )
    write_text(directory.report, page(manifest["name"], body))


_OVER_TIME = Template("""<h2>Pictures over time</h2>
<p class="quiet">The same prompts and the same noise at every step; of the averaged weights, where they are kept.</p>
<div class="over-time">$grids</div>""")


def _over_time(directory: RunDirectory) -> str:
    """What was drawn during training; nothing where nothing was."""
    grids = [picture(path, _caption(path)) for path in _pick(sorted(directory.samples.glob("step-*.png")))]
    return _OVER_TIME.substitute(grids="\n".join(grids)) if grids else ""


_DECODER = Template("""<h2>Decoder</h2>
<p class="quiet">Trained before the generator. Pictures, and what is decoded of their latents:</p>
$final
$scores
$curve
<div class="over-time">$sheets</div>""")


def _decoder(stage: RunDirectory) -> str:
    """What a decoder's own training did; nothing where it had none."""
    if not stage.read_manifest().get("finished"):
        return ""
    manifest = stage.read_manifest("scores", "timings")
    scores = {**manifest["scores"], "training seconds": manifest["timings"]["training_seconds"]}
    return _DECODER.substitute(
        final=picture(stage.final_grid, "after the last step"),
        scores=table(("measured", "value"), ((name, _number(value)) for name, value in scores.items())),
        curve=_curve(read_rows(stage.metrics)),
        sheets="\n".join(picture(path, _caption(path)) for path in _pick(sorted(stage.samples.glob("step-*.png")))),
    )


def _caption(path: Path) -> str:
    """Of an image "step-00000500-raw.png": "step 500, weights not averaged"."""
    _, step, *raw = path.stem.split("-")
    return f"step {int(step):,}" + (", weights not averaged" if raw else "") if step.isdecimal() else path.stem


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _pick(paths: Sequence[Path]) -> list[Path]:
    """At most MAX_GRIDS pictures, evenly over time; of raw weights only where there are no others."""
    averaged = [p for p in paths if not p.stem.endswith("-raw")] or list(paths)
    if len(averaged) <= MAX_GRIDS:
        return averaged
    return [averaged[round(i * (len(averaged) - 1) / (MAX_GRIDS - 1))] for i in range(MAX_GRIDS)]


def _scores(directory: RunDirectory) -> str:
    scores = directory.read_scores()
    rows = [(split, name, f"{value:.3f}") for split, numbers in scores.items() for name, value in numbers.items()]
    found = table(("prompts", "metric", "value"), rows) if rows else "<p>No metric was asked for.</p>"
    notes = directory.read_manifest().get("notes_on_scores", [])
    found += "".join(f"\n<p>Note: {html.escape(note)}.</p>" for note in notes)
    return found


def _skipped(lines: Sequence[str]) -> str:
    """The files that were not used, of which the first few are named."""
    if not lines:
        return ""
    items = [f"<li>{html.escape(line)}</li>" for line in lines[:MAX_SKIPPED]]
    if len(lines) > MAX_SKIPPED:
        items.append(f"<li>and {len(lines) - MAX_SKIPPED} more, which manifest.json names</li>")
    return f"<h2>Skipped</h2>\n<p>Images or captions that were not used: {len(lines)}.</p>\n<ul>{''.join(items)}</ul>"


def _curve(rows: Sequence[Mapping[str, str]]) -> str:
    """The loss and the validation loss over the steps."""
    lines = [
        Line(
            name, [(int(row["step"]), float(row[name])) for row in rows if math.isfinite(float(row.get(name) or "nan"))]
        )
        for name in ("loss", "val_loss")
    ]
    lines = [line for line in lines if line.points]
    return line_plot(lines, "step", "loss") if lines else "<p>Nothing was logged.</p>"
