"""Published transformers, DiT and PixArt, predict the same noise as in diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from keras import ops
from kgen_plugin_diffusers.transformer.options import DiT, PixArt
from safetensors.numpy import load_file

import kgen
from kgen import ConditionSpace, ConfigError, Generator, Space, SpaceError
from kgen.testing import GeneratorConformance

pytestmark = pytest.mark.portable

DIT, PIXART, EARLIER = "DiTTransformer2DModel", "PixArtTransformer2DModel", "Transformer2DModel"
KINDS: dict[str, Any] = {DIT: DiT, PIXART: PixArt}
CLASSES, LENGTH = 5, 7

COMMON: dict[str, dict[str, Any]] = {
    "defaults": {},
    "channels": {"in_channels": 3, "out_channels": None},
    "heads": {"num_attention_heads": 3, "attention_head_dim": 4},
    "no bias of the attention": {"attention_bias": False},
    "patches of one position": {"patch_size": 1, "sample_size": 4},
    "patches of three positions": {"patch_size": 3},
    "size of the training": {"sample_size": 20},
    "weights of the normalizations": {"norm_elementwise_affine": True},
    "epsilon": {"norm_eps": 0.3},
    "without an effect": {"norm_num_groups": 3, "upcast_attention": True, "dropout": 0},
}

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "exact activation": {"activation_fn": "gelu"},
    "gated activation": {"activation_fn": "geglu"},
    "gate with silu": {"activation_fn": "swiglu"},
    "silu": {"activation_fn": "linear-silu"},
}
"""Options of the hidden layers, which both models share."""

ZERO, SINGLE = {"norm_type": "ada_norm_zero"}, {"norm_type": "ada_norm_single", "cross_attention_dim": 12}

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"DiT: {name}": (DIT, DIT, options) for name, options in {**COMMON, **ACTIVATIONS}.items()},
    "DiT: classes": (DIT, DIT, {"num_embeds_ada_norm": 8}),
    "DiT: earlier class": (DIT, EARLIER, {**ZERO, "attention_bias": True, "activation_fn": "gelu"}),
    "DiT: defaults of the earlier class": (DIT, EARLIER, ZERO),
    **{f"PixArt: {name}": (PIXART, PIXART, options) for name, options in COMMON.items()},
    "PixArt: no projection": (PIXART, PIXART, {"caption_channels": None, "cross_attention_dim": 9}),
    "PixArt: distances": (PIXART, PIXART, {"interpolation_scale": 2.5}),
    "PixArt: large, with the sizes of the image": (PIXART, PIXART, {"sample_size": 128}),
    "PixArt: large, without these": (PIXART, PIXART, {"sample_size": 128, "use_additional_conditions": False}),
    "PixArt: small, with these": (PIXART, PIXART, {"use_additional_conditions": True}),
    "PixArt: earlier class": (PIXART, EARLIER, {**SINGLE, "caption_channels": 7, "norm_eps": 1e-6}),
}
"""The model in kgen, its class in diffusers, and its options."""


def compare(published: ModuleType, kind: str, folder: Path, model: Any, height: int, width: int) -> None:
    import torch

    rng, times, channels = np.random.default_rng(0), np.array([3.0, 951.0], "float32"), model.config.in_channels
    x = rng.normal(size=(2, height, width, channels)).astype("float32")
    given: dict[str, Any] = {"timestep": torch.from_numpy(times)}
    mask = np.ones((2, LENGTH), "float32")
    mask[0, 4:] = 0
    if kind == DIT:
        classes = model.config.num_embeds_ada_norm
        labels = [2, classes]
        given["class_labels"] = torch.tensor(labels)
        pooled = np.eye(classes + 1, dtype="float32")[labels]
        sequence = pooled[:, None]
    else:
        dim = model.config.caption_channels or model.config.cross_attention_dim
        sequence = rng.normal(size=(2, LENGTH, dim)).astype("float32")
        pooled = sequence[:, 0]
        given |= {"encoder_hidden_states": torch.from_numpy(sequence), "encoder_attention_mask": torch.from_numpy(mask)}
        given["added_cond_kwargs"] = {
            "resolution": torch.tensor([[8.0 * height, 8.0 * width]] * 2),
            "aspect_ratio": torch.tensor([[height / width]] * 2),
        }
    with torch.no_grad():
        expected = published.as_ours(model(published.as_theirs(x), **given).sample)
    condition = {"sequence": sequence, "pooled": pooled, "mask": mask[:, : sequence.shape[1]]}
    condition = {name: ops.convert_to_tensor(array) for name, array in condition.items()}
    space = Space("continuous", x.shape[1:], bounded=False)
    layer = KINDS[kind](pretrained=str(folder)).build(space, ConditionSpace(LENGTH, sequence.shape[-1]), channels)
    used = ops.convert_to_numpy(layer(ops.convert_to_tensor(x), ops.convert_to_tensor(times), condition))
    found = ops.convert_to_numpy(layer.network(ops.convert_to_tensor(x), ops.convert_to_tensor(times), condition))
    assert found.shape == expected.shape and np.isfinite(expected).all()
    error, size = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= 1e-5 * size, f"off by {error:.2g}, of numbers up to {size:.2g}"
    np.testing.assert_array_equal(used, found[..., :channels])


@pytest.mark.parametrize("name", CASES)
def test_every_option_computes_the_same(name: str, published: ModuleType, tmp_path: Path) -> None:
    kind, cls, options = CASES[name]
    model = published.random_model(cls, **options)
    patch = model.config.patch_size
    width = 6 if kind == DIT else 4  # diffusers' DiT reads squares only
    compare(published, kind, published.save(model, tmp_path / "transformer"), model, 6 * patch, width * patch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DIT, PIXART])
def test_the_published_size(kind: str, published: ModuleType, tmp_path: Path) -> None:
    """With the defaults of diffusers, which are those of the published models, and 4 of the 28 blocks."""
    options = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 4, "num_embeds_ada_norm": 1000}
    text = {"sample_size": 128, "cross_attention_dim": 1152, "caption_channels": 4096} if kind == PIXART else {}
    model = published.random_model(kind, **{**options, "sample_size": 32, **text})
    compare(published, kind, published.save(model, tmp_path / "transformer"), model, 32, 32)


# ---- in a generator -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(published: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Transformers of images."""
    path = tmp_path_factory.mktemp("transformers")
    models = {kind: published.random_model(kind, in_channels=3, out_channels=6) for kind in KINDS}
    return {kind: Path(published.save(model, path / kind)) for kind, model in models.items()}


