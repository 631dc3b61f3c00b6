"""LoRA: it computes and learns what PEFT's does, its checkpoints are small, and a run resumes with them exactly."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import ops
from parts import BFLOAT16, Painter, Words
from safetensors.numpy import load_file, save_file

import kgen
from kgen.backend.precision import precision
from kgen.config import FitConfig, RunConfig
from kgen.experiments.directory import RunDirectory
from kgen.nn import FusedDense, MultiHeadAttention
from kgen.parts.lora import lora_layers
from kgen.parts.trained import select_trained
from kgen.pipeline.loss_model import LossModel
from kgen.runs.run import check, run
from kgen.storage.checkpoints import FROZEN
from kgen.training.optimizers.averaging import averaging
from kgen.training.optimizers.of_keras import SGD

LAYERS = {
    "dense": lambda: keras.layers.Dense(6),
    "self-attention": lambda: MultiHeadAttention(2),
    "attention to a context": lambda: MultiHeadAttention(2),
}
PROJECTIONS = {
    "dense": {"": ("dense",)},
    "self-attention": {"qkv": ("q", "k", "v"), "out": ("out",)},
    "attention to a context": {"q": ("q",), "kv": ("k", "v"), "out": ("out",)},
}
"""The layers of PyTorch that each dense layer computes at once."""


class Probe(LossModel):
    """Minimizes the mean square of a layer's output."""

    def __init__(self, part: keras.layers.Layer, inputs: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.part = part
        part.build(*(array.shape for array in inputs))
        self.track({"loss": None}, self)
        self.built = True

    def call(self, batch: dict[str, Any], training: bool = False) -> dict[str, Any]:
        inputs = [batch[name] for name in sorted(batch)]
        return {"loss": ops.mean(ops.square(self.part(*inputs)), axis=(1, 2))}


class Torch(torch.nn.Module):
    """The same layers in PyTorch, with separate projections."""

    def __init__(self, names: Sequence[str], widths: dict[str, int]) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, torch.nn.Linear(widths.get(name, 8), 6 if name == "dense" else 8))

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        if hasattr(self, "dense"):
            return self.dense(x)
        context = x if context is None else context
        heads = [y.unflatten(-1, (2, -1)).transpose(1, 2) for y in (self.q(x), self.k(context), self.v(context))]
        y = torch.nn.functional.scaled_dot_product_attention(*heads)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.backends
@pytest.mark.parametrize("kind", LAYERS)
def test_it_computes_and_learns_what_peft_does(kind: str) -> None:
    """One step of gradient descent with the rate 1 changes the factors by PEFT's gradients, and nothing else."""
    import peft  # takes seconds, also where this test does not run

    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(3, 5, 8)).astype(np.float32)]
    if kind == "attention to a context":
        inputs.append(rng.normal(size=(3, 4, 7)).astype(np.float32))
    keras.utils.set_random_seed(0)
    model = Probe(LAYERS[kind](), inputs)
    layers = {path.split("/")[-2]: layer for path, layer in kgen.add_lora(model, 2, alpha=3.0).items()}
    projections = {key or "part": names for key, names in PROJECTIONS[kind].items()}
    assert layers.keys() == projections.keys()
    names = [name for group in projections.values() for name in group]
    other = Torch(names, {"k": 7, "v": 7} if len(inputs) == 2 else {})
    other = peft.get_peft_model(other, peft.LoraConfig(r=2, lora_alpha=3, target_modules=names))
    for key, group in projections.items():
        for factor in (layers[key].lora_kernel_a, layers[key].lora_kernel_b, layers[key].bias):
            factor.assign(0.3 * rng.normal(size=factor.shape))
        for name, parts in zip(group, pieces(layers[key], len(group)), strict=True):
            for parameter, array in zip(parameters(other, name), parts, strict=True):
                parameter.data = torch.tensor(array.T.copy())
    before = {path: weight.numpy().copy() for path, weight in kgen.weight_paths(model, model.weights).items()}
    made = other(*map(torch.tensor, inputs))
    found = model.part(*map(ops.convert_to_tensor, inputs))
    np.testing.assert_allclose(ops.convert_to_numpy(found), made.detach().numpy(), atol=1e-5)

    made.square().mean().backward()
    model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    model.fit(dict(zip("xy", inputs, strict=False)), batch_size=3, verbose=0)
    after = {path: weight.numpy() for path, weight in kgen.weight_paths(model, model.weights).items()}
    moved = {path for path in after if not np.array_equal(after[path], before[path])}
    assert moved == {path for path in after if "lora" in path} and len(moved) == 2 * len(layers)
    for key, group in projections.items():
        prefix = f"part/{key}/" if key != "part" else "part/"
        steps = {f: before[f"{prefix}lora_kernel_{f}"] - after[f"{prefix}lora_kernel_{f}"] for f in "ab"}
        for name, *parts in zip(group, *(np.split(steps[f], len(group), axis=1) for f in "ab"), strict=True):
            for parameter, step in zip(parameters(other, name)[:2], parts, strict=True):
                np.testing.assert_allclose(step, parameter.grad.numpy().T, atol=1e-5)


