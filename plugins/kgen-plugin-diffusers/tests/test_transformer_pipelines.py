"""Pipelines with a published transformer: the same images as in diffusers, run files, and exported folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from keras import ops
from kgen_plugin_diffusers.exchange.export import export
from kgen_plugin_diffusers.exchange.run_file import run_file
from kgen_plugin_diffusers.transformer.labels import ClassLabel
from safetensors.numpy import load_file

import kgen
from kgen import ConfigError, DataError
from kgen.config import RunConfig
from kgen.random import noise_keys, sample

pytestmark = pytest.mark.portable

WEIGHTS = "diffusion_pytorch_model.safetensors"
LABELS = {"0": "tench, Tinca tinca", "1": "crane", "2": "crane, hoist"}
PROMPTS = ["tench", "7"]
GUIDANCE, STEPS = 3.0, 4
SPACING = {"kind": "leading", "offset": 0}


@pytest.fixture(scope="module")
def dit(published: ModuleType) -> Any:
    """A pipeline like DiT-XL-2-256, with its 1,000 classes: diffusers' pipeline takes that number for granted."""
    model = published.random_model("DiTTransformer2DModel", num_embeds_ada_norm=1000)
    scheduler = published.diffusers.DDIMScheduler(clip_sample=False)
    return published.diffusers.DiTPipeline(model, published.random_vae(), scheduler)


