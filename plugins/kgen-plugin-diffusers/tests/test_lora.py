"""LoRA of published networks: it computes and learns what PEFT's does, and files are used in full on both sides."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import peft
import pytest
import torch
from keras import ops
from kgen_plugin_diffusers.transformer.options import DiT, PixArt
from kgen_plugin_diffusers.unet.options import UNet
from safetensors.numpy import load_file, save_file

import kgen
from kgen import ConditionSpace, Space
from kgen.pipeline.loss_model import LossModel

pytestmark = pytest.mark.portable

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "time_emb_proj", "conv1"]
ALPHA = 5


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_files_for_a_unet(form: str, published: ModuleType, tmp_path: Path) -> None:
    model = published.random_model("UNet2DConditionModel", in_channels=3, out_channels=3)
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 6},
        generator={
            "name": "diffusion/diffusion",
            "network": {
                "kind": "diffusers/unet-2d-condition",
                "pretrained": str(published.save(model, tmp_path / "unet")),
            },
            "schedule": "discrete",
            "prediction": "eps",
        },
        image_space=(8, 8, 3),
        captions=["a red circle"],
    )
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=ALPHA, target_modules=TARGETS))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in peft.get_peft_model_state_dict(adapted).items():
        module, _, factor = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if form == "diffusers":
            tensors[f"unet.{module}.{factor}.weight"] = tensor.numpy()
            continue
        flat = f"lora_unet_{module.replace('.', '_')}"
        tensors[f"{flat}.{'lora_down' if factor == 'lora_A' else 'lora_up'}.weight"] = tensor.numpy()
        tensors[f"{flat}.alpha"] = np.array(ALPHA, np.float32)
    metadata = {"lora_adapter_metadata": f'{{"unet.r": 3, "unet.lora_alpha": {ALPHA}}}'} if form == "diffusers" else {}
    save_file({name: array.copy() for name, array in tensors.items()}, tmp_path / "lora.safetensors", metadata)

    changed = kgen.load_lora(pipeline, tmp_path / "lora.safetensors")
    assert len(changed) > 20 and all(path.startswith("generator/model/") for path in changed)
    rng = np.random.default_rng(0)
    x, times = rng.normal(size=(2, 8, 8, 3)).astype("float32"), np.array([3.0, 951.0], "float32")
    text = rng.normal(size=(2, pipeline.encoder.condition_space.length, 6)).astype("float32")
    with torch.no_grad():
        expected = adapted(published.as_theirs(x), torch.from_numpy(times), torch.from_numpy(text)).sample
    condition = {"sequence": text, "mask": np.ones(text.shape[:2], "float32"), "pooled": text[:, 0]}
    tensors_of = {name: ops.convert_to_tensor(array) for name, array in condition.items()}
    network = pipeline.generator.model
    found = ops.convert_to_numpy(network(ops.convert_to_tensor(x), ops.convert_to_tensor(times), tensors_of))
    expected = published.as_ours(expected)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


# ---- training -----------------------------------------------------------------------------------------------------

NETWORKS: dict[str, Any] = {
    "UNet2DConditionModel": UNet,
    "DiTTransformer2DModel": DiT,
    "PixArtTransformer2DModel": PixArt,
}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
LAYERS = ["*/attn1", "*/attn2", "*/ff"]
"""The same layers in kgen; a DiT has no second attention."""


class Probe(LossModel):
    """Minimizes the sum of the squares of a network's output, which has larger gradients than a mean."""

    def __init__(self, network: keras.layers.Layer) -> None:
        super().__init__()
        self.network = network
        self.track({"loss": None}, self)
        self.built = True

    def predicted(self, batch: dict[str, Any]) -> Any:
        condition = {name: batch[name] for name in ("sequence", "pooled", "mask")}
        return self.network.network(batch["x"], batch["time"], condition)

    def call(self, batch: dict[str, Any], training: bool = False) -> dict[str, Any]:
        return {"loss": ops.sum(ops.square(self.predicted(batch)), axis=(1, 2, 3))}


def a_batch(cls: str) -> dict[str, np.ndarray]:
    """Two images and conditions; those of a DiT are classes."""
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(2, 8, 8, 4)), "time": np.array([3.0, 951.0]), "mask": np.ones((2, 7))}
    dim = {"DiTTransformer2DModel": 6, "PixArtTransformer2DModel": 7}.get(cls, 6)
    batch["sequence"] = rng.normal(size=(2, 7, dim))
    batch["pooled"] = np.eye(dim)[[2, 5]] if cls == "DiTTransformer2DModel" else batch["sequence"][:, 0]
    return {name: array.astype("float32") for name, array in batch.items()}


