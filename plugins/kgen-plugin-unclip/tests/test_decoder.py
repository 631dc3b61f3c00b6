"""The decoder of embeddings: its condition, what training drops, and guidance."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusion.times import Uniform
from kgen_plugin_unclip.decoder import EmbeddingDecoder
from kgen_plugin_unclip.vectors import to_length
from PIL import Image

import kgen
from kgen import ConditionSpace, ConfigError, Encoder, Space
from kgen.random import sample
from kgen.testing import DecoderConformance
from kgen.testing.execution import Descent, perturb

SPACE = Space("continuous", (16, 16, 3))
NETWORK = {"kind": "unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [0], "head_dim": 8}


def made(embedder: Encoder, space: Space = SPACE, **options: Any) -> EmbeddingDecoder:
    decoder = EmbeddingDecoder(space, embedder.condition_space, embedder, network=NETWORK, **options)
    decoder.build(None)
    decoder.built = True
    return decoder


def condition(embedder: Encoder, *texts: str) -> dict[str, Any]:
    return embedder(embedder.tokenize(texts))


def _noise(decoder: EmbeddingDecoder, count: int) -> dict[str, np.ndarray]:
    return sample(decoder.noise_spec(), [(0, copy) for copy in range(count)])


@pytest.mark.backends
class TestConformance(DecoderConformance):
    condition_space: ClassVar = ConditionSpace(4, 8, 12)
    decode_options: ClassVar = ({"steps": 1}, {"steps": 2, "guidance": 2.0, "text": False})

    @pytest.fixture(autouse=True)
    def encoder(self, embedder: Encoder) -> None:
        type(self).embedder = type(embedder)

    def build(self) -> EmbeddingDecoder:
        often = {"embedding_dropout": 0.9}  # so that a small batch shows the null embedding
        small = {"kind": "dit", "patch": 2, "width": 16, "depth": 1, "heads": 2}  # half the operations of a U-Net
        return EmbeddingDecoder(SPACE, self.condition_space, self.embedder(), network=small, **often)


@pytest.mark.portable
def test_the_latent_is_the_embedding_of_the_resized_image(embedder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resized with the triangular filter of Pillow, which averages the pixels of an image that becomes smaller."""
    decoder, embed = made(embedder), embedder.embed_images
    seen: list[np.ndarray] = []

    def embed_images(images: Any) -> Any:
        seen.append(ops.convert_to_numpy(images))
        return embed(images)

    monkeypatch.setattr(embedder, "embed_images", embed_images)
    for size in (24, 4, 8):
        images = np.random.default_rng(size).uniform(-1, 1, (3, size, size, 3)).astype("float32")
        latents = ops.convert_to_numpy(decoder.encode(ops.convert_to_tensor(images)))
        expected = np.stack([resized(image) for image in images])
        np.testing.assert_allclose(seen[-1], expected, atol=1e-5)
        wanted = np.sqrt(12) * ops.convert_to_numpy(embed(ops.convert_to_tensor(expected)))
        np.testing.assert_allclose(latents, wanted, atol=1e-4)
        np.testing.assert_allclose(np.mean(latents**2, axis=-1), 1.0, atol=1e-5)
    assert decoder.latent_space == Space("continuous", (12,), bounded=False)


