"""The decoder of embeddings: its condition, what training drops, and guidance."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_unclip.decoder import EmbeddingDecoder
from kgen_plugin_unclip.vectors import to_length

import kgen
from kgen import ConditionSpace, ConfigError, Encoder, Space
from kgen.random import sample
from kgen.testing import DecoderConformance

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
        return EmbeddingDecoder(SPACE, self.condition_space, self.embedder(), network=NETWORK, **often)


@pytest.mark.portable
def test_the_latent_is_the_embedding_of_the_resized_image(embedder: Any) -> None:
    decoder = made(embedder)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)).astype("float32")
    latents = ops.convert_to_numpy(decoder.encode(ops.convert_to_tensor(images.repeat(2, axis=1).repeat(2, axis=2))))
    wanted = np.sqrt(12) * ops.convert_to_numpy(embedder.embed_images(ops.convert_to_tensor(images)))
    np.testing.assert_allclose(np.mean(latents**2, axis=-1), 1.0, atol=1e-5)
    cosines = np.sum(latents * wanted, axis=-1) / 12
    assert cosines.min() > 0.9, "the triangular filter of the resizing blurs the image only slightly"
    assert decoder.latent_space == Space("continuous", (12,), bounded=False)


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
def test_an_encoder_without_embeddings_of_images_is_refused() -> None:
    class Texts(Encoder):
        pass

    for encoder, problem in ((None, "no encoder was given"), (Texts(), r"does not embed images \(Texts\)")):
        with pytest.raises(ConfigError, match=f"needs one encoder that embeds images.*{problem}"):
            kgen.make_decoder("unclip/decoder", SPACE, ConditionSpace(4, 8), encoder)