def theirs(published: ModuleType, cls: str, model: Any, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """The output of a model of diffusers or PEFT, (B, C, H, W)."""
    given: dict[str, Any] = {"timestep": torch.from_numpy(batch["time"])}
    if cls == "DiTTransformer2DModel":
        given["class_labels"] = torch.from_numpy(batch["pooled"].argmax(-1))
    else:
        given["encoder_hidden_states"] = torch.from_numpy(batch["sequence"])
    if cls == "PixArtTransformer2DModel":
        given["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    return model(published.as_theirs(batch["x"]), **given).sample


def probe(cls: str, folder: Path) -> Probe:
    shapes = {name: array.shape for name, array in a_batch(cls).items()}
    space = Space("continuous", shapes["x"][1:], bounded=False)
    network = NETWORKS[cls](pretrained=str(folder)).build(space, ConditionSpace(*shapes["sequence"][1:]), 4)
    network.build(shapes["x"], {name: shapes[name] for name in ("sequence", "pooled", "mask")})
    return Probe(network)


def close(found: np.ndarray, expected: np.ndarray, message: str = "", rounding: float = 0.0) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max() + rounding, message


@pytest.mark.parametrize("cls", [pytest.param("UNet2DConditionModel", marks=pytest.mark.slow), *list(NETWORKS)[1:]])
def test_a_network_computes_and_learns_what_peft_does(cls: str, published: ModuleType, tmp_path: Path) -> None:
    """One step of gradient descent with the rate 1 changes the factors by PEFT's gradients. PEFT reads kgen's file."""
    model, batch = published.random_model(cls), a_batch(cls)
    ours = probe(cls, published.save(model, tmp_path / "published"))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=ALPHA, target_modules=ATTENTION))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "peft")
    targets = [layer for layer in LAYERS if layer != "*/attn2" or not cls.startswith("DiT")]
    layers = kgen.add_lora(ours, 3, alpha=ALPHA, targets=targets)
    assert set(kgen.init_lora(ours, tmp_path / "peft")) == layers.keys()
    before = load_file(kgen.save_lora(ours, tmp_path / "before", form="peft"))
    expected = theirs(published, cls, adapted.eval(), batch)
    tensors = {name: ops.convert_to_tensor(array) for name, array in batch.items()}
    found = ops.convert_to_numpy(ours.predicted(tensors))
    close(found, published.as_ours(expected))
    again = peft.PeftModel.from_pretrained(published.random_model(cls), tmp_path / "before").eval()
    with torch.no_grad():
        close(found, published.as_ours(theirs(published, cls, again, batch)))

    expected.square().sum((1, 2, 3)).mean().backward()
    ours.compile(keras.optimizers.SGD(1.0), jit_compile=False, remat=True)
    ours.fit(batch, batch_size=2, verbose=0)
    after = load_file(kgen.save_lora(ours, tmp_path / "after", form="peft"))
    gradients = {n.replace(".default", ""): p.grad.numpy() for n, p in adapted.named_parameters() if "lora_" in n}
    assert after.keys() == gradients.keys()
    for name, gradient in gradients.items():
        close(before[name] - after[name], gradient, name, rounding=1e-7)  # of the factors, which are about 1


@pytest.mark.slow
@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_diffusers_reads_what_kgen_writes(form: Any, published: ModuleType, tmp_path: Path) -> None:
    cls, rng, pipeline = "UNet2DConditionModel", np.random.default_rng(0), published.random_pipeline()
    ours, batch = probe(cls, published.save(pipeline.unet, tmp_path / "published")), a_batch(cls)
    for layer in kgen.add_lora(ours, 3, alpha=ALPHA, targets=LAYERS).values():
        layer.lora_kernel_b.assign(0.2 * rng.normal(size=layer.lora_kernel_b.shape))
    file = kgen.save_lora(ours, tmp_path / "lora.safetensors", form=form)
    with torch.no_grad():
        before = published.as_ours(theirs(published, cls, pipeline.unet, batch))
        pipeline.load_lora_weights(tmp_path, weight_name=file.name)
        expected = published.as_ours(theirs(published, cls, pipeline.unet, batch))
    assert np.abs(expected - before).max() > 0.01 * np.abs(before).max()
    found = ops.convert_to_numpy(ours.predicted({name: ops.convert_to_tensor(array) for name, array in batch.items()}))
    close(found, expected)