def resized(image: np.ndarray) -> np.ndarray:
    """Resizes an image (S, S, 3) to (8, 8, 3), in float."""
    channels = [
        Image.fromarray(channel).resize((8, 8), Image.Resampling.BILINEAR) for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


@pytest.mark.portable
def test_options_of_the_decoder_are_those_of_its_diffusion(embedder: Encoder) -> None:
    options = {"schedule": "cosine", "prediction": "eps", "times": {"kind": "uniform"}, "dtype": "mixed_bfloat16"}
    decoder = made(embedder, **options)
    assert (decoder.diffusion.schedule, decoder.diffusion.prediction) == ("cosine", "eps")
    assert decoder.diffusion.times == Uniform() and decoder.diffusion.network == decoder.network
    assert {layer.compute_dtype for layer in (decoder.to_tokens, decoder.diffusion)} == {"bfloat16"}


@pytest.mark.portable
def test_options_of_sampling_reach_the_diffusion(embedder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, seen = made(embedder), []

    def sampled(condition: Any, null: Any, noise: Any, **options: Any) -> Any:
        seen.append((noise, options))
        return noise["start"]

    monkeypatch.setattr(decoder.diffusion, "generate", sampled)
    given = {"sampler": "ddim", "steps": 3, "spacing": "quadratic", "guidance": 2.0, "guidance_interval": (0.1, 5.0)}
    given |= {"guidance_rescale": 0.5, "dynamic_threshold": 0.9, "eta": 0.5}
    noise = {name: ops.convert_to_tensor(value) for name, value in _noise(decoder, 1).items()}
    decoder.decode(ops.ones((1, 12)), condition(embedder, "red heart"), noise, **given)
    assert seen == [(noise, given)]
    assert decoder.noise_spec(text=False, **given) == decoder.diffusion.noise_spec(**given)
    with pytest.raises(ValueError, match="eta is an option of samplers 'ddim'"):
        decoder.noise_spec(eta=0.5)


@pytest.mark.portable
def test_an_image_without_a_prompt_is_decoded_without_a_text(embedder: Encoder) -> None:
    decoder = made(embedder)
    assert decoder.without_text({"steps": 3}) == {"steps": 3, "text": False}
    assert decoder.without_text({"text": True}) == {"text": True}, "unless the user asks for the text"


@pytest.mark.portable
def test_four_tokens_follow_the_text_and_the_pooled_embedding_is_whole(embedder: Encoder) -> None:
    decoder, given = made(embedder), condition(embedder, "red heart", "blue star")
    embedding = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(2, 12)).astype("float32"))
    found = decoder.joined(embedding, given, ops.convert_to_tensor(np.array([1.0, 0.0], "float32")))
    arrays = {name: ops.convert_to_numpy(value) for name, value in found.items()}
    kernel, bias = (ops.convert_to_numpy(weight) for weight in decoder.to_tokens.weights)
    tokens = (ops.convert_to_numpy(embedding) @ kernel + bias).reshape(2, 4, 8)
    np.testing.assert_allclose(arrays["sequence"][:, 4:], tokens, atol=1e-5)
    np.testing.assert_array_equal(arrays["sequence"][:, :4], ops.convert_to_numpy(given["sequence"]))
    np.testing.assert_array_equal(arrays["mask"], [[1] * 8, [0] * 4 + [1] * 4])
    np.testing.assert_array_equal(arrays["pooled"][:, 12:], ops.convert_to_numpy(embedding))
    np.testing.assert_array_equal(arrays["pooled"][0, :12], ops.convert_to_numpy(given["pooled"])[0])
    assert not arrays["pooled"][1, :12].any()


