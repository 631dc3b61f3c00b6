"""The section of a run's report about its embeddings: a table, variations, a blend and a difference of texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgen import ReportSection, save_sheet
from kgen.random import spherical
from kgen_plugin_unclip.measurement import NEARER, SPLITS, Measured, Measurement
from kgen_plugin_unclip.texts import embed_texts, shift

SPLIT_NAMES = {"train": "seen", "holdout": "held out"}

SOURCE_NAMES = {"image": "of the right image", "prior": "of the prior", "text": "of the text"}

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far a blend goes from the first image to the second."""

ANGLES = (0.0, 0.15, 0.3, 0.45, 0.6)
"""How far a difference of texts turns an image. The paper uses 0.25 to 0.5 (section 3.3)."""

SHOWN, VARIATIONS = 2, 4
"""Number of images of each split whose variations are shown, and number of variations of each."""


def section(
    measurement: Measurement,
    measured: Sequence[Measured],
    settings: Mapping[str, Any],
    pair: tuple[int, int],
    run: Path,
) -> ReportSection:
    """Makes the section, and writes its images to the folder `sections` of the run.

    Args:
        measurement: The measurement, whose decoder makes the images.
        measured: What it measured.
        settings: The settings of the measurement, which the section names.
        pair: The rows of two training images. The first is blended with the second, and changed by the difference of
            their captions.
        run: The run directory.
    """
    folder = run / "sections"
    folder.mkdir(exist_ok=True)
    numbers = list(measured[0].values)
    head = ["prompts", "number", "embedding", *numbers]
    rows = [
        [
            SPLIT_NAMES[one.split],
            str(one.prompts),
            SOURCE_NAMES[one.source],
            *("" if (one.source, name) == ("text", NEARER) else _with_error(one.values[name]) for name in numbers),
        ]
        for one in measured
    ]
    text = [
        "The cosine is that with the embedding of the right image. An image counts as right by the metric of the run. "
        "The decoder reads the text of the prompt, too, or it reads the embedding alone. The images that are decoded "
        "from the embedding of the right image alone are variations of it.",
        f"Seeds: {settings['seeds']}, of noise of the prior and the decoder; the error is the standard error of their "
        f"mean. Options of the prior: {json.dumps(settings['options'])}; of the decoder: "
        f"{json.dumps(settings['decoder'])}.",
    ]
    return ReportSection("Embeddings", text, head, rows, _sheets(measurement, folder, pair))


def _sheets(measurement: Measurement, folder: Path, pair: tuple[int, int]) -> dict[str, str]:
    """Writes images of variations, of a blend and of a difference of texts. Returns their captions by file."""
    model, dataset, options = measurement.variations, measurement.dataset, measurement.decoder
    chosen = [(split, row) for split in SPLITS for row in measurement.rows(split, SHOWN)]
    names = [dataset.captions(split)[row] for split, row in chosen]
    originals = np.stack([dataset.image(split, row) for split, row in chosen])
    varied = model.decode(model.embed_images(originals), n=VARIATIONS, options=options)
    sheet = np.concatenate([originals[:, None], varied], axis=1)  # (N, 1 + n, H, W, C)
    captions = [text for name in names for text in (name, *[""] * VARIATIONS)]
    save_sheet(folder / "variations.png", sheet.reshape(-1, *sheet.shape[2:]), captions, 1 + VARIATIONS, {})
    first, second = (dataset.captions("train")[row] for row in pair)
    one, other = model.embed_images(np.stack([dataset.image("train", row) for row in pair]))
    shares = [f"{share:g}" for share in STEPS]
    between = model.decode(spherical(one[None], other[None], np.asarray(STEPS)), n=2, options=options)
    _save_rows(folder / "blend.png", between, shares)
    changed = model.decode(
        shift(one, *embed_texts(measurement.pipeline.encoder, [first, second]), ANGLES), n=2, options=options
    )
    _save_rows(folder / "difference.png", changed, [f"{angle:g}" for angle in ANGLES])
    return {
        "variations.png": "Images of the dataset, each with its variations; the embedding alone is decoded",
        "blend.png": f"From the image of '{first}' to that of '{second}', with two noises",
        "difference.png": f"The image of '{first}', changed by the difference of the texts '{second}' and '{first}'",
    }


def _save_rows(path: Path, images: np.ndarray, titles: Sequence[str]) -> None:
    """Writes images (N, n, H, W, C) with one row for each of n noises."""
    rows = images.swapaxes(0, 1).reshape(-1, *images.shape[2:])
    save_sheet(path, rows, list(titles) * images.shape[1], len(titles), {})


def _with_error(values: Sequence[float]) -> str:
    """The mean over the seeds, with its standard error if there are several."""
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.3f}" if len(values) > 1 else mean
