"""Variations of images, and differences of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_unclip.command import command
from kgen_plugin_unclip.decoder import EmbeddingDecoder
from kgen_plugin_unclip.texts import embed_texts, shift

import kgen
from kgen import ConfigError, Encoder, Space, Variations

pytestmark = pytest.mark.portable

NETWORK = {"kind": "unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [0], "head_dim": 8}
SPACE = Space("continuous", (16, 16, 3))


def test_shift_turns_towards_the_difference_and_keeps_the_length() -> None:
    image, before, after = np.array([3.0, 0.0, 0.0]), np.array([0.0, 0.6, 0.8]), np.array([0.0, 1.0, 0.0])
    found = shift(image, before, after, [0.0, 0.5, 1.0])
    difference = (after - before) / np.linalg.norm(after - before)
    half = (np.array([1.0, 0.0, 0.0]) + difference) / np.sqrt(2)  # they are orthogonal
    np.testing.assert_allclose(found, 3 * np.stack([[1.0, 0.0, 0.0], half, difference]), atol=1e-6)
    with pytest.raises(ConfigError, match="both texts have the same embedding"):
        shift(image, before, before, [0.5])


@pytest.fixture(scope="module")
def model(embedder: Encoder) -> Variations:
    """A decoder with random weights."""
    decoder = EmbeddingDecoder(SPACE, embedder.condition_space, embedder, network=NETWORK)
    decoder.build(None)
    decoder.built = True
    random = np.random.default_rng(0)
    for weight in decoder.trainable_weights:
        weight.assign(weight + random.normal(0, 0.1, weight.shape))
    return Variations(decoder, embedder)


def test_an_image_depends_on_its_embedding_and_number_and_without_a_prompt_on_no_text(model: Variations) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    embeddings = model.embed_images(pixels)
    options = {"steps": 1}
    images = model.decode(embeddings, n=2, options=options)
    assert images.shape == (2, 2, 16, 16, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images.reshape(4, -1)}) == 4
    alone = model.decode(embeddings[1:], n=2, options=options)
    assert np.abs(alone[0].astype(int) - images[1]).max() <= 1
    texts = [model.decode(embeddings, prompt=text, options=options) for text in ("red heart", "blue star")]
    assert not np.array_equal(*texts)
    with pytest.raises(ConfigError, match="steps"):
        model.decode(embeddings, options={"steps": 0})


def test_texts_are_embedded_by_the_encoder(embedder: Encoder) -> None:
    texts = ["red heart", "", "blue star"]
    expected = embedder.embed_texts(embedder.tokenize(texts))
    np.testing.assert_allclose(embed_texts(embedder, texts), ops.convert_to_numpy(expected), atol=1e-6)


def test_another_decoder_makes_no_variations(embedder: Encoder) -> None:
    other = kgen.make_decoder("identity", SPACE, embedder.condition_space)
    with pytest.raises(ConfigError, match="the latents of decoder 'kgen/identity' are not embeddings"):
        Variations(other, embedder)


@pytest.mark.parametrize(
    ("count", "options", "problem"),
    [
        (2, {"blend": [0.5]}, "--blend needs a text: add --to TEXT. 'kgen generate RUN --image ONE --image OTHER"),
        (1, {"before": "red"}, "add --to TEXT"),
        (1, {"after": "red"}, "--to needs --blend"),
        (2, {"after": "red", "blend": [0.5]}, "--to changes one image"),
    ],
)
def test_options_that_do_not_belong_together(count: int, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        command(Path("run"), [Path("a.png")] * count, **options)
