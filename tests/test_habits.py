"""What users of Keras do with a model, and what users of other samplers ask of one: each works on a pipeline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from parts import Codec, Painter, Patterns, Words

import kgen
from kgen.pixels import to_uint8

PROMPTS = ["pattern 1", "pattern 2", "pattern 1"]


class Shades(kgen.Decoder):
    """Each pixel is one of four shades of gray: a token."""

    @property
    def latent_space(self) -> kgen.Space:
        return kgen.Space("tokens", self.image_space.shape[:2], vocabulary=4)

    def encode(self, images: Any) -> Any:
        return ops.cast(ops.round((images[..., 0] + 1.0) * 1.5), "int32")

    def decode(self, latent: Any, condition: Any, noise: Any) -> Any:
        shade = ops.cast(latent, "float32")[..., None] / 1.5 - 1.0
        return ops.repeat(shade, self.image_space.shape[-1], axis=-1)


class Shader(Painter):
    """Paints, and rounds to tokens."""

    accepts = ("tokens",)

    def compute_losses(self, x: Any, condition: Any, training: bool) -> Any:
        return super().compute_losses(ops.cast(x, "float32")[..., None], condition, training)

    def mean(self, condition: Any) -> Any:
        return super().mean(condition)[..., None]

    def generate(self, condition: Any, null_condition: Any, noise: Any) -> Any:
        return ops.cast(ops.clip(2.0 * noise["z"] + 2.0 + self.mean(condition)[..., 0], 0.0, 3.0), "int32")


def assemble(decoder: type[kgen.Decoder] | None = None, generator: type[Painter] = Painter) -> kgen.Pipeline:
    keras.utils.set_random_seed(0)
    dataset, encoder = Patterns(count=4), Words()
    encoder.adapt(dataset.captions("train"))
    made: Any = "identity" if decoder is None else decoder(dataset.image_space)
    space = dataset.image_space if decoder is None else made.latent_space
    part = generator(space, encoder.condition_space)
    return kgen.assemble(encoder=encoder, generator=part, decoder=made, dataset=dataset)


def arrays() -> tuple[np.ndarray, list[str]]:
    dataset = Patterns(count=4)
    captions = dataset.captions("train")
    return np.stack([dataset.image("train", i) for i in range(len(captions))]), list(captions)


@pytest.mark.backends
@pytest.mark.parametrize(("decoder", "generator"), [(None, Painter), (Codec, Painter), (Shades, Shader)])
def test_latents_decode_to_the_images(decoder: type[kgen.Decoder] | None, generator: type[Painter]) -> None:
    pipeline = assemble(decoder, generator)
    latents = pipeline.generate(PROMPTS, n=2, seed=[5, 6, 7], output="latents")
    space = pipeline.generator.space
    assert latents.shape == (6, *space.shape)
    assert latents.dtype == (np.int32 if space.kind == "tokens" else np.float32)
    assert len({row.tobytes() for row in latents}) == 6
    decoded = pipeline.decoder.decode(ops.convert_to_tensor(latents), {}, {})
    images = pipeline.generate(PROMPTS, n=2, seed=[5, 6, 7])
    made = to_uint8(np.clip(ops.convert_to_numpy(decoded), -1.0, 1.0))
    assert np.abs(made.astype(int) - images).max() <= 1  # another program rounds in its own way
    assert pipeline.generate([], output="latents").shape == (0, *space.shape)


def test_unknown_outputs_and_options_without_effect_are_refused() -> None:
    pipeline = assemble()
    with pytest.raises(kgen.ConfigError, match="output must be 'images' or 'latents', not 'latent'"):
        pipeline.generate(PROMPTS, output="latent")
    with pytest.raises(kgen.ConfigError, match="output='latents' decodes nothing"):
        pipeline.generate(PROMPTS, output="latents", decoder={"steps": 2})


def test_latents_that_are_not_finite_are_an_error() -> None:
    class Broken(Painter):
        def generate(self, condition: Any, null_condition: Any, noise: Any) -> Any:
            return self.mean(condition) + float("inf")

    with pytest.raises(kgen.RunError, match="not finite"):
        assemble(generator=Broken).generate(PROMPTS, output="latents")


@pytest.mark.backends
def test_checkpoints_of_weights_by_keras_are_read_back(tmp_path: Path) -> None:
    """`ModelCheckpoint` writes whole models in Keras's own format, which is refused; weights alone it can write."""
    pipeline = assemble()
    pipeline.compile("sgd")
    callback = keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", monitor="loss", save_weights_only=True)
    pipeline.fit(*arrays(), batch_size=2, callbacks=[callback], verbose=0)
    images = pipeline.generate(PROMPTS)
    other = assemble()
    other.generator.net.layers[-1].bias.assign_add(np.ones(8 * 8 * 3))
    assert (other.generate(PROMPTS) != images).any()
    other.load_weights(tmp_path / "best.weights.h5")
    np.testing.assert_array_equal(other.generate(PROMPTS), images)


def test_a_subclass_is_copied_as_itself() -> None:
    class Own(kgen.Pipeline):
        pass

    pipeline = assemble()
    made = copy.deepcopy(Own(pipeline.encoder, pipeline.generator, pipeline.decoder))
    assert type(made) is Own
    np.testing.assert_array_equal(made.generate(PROMPTS), pipeline.generate(PROMPTS))