def generator(kind: str, folder: Path, **options: Any) -> dict[str, Any]:
    name = {DIT: "dit-transformer-2d", PIXART: "pixart-transformer-2d"}[kind]
    network = {"kind": f"diffusers/{name}", "pretrained": str(folder), **options}
    return {
        "name": "diffusion/diffusion",
        "network": network,
        "schedule": {"kind": "discrete", "betas": "linear"},
        "prediction": "eps",
    }


def labels(folder: Path) -> dict[str, str]:
    return {"name": "diffusers/class-label", "pretrained": str(folder)}


def assembled(kind: str, folder: Path, encoder: Any = None, side: int = 8, channels: int = 3, **options: Any) -> Any:
    own = encoder or (labels(folder) if kind == DIT else {"name": "text/bag", "dim": 7})
    captions = ["a red circle"] if own["name"] == "text/bag" else None
    shape = (side, side, channels)
    return kgen.assemble(
        encoder=own, generator=generator(kind, folder, **options), image_space=shape, captions=captions
    )


@pytest.mark.backends
def test_a_pipeline_has_the_weights_of_the_folder(folders: dict[str, Path]) -> None:
    """On JAX, what is assigned while losses are traced would be lost."""
    model = assembled(PIXART, folders[PIXART]).generator.model
    paths = kgen.weight_paths(model, model.weights)
    arrays = load_file(folders[PIXART] / "diffusion_pytorch_model.safetensors")
    for name, ours in (
        ("scale_shift_table", "scale_shift_table"),
        ("transformer_blocks.1.scale_shift_table", "transformer_blocks/1/scale_shift_table"),
        ("adaln_single.emb.timestep_embedder.linear_1.bias", "adaln_single/emb/timestep_embedder/linear_1/bias"),
    ):
        np.testing.assert_array_equal(ops.convert_to_numpy(paths[f"network/{ours}"]), arrays[name])
    assert sum(array.size for array in arrays.values()) == sum(int(np.prod(path.shape)) for path in paths.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_has_a_name_in_lora_files(kind: str, folders: dict[str, Path], published: ModuleType) -> None:
    import torch

    places = assembled(kind, folders[kind]).generator.model.lora_names().places()
    model = getattr(published.diffusers, kind).from_pretrained(folders[kind])
    names = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    assert len(names) > 15 and {f"transformer.{name}" for name in names} <= set(places)


PROBLEMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another model": (
        DIT,
        {"_class_name": "SD3Transformer2DModel"},
        r"must be 'DiTTransformer2DModel' or 'Transformer",
    ),
    "unknown key": (DIT, {"use_magic": True}, r"config\.json: 'use_magic': unknown"),
    "dropout": (DIT, {"dropout": 0.1}, r"'dropout' must be 0, not 0\.1"),
    "norm": (DIT, {"norm_type": "ada_norm"}, r"'norm_type' must be 'ada_norm_zero', not 'ada_norm'"),
    "earlier class": (DIT, {"_class_name": EARLIER, "norm_type": "ada_norm_single"}, r"must be 'ada_norm_zero'"),
    "text": (DIT, {"_class_name": EARLIER, "cross_attention_dim": 8}, r"'cross_attention_dim' must be None, not 8"),
    "double": (DIT, {"_class_name": EARLIER, "double_self_attention": True}, r"'double_self_attention' must be False"),
    "activation": (
        DIT,
        {"activation_fn": "geglu-approximate"},
        r"'activation_fn' must be 'gelu' or 'gelu-approximate'",
    ),
    "width": (DIT, {"attention_head_dim": 5}, r"'attention_head_dim' times .* must be a multiple of 4"),
    "size": (DIT, {"sample_size": 1}, r"'sample_size' must be at least 'patch_size', 2, not 1"),
    "channels": (DIT, {"in_channels": 4}, r"this transformer reads latents with 4 channels, not 3: choose the decoder"),
    "variances": (
        DIT,
        {"out_channels": 5},
        r"this transformer makes 5 channels, which are neither those of the latents",
    ),
    "classes": (DIT, {"num_embeds_ada_norm": 6}, r"has the shape \(6, 12\), which does not fit the configuration"),
    "gated": (PIXART, {"attention_type": "gated"}, r"'attention_type' must be 'default', not 'gated'"),
    "no text": (PIXART, {"cross_attention_dim": None}, r"'cross_attention_dim' must be a positive integer, not None"),
    "projection": (PIXART, {"cross_attention_dim": 9}, r"must be the width, 12, because of 'caption_channels', not 9"),
    "thirds": (
        PIXART,
        {"use_additional_conditions": True, "attention_head_dim": 4, "cross_attention_dim": 8},
        r"'attention_head_dim' times 'num_attention_heads' must be a multiple of 3",
    ),
    "dimension": (PIXART, {"caption_channels": 8}, r"this transformer reads conditions of dimension 8, not 7"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems_are_named(problem: str, folders: dict[str, Path], tmp_path: Path) -> None:
    kind, changes, message = PROBLEMS[problem]
    copied = Path(shutil.copytree(folders[kind], tmp_path / "copied"))
    data = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**data, **changes}))
    encoder = labels(copied if problem == "classes" else folders[DIT]) if kind == DIT else None
    with pytest.raises((ConfigError, SpaceError), match=message):
        assembled(kind, copied, encoder)