@pytest.fixture(scope="module")
def folder(dit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("dit")
    dit.save_pretrained(path)
    index = path / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": LABELS}))
    return path


def assembled(text: str, size: int, **changes: Any) -> kgen.Pipeline:
    """The pipeline of a run file."""
    given = {**yaml.safe_load(text), **changes}
    parts = {name: given[name] for name in ("encoder", "generator", "decoder")}
    return kgen.assemble(**parts, image_space=(size, size, 3), captions=["a red circle"] if changes else None)


def same_weights(run: Path, exported: Path, folder: Path) -> None:
    mine, its = (load_file(path / "transformer" / WEIGHTS) for path in (exported, folder))
    assert mine.keys() == its.keys()
    for name in its:
        np.testing.assert_array_equal(mine[name], its[name])


def test_dit(dit: Any, folder: Path, published: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its run file makes the images of diffusers, and its exported network is that of the folder."""
    text = run_file(folder)
    assert "'images' has a folder for each class" in text and "does not use" not in text
    config = RunConfig.from_dict(yaml.safe_load(text))
    assert config.data.name == "kgen/imagefolder" and config.data.options["size"] == 16
    kgen.save(assembled(text, 16), tmp_path / "saved")
    ours = kgen.load(tmp_path / "saved")
    noise = sample(ours.generator.noise_spec(), noise_keys(PROMPTS, [5, 5], 1, False))["start"]
    start = published.as_theirs(noise)
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *a, **k: start)
    dit.set_progress_bar_config(disable=True)
    expected = dit([0, 7], guidance_scale=GUIDANCE, num_inference_steps=STEPS, output_type="np").images
    expected = np.round(expected * 255)
    made = ours.generate(PROMPTS, seed=5, sampler="ddim", spacing=SPACING, steps=STEPS, guidance=GUIDANCE)
    assert np.abs(made - expected).max() <= 2
    inside = (expected > 0) & (expected < 255)
    assert inside.mean() > 0.9 and expected.std() > 20, "these images would hide a difference"
    models, _ = export(tmp_path / "saved", tmp_path / "exported")
    assert models["generator"].cls == "DiTTransformer2DModel"
    same_weights(tmp_path / "saved", tmp_path / "exported", folder)


def test_pixart(published: ModuleType, tmp_path: Path) -> None:
    """Like PixArt-alpha for 1024 pixels, which reads the size of the image. The text is given as an embedding."""
    import torch

    transformer = published.random_model("PixArtTransformer2DModel", sample_size=128)
    pipeline = published.diffusers.PixArtAlphaPipeline(
        None, None, published.random_vae(), transformer, published.diffusers.DDIMScheduler(clip_sample=False)
    )
    pipeline.save_pretrained(tmp_path / "pixart")
    index = tmp_path / "pixart" / "model_index.json"
    entries = json.loads(index.read_text())
    with pytest.raises(
        ConfigError, match=r"kgen reads a PixArt whose 'text_encoder' is a T5EncoderModel, and not miss"
    ):
        run_file(tmp_path / "pixart")
    parts = {"text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"]}
    index.write_text(json.dumps({**entries, **parts}))
    text = run_file(tmp_path / "pixart")
    assert "The encoder is that of kgen-plugin-keras-hub" in text and "does not use" not in text
    given = yaml.safe_load(text)
    assert given["encoder"] == {
        "name": "keras-hub/t5",
        "preset": str(tmp_path / "pixart" / "text_encoder"),
        "length": 120,
    }
    assert given["data"]["size"] == 256 and given["generator"]["network"]["factor"] == 2
    ours = assembled(text, 16, encoder={"name": "text/bag", "dim": 7})

    rng = np.random.default_rng(0)
    texts, mask = rng.normal(size=(4, 6, 7)).astype("float32"), np.ones((4, 6), "float32")
    mask[1, 3:] = mask[2:, 2:] = 0
    noise = sample(ours.generator.noise_spec(), noise_keys(PROMPTS, [5, 5], 1, False))
    pipeline.set_progress_bar_config(disable=True)
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    arrays = (texts[:2], mask[:2], texts[2:], mask[2:])
    expected = pipeline(
        negative_prompt=None,
        height=16,
        width=16,
        use_resolution_binning=False,
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        latents=published.as_theirs(noise["start"]),
        output_type="latent",
        **{name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)},
    ).images
    conditions = [
        {"sequence": ops.convert_to_tensor(one), "mask": ops.convert_to_tensor(real), "pooled": ops.zeros((2, 7))}
        for one, real in ((texts[:2], mask[:2]), (texts[2:], mask[2:]))
    ]
    start = {name: ops.convert_to_tensor(array) for name, array in noise.items()}
    options = {"sampler": "ddim", "spacing": SPACING, "steps": STEPS, "guidance": GUIDANCE}
    found = ops.convert_to_numpy(ours.generator.generate(*conditions, start, **options))
    expected = published.as_ours(expected)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()

    kgen.save(ours, tmp_path / "saved")
    models, reasons = export(tmp_path / "saved", tmp_path / "exported")
    assert models["generator"].cls == "PixArtTransformer2DModel" and set(reasons) == {"encoder"}
    same_weights(tmp_path / "saved", tmp_path / "exported", tmp_path / "pixart")
    index.write_text(json.dumps({**entries, **parts, "_class_name": "OtherPipeline"}))
    with pytest.raises(ConfigError, match=r"'_class_name' must be 'PixArtAlphaPipeline' or 'PixArtSigmaPipeline'"):
        run_file(tmp_path / "pixart")


def test_pixart_with_its_text_encoder(published: ModuleType, tmp_path: Path) -> None:
    """The run file of a whole folder assembles the pipeline, which makes the images of diffusers from texts."""
    pytest.importorskip("kgen_plugin_keras_hub")
    text_encoder, tokenizer = published.random_t5(7)
    pipeline = published.diffusers.PixArtAlphaPipeline(
        tokenizer,
        text_encoder,
        published.random_vae(),
        published.random_model("PixArtTransformer2DModel"),
        published.diffusers.DDIMScheduler(clip_sample=False),
    )
    pipeline.save_pretrained(tmp_path / "pixart")
    pipeline.set_progress_bar_config(disable=True)
    config = RunConfig.from_dict(yaml.safe_load(run_file(tmp_path / "pixart")))
    ours = kgen.assemble(
        encoder=config.encoder.choice,
        generator=config.generator.choice,
        decoder=config.decoder.choice,
        image_space=(16, 16, 3),
    )
    prompts = ["a red heart", "hearts, a & more"]
    noise = sample(ours.generator.noise_spec(), noise_keys(prompts, [5, 5], 1, False))["start"]
    expected = pipeline(
        prompts,
        height=16,
        width=16,
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        latents=published.as_theirs(noise),
        use_resolution_binning=False,
        clean_caption=False,
        output_type="np",
    ).images
    expected = np.round(expected * 255)
    made = ours.generate(prompts, seed=5, sampler="ddim", spacing=SPACING, steps=STEPS, guidance=GUIDANCE)
    assert np.abs(made - expected).max() <= 2
    inside = (expected > 0) & (expected < 255)
    assert inside.mean() > 0.9 and expected.std() > 20, "these images would hide a difference"
    assert np.abs(expected[0] - expected[1]).mean() > 2, "the texts would change nothing"


def test_an_earlier_class(published: ModuleType, tmp_path: Path) -> None:
    """It is exported as the class of its folder, and diffusers opens it as the present one."""
    options = {"norm_type": "ada_norm_zero", "norm_elementwise_affine": False}
    model = published.random_model("Transformer2DModel", **options)
    folder = tmp_path / "pipeline"
    published.save(model, folder / "transformer")
    published.save(published.random_vae(), folder / "vae")
    published.diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    index = {"transformer": ["diffusers", "Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "DDIMScheduler"]}))
    kgen.save(assembled(run_file(folder), 16), tmp_path / "saved")
    export(tmp_path / "saved", tmp_path / "exported")
    same_weights(tmp_path / "saved", tmp_path / "exported", folder)
    opened = published.diffusers.Transformer2DModel.from_pretrained(tmp_path / "exported", subfolder="transformer")
    assert type(opened).__name__ == "DiTTransformer2DModel"


def test_kgens_dit_is_refused(tmp_path: Path) -> None:
    network = {"kind": "dit", "patch": 2, "width": 8, "depth": 1, "heads": 1}
    generator = {"name": "diffusion/diffusion", "network": network}
    kgen.save(kgen.assemble(encoder="none", generator=generator, image_space=(8, 8, 3)), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"generator: no class of diffusers computes the same as the network 'dit'"):
        export(tmp_path / "run", tmp_path / "exported")


# ---- classes ------------------------------------------------------------------------------------------------------


def test_labels_are_names_or_numbers(folder: Path, tmp_path: Path) -> None:
    encoder = ClassLabel(pretrained=str(folder))
    with pytest.raises(ConfigError, match=r"has not read .* yet: call its adapt"):
        encoder.tokenize(["0"])
    encoder.adapt(["Tinca tinca", 3])
    encoder.save_assets(tmp_path)
    again = ClassLabel(pretrained="nowhere")
    again.load_assets(tmp_path)
    for each in (encoder, again):
        tokens = each.tokenize([" tench ", "Tinca tinca", "hoist", 999, np.int64(3), ""])
        assert tokens["class"].tolist() == [0, 0, 2, 999, 3, 1000]
        assert each.condition_space == kgen.ConditionSpace(1, 1001)
    pooled = ops.convert_to_numpy(encoder(tokens)["pooled"])
    np.testing.assert_array_equal(pooled, np.eye(1001)[tokens["class"]])
    for label, message in (
        ("crane", r"label 'crane' is a name of the classes 1 and 2: give the number"),
        ("tenth", r"label 'tenth' is not a class: give a number from 0 to 999, or a name such as 'tench'"),
        (1000, r"label '1000' is not a class"),
        (2.5, r"a label is a text or a whole number, not float"),
    ):
        with pytest.raises(ConfigError, match=message):
            encoder.tokenize([label])
    with pytest.raises(DataError, match=r"label 'cat' is not a class"):
        encoder.adapt(["cat"])
    alone = ClassLabel(pretrained=str(folder / "transformer"))
    alone.adapt([])
    with pytest.raises(ConfigError, match=r"label 'tench' is not a class: give a number from 0 to 999$"):
        alone.tokenize(["tench"])


@pytest.mark.parametrize("labels", [{"0": 1}, ["tench"], {"1000": "cat"}, {"x": "cat"}])
def test_damaged_names(labels: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    config = (folder / "transformer" / "config.json").read_text()
    (tmp_path / "transformer" / "config.json").write_text(config)
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": labels}))
    with pytest.raises(ConfigError, match=r"model_index\.json: 'id2label' must map"):
        ClassLabel(pretrained=str(tmp_path)).adapt([])
