"""Captioning as a whole: from a run file to `kgen caption`, with tokens of images, and with the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Outcome
from PIL import Image

import kgen as library
from kgen import Space

RUN = """\
data:
  name: captioning/captions
  of: {name: shapes, size: 16, colors: [red, blue], shapes: [circle, square], sizes: [large], positions: [left, right],
       holdout: [blue square], jitter: 0.03, count: 12, validation: 4}
  codec: CODEC
  length: 33
encoder: {name: captioning/tokens, dim: 8, depth: 1, heads: 1}
generator: {name: tokens/nar, length: predicted, network: {width: 8, depth: 1, heads: 1}}
decoder: captioning/letters
fit: {steps: 2, batch_size: 4}
sample: {every: 0, options: {steps: 1}}
evaluate: {metrics: [wording], max_prompts: 4, likelihood: {images: 2, options: {samples: 2}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("captioning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGEN_CACHE", str(path / "cache"))
        yield path


@pytest.fixture(scope="module")
def codec(folder: Path) -> Path:
    """A run directory whose decoder makes tokens of 4 colors, which are given, not trained."""
    pipeline = library.assemble(
        encoder={"name": "text/bag", "dim": 8},
        generator={"name": "tokens/ar", "network": {"width": 8, "depth": 1, "heads": 1}},
        decoder={"name": "tokens/palette-tokens", "colors": 4},
        image_space=Space("continuous", (16, 16, 3)),
        captions=["a"],
    )
    pipeline.decoder.palette.assign([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
    pipeline.save(folder / "codec" / "model")
    (folder / "codec" / "config.yaml").write_text("name: codec\n", encoding="utf-8")
    return folder / "codec"


@pytest.mark.slow
def test_from_images_to_words(kgen: Callable[..., Outcome], folder: Path, codec: Path) -> None:
    config = folder / "words.yaml"
    config.write_text(RUN.replace("CODEC", str(codec)), encoding="utf-8")
    outcome = kgen("run", config, cwd=folder)
    assert outcome.status == 0, outcome
    assert "holdout: wording exact" in outcome.out and "validation: bits per dimension" in outcome.out
    run = folder / "runs" / "words"
    dataset = library.open_dataset(run)
    files = [folder / f"{index}.png" for index in range(2)]
    for index, file in enumerate(files):
        Image.fromarray(dataset.values("train", "original")[index]).save(file)
    outcome = kgen("caption", run, *files, "--seed", "3", "--set", "steps=1", cwd=folder)
    assert outcome.status == 0, outcome
    lines = outcome.out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(file) for file in files]
    alone = kgen("caption", run, files[1], "--seed", "3", "--set", "steps=1", cwd=folder)
    assert alone.out == f"{lines[1].partition(': ')[2]}\n"  # whatever the batch
    kgen("caption", run, files[0], "--set", "step=2", cwd=folder).refuses("step: unknown key; did you mean 'steps'?")
    kgen("caption", run, folder / "no.png", cwd=folder).refuses("no.png: No such file")
    kgen("caption", run, run / "samples" / "final.png", cwd=folder).refuses("final.png: is a grid of")
    kgen("caption", codec, files[0], cwd=folder).refuses("data: ")
    assert "caption" in kgen("--help").out


@pytest.mark.slow
def test_captions_from_the_images_themselves(kgen: Callable[..., Outcome], folder: Path) -> None:
    config = folder / "whole.yaml"
    text = RUN.replace("  codec: CODEC\n", "").replace(
        "{name: captioning/tokens, dim", "{name: vision/patches, field: original, dim"
    )
    config.write_text(text, encoding="utf-8")
    outcome = kgen("run", config, cwd=folder)
    assert outcome.status == 0, outcome
    Image.new("RGB", (30, 20), "red").save(folder / "red.png")
    outcome = kgen("caption", folder / "runs" / "whole", folder / "red.png", "--set", "steps=1", cwd=folder)
    assert outcome.status == 0, outcome