@pytest.mark.portable
def test_training_drops_embeddings_and_texts_in_their_shares_independently(
    embedder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, count = made(embedder), 4000
    decoder.null_embedding.assign(np.full(12, 7.0))
    seen: list[dict[str, Any]] = []

    def losses(images: Any, joint: dict[str, Any], training: bool) -> dict[str, Any]:
        seen.append({name: ops.convert_to_numpy(value) for name, value in joint.items()})
        return {"loss": images[:, 0, 0, 0]}

    monkeypatch.setattr(decoder.diffusion, "compute_losses", losses)
    images = ops.convert_to_tensor(np.random.default_rng(0).uniform(-1, 1, (count, 16, 16, 3)).astype("float32"))
    text = {name: ops.repeat(value, count, axis=0) for name, value in condition(embedder, "red heart").items()}
    for training in (True, False):
        decoder.compute_losses(images, text, training)
    no_embedding = (seen[0]["pooled"][:, 12:] == 7.0).all(axis=1)
    no_text = (seen[0]["mask"][:, :4] == 0.0).all(axis=1)
    error = 4 * np.sqrt(0.25 / count)  # four standard errors
    assert abs(no_embedding.mean() - 0.1) < error and abs(no_text.mean() - 0.5) < error
    assert abs((no_embedding & no_text).mean() - 0.05) < error
    assert seen[1]["mask"].all() and not (seen[1]["pooled"][:, 12:] == 7.0).any(), "evaluation drops nothing"


@pytest.mark.portable
def test_what_training_drops_depends_on_the_seed_of_the_decoder_alone(
    embedder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed training therefore drops the same ones."""
    decoder = made(embedder)
    decoder.null_embedding.assign(np.full(12, 7.0))
    seen: list[np.ndarray] = []

    def losses(images: Any, joint: dict[str, Any], training: bool) -> dict[str, Any]:
        dropped = [joint["pooled"][:, -1:] == 7.0, joint["mask"][:, :1] == 0.0]
        seen.append(np.concatenate([ops.convert_to_numpy(one) for one in dropped], axis=1))  # (B, 2)
        return {"loss": images[:, 0, 0, 0]}

    monkeypatch.setattr(decoder.diffusion, "compute_losses", losses)
    text = {name: ops.repeat(value, 64, axis=0) for name, value in condition(embedder, "red heart").items()}
    state = ops.copy(decoder.seed_generator.state.value)
    for again in (False, False, True):
        if again:
            decoder.seed_generator.state.assign(state)
        decoder.compute_losses(ops.zeros((64, 16, 16, 3)), text, True)
    first, second, third = seen
    np.testing.assert_array_equal(first, third)
    assert (first != second).any(axis=0).all(), "each batch drops others, of both kinds"


@pytest.mark.portable
def test_no_gradient_flows_through_the_embedding_of_the_image(
    embedder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedding is replaced by a weight, so that a gradient would be seen."""
    decoder = made(embedder)
    perturb(decoder)
    monkeypatch.setattr(decoder, "encode", lambda images: ops.zeros((2, 12)) + decoder.null_embedding)
    text = condition(embedder, "red heart", "blue star")
    descent = Descent(decoder, lambda batch: decoder.compute_losses(batch["images"], text, training=False))
    gradients = descent.gradients({"images": np.zeros((2, 16, 16, 3), np.float32)})
    (stopped,) = [gradient for path, gradient in gradients.items() if path.endswith("null_embedding")]
    assert stopped is None or not np.any(stopped)
    assert any(np.any(gradient) for path, gradient in gradients.items() if "to_tokens" in path)


@pytest.mark.portable
def test_guidance_leads_away_from_no_embedding_and_no_text(embedder: Encoder) -> None:
    decoder = made(embedder, prediction="x0")
    generator = np.random.default_rng(0)
    for weight in decoder.trainable_weights:
        weight.assign(weight + generator.normal(0, 0.1, weight.shape))
    text = condition(embedder, "red heart", "blue star")
    latent = ops.convert_to_tensor(generator.normal(size=(2, 12)).astype("float32"))
    noise = {name: ops.convert_to_tensor(value) for name, value in _noise(decoder, 2).items()}
    level = [ops.convert_to_tensor(np.float32(value)) for value in (0.0, 1.0, 1000.0)]
    start, absent = noise["start"], ops.zeros((2,))
    nothing = decoder.joined(ops.zeros((2, 12)), text, absent)  # the null embedding is 0 before the training
    decoder.null_embedding.assign(np.zeros(12))
    with_both = decoder.diffusion._denoised(start, *level, decoder.joined(to_length(latent), text, absent + 1.0))
    without = decoder.diffusion._denoised(start, *level, nothing)
    wanted = np.clip(ops.convert_to_numpy(without + 3.0 * (with_both - without)), -1.0, 1.0)
    found = decoder.decode(latent, text, noise, steps=1, sampler="euler", guidance=3.0)
    np.testing.assert_allclose(ops.convert_to_numpy(found), wanted, atol=1e-4)
    assert np.abs(wanted - ops.convert_to_numpy(with_both)).max() > 0.01


@pytest.mark.portable
def test_without_the_text_all_texts_give_the_same_image(embedder: Encoder) -> None:
    decoder, generator = made(embedder), np.random.default_rng(0)
    for weight in decoder.trainable_weights:
        weight.assign(weight + generator.normal(0, 0.1, weight.shape))
    latent = ops.convert_to_tensor(generator.normal(size=(1, 12)).astype("float32"))
    noise = {name: ops.convert_to_tensor(value) for name, value in _noise(decoder, 1).items()}
    images = {
        read: [
            ops.convert_to_numpy(decoder.decode(latent, condition(embedder, text), noise, steps=1, text=read))
            for text in ("red heart", "blue star")
        ]
        for read in (True, False)
    }
    np.testing.assert_allclose(*images[False], atol=1e-6)
    assert np.abs(images[True][0] - images[True][1]).max() > 1e-4


@pytest.mark.portable
def test_the_encoder_is_shared_and_stays_frozen(embedder: Encoder) -> None:
    decoder = made(embedder)
    decoder.trainable = True  # as the training of a decoder does
    own = {id(weight) for weight in embedder.weights}
    assert len(own) == 4 and own <= {id(weight) for weight in decoder.weights}
    assert not own & {id(weight) for weight in [*decoder.trainable_weights, *decoder.inference_weights]}
    assert not any(weight.trainable for weight in embedder.weights)


@pytest.mark.portable
def test_layers_that_the_encoder_makes_in_its_build_are_frozen(embedder: Encoder) -> None:
    class Late(type(embedder)):  # type: ignore[misc]
        def build(self, input_shape: Any = None) -> None:
            self.images, self.texts = (keras.layers.Dense(12, name=name) for name in ("images", "texts"))
            super().build(input_shape)

    encoder = Late()
    decoder = EmbeddingDecoder(SPACE, encoder.condition_space, encoder, network=NETWORK)
    assert not encoder.built
    decoder.build(None)
    assert len(encoder.images.weights) == 2
    own = {id(weight) for layer in (encoder.images, encoder.texts) for weight in layer.weights}
    assert not own & {id(weight) for weight in decoder.trainable_weights}
    assert not any(weight.trainable for weight in encoder.weights)


@pytest.mark.portable
def test_an_encoder_without_embeddings_of_images_is_refused() -> None:
    class Texts(Encoder):
        pass

    for encoder, problem in ((None, "no encoder was given"), (Texts(), r"does not embed images \(Texts\)")):
        with pytest.raises(ConfigError, match=f"needs one encoder that embeds images.*{problem}"):
            kgen.make_decoder("unclip/decoder", SPACE, ConditionSpace(4, 8), encoder)
