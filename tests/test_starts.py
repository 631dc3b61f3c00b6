"""Trainings that start from weights of before: of other data, of another width, of an older kgen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from kgen.config import RunConfig
from kgen.errors import ConfigError, RunError
from kgen.experiments.directory import RunDirectory
from kgen.parts.patterns import matches
from kgen.runs.run import check, run

OLD = Path(__file__).parent / "fixtures" / "contract-0" / "run"

UNET = {
    "data": {"name": "shapes", "size": 16, "objects": 1, "colors": ["red"], "shapes": ["circle", "square"]},
    "encoder": {"name": "text/bag", "dim": 4, "length": 8},
    "generator": {
        "name": "diffusion/diffusion",
        "network": {"kind": "unet", "width": 8, "multipliers": [1], "blocks": 1, "attention": [0], "head_dim": 8},
    },
    "fit": {"steps": 2, "batch_size": 2, "learning_rate": 0.01, "warmup_steps": 0, "log_every": 1},
    "sample": {"every": 0, "options": {"sampler": "ddim", "steps": 2}},
}


def configuration(base: Any = UNET, **changes: Any) -> RunConfig:
    data = RunConfig.from_dict(base).dump()
    for key, value in changes.items():
        *above, last = key.split("__")
        section = data
        for name in above:
            section = section[name]
        section[last] = value
    return RunConfig.from_dict(data)


def weights(path: Path) -> dict[str, np.ndarray]:
    return load_file(path / "model" / "weights.safetensors")


@pytest.mark.slow
def test_a_unet_continues_with_other_data_and_a_wider_condition(tmp_path: Path) -> None:
    logged: list[str] = []
    run(configuration(), tmp_path / "narrow", log=logged.append)
    changes = {
        "data__colors": ["blue"],
        "encoder__dim": 6,
        "fit__learning_rate": 1e-12,
        "fit__optimizer": {"name": "adamw", "weight_decay": 0.0},
    }
    with pytest.raises(RunError, match=r"encoder/table: \(17, 4\) in the source, \(17, 6\) in the model"):
        check(configuration(**changes, init={"from": str(tmp_path / "narrow"), "include": ["*"]}))
    init: dict[str, Any] = {"from": str(tmp_path / "narrow"), "exclude": ["encoder/*"]}
    with pytest.raises(RunError) as caught:
        check(configuration(**changes, init=init))
    message = str(caught.value)
    named = [line.split(":")[0].strip() for line in message.splitlines()[1:-1]]
    assert len(named) >= 4 and all("kernel" in path for path in named), message
    assert f"{named[0]}: (4, " in message and "in the source, (6, " in message
    patterns = message.rpartition("exclude [")[2].rstrip("]").split(", ")
    assert len(patterns) < len(named) and any("/kv/kernel" in pattern for pattern in patterns)

    init["exclude"] += patterns
    run(configuration(**changes, init=init), tmp_path / "wide", log=logged.append)
    narrow, wide = weights(tmp_path / "narrow"), weights(tmp_path / "wide")
    fresh = RunDirectory(tmp_path / "wide").read_manifest()["init"]["fresh"]
    assert set(named) <= set(fresh) and {path for path in fresh if path not in named} == {"encoder/table"}
    assert any(named[0] in line for line in logged)
    taken = {path for path in wide if path not in fresh}
    assert len(taken) > 20
    for path in taken:
        np.testing.assert_allclose(wide[path], narrow[path], atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_frozen_parts_stay_bit_for_bit_in_a_resumed_run(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "run"
    run(configuration(), source, log=lambda line: None)
    frozen = ["encoder/*", "generator/model/down/*", "generator/model/*/transformer"]
    changes = {
        "init": str(source),
        "fit__frozen": frozen,
        "fit__optimizer": {"name": "adamw", "weight_decay": 0.5},
        "fit__ema": 0.5,
        "seed": 3,
    }
    run(configuration(**changes, fit__steps=1), path, log=lambda line: None)
    before = weights(source)
    shutil.rmtree(source)
    run(configuration(**changes, fit__steps=2), path, log=lambda line: None)  # goes on, although its source is gone
    after, checkpoint = weights(path), load_file(path / "checkpoints" / "step-00000002.safetensors")
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert still == {name for name in before if matches(name, frozen)} and 5 < len(still) < len(before) - 5
    assert all(np.array_equal(before[name], checkpoint[name]) for name in still)


@pytest.mark.slow
def test_a_decoder_starts_from_another_one(tmp_path: Path) -> None:
    base = {
        "data": {"name": "shapes", "size": 16, "objects": 1, "colors": ["red"], "shapes": ["circle"]},
        "encoder": "text/none",
        "generator": {"name": "diffusion/diffusion", "network": {"kind": "dit", "width": 8, "depth": 1, "heads": 1}},
        "decoder": {
            "name": "codecs/kl-autoencoder",
            "network": {"width": 4, "multipliers": [1], "blocks": 1, "patch": 4},
            "fit": {"steps": 1, "batch_size": 2},
        },
        "fit": {"steps": 1, "batch_size": 2},
        "sample": {"every": 0},
    }
    run(configuration(base), tmp_path / "first", log=lambda line: None, stage="decoder")
    first = tmp_path / "first" / "decoder" / "model"
    logged: list[str] = []
    source = tmp_path / "first"  # which has no other weights than its decoder's
    with pytest.raises(
        RunError, match=r"init: .*first/decoder/model/.* contains no weights of encoder/\* or generator"
    ):
        check(configuration(base, encoder="text/bag", init=str(source)))
    init = {"from": str(source), "exclude": ["decoder/scale"]}
    changes = {"decoder__init": init, "decoder__fit__frozen": ["decoder/encoder_network"], "seed": 4}
    with pytest.raises(ConfigError, match=r"decoder.init: exclude: 'decoder/scales' matches no weight; did you mean"):
        check(configuration(base, **{**changes, "decoder__init": {**init, "exclude": ["decoder/scales"]}}))
    run(configuration(base, **changes), tmp_path / "second", log=logged.append, stage="decoder")
    before, after = (load_file(run / "weights.safetensors") for run in (first, tmp_path / "second/decoder/model"))
    still = {name for name in before if np.array_equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith("decoder/encoder_network/")}
    scale = {"decoder/scale/deviation", "decoder/scale/mean"}  # measured again, on the same latents
    assert still - scale == frozen and len(frozen) > 5
    assert f"the decoder: {len(before) - 2} weights come from {source}" in logged
    noted = RunDirectory(tmp_path / "second").decoder_stage.read_manifest()["init"]
    assert noted["fresh"] == ["decoder/scale/deviation", "decoder/scale/mean"]
    assert noted["sources"][0]["step"] == 1


@pytest.mark.slow
def test_a_run_with_numbered_weights_can_be_continued(tmp_path: Path) -> None:
    """The checkpoint and the decoder hold numbered weights; what is saved then holds paths."""
    path = Path(shutil.copytree(OLD, tmp_path / "run"))
    config = RunConfig.load(path / "config.yaml", ["fit.steps=5"])
    run(config, path, log=lambda line: None)
    assert RunDirectory(path).read_manifest()["step"] == 5
    old, new = (load_file(p / "checkpoints" / f"step-0000000{n}.safetensors") for p, n in ((OLD, 4), (path, 5)))
    assert len(old) == len(new) and not any("/" in name for name in old) and all("/" in name for name in new)
    assert any(name.startswith("generator/model/blocks/0/") for name in new)
    kernel = next(name for name in old if name.startswith("model.") and old[name].ndim == 2)
    nearest = min(np.abs(old[kernel] - array).max() for array in new.values() if array.shape == old[kernel].shape)
    assert nearest < 0.05  # one step away