def pieces(layer: Any, count: int) -> zip[Any]:
    """The factors, the kernel and the bias of each projection of a dense layer."""
    weights = (layer.lora_kernel_a, layer.lora_kernel_b, layer._kernel, layer.bias)
    return zip(*(np.split(weight.numpy(), count, axis=-1) for weight in weights), strict=True)


def parameters(model: Any, name: str) -> list[Any]:
    """The same weights of a layer in PEFT's model."""
    layer = getattr(model.base_model.model, name)
    factors = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    return [*factors, layer.base_layer.weight, layer.base_layer.bias]


@pytest.mark.backends
def test_factors_stay_float32_in_mixed_precision() -> None:
    """Layers compute in bfloat16; what is trained, and what is merged into the kernels, is not rounded."""
    inputs = [np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)]

    def trained(policy: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rng = np.random.default_rng(1)
        keras.utils.set_random_seed(0)
        with precision(policy):
            model = Probe(MultiHeadAttention(2), inputs)
        for layer in kgen.add_lora(model, 2, alpha=3.0).values():
            layer.lora_kernel_b.assign(0.3 * rng.normal(size=layer.lora_kernel_b.shape))
        made = model.part(ops.convert_to_tensor(inputs[0]))
        assert keras.backend.standardize_dtype(made.dtype) == policy.removeprefix("mixed_")
        before = {path: weight.numpy().copy() for path, weight in kgen.weight_paths(model, model.weights).items()}
        model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        model.fit({"x": inputs[0]}, batch_size=3, verbose=0)
        after = {path: weight.numpy().copy() for path, weight in kgen.weight_paths(model, model.weights).items()}
        assert {str(array.dtype) for array in after.values()} == {"float32"}
        kgen.merge_lora(model)
        a, b = (after[f"part/out/lora_kernel_{factor}"] for factor in "ab")
        merged = kgen.weight_paths(model, model.weights)["part/out/kernel"].numpy()
        np.testing.assert_allclose(merged, after["part/out/kernel"] + 1.5 * a @ b, rtol=1e-6, atol=1e-6)
        steps = {path: after[path] - before[path] for path in after if "lora" in path}
        return ops.convert_to_numpy(ops.cast(made, "float32")), steps

    (whole, steps), (mixed, rounded) = trained("float32"), trained("mixed_bfloat16")
    assert 0 < np.abs(mixed - whole).max() < 4 * BFLOAT16 * np.abs(whole).max()
    assert steps.keys() == rounded.keys() and len(steps) == 4
    for path, step in steps.items():
        assert 0 < np.abs(rounded[path] - step).max() < 10 * BFLOAT16 * np.abs(step).max(), path


def test_fused_projections_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="10 units are not divisible into 3 projections"):
        FusedDense(10, 3)
    with pytest.raises(ValueError, match="is not built"):
        FusedDense(9, 3).enable_lora(2)


