"""The run files that kgen ships for folders of diffusers, and one that makes such a folder, by the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import kgen
from kgen.cli import main
from kgen.parts.lora import FACTORS
from kgen.testing.execution import perturb

pytestmark = [pytest.mark.portable, pytest.mark.slow]

TINY = ["fit.steps=2", "fit.batch_size=4", "sample.options.steps=2", "loggers=[]"]
TINY_DIT = ["generator.network.width=8", "generator.network.depth=1", "generator.network.heads=1", "data.size=16"]
FOLDERS: dict[str, list[str]] = {
    "stable-diffusion-v1": ["data={name: imagefolder, path: my-images, size: 16}"],
    "stable-diffusion-v1-lora": ["data.size=16"],
    "sd-vae-dit": TINY_DIT,
}
"""The run files, and what makes each small. They look for the folders `sd15` and `my-images`."""


@pytest.fixture
def work(published: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny Stable Diffusion and eight captioned images."""
    published.random_pipeline().save_pretrained(tmp_path / "sd15")
    (tmp_path / "my-images").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "my-images" / f"{number}.png")
        (tmp_path / "my-images" / f"{number}.txt").write_text(f"a red heart {'abcdefgh'[number]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """What a command changes of Keras is undone."""
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


def command(*arguments: str) -> None:
    """Runs `kgen` in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["kgen", *arguments])
        main()
    assert not end.value.code, arguments


@pytest.mark.parametrize("name", FOLDERS)
def test_a_shipped_run_file(name: str, work: Path) -> None:
    settings = [f"--set={setting}" for setting in (*TINY, *FOLDERS[name])]
    command("run", name, *settings)
    command("generate", f"runs/{name}", "a blue heart", "--set", "steps=2", "-o", "made.png")
    with Image.open("made.png") as image:
        assert image.size == (16, 16)
    pipeline = kgen.load(f"runs/{name}")
    weights = {path: weight.numpy() for path, weight in kgen.weight_paths(pipeline.decoder.network).items()}
    published = load_file("sd15/vae/diffusion_pytorch_model.safetensors")
    np.testing.assert_array_equal(weights["decoder/conv_norm_out/gain"], published["decoder.conv_norm_out.weight"])
    if name == "sd-vae-dit":
        return
    unet = load_file("sd15/unet/diffusion_pytorch_model.safetensors")
    network = kgen.weight_paths(pipeline.generator.model.network)
    block, there = "down_blocks/0/attentions/0/transformer_blocks/0", "down_blocks.0.attentions.0.transformer_blocks.0"
    query = np.abs(network[f"{block}/attn2/q/kernel"].numpy() - unet[f"{there}.attn2.to_q.weight"].T).max()
    hidden = np.abs(network[f"{block}/ff/narrow/kernel"].numpy() - unet[f"{there}.ff.net.2.weight"].T).max()
    assert hidden == 0 and (query > 0) == (name == "stable-diffusion-v1-lora")
    if name == "stable-diffusion-v1-lora":
        factors = load_file(f"runs/{name}/lora.safetensors")
        assert {path.rpartition("/")[2] for path in factors} == set(FACTORS)
        assert all("/attn1/" in path or "/attn2/" in path for path in factors)


def test_from_a_folder_to_a_folder(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Import, training, images and export: diffusers opens the exported U-Net, whose trained matrices have changed."""
    import diffusers

    command("import", "sd15")
    text = capfd.readouterr().out.replace("name: openmoji", "name: imagefolder, path: my-images")
    Path("tiny.yaml").write_text(text)
    command("run", "tiny.yaml", "--out=runs/tiny", *(f"--set={setting}" for setting in TINY))
    command("generate", "runs/tiny", "a blue heart", "--set", "steps=2", "-o", "made.png")
    command("export", "runs/tiny", "exported")
    opened = diffusers.UNet2DConditionModel.from_pretrained("exported", subfolder="unet").state_dict()
    before = load_file("sd15/unet/diffusion_pytorch_model.safetensors")
    changed = {name for name, tensor in opened.items() if not np.array_equal(tensor.numpy(), before[name])}
    assert changed and all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in changed)
    assert diffusers.AutoencoderKL.from_pretrained("exported", subfolder="vae").config.latent_channels == 4


SMALL = [
    "data={name: imagefolder, path: my-images, size: 16}",
    "decoder.data={name: imagefolder, path: my-images, size: 16}",
    "decoder.fit={steps: 2, batch_size: 4}",
    "evaluate={metrics: []}",
]
"""What makes `stable-diffusion-small` small. Its networks stay as they are."""


def test_the_small_stable_diffusion_opens_in_diffusers(published: ModuleType, work: Path) -> None:
    """The autoencoder and the U-Net that it trains compute the same there."""
    import diffusers
    import torch

    command("run", "stable-diffusion-small", *(f"--set={setting}" for setting in (*TINY, *SMALL)))
    command("export", "runs/stable-diffusion-small", "exported")
    pipeline = kgen.load("runs/stable-diffusion-small")
    perturb(pipeline.generator)  # two steps leave the last layers near zero
    kgen.save(pipeline, "perturbed")
    command("export", "perturbed", "exported-perturbed")
    for folder in ("exported", "exported-perturbed"):
        assert {path.name for path in Path(folder).iterdir()} == {"README.md", "scheduler", "unet", "vae"}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained("exported", subfolder="scheduler")
    assert scheduler.config.num_train_timesteps == 1000 and scheduler.config.shift == 1
    vae = diffusers.AutoencoderKL.from_pretrained("exported", subfolder="vae").eval()
    unet = diffusers.UNet2DConditionModel.from_pretrained("exported-perturbed", subfolder="unet").eval()
    images, latents = published.images(2, 16, 16), np.random.default_rng(1).normal(size=(2, 4, 4, 4)).astype("float32")
    mean, std = (np.array(vae.config[key], "float32") for key in ("latents_mean", "latents_std"))
    condition = pipeline.encoder(pipeline.encoder.tokenize(["a red heart", ""]))
    text = {name: torch.tensor(keras.ops.convert_to_numpy(value)) for name, value in condition.items()}
    others = {"encoder_attention_mask": text["mask"], "class_labels": text["pooled"]}
    with torch.no_grad():
        encoded = (published.as_ours(vae.encode(published.as_theirs(images)).latent_dist.mode()) - mean) / std
        decoded = published.as_ours(vae.decode(published.as_theirs(latents * std + mean)).sample)
        output = published.as_ours(unet(published.as_theirs(latents), 251.5, text["sequence"], **others).sample)
    for mine, theirs in (
        (pipeline.decoder.encode(keras.ops.convert_to_tensor(images)), encoded),
        (pipeline.decoder.decode(latents, {}, {}), decoded),
        (pipeline.generator.model(latents, np.full(2, 251.5, "float32"), condition), output),
    ):
        assert np.abs(theirs).max() > 0.01
        np.testing.assert_allclose(keras.ops.convert_to_numpy(mine), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
