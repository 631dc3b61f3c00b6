"""LoRA files for Stable Diffusion's U-Net give what diffusers computes with PEFT."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import peft
import pytest
import torch
from keras import ops
from safetensors.numpy import save_file

import kgen

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
