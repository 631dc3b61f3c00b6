"""LoRA files at the command line of `kgen generate`, and at the start of a training."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from kgen import ConfigError, add_lora, init_lora, load, load_lora, merge_lora, save_lora, weight_paths
from kgen.config import RunConfig
from kgen.experiments.directory import RunDirectory
from kgen.runs.run import check, run

pytestmark = pytest.mark.portable

CONFIG = {
    "data": {"name": "made/patterns", "count": 9, "size": 4},
    "encoder": "made/words",
    "generator": "made/painter",
    "fit": {"steps": 2, "batch_size": 4, "warmup_steps": 0},
    "sample": {"every": 0},
    "loggers": [],
}


@pytest.fixture(scope="module")
def base(made_plugin: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run."""
    path = tmp_path_factory.mktemp("lora") / "base"
    run(RunConfig.from_dict(CONFIG), path, log=lambda line: None)
    return path


@pytest.fixture(scope="module")
def files(base: Path) -> list[Path]:
    """Two LoRA files for it, one of which has a colon in its name."""
    found = []
    for seed, name in enumerate(("one.safetensors", "two.safetensors" if os.name == "nt" else "two:3")):
        pipeline, rng = load(base), np.random.default_rng(seed)
        for layer in add_lora(pipeline, 2, targets=["generator/*"]).values():
            layer.lora_kernel_b.assign(10.0 * rng.normal(size=layer.lora_kernel_b.shape))
        found.append(save_lora(pipeline, base.parent / name))
    return found


def test_generate_adds_lora_files(kgen: Any, base: Path, files: list[Path], tmp_path: Path) -> None:
    given = ["--lora", f"{files[0]}:0.5", "--lora", files[1], "-n", "2"]
    outcome = kgen("generate", base, "red", *given, "-o", f"{tmp_path}/made/")
    assert outcome.status == 0, outcome
    pipeline = load(base)
    before = pipeline.generate(["red"], n=2)
    for file, scale in zip(files, (0.5, 1.0), strict=True):
        load_lora(pipeline, file, scale=scale)
    expected = pipeline.generate(["red"], n=2)
    assert np.abs(expected.astype(int) - before).max() > 20
    for path, image in zip(outcome.out.split(), expected, strict=True):
        with Image.open(path) as found:
            np.testing.assert_array_equal(np.asarray(found), image)
            assert found.text["lora"] == f"{files[0]}:0.5; {files[1]}:1" and found.text["model"] == "base"


def test_generate_refuses_lora_that_it_cannot_use(kgen: Any, base: Path, files: list[Path], tmp_path: Path) -> None:
    stray = tmp_path / "stray.safetensors"
    factors = {f"generator/other/lora_kernel_{factor}": np.zeros((2, 2), np.float32) for factor in "ab"}
    save_file(factors, stray, {"rank": "2", "alpha": "2.0"})
    save_file({}, empty := tmp_path / "empty.safetensors")
    (pickle := tmp_path / "lora.bin").write_bytes(b"")
    arrays = {name: np.full_like(array, np.nan) for name, array in load_file(files[0]).items()}
    save_file(arrays, infinite := tmp_path / "nan.safetensors", {"rank": "2", "alpha": "2.0"})
    trained = tmp_path / "trained"
    shutil.copytree(base, trained)
    shutil.copyfile(files[0], trained / "lora.safetensors")
    kgen("generate", trained, "red", "--lora", trained / "lora.safetensors", "-o", "red.png", cwd=tmp_path).refuses(
        f"--lora {trained / 'lora.safetensors'}: the model of {trained} contains this LoRA already; leave it out"
    )
    for given, problem in (
        (["--lora", empty], "empty.safetensors contains no factors of LoRA"),
        (["--lora", pickle], "lora.bin: kgen reads LoRA from .safetensors files, because a pickle can run any code"),
        (["--lora", infinite], "has NaN or infinite numbers: its training failed"),
        (["--lora", base], "is a folder without adapter_model.safetensors: give a LoRA file"),
        (["--lora", stray], "'generator/other/kernel': the model has no such layer"),
        (["--lora", f"{files[0]}:much"], f"--lora {files[0]}:much: there is no file {files[0]}:much; write FILE or"),
        (["--lora", "none:0.5"], "--lora none:0.5: there is no file none; write FILE or FILE:SCALE"),
        (["--lora", f"{files[0]}:nan"], "the scale of LoRA must be a finite number, not nan"),
        (["--lora", files[0], "--image", "a", "--image", "b", "--blend", "0"], "--lora has no effect with --blend"),
    ):
        kgen("generate", base, "red", *given, "-o", "red.png", cwd=tmp_path).refuses(problem)
    assert not (tmp_path / "red.png").exists()