# ---- in a pipeline -----------------------------------------------------------------------------------------------

SPACE = kgen.Space("continuous", (4, 4, 3))
KERNELS = {"generator/net/dense/kernel", "generator/net/dense_1/kernel"}


def assemble() -> kgen.Pipeline:
    keras.utils.set_random_seed(0)
    encoder = Words()
    encoder.adapt(["red", "green"])
    generator = Painter(SPACE, encoder.condition_space)
    return kgen.assemble(encoder=encoder, generator=generator, decoder="identity", image_space=SPACE)


def with_factors(pipeline: kgen.Pipeline, **options: Any) -> kgen.Pipeline:
    """Adds LoRA to a pipeline, as if it had been trained: its factors are random."""
    rng = np.random.default_rng(1)
    for layer in kgen.add_lora(pipeline, 3, **options).values():
        layer.lora_kernel_b.assign(3.0 * rng.normal(size=layer.lora_kernel_b.shape))
    return pipeline


def painted(pipeline: kgen.Pipeline) -> np.ndarray:
    return pipeline.generate(["red", "green"], output="latents")


def values(pipeline: kgen.Pipeline) -> dict[str, np.ndarray]:
    return {path: weight.numpy().copy() for path, weight in kgen.weight_paths(pipeline, pipeline.weights).items()}


@pytest.mark.backends
def test_it_is_merged_into_the_kernels(tmp_path: Path) -> None:
    pipeline = assemble()
    first, before = painted(pipeline), values(pipeline)  # which compiles a program without LoRA
    with_factors(pipeline, alpha=2.0, targets=["generator/*"])
    adapted = painted(pipeline)
    assert np.abs(adapted - first).max() > 0.05
    pipeline.save(tmp_path / "model")
    assert len(lora_layers(pipeline)) == 2  # saving does not change it
    np.testing.assert_allclose(painted(kgen.load(tmp_path / "model", custom=[Words, Painter])), adapted, atol=1e-5)
    assert kgen.merge_lora(pipeline) == 2 and not lora_layers(pipeline)
    np.testing.assert_allclose(painted(pipeline), adapted, atol=1e-5)
    after = values(pipeline)
    assert after.keys() == before.keys()
    assert {path for path in after if not np.array_equal(after[path], before[path])} == KERNELS
    assert kgen.merge_lora(pipeline) == 0


@pytest.mark.portable
def test_targets_are_kernels_that_are_not_frozen() -> None:
    assert kgen.add_lora(assemble(), 2, targets=["generator/*/dense_1"]).keys() == {"generator/net/dense_1/kernel"}
    pipeline = assemble()
    for pattern in ("generator/net/dense/bias", "encoder/table"):
        with pytest.raises(kgen.ConfigError, match=f"LoRA targets: '{pattern}' matches no kernel of a dense layer"):
            kgen.add_lora(pipeline, 2, targets=["generator/*", pattern])
    with pytest.raises(kgen.ConfigError, match="LoRA targets: 'generator/nett' matches no weight; did you mean"):
        kgen.add_lora(pipeline, 2, targets=["generator/nett"])
    kgen.freeze(pipeline, ["generator/net/dense"])
    assert kgen.add_lora(pipeline, 2).keys() == {"generator/net/dense_1/kernel"}
    with pytest.raises(kgen.ConfigError, match="already has LoRA"):
        kgen.add_lora(pipeline, 2)
    with pytest.raises(kgen.ConfigError, match="a rank of at least 1 and a positive alpha, not 0 and None"):
        kgen.add_lora(assemble(), 0)
    frozen = assemble()
    kgen.freeze(frozen, ["generator/*"])
    with pytest.raises(kgen.ConfigError, match="needs a dense layer that is not frozen"):
        kgen.add_lora(frozen, 2)
    frozen.compile("sgd")
    with pytest.raises(kgen.ConfigError, match="before compile"):
        kgen.add_lora(frozen, 2)


