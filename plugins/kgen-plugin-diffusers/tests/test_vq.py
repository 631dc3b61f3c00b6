"""Published autoencoders with tokens as latents encode and decode as in diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.vq import VQModel

import kgen
from kgen import ConfigError, Space
from kgen.testing import DecoderConformance, gradients
from kgen.testing.execution import evaluate

pytestmark = pytest.mark.portable


def random_model(published: ModuleType, **options: Any) -> Any:
    """A model whose codes are near its vectors, so that many codes are used."""
    import torch

    model = published.random_model("VQModel", num_vq_embeddings=24, **options)
    with torch.no_grad():
        vectors = model.encode(published.as_theirs(published.images())).latents.movedim(1, -1)  # (2, 4, 6, dim)
        noise = 0.1 * vectors.std() * torch.randn(24, vectors.shape[-1])
        model.quantize.embedding.weight.copy_(vectors.flatten(0, 2)[::2] + noise)
    return model


def opened(folder: Path, images: np.ndarray) -> VQModel:
    decoder = VQModel(Space("continuous", images.shape[1:]), pretrained=str(folder))
    decoder.build(None)
    return decoder


def compare(published: ModuleType, folder: Path, model: Any) -> None:
    """Compares tokens, and images of tokens that do not come from images, with those of a model of diffusers."""
    import torch

    images = published.images()
    decoder = opened(folder, images)
    tokens = model.quantize(model.encode(published.as_theirs(images)).latents)[2][2].numpy().reshape(2, 4, 6)
    assert decoder.latent_space == Space("tokens", (4, 6), vocabulary=24) and len(np.unique(tokens)) > 3
    np.testing.assert_array_equal(ops.convert_to_numpy(evaluate(decoder, decoder.encode, images)), tokens)
    drawn = np.random.default_rng(1).integers(0, 24, (2, 4, 6)).astype("int32")
    vectors = model.quantize.get_codebook_entry(torch.from_numpy(drawn).long(), (2, 4, 6, decoder.architecture.dim))
    expected = published.as_ours(model.decode(vectors, force_not_quantize=True).sample)
    made = ops.convert_to_numpy(evaluate(decoder, lambda z: decoder.decode(z, {}, {}), drawn))
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


OPTIONS: dict[str, dict[str, Any]] = {
    "dimension of the codes": {"vq_embed_dim": 5},
    "channels": {"latent_channels": 4},
    "attention in a stage": {"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")},
    "no attention": {"mid_block_add_attention": False},
    "without an effect": {"scaling_factor": 0.3, "force_upcast": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_computes_the_same(name: str, published: ModuleType, tmp_path: Path) -> None:
    model = random_model(published, **OPTIONS[name])
    compare(published, published.save(model, tmp_path / "vqvae"), model)


@pytest.mark.backends
def test_on_every_backend(published: ModuleType, tmp_path: Path) -> None:
    """In a pipeline, whose generator makes tokens."""
    published.save(random_model(published, lookup_from_codebook=True), tmp_path / "vqvae")
    (tmp_path / "model_index.json").write_text("{}")
    compare(published, tmp_path, random_model(published))


def test_losses_are_those_of_the_paper(published: ModuleType, tmp_path: Path) -> None:
    """Both distances, whose values are equal; diffusers adds them with the weights 1 and 0.25."""
    model, images = random_model(published), published.images()
    losses = opened(published.save(model, tmp_path / "vqvae"), images).compute_losses(
        ops.convert_to_tensor(images), {}, training=False
    )
    for row, image in enumerate(images):
        theirs = float(model.quantize(model.encode(published.as_theirs(image[None])).latents)[1])
        assert float(losses["codebook"][row] + losses["commitment"][row]) == pytest.approx(theirs, rel=1e-4)
        assert float(losses["commitment"][row]) == pytest.approx(theirs / 5, rel=1e-4)


def test_each_distance_trains_its_own_side(published: ModuleType, tmp_path: Path) -> None:
    """The codes follow the vectors by one, the vectors the codes by the other; images train the vectors, too."""
    decoder = opened(published.save(random_model(published), tmp_path / "vqvae"), published.images())
    images = ops.convert_to_tensor(published.images())

    def trained(term: str) -> tuple[bool, bool]:
        """Whether a term has a gradient of the encoder network, and of the codes."""
        given = gradients(decoder, lambda: ops.sum(decoder.compute_losses(images, {}, training=True)[term]))
        moved = {path for path, gradient in given.items() if gradient is not None and np.abs(gradient).max() > 0}
        return any("/encoder/" in path for path in moved), any("codebook" in path for path in moved)

    assert trained("codebook") == (False, True)
    assert trained("commitment") == (True, False)
    assert trained("reconstruction") == (True, False)


def test_spatial_normalization_is_refused(published: ModuleType, tmp_path: Path) -> None:
    options = {"block_out_channels": (32, 32), "norm_num_groups": 32}
    folder = published.save(random_model(published, norm_type="spatial", **options), tmp_path / "movq")
    with pytest.raises(ConfigError, match=r"config\.json: 'norm_type' must be 'group', not 'spatial'"):
        opened(folder, published.images())


class Published:
    path = ""


@pytest.fixture(scope="module", autouse=True)
def known(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    Published.path = str(published.save(random_model(published), tmp_path_factory.mktemp("vqvae")))
    yield


class TestConformance(DecoderConformance):
    replicas = False  # the losses are those of kgen-plugin-codecs
    decode_options = ({}, {"tile": 4})

    def build(self) -> VQModel:
        return VQModel(Space("continuous", (8, 8, 3)), pretrained=Published.path)


def test_a_generator_of_tokens_fits() -> None:
    pipeline = kgen.assemble(
        encoder="none",
        generator={"name": "tokens/nar", "network": {"width": 8, "depth": 1, "heads": 2}},
        decoder={"name": "diffusers/vq-model", "pretrained": Published.path},
        image_space=(8, 8, 3),
    )
    assert pipeline.generate([""], steps=2).shape == (1, 8, 8, 3)
