"""Trainings that start from weights of before: of other data, of another width, of an older kgen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from kgen.config import RunConfig
from kgen.errors import RunError
from kgen.runs.directory import RunDirectory
from kgen.runs.run import check, run

OLD = Path(__file__).parent / "fixtures" / "contract-0" / "run"

UNET = {
    "data": {"name": "shapes", "size": 8, "objects": 1, "colors": ["red"], "shapes": ["circle", "square"]},
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


def test_a_unet_goes_on_with_other_data_and_a_wider_condition(tmp_path: Path) -> None:
    said: list[str] = []
    run(configuration(), tmp_path / "narrow", log=said.append)
    changes = {"data__colors": ["blue"], "encoder__dim": 6, "fit__learning_rate": 1e-12, "fit__weight_decay": 0.0}
    with pytest.raises(RunError, match=r"the encoder of .* learned something else .*words.json.*exclude encoder/\*"):
        check(configuration(**changes, init={"from": str(tmp_path / "narrow"), "include": ["*"]}))
    init: dict[str, Any] = {"from": str(tmp_path / "narrow"), "exclude": ["encoder/*"]}
    with pytest.raises(RunError) as caught:
        check(configuration(**changes, init=init))
    message = str(caught.value)
    named = [line.split(":")[0].strip() for line in message.splitlines()[1:-1]]
    assert len(named) >= 4 and all("kernel" in path for path in named), message
    assert f"{named[0]}: (4, " in message and "there, (6, " in message
    patterns = message.rpartition("exclude [")[2].rstrip("]").split(", ")
    assert len(patterns) < len(named) and any("/kv/kernel" in pattern for pattern in patterns)

    init["exclude"] += patterns
    run(configuration(**changes, init=init), tmp_path / "wide", log=said.append)
    narrow, wide = weights(tmp_path / "narrow"), weights(tmp_path / "wide")
    fresh = RunDirectory(tmp_path / "wide").read_manifest()["init"]["fresh"]
    assert set(named) <= set(fresh) and {path for path in fresh if path not in named} == {"encoder/embeddings"}
    assert any(named[0] in line for line in said)
    taken = {path for path in wide if path not in fresh}
    assert len(taken) > 20
    for path in taken:
        np.testing.assert_allclose(wide[path], narrow[path], atol=1e-6, err_msg=path)


def test_frozen_parts_stay_bit_for_bit_through_a_run_that_is_resumed(tmp_path: Path) -> None:
    frozen = ["encoder/*", "generator/model/down/*", "generator/model/*/transformer/*"]
    config = configuration(fit__frozen=frozen, fit__checkpoint_every=1, fit__ema=0.5, fit__weight_decay=0.5)
    run(config, tmp_path / "source", log=lambda line: None)
    changes = {"init": str(tmp_path / "source"), "fit__frozen": frozen, "fit__weight_decay": 0.5, "seed": 3}
    run(configuration(**changes), tmp_path / "run", log=lambda line: None)
    shutil.rmtree(tmp_path / "source")
    run(configuration(**changes, fit__steps=3), tmp_path / "run", log=lambda line: None)  # goes on without the source
    before, after = weights(tmp_path / "run"), weights(tmp_path / "run")
    assert before.keys() == after.keys()