# ---- in a run ----------------------------------------------------------------------------------------------------

CONFIG = {
    "data": {"name": "made/patterns", "count": 9, "size": 4},
    "encoder": "made/words",
    "generator": {"name": "made/painter", "width": 64},
    "fit": {"steps": 2, "batch_size": 4, "warmup_steps": 0, "schedule": "constant", "checkpoint_every": 2, "ema": 0.5},
    "sample": {"every": 0},
    "loggers": [],
}
LORA = {"rank": 2, "alpha": 4.0, "targets": ["generator/*"]}


def config(steps: int = 2, **changes: Any) -> RunConfig:
    fit = {**CONFIG["fit"], "steps": steps, **changes.pop("fit", {})}
    return RunConfig.from_dict({**CONFIG, "fit": fit, **changes})


def newest(path: Path) -> dict[str, np.ndarray]:
    return load_file(max((path / "checkpoints").glob("step-*.safetensors")))


@pytest.mark.portable
def test_a_run_trains_and_saves_only_the_factors(made_plugin: None, tmp_path: Path) -> None:
    base, path, whole, logged = tmp_path / "base", tmp_path / "run", tmp_path / "whole", list[str]()
    run(config(), base, log=lambda line: None)
    changes = {"init": str(base), "fit": {"lora": LORA}}
    run(config(4, **changes), whole, log=logged.append)
    run(config(2, **changes), path, log=lambda line: None)
    said = r"368 weights to train \(0.00 MiB\), the LoRA of 2 dense layers; the 3,776 others \(0.01 MiB\) are frozen"
    assert re.search(said, "\n".join(logged)), logged[-5:]

    checkpoint, frozen = newest(path), load_file(path / "checkpoints" / FROZEN)
    weights = {name for name in checkpoint if name.startswith(("encoder/", "generator/")) and "random" not in name}
    assert len(weights) == 4 and all("/lora_kernel_" in name for name in weights)
    before, after = (load_file(folder / "model" / "weights.safetensors") for folder in (base, path))
    assert frozen.keys() == before.keys() and all(np.array_equal(frozen[name], before[name]) for name in before)
    assert {name for name in after if not np.array_equal(after[name], before[name])} == KERNELS
    assert after.keys() == before.keys()
    averaged = kgen.load(path, step=2)
    assert averaged.trainable_variables and not lora_layers(averaged)
    for name, weight in kgen.weight_paths(averaged, averaged.weights).items():
        np.testing.assert_allclose(weight.numpy(), after[name], rtol=1e-6, err_msg=name)

    borrowed = kgen.load(base)
    assert kgen.load_lora(borrowed, path / "lora.safetensors") == sorted(KERNELS)
    for name, weight in kgen.weight_paths(borrowed, borrowed.weights).items():
        np.testing.assert_allclose(weight.numpy(), after[name], rtol=1e-6, err_msg=name)
    assert (path / "lora.safetensors").stat().st_size < 3000  # 368 numbers, and their names

    shutil.rmtree(base)  # the run does not need it any more
    run(config(4, **changes), path, log=lambda line: None)
    resumed, expected = newest(path), newest(whole)
    assert resumed.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    checkpoints = RunDirectory(path).checkpoints
    with pytest.raises(kgen.RunError, match="contains only the LoRA of a training: give its run"):
        check(config(init=str(checkpoints / "step-00000004.safetensors")))
    (checkpoints / FROZEN).unlink()
    with pytest.raises(kgen.RunError, match=FROZEN):
        run(config(6, **changes), path, log=lambda line: None)


