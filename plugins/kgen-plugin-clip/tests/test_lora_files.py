"""LoRA files of PEFT, diffusers and kohya-ss give a published CLIP what PEFT computes, and kgen writes such files."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import peft
import pytest
import torch
from keras import ops
from kgen_plugin_clip.encoders import Clip
from safetensors.numpy import load_file, save_file

import kgen
from kgen.pipeline.stage_models import EncoderModel

pytestmark = pytest.mark.portable

TARGETS = ["q_proj", "v_proj", "fc1", "text_projection"]
ALPHA, OTHER_ALPHA = 5, 7
PEFT = "base_model.model."


@pytest.fixture(scope="module")
def adapted(published: ModuleType) -> Any:
    """The tiny model with random LoRA, by PEFT."""
    config = peft.LoraConfig(r=3, lora_alpha=ALPHA, target_modules=TARGETS, alpha_pattern={"mlp.fc1": OTHER_ALPHA})
    return with_random_factors(peft.get_peft_model(published.random_model("quick_gelu"), config))


def with_random_factors(model: Any) -> Any:
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def saved(adapted: Any, tmp_path: Path) -> Path:
    adapted.save_pretrained(tmp_path / "peft")
    return tmp_path / "peft"


@pytest.fixture
def encoder(folder: Path) -> Clip:
    made = kgen.make_encoder({"name": "clip/clip", "pretrained": str(folder)}, [])
    assert isinstance(made, Clip)
    made.null_condition()
    return made


def compare(encoder: Clip, model: Any, published: ModuleType, *, differs: bool = False) -> None:
    """The embeddings of texts and images are those of a model of `transformers`."""
    expected = published.theirs(model)
    tokens = {name: ops.convert_to_tensor(array) for name, array in encoder.tokenize(published.TEXTS).items()}
    images = ops.convert_to_tensor(encoder.prepared(published.images()).astype(np.float32) / 127.5 - 1.0)
    found = {"text_embeds": encoder.embed_texts(tokens), "image_embeds": encoder.embed_images(images)}
    for name, array in found.items():
        error = np.abs(ops.convert_to_numpy(array) - expected[name]).max()
        assert error > 0.01 if differs else error < 1e-5, (name, error)


def as_diffusers(saved: Path, tmp_path: Path) -> Path:
    """What diffusers writes, for a text tower: its names, and the configuration in the metadata."""
    renamed = {}
    for name, array in load_file(saved / "adapter_model.safetensors").items():
        name = name.replace(PEFT, "text_encoder.")
        for here, there in ((".lora_A.", ".lora_linear_layer.down."), (".lora_B.", ".lora_linear_layer.up.")):
            name = name.replace(here, there) if "_proj" in name else name
        renamed[name] = array
    config = json.loads((saved / "adapter_config.json").read_text())
    entries = {f"text_encoder.{key}": value for key, value in config.items()}
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(renamed, file, {"format": "pt", "lora_adapter_metadata": json.dumps(entries)})
    return file


def as_kohya(saved: Path, tmp_path: Path) -> Path:
    """What kohya-ss writes: names without dots, and tensors of alpha."""
    renamed: dict[str, np.ndarray] = {}
    for name, array in load_file(saved / "adapter_model.safetensors").items():
        module, _, factor = name.removeprefix(PEFT).removesuffix(".weight").rpartition(".")
        flat = f"lora_te_{module.replace('.', '_')}"
        renamed[f"{flat}.{'lora_down' if factor == 'lora_A' else 'lora_up'}.weight"] = array
        renamed[f"{flat}.alpha"] = np.array(OTHER_ALPHA if module.endswith("fc1") else ALPHA, np.float16)
    save_file(renamed, tmp_path / "kohya.safetensors")
    return tmp_path / "kohya.safetensors"


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
def test_files_are_read_in_full(
    form: str, saved: Path, adapted: Any, encoder: Clip, published: ModuleType, tmp_path: Path
) -> None:
    file = {"peft": lambda *_: saved, "diffusers": as_diffusers, "kohya": as_kohya}[form](saved, tmp_path)
    compare(encoder, adapted.base_model.model, published, differs=True)
    changed = kgen.load_lora(encoder, file)
    assert len(changed) == 2 * 2 * 2 + 1  # two towers of two blocks: qkv, widen; and the projection of texts
    compare(encoder, adapted.base_model.model, published)
    kgen.load_lora(encoder, file, scale=-1.0)
    with adapted.disable_adapter():
        compare(encoder, adapted.base_model.model, published)


def test_a_training_starts_from_a_file(saved: Path, adapted: Any, encoder: Clip, published: ModuleType) -> None:
    """It computes what PEFT does, also where alpha differs, and where the file has only some fused projections."""
    model = EncoderModel(encoder, kgen.Space("continuous", (12, 12, 3)))
    layers = kgen.add_lora(model, 3, alpha=2.0, targets=["encoder/*"])
    taken = kgen.init_lora(model, saved)
    assert len(taken) == 9 and {*taken} < layers.keys()
    compare(encoder, adapted.base_model.model, published)


def test_it_is_read_by_peft(encoder: Clip, published: ModuleType, tmp_path: Path) -> None:
    """What kgen trains, PEFT computes. The other forms give the same."""
    before = {path: weight.numpy().copy() for path, weight in kgen.weight_paths(encoder, encoder.weights).items()}
    model = EncoderModel(encoder, kgen.Space("continuous", (12, 12, 3)))
    rng = np.random.default_rng(0)
    for layer in kgen.add_lora(model, 2, alpha=3.0, targets=["encoder/*/blocks", "encoder/text_projection"]).values():
        layer.lora_kernel_b.assign(0.2 * rng.normal(size=layer.lora_kernel_b.shape))
    forms = ("peft", "diffusers", "kohya", "kgen")
    files = {form: kgen.save_lora(model, tmp_path / form, form=form) for form in forms}
    theirs = peft.PeftModel.from_pretrained(published.random_model("quick_gelu"), tmp_path / "peft")
    compare(encoder, theirs.eval().base_model.model, published)
    kgen.merge_lora(model)
    merged = {path: weight.numpy().copy() for path, weight in kgen.weight_paths(encoder, encoder.weights).items()}
    kgen.convert_lora(model, files["kgen"], tmp_path / "again", form="kohya")
    assert (tmp_path / "again").read_bytes() == files["kohya"].read_bytes()
    for form, file in files.items():
        for path, weight in kgen.weight_paths(encoder, encoder.weights).items():
            weight.assign(before[path])
        assert len(kgen.load_lora(model, file)) == 17
        for path, weight in kgen.weight_paths(encoder, encoder.weights).items():
            np.testing.assert_allclose(weight.numpy(), merged[path], atol=1e-6, err_msg=f"{form} {path}")


def test_files_that_do_not_fit_are_refused(saved: Path, encoder: Clip, tmp_path: Path) -> None:
    tensors = load_file(saved / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.0.mlp.fc1.lora_A.weight") and "text" in name)
    module, file = name.removesuffix(".lora_A.weight"), tmp_path / "changed.safetensors"
    before = {path: weight.numpy().copy() for path, weight in kgen.weight_paths(encoder, encoder.weights).items()}

    def refused(match: str, *left_out: str, **more: np.ndarray) -> None:
        kept = {key: array for key, array in tensors.items() if key not in left_out}
        save_file({**kept, **{key.replace("__", "."): array for key, array in more.items()}}, file)
        with pytest.raises(kgen.ConfigError, match=match):
            kgen.load_lora(encoder, file)

    refused(f"'{module}' lacks its factor 'down'", name)
    refused(r"'other' is not the name of a factor", other=np.zeros(2, np.float32))
    extra = {
        "other__lora_A__weight": np.zeros((3, 2), np.float32),
        "other__lora_B__weight": np.zeros((4, 3), np.float32),
    }
    refused(r"'other': the model has no such layer, so that this LoRA is for another model", **extra)
    refused(
        rf"'{module}' is for a kernel of \(15, 64\), but that of the model is \(16, 64\)",
        name,
        **{name.replace(".", "__"): tensors[name][:, 1:].copy()},
    )
    refused(
        rf"the factors of '{module}' have the shapes \(2, 16\) and \(64, 3\)",
        name,
        **{name.replace(".", "__"): tensors[name][1:].copy()},
    )
    for key, value, problem in (
        ("use_dora", True, "'use_dora' is an option of PEFT that kgen does not have"),
        ("bias", "all", "'bias' must be 'none', not 'all'"),
        ("use_of_tomorrow", 1, "'use_of_tomorrow': unknown"),
    ):
        config = json.loads((saved / "adapter_config.json").read_text())
        (saved / "adapter_config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(kgen.ConfigError, match=problem):
            kgen.load_lora(encoder, saved)
        (saved / "adapter_config.json").write_text(json.dumps(config))
    for path, weight in kgen.weight_paths(encoder, encoder.weights).items():
        np.testing.assert_array_equal(weight.numpy(), before[path])


def test_rank_stabilized_lora(published: ModuleType, encoder: Clip, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=3, target_modules=["k_proj", "out_proj"], use_rslora=True)
    model = with_random_factors(peft.get_peft_model(published.random_model("quick_gelu"), config))
    model.save_pretrained(tmp_path)
    kgen.load_lora(encoder, tmp_path)
    compare(encoder, model.base_model.model, published)


def test_the_text_tower_of_a_pipeline(published: ModuleType, tmp_path: Path) -> None:
    model = published.random_text_model(False)
    model.save_pretrained(tmp_path / "text_encoder")
    published.tokenizer().save_pretrained(tmp_path / "tokenizer")
    encoder = kgen.make_encoder({"name": "clip/text", "pretrained": str(tmp_path)}, [])
    encoder.null_condition()
    targets = ["q_proj", "k_proj", "out_proj", "fc2"]
    adapted = with_random_factors(
        peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets))
    )
    adapted.save_pretrained(tmp_path / "peft")
    assert len(kgen.load_lora(encoder, tmp_path / "peft")) == 2 * 3
    tokens = encoder.tokenize(published.TEXTS)
    with torch.no_grad():
        expected = adapted(torch.from_numpy(tokens["ids"]).long()).last_hidden_state.numpy()
    made = encoder({name: ops.convert_to_tensor(array) for name, array in tokens.items()})
    np.testing.assert_allclose(ops.convert_to_numpy(made["sequence"]), expected, atol=2e-5)
