"""kgen embeddings: what a prior does, measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from kgen import ConfigError

NAME = "embeddings"
"""The name of the file of the results, and of the section of the report."""


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained run with a prior, such as runs/dalle2-small.")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Number of seeds.")] = 3,
    most: Annotated[int, typer.Option("-n", "--number", min=1, help="Largest number of prompts per split.")] = 256,
    before: Annotated[
        str | None,
        typer.Option("--from", metavar="CAPTION", help="The image that the report changes. Default: the first one."),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--to", metavar="CAPTION", help="The image that it becomes. Default: the last one.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a sampling option of the run; repeatable.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure the embeddings of a prior, and what the decoder makes of them.

    It compares the embedding of the right image, that of the prior and that of the text: how similar each is to the
    first, and the scores of the images that are decoded from it. The numbers are written to embeddings.json in RUN. The
    report gets the table, variations of images, a blend of two images and a difference of two texts.

    Example: kgen embeddings runs/dalle2-small --from "red heart" --to "green circle"
    """
    from kgen import add_to_report, load, make_metric, open_config, open_dataset, sampling_options
    from kgen_plugin_unclip.embeddings_report import section
    from kgen_plugin_unclip.measurement import Measurement
    from kgen_plugin_unclip.texts import difference, embed_texts

    config, dataset, pipeline = open_config(run), open_dataset(run), load(run)
    given = sampling_options(settings or (), type(pipeline.generator), type(pipeline.decoder))
    decoder = {**config.sample.options.get("decoder", {}), **given.pop("decoder", {})}
    options = {name: value for name, value in config.sample.options.items() if name != "decoder"} | given
    chosen = config.evaluate.metrics
    metrics = dict(zip(_names([one.name for one in chosen]), (make_metric(one.choice) for one in chosen), strict=True))
    readers = {name: metric for name, metric in metrics.items() if metric.reads_prompts}
    measurement = Measurement(pipeline, dataset, readers, options, decoder)
    captions = dataset.captions("train")
    pair = _pair(captions, before, after)
    difference(*embed_texts(pipeline.encoder, [captions[row] for row in pair]))  # an error, before it takes long
    measured = measurement.run(range(seeds), most, print)
    settings_used = {"seeds": seeds, "options": options, "decoder": decoder}
    added = section(measurement, measured, settings_used, pair, run)
    results = [
        {"split": one.split, "embedding": one.source, "prompts": one.prompts, "values": dict(one.values)}
        for one in measured
    ]
    file = run / f"{NAME}.json"
    file.write_text(json.dumps({**settings_used, "results": results}, indent=1) + "\n", encoding="utf-8")
    add_to_report(run, NAME, added, dataset.credit)
    for line in (*added.text, "", *(" | ".join(row) for row in (added.head, *added.rows)), "", str(file)):
        print(line)


def _names(metrics: Sequence[str]) -> list[str]:
    """The names of metrics without the namespace, unless two of them have the same name."""
    short = [name.split("/")[-1] for name in metrics]
    return [own if short.count(own) == 1 else name for own, name in zip(short, metrics, strict=True)]


def _pair(captions: Sequence[str], before: str | None, after: str | None) -> tuple[int, int]:
    """The rows of the training images of two captions. Default: the first and the last image of different captions."""
    first, second = (
        None if caption is None else _row(captions, option, caption)
        for option, caption in (("--from", before), ("--to", after))
    )
    if first is None:
        first = _other(captions, range(len(captions)), after)
    if second is None:
        second = _other(captions, reversed(range(len(captions))), captions[first])
    return first, second


def _row(captions: Sequence[str], option: str, caption: str) -> int:
    """The first training image of a caption. Raises ConfigError if there is none."""
    if caption not in captions:
        raise ConfigError(f"{option} {caption!r}: no training image has this caption; one of them is {captions[0]!r}")
    return captions.index(caption)


def _other(captions: Sequence[str], rows: Iterable[int], caption: str | None) -> int:
    """The first of the rows with another caption. Raises ConfigError if there is none."""
    for row in rows:
        if captions[row] != caption:
            return row
    raise ConfigError("all training images have the same caption, but the report needs a difference of two texts")
