"""What the numbers on a page are: a sentence about each, in the words of the code that computes it if that has any."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kgen.errors import KgenError
from kgen.evaluation.results import BITS, LIKELIHOOD, Result
from kgen.options.documentation import described_loss, described_scores, first_paragraph
from kgen.plugins.discovery import registry

Meanings = Mapping[str, str]
"""A sentence about each number, by its name on the page."""

OF_BITS = (
    "The negative log-likelihood of images of the dataset, or a bound or an estimate of it, per pixel and channel. "
    "Lower is better."
)

OF_ERROR = "The standard error of the mean over the seeds."

OF_COLUMNS: Meanings = {
    "val_loss": "The same loss, but of images that are not used in training, with the same noise each time and with "
    "the EMA weights if there are any.",
    "learning_rate": "The size of the optimizer's steps, as its schedule sets it.",
    "gradient_norm": "The norm of the gradient at this step, before clipping.",
    "images_per_second": "The medians over the training: of its own speed, and of the loader's while it reads.",
}
"""The numbers that a report shows, by their columns in metrics.csv."""

OF_LEVELS = "The mean loss of the training in each part of this axis, in each third of the steps."

NAMES = {"val_loss": "validation loss"}
"""The names of columns on a page, if they are not those of the columns without underscores."""

OF_STAGE: Meanings = {
    "images": "The number of images that were measured.",
    "PSNR": "The mean peak signal-to-noise ratio of reconstructions, in decibels. Higher is better.",
    "encoded again, mean absolute error": "The difference between the latents of images and of their reconstructions.",
    "training seconds": "The time of the training.",
}
"""The numbers about the training of an encoder or a decoder, except those that the component computes."""


def column_name(column: str) -> str:
    """The name on a page of a column of metrics.csv."""
    return NAMES.get(column, column.replace("_", " "))


def of_scores(results: Sequence[Result]) -> Meanings:
    """What the numbers of each metric are, and those of the likelihood."""
    found: dict[str, str] = {}
    for result in results:
        if result.metric == LIKELIHOOD:
            found[BITS] = OF_BITS
        else:
            found[result.metric] = _said("metric", str(result.protocol.get("metric", result.metric)), first_paragraph)
    if any(result.standard_error is not None for result in results):
        found["±, standard error"] = OF_ERROR
    return {name: text for name, text in found.items() if text}


def of_columns(columns: Collection[str]) -> Meanings:
    """What the numbers in columns of metrics.csv are."""
    return {column_name(column): text for column, text in OF_COLUMNS.items() if column in columns}


def of_loss(kind: str, name: str) -> Meanings:
    """What the loss of a component's training is."""
    text = _said(kind, name, described_loss)
    return {f"loss of the {kind}": text or f"The number that the training of {name} minimizes."}


def of_stage(kind: str, name: str, scores: Collection[str]) -> Meanings:
    """What the numbers about the training of an encoder or a decoder are."""
    own = [score for score in scores if score not in OF_STAGE]
    text = _said(kind, name, described_scores) if own else ""
    return {score: OF_STAGE[score] for score in scores if score in OF_STAGE} | ({", ".join(own): text} if text else {})


def _said(kind: str, name: str, describe: Callable[[Any], str]) -> str:
    """What the docstrings of a component say; "" if its plugin is missing here."""
    try:
        return describe(registry().find(kind, name).load())
    except KgenError:
        return ""