def test_options_that_are_wrong(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'use_additional_conditions' is off, so that 'factor' has no effect"):
        assembled(PIXART, folders[PIXART], factor=4)
    with pytest.raises(SpaceError, match=r"divisible by 2, but they are 9x9: change the size of the images"):
        assembled(PIXART, folders[PIXART], side=9)
    with pytest.raises(SpaceError, match=r"one of 5 classes, and not a condition of dimension 4: choose the encoder"):
        assembled(DIT, folders[DIT], {"name": "text/bag", "dim": 4})
    for kind in KINDS.values():
        with pytest.raises(SpaceError, match=r"a transformer of images works on continuous latents of shape \(height"):
            kind(pretrained=str(tmp_path)).check(Space("continuous", (8,)))
    pipeline = assembled(PIXART, folders[PIXART])
    assert pipeline.generate([""], steps=1, size=(12, 8)).shape == (1, 12, 8, 3)
    with pytest.raises(SpaceError, match=r"divisible by 2, but they are 9x8"):
        pipeline.generate([""], steps=1, size=(9, 8))


# ---- the contract -------------------------------------------------------------------------------------------------


class Published:
    paths: ClassVar[dict[str, Path]] = {}


@pytest.fixture(scope="module", autouse=True)
def known(folders: dict[str, Path]) -> Iterator[None]:
    Published.paths.update(folders)
    yield


class Transformer(GeneratorConformance):
    kind = ""
    conditions = ConditionSpace(LENGTH, 7)
    generate_options: ClassVar = ({"sampler": "ddim", "steps": 2},)
    likelihood_options: ClassVar = {"steps": 3}
    replicas: ClassVar = False  # the losses are those of kgen-plugin-diffusion
    learns: ClassVar = False  # random weights of this size change slowly: the loss of one batch falls all the same

    def build(self) -> Generator:
        space = Space("continuous", (8, 8, 3))
        return kgen.make_generator(generator(self.kind, Published.paths[self.kind]), space, self.conditions)


@pytest.mark.slow
class TestDiT(Transformer):
    kind = DIT
    conditions = ConditionSpace(1, CLASSES + 1)


class TestPixArt(Transformer):
    kind = PIXART


del Transformer