@pytest.mark.portable
def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    pipeline = with_factors(assemble())
    file = kgen.save_lora(pipeline, tmp_path / "lora.safetensors")
    with pytest.raises(kgen.ConfigError, match="'generator/net/dense/kernel' has no name in the form 'kohya'"):
        kgen.save_lora(pipeline, tmp_path / "kohya.safetensors", form="kohya")
    with pytest.raises(kgen.ConfigError, match=r"put it into the kernels first, kgen.merge_lora"):
        kgen.load_lora(pipeline, file)
    kgen.merge_lora(pipeline)
    with pytest.raises(kgen.ConfigError, match="the model has no LoRA to be saved"):
        kgen.save_lora(pipeline, file)
    with pytest.raises(kgen.ConfigError, match=r"'generator/net/dense/kernel', .*: the model has no such layer"):
        kgen.load_lora(pipeline.generator, file)
    pipeline.save(tmp_path / "model")
    with pytest.raises(kgen.ConfigError, match="'encoder/table' is not the name of a factor or an alpha of LoRA"):
        kgen.load_lora(pipeline, tmp_path / "model" / "weights.safetensors")
    published = {f"unet.x.lora_{factor}.weight": np.zeros((2, 2), np.float32) for factor in "AB"}
    save_file(published, tmp_path / "published.safetensors")
    with pytest.raises(kgen.ConfigError, match="no part of the model is a published one"):
        kgen.load_lora(pipeline, tmp_path / "published.safetensors")
    with pytest.raises(kgen.ConfigError, match=r"none\.safetensors: there is no such file or folder"):
        kgen.load_lora(pipeline, tmp_path / "none.safetensors")
    wide = Painter(SPACE, pipeline.encoder.condition_space, width=20)
    other = kgen.assemble(encoder=pipeline.encoder, generator=wide, decoder="identity", image_space=SPACE)
    with pytest.raises(kgen.ConfigError, match=r"'generator/net/dense/kernel' is for a kernel of \(8, 16\), but"):
        kgen.load_lora(other, file)


@pytest.mark.portable
def test_lora_in_a_run_file_is_checked(made_plugin: None) -> None:
    with pytest.raises(kgen.ConfigError, match=r"fit: 'lora' freezes all weights: leave out 'trainable'"):
        config(fit={"lora": LORA, "frozen": ["encoder/*"]})
    with pytest.raises(kgen.ConfigError, match=r"fit.lora.rank: must be greater than 0"):
        config(fit={"lora": {"rank": 0}})
    with pytest.raises(kgen.ConfigError, match="LoRA targets: 'decoder' matches no"):
        check(config(fit={"lora": {"rank": 2, "targets": ["decoder"]}}))


# ---- learning rates ----------------------------------------------------------------------------------------------


@pytest.mark.portable
def test_patterns_choose_learning_rates() -> None:
    """A step of gradient descent is as long as the last pattern that matches says."""

    def step(rates: dict[str, float] | None) -> dict[str, np.ndarray]:
        pipeline = assemble()
        select_trained(pipeline, FitConfig(steps=1, learning_rates=rates))
        before = values(pipeline)
        pipeline.compile(averaging(SGD)(1.0, clip_norm=None, average=None))
        images = np.zeros((2, 4, 4, 3), np.uint8)
        pipeline.fit(pipeline.inputs(images, ["red", "green"]), batch_size=2, verbose=0)
        after = values(pipeline)
        return {path: after[path] - before[path] for path in before}

    whole, changed = step(None), step({"generator/*": 0.5, "*/dense_1/kernel": 0.25})
    factors = {"encoder/table": 1.0, "generator/net/dense_1/kernel": 0.25}
    for path, change in whole.items():
        assert np.abs(change).max() > 0
        np.testing.assert_allclose(changed[path], factors.get(path, 0.5) * change, atol=1e-7, err_msg=path)
    with pytest.raises(kgen.ConfigError, match="learning_rates: 'decoder/x' matches no weight"):
        select_trained(assemble(), FitConfig(steps=1, learning_rates={"decoder/x": 2.0}))
