"""kgen's own U-Net and its noise schedule, exported to diffusers, compute the same."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.exchange.export import export
from kgen_plugin_diffusers.exchange.schedule import scheduler_of

import kgen
from kgen import ConfigError
from kgen.testing.execution import perturb

pytestmark = pytest.mark.portable

UNET = {"kind": "unet", "width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [1], "head_dim": 8, "groups": 4}
BAG = {"name": "text/bag", "dim": 6, "length": 5}


def saved(
    path: Path, network: dict[str, Any], encoder: Any = BAG, decoder: Any = "identity", **generator: Any
) -> kgen.Pipeline:
    """A saved pipeline with random weights, none of which are zero, and a measured scale of the latents."""
    pipeline = kgen.assemble(
        encoder=encoder,
        generator={"name": "diffusion/diffusion", "network": {**UNET, **network}, **generator},
        decoder=decoder,
        image_space=(8, 12, 3),
        captions=["a red circle"],
    )
    perturb(pipeline.generator)
    if decoder is CODEC:
        pipeline.decoder.trainable = True  # a pipeline freezes its decoder
        perturb(pipeline.decoder)
        images = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3)).astype("uint8")
        pipeline.decoder.calibrate([images])
    kgen.save(pipeline, path)
    return pipeline


def condition_of(pipeline: kgen.Pipeline) -> dict[str, Any]:
    """The conditions of two texts of different lengths, or of two images without a text."""
    given = [pipeline.encoder.null] * 2 if pipeline.encoder.null is None else ["a red circle", ""]
    return dict(pipeline.encoder(pipeline.encoder.tokenize(given)))


def called(model: Any, x: Any, time: Any, condition: dict[str, Any]) -> Any:
    """The output of diffusers' U-Net, as the model card calls it."""
    import torch

    text = {name: torch.tensor(ops.convert_to_numpy(value)) for name, value in condition.items()}
    others = {"encoder_attention_mask": text["mask"], "class_labels": text["pooled"]}
    with torch.no_grad():
        return model(x, time, text["sequence"], **others).sample


@pytest.mark.parametrize(
    ("network", "encoder"),
    [
        ({}, BAG),
        ({"multipliers": [1, 3], "attention": [0], "blocks": 2, "groups": 3, "width": 6, "head_dim": 6}, BAG),
        ({"multipliers": [1], "attention": [], "dropout": 0.5}, "none"),
    ],
)
def test_it_computes_the_same(network: dict[str, Any], encoder: Any, published: ModuleType, tmp_path: Path) -> None:
    """With the text of a single position, too, where kgen has no queries and keys."""
    import diffusers
    import torch

    pipeline = saved(tmp_path / "saved", network, encoder)
    models, reasons = export(tmp_path / "saved", tmp_path / "exported")
    assert [model.part for model in models.values()] == ["unet", "scheduler"] and set(reasons) == {"encoder", "decoder"}
    model = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "exported", subfolder="unet").eval()
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 3)).astype("float32")
    times, condition = np.array([2.5, 951.0], "float32"), condition_of(pipeline)
    theirs = published.as_ours(called(model, published.as_theirs(x), torch.tensor(times), condition))
    mine = pipeline.generator.model(x, times, condition)
    assert np.std(theirs) > 0.01
    np.testing.assert_allclose(ops.convert_to_numpy(mine), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


CODEC = {"name": "codecs/kl-autoencoder", "channels": 3, "network": {"width": 4, "multipliers": [1, 2], "patch": 1}}


@pytest.mark.parametrize(
    ("generator", "options"),
    [
        ({}, {"sampler": "euler", "spacing": {"kind": "linspace", "rounded": False}}),
        (
            {"schedule": {"kind": "discrete", "zero_terminal_snr": True}, "prediction": "v"},
            {"sampler": "ddim", "spacing": "trailing"},
        ),
    ],
)
def test_the_code_of_the_model_card_makes_the_same_image(
    generator: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    """With the run's encoder, the scheduler, guidance and the scale of the latents."""
    import torch

    pipeline = saved(tmp_path / "saved", {}, decoder=CODEC, **generator)
    export(tmp_path / "saved", tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "no `StableDiffusionPipeline`" in card and "the encoder: no plugin converts BagOfWords" in card
    for before, after in (("FOLDER", tmp_path / "exported"), ("RUN", tmp_path / "saved"), ("PROMPT", "a red circle")):
        card = card.replace(f'"{before}"', repr(str(after)))
    card = card.replace("set_timesteps(20)", "set_timesteps(4)")
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    exec("".join(re.findall("```python\n(.*?)```", card, re.DOTALL)), found)
    torch.manual_seed(0)
    start = np.moveaxis(torch.randn(1, 3, 4, 6).numpy(), 1, -1)
    null, condition = ({name: value[i : i + 1] for name, value in found["given"].items()} for i in range(2))
    noise = {"start": ops.convert_to_tensor(start), "steps": ops.zeros((1, 2), "uint32")}
    latents = pipeline.generator.generate(condition, null, noise, steps=4, guidance=2.0, **options)
    theirs, mine = np.moveaxis(found["images"].numpy(), 1, -1), pipeline.decoder.decode(latents, condition, {})
    assert theirs.shape == (1, 8, 12, 3)
    np.testing.assert_allclose(ops.convert_to_numpy(mine), theirs, rtol=0, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("betas", ["linear", "scaled-linear", "cosine"])
def test_a_discrete_schedule_keeps_its_betas(betas: str) -> None:
    import diffusers

    generator = SimpleNamespace(schedule={"kind": "discrete", "betas": betas, "steps": 50}, prediction="eps")
    model = scheduler_of(generator)
    theirs = getattr(diffusers, model.cls)(**model.config).alphas_cumprod.numpy()
    mine = kgen.part("diffusion.schedule", generator.schedule).alphas_cumprod()
    np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-6)


def test_a_shifted_flow_keeps_its_shift() -> None:
    import diffusers

    generator = SimpleNamespace(schedule={"kind": "shifted-flow", "shift": 2.5}, prediction="velocity")
    model = scheduler_of(generator)
    theirs, numbers = getattr(diffusers, model.cls)(**model.config), np.arange(1, 1001)[::-1] / 1000
    mine = kgen.part("diffusion.schedule", generator.schedule).sigma(ops.convert_to_tensor(numbers, "float32"))
    np.testing.assert_allclose(theirs.sigmas.numpy(), ops.convert_to_numpy(mine), rtol=1e-5)
    np.testing.assert_allclose(theirs.timesteps.numpy(), 1000 * ops.convert_to_numpy(mine), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"schedule": "cosine", "prediction": "v"}, "schedule 'cosine' with prediction 'v'"),
        ({"schedule": "karras", "prediction": "edm"}, "schedule 'karras' with prediction 'edm'"),
        ({"schedule": {"kind": "discrete"}, "prediction": "velocity"}, "'discrete' with prediction 'velocity'"),
    ],
)
def test_a_schedule_that_diffusers_does_not_have_is_named(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    saved(tmp_path / "saved", {}, **options)
    models, reasons = export(tmp_path / "saved", tmp_path / "exported")
    assert list(models) == ["generator"] and named in reasons["noise schedule"]
    assert "noise schedule: diffusers has no scheduler of" in (tmp_path / "exported" / "README.md").read_text()


def test_groups_that_differ_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "saved", {"groups": 32})
    counts = "have 4 and 8 and 12 and 16 groups: train it with the option 'groups: 4'"
    with pytest.raises(ConfigError, match=rf"generator: UNet2DConditionModel of diffusers has one number.*{counts}"):
        export(tmp_path / "saved", tmp_path / "exported")
