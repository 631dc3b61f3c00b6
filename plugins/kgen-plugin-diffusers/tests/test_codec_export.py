"""kgen's own KL autoencoder, exported to diffusers, computes the same."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.exchange.export import export

import kgen
from kgen import ConfigError
from kgen.testing.execution import perturb

pytestmark = pytest.mark.portable

GENERATOR = {"name": "diffusion/diffusion", "network": {"kind": "dit", "patch": 2, "width": 8, "depth": 1, "heads": 1}}


def saved(path: Path, network: dict[str, Any]) -> kgen.Decoder:
    """A saved pipeline whose autoencoder has random weights, none of which are zero, and a measured scale."""
    decoder = {"name": "codecs/kl-autoencoder", "channels": 3, "network": {"width": 16, "patch": 1, **network}}
    pipeline = kgen.assemble(encoder="none", generator=GENERATOR, decoder=decoder, image_space=(16, 24, 3))
    pipeline.decoder.trainable = True  # a pipeline freezes its decoder
    perturb(pipeline.decoder)
    for half in (pipeline.decoder.encoder_network, pipeline.decoder.decoder_network):
        if half.attention is not None:  # weights that are nearly equal would hide the scale of the queries
            kernel = half.attention.attention.qkv.kernel
            kernel.assign(8.0 * ops.convert_to_numpy(kernel))
    rng = np.random.default_rng(0)
    pipeline.decoder.calibrate([rng.integers(0, 256, (4, 16, 24, 3)).astype("uint8")])
    kgen.save(pipeline, path)
    return pipeline.decoder


@pytest.mark.parametrize(
    "network",
    [
        {"multipliers": [1, 1]},
        {"multipliers": [2, 2, 2], "width": 4},
        {"multipliers": [1, 1], "blocks": 2, "attention": False},
        {"multipliers": [1], "width": 6},
        {"multipliers": [1, 3, 2], "blocks": [0, 2, 1]},
        {"multipliers": [2, 1], "width": 8, "blocks": [1, 0]},
    ],
)
def test_it_computes_the_same(network: dict[str, Any], published: ModuleType, tmp_path: Path) -> None:
    import diffusers
    import torch

    decoder = saved(tmp_path / "saved", network)
    export(tmp_path / "saved", tmp_path / "exported")
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path / "exported", subfolder="vae").eval()
    images = published.images(2, 16, 24)
    mean, deviation = (np.array(getattr(model.config, key), "float32") for key in ("latents_mean", "latents_std"))
    with torch.no_grad():
        theirs = (published.as_ours(model.encode(published.as_theirs(images)).latent_dist.mode()) - mean) / deviation
        z = np.random.default_rng(1).normal(size=theirs.shape).astype("float32")
        made = published.as_ours(model.decode(published.as_theirs(z * deviation + mean)).sample)
    for mine, its in ((decoder.encode(ops.convert_to_tensor(images)), theirs), (decoder.decode(z, {}, {}), made)):
        np.testing.assert_allclose(ops.convert_to_numpy(mine), its, rtol=0, atol=1e-4 * np.abs(its).max())
    again = kgen.assemble(
        encoder="none",
        generator=GENERATOR,
        decoder={"name": "diffusers/autoencoder-kl", "pretrained": str(tmp_path / "exported")},
        image_space=(16, 24, 3),
    )
    found = ops.convert_to_numpy(again.decoder.encode(ops.convert_to_tensor(images)))
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (
            {"patch": 2, "multipliers": [4, 8]},
            "cannot hold its network: patch is not 1; the normalizations of its stages have groups of 2 and 4 channels",
        ),
        ({"multipliers": [1, 1], "blocks": 2}, "the last stage has more than one of the blocks, and attention follows"),
        ({"multipliers": [1], "width": 128}, "attention has several heads, with 128 channels or more"),
    ],
)
def test_what_diffusers_cannot_hold_is_said(network: dict[str, Any], reason: str, tmp_path: Path) -> None:
    saved(tmp_path / "saved", network)
    with pytest.raises(ConfigError, match=rf"can hold:\n(.*\n)+  decoder: AutoencoderKL.*{reason}"):
        export(tmp_path / "saved", tmp_path / "exported")