# ---- at the start of a training ----------------------------------------------------------------------------------


def config(base: Path, file: Path, steps: int = 2, **lora: Any) -> RunConfig:
    """Fine-tuning that changes nothing, because its learning rate is as good as zero."""
    lora = {"rank": 2, "targets": ["generator/*"], "from": str(file), **lora}
    fit = {**CONFIG["fit"], "steps": steps, "learning_rate": 1e-30, "checkpoint_every": 2, "lora": lora}
    return RunConfig.from_dict({**CONFIG, "init": str(base), "fit": fit})


def test_a_run_starts_from_a_lora_file(base: Path, files: list[Path], tmp_path: Path) -> None:
    file, logged = tmp_path / "lora.safetensors", list[str]()
    file.write_bytes(files[0].read_bytes())
    run(config(base, file), tmp_path / "run", log=logged.append)
    assert f"the LoRA of 2 dense layers comes from {file}" in logged
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    found = RunDirectory(tmp_path / "run").read_manifest()["init"]["lora"]
    assert found == {"from": str(file), "weights": digest, "fresh": []}
    expected = load_file(file)

    def unchanged() -> None:
        found = load_file(tmp_path / "run" / "lora.safetensors")
        assert found.keys() == expected.keys()
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-6, err_msg=name)

    unchanged()
    file.unlink()  # the run does not need it any more
    run(config(base, file, 4), tmp_path / "run", log=lambda line: None)
    unchanged()


def test_factors_start_with_the_product_of_a_file(base: Path, files: list[Path], tmp_path: Path) -> None:
    pipeline, other = load(base), load(base)
    load_lora(pipeline, files[0])
    add_lora(other, 2, alpha=0.5, targets=["generator/*"])
    assert init_lora(other, files[0]) == ["generator/net/dense/kernel", "generator/net/dense_1/kernel"]
    merge_lora(other)
    expected = weight_paths(pipeline, pipeline.weights)
    for path, weight in weight_paths(other, other.weights).items():
        np.testing.assert_allclose(weight.numpy(), expected[path].numpy(), rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_training_refuses_lora_that_it_cannot_use(base: Path, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"fit\.lora: .*kernel' has the rank 2, but the LoRA of the model has the rank 3"
    ):
        check(config(base, files[0], rank=3))
    with pytest.raises(ConfigError, match=r"'generator/net/dense_1/kernel' has no LoRA in the model: choose 'targets'"):
        check(config(base, files[0], targets=["generator/net/dense"]))
    with pytest.raises(ConfigError, match=r"fit\.lora: none: there is no such file or folder"):
        check(config(base, Path("none")))
    with pytest.raises(ConfigError, match="the model has no LoRA that could start from a file"):
        init_lora(load(base), files[0])
    pipeline = load(base)
    add_lora(pipeline, 2)
    stray = tmp_path / "stray.safetensors"
    factors = {f"generator/other/lora_kernel_{factor}": np.zeros((2, 2), np.float32) for factor in "ab"}
    save_file(factors, stray, {"rank": "2", "alpha": "2.0"})
    with pytest.raises(ConfigError, match="'generator/other/kernel': the model has no such layer"):
        init_lora(pipeline, stray)
    save_file(
        {name.replace("other", "net/dense"): array for name, array in factors.items()},
        stray,
        {"rank": "2", "alpha": "2.0"},
    )
    with pytest.raises(
        ConfigError, match=r"has factors of \(2, 2\) and \(2, 2\), but those of the model are of \(8, 2\) and \(2, 16"
    ):
        init_lora(pipeline, stray)
