"""A run that is killed at random moments, and given again each time, ends with the very weights of one that is not."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from command_line import quickest_backend
from image_sources import SOURCES
from made_plugins import PLUGIN, Site
from PIL import Image
from safetensors.numpy import load_file

from kgen.training.journal import read_rows

CONFIG = """\
data: {name: shapes, size: 16, count: 200, holdout: [purple square]}
encoder: {name: text/transformer, dim: 16, depth: 1, heads: 2, dropout: 0.1}
generator:
  name: diffusion/diffusion
  network: {kind: dit, patch: 2, width: 16, depth: 1, heads: 2, dropout: 0.1}
decoder:
  name: codecs/kl-autoencoder
  network: {width: 8, multipliers: [1], patch: 2, attention: false}
  fit: {steps: 60, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
fit: {steps: 300, batch_size: 8, checkpoint_every: 20, validate_every: 100, log_every: 20}
sample: {every: 0, prompts: [a large red circle in the middle], options: {steps: 1, sampler: euler}}
"""


STAGES = ("encoder", "decoder")
"""The trainings before the generator's, in folders of the run directory."""

SMALL = """\
data: {name: shapes, size: 16, count: 200, holdout: [purple square]}
encoder:
  name: made/hues
  fit: {steps: 60, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
generator: made/painter
decoder:
  name: made/codec
  fit: {steps: 60, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
fit: {steps: 140, batch_size: 8, checkpoint_every: 20, validate_every: 100, log_every: 20}
sample: {every: 0, prompts: [a large red circle in the middle]}
"""
"""The same trainings with parts that are quick. The painter trains with noise, too."""

LORA = """\
data: {name: shapes, size: 16, count: 200, holdout: [purple square]}
encoder:
  name: made/hues
  fit: {steps: 60, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
generator: made/painter
decoder:
  name: made/codec
  fit: {steps: 60, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
fit:
  {steps: 240, batch_size: 8, lora: {rank: 2}, checkpoint_every: 20, validate_every: 100, log_every: 20}
sample: {every: 0, prompts: [a large red circle in the middle]}
"""
"""The same, but LoRA is all that the generator trains. Its checkpoints do not contain the frozen weights."""

EMBEDDINGS = """\
data: {name: shapes, size: 16, count: 200, holdout: [purple square]}
encoder:
  name: clip/clip
  text: {kind: transformer, width: 8, depth: 1, heads: 2, length: 12}
  image: {kind: convolutional, size: 16, width: 4, multipliers: [1]}
  dim: 12
  fit: {steps: 80, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
decoder:
  name: unclip/decoder
  network: {kind: unet, width: 8, multipliers: [1], blocks: 1, attention: [], head_dim: 8, dropout: 0.1}
  fit: {steps: 80, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
generator: {name: unclip/prior, network: {kind: causal, width: 8, depth: 1, heads: 2}}
fit: {steps: 80, batch_size: 8, checkpoint_every: 20, validate_every: 40, log_every: 20}
sample: {every: 0, prompts: [a large red circle in the middle], options: {steps: 1, decoder: {steps: 1}}}
evaluate: {metrics: []}
"""
"""The decoder and the generator read the embeddings of the encoder that the first stage trains."""

FILES = """\
data: {{name: imagefolder, path: {path}, size: 16, crops: 2}}
encoder: {{name: text/bag, dim: 8}}
generator: made/painter
fit: {{steps: 200, batch_size: 8, checkpoint_every: 20, validate_every: 200, log_every: 20, workers: 2}}
sample: {{every: 0, prompts: [image 3]}}
"""

SOURCE = """\
data: {data}
encoder: {{name: text/bag, dim: 8}}
generator: made/painter
fit: {{steps: 120, batch_size: 8, checkpoint_every: 10, validate_every: 120, log_every: 20, workers: 1, flip: true}}
sample: {{every: 0, prompts: [image 3]}}
"""

FIRST_PASS = """\
data: {{name: imagefolder, path: {path}, size: 16, crops: 2, draw_captions: true}}
encoder: {{name: made/hues, fit: {{steps: 10, batch_size: 8}}}}
generator: made/painter
decoder: {{name: made/codec, fit: {{steps: 10, batch_size: 8}}}}
fit: {{steps: 200, batch_size: 8, checkpoint_every: 10, log_every: 20, workers: {workers}}}
sample: {{every: 0, prompts: [image 3]}}
"""
"""A pass over the 800 images takes 100 steps. Frozen parts encode the images and the captions, which are cached."""

ONE_STAGE = """\
data: {name: shapes, size: 16, count: 200, holdout: [purple square]}
encoder: {name: text/transformer, dim: 16, depth: 1, heads: 2, dropout: 0.1}
generator:
  name: diffusion/diffusion
  network: {kind: dit, patch: 4, width: 32, depth: 1, heads: 2, dropout: 0.1}
fit:
  {steps: 500, batch_size: 8, optimizer: OPTIMIZER, warmup_steps: 20, clip_norm: 1.0, ema: 0.99, checkpoint_every: 50,
   log_every: 50, validate_every: 500}
sample: {every: 0, prompts: [a large red circle in the middle], options: {steps: 1, sampler: euler}}
"""

WITHOUT_MEMORY = "\n\nfrom kgen.data import loader\n\nloader.MEMORY_LIMIT = 0\n"
"""With this at the end of the plugin, no decoded image stays in memory."""

OPTIMIZERS = {
    "adamw": "{name: adamw}, learning_rate: 2.0e-3",
    "lion": "{name: lion, beta_1: 0.95, beta_2: 0.98}, learning_rate: 1.0e-3",
    "muon": "{name: muon}, learning_rate: 2.0e-3",
    "adafactor": "{name: adafactor, epsilon_2: 0.1}, learning_rate: 2.0e-2",
}
"""With the default epsilon_2, the layers of the DiT that are 0 at first change too slowly for 500 steps."""

KINDS = ("whole", "killed")
"""The folders of a run that is not killed, and of one that is."""

TRAINED = 0.8
"""A loss that each of them reaches. It is 1.9 for the untrained network, and 1.09 for one that predicts a constant."""


def start(folder: Path, backend: str) -> subprocess.Popen[bytes]:
    paths = [str(folder.parent / "site"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KGEN_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    command = [str(Path(sys.executable).parent / "kgen"), "run", "run.yaml"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(folder: Path, backend: str) -> dict[str, np.ndarray]:
    process = start(folder, backend)
    assert process.wait(timeout=600) == 0, process.stderr and process.stderr.read().decode()
    run = folder / "runs" / "run"
    stages = [run / stage / "model" / "weights.safetensors" for stage in STAGES]
    newest = max((run / "checkpoints").glob("step-*.safetensors"))
    trained = [load_file(file) for file in stages if file.is_file()]
    return {name: array for arrays in (*trained, load_file(newest)) for name, array in arrays.items()}


def checkpoints(folder: Path) -> set[str]:
    """The checkpoints of all stages."""
    run = folder / "runs" / "run"
    folders = [run, *(run / stage for stage in STAGES)]
    return {str(path.relative_to(run)) for each in folders for path in each.glob("checkpoints/step-*")}


def kill_at_a_random_moment(folder: Path, backend: str, most: int) -> None:
    """Kills the process after 1 to `most` new checkpoints of any stage."""
    before, new, wanted = checkpoints(folder), set[str](), random.randint(1, most)
    process = start(folder, backend)
    while process.poll() is None and len(new) < wanted:
        time.sleep(0.02)
        new |= checkpoints(folder) - before
    time.sleep(random.random() * 0.4)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_in(stage: str, folder: Path, backend: str) -> None:
    """Kills the process in the training of a stage: "encoder", "decoder", or "" for the generator."""
    own = folder / "runs" / "run" / stage
    process = start(folder, backend)
    while not list(own.glob("checkpoints/step-*")):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        time.sleep(0.02)
    time.sleep(random.random() * 0.1)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (own / "model").exists()


def test_killed_once_and_resumed(tmp_path: Path) -> None:
    """The process is killed in any stage; those of the encoder and the decoder have three checkpoints each.

    PyTorch traces and compiles nothing, so that three processes end soon. Slow tests kill those of other backends.
    """
    (tmp_path / "site").mkdir()
    Site(tmp_path / "site").install("made", PLUGIN)
    resumes("torch", tmp_path, SMALL, kills=1, most=9, arrays=15)


@pytest.mark.slow
def test_killed_with_lora_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    Site(tmp_path / "site").install("made", PLUGIN)

    def kill(folder: Path) -> None:
        kill_in("", folder, "torch")
        kill_at_a_random_moment(folder, "torch", 4)

    resumes_after(kill, "torch", tmp_path, LORA, arrays=15)
    models = [load_file(tmp_path / name / "runs" / "run" / "model" / "weights.safetensors") for name in KINDS]
    same(*models)


@pytest.mark.slow
def test_killed_with_workers_in_the_middle_of_a_pass_and_resumed(tmp_path: Path) -> None:
    """Only the training process is killed. Its workers, which read every image of every step, end by themselves."""
    (tmp_path / "site").mkdir()
    Site(tmp_path / "site").install("made", PLUGIN + WITHOUT_MEMORY)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (23, 20, 30, 3)).astype(np.uint8)):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:02}.jpg")
        (tmp_path / "images" / f"{number:02}.txt").write_text(f"image {number}", encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "run.yaml").write_text(FILES.format(path=tmp_path / "images"), encoding="utf-8")
    backend = quickest_backend()
    process = start(killed, backend)
    while not checkpoints(killed):
        assert process.poll() is None
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if "kgen.data.reading.process" in " ".join(child.cmdline())]
    process.kill()
    process.wait()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=20)[1]
    steps = [int(name.removeprefix("checkpoints/step-").split(".")[0]) for name in checkpoints(killed)]
    assert max(steps) < 200 and 8 * max(steps) % 23
    same(finish(killed, backend), finish(whole, backend))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sorted(SOURCES.keys() - {"imagefolder"}), "mixture"])
def test_killed_in_the_middle_of_a_pass_over_each_source_and_resumed(name: str, tmp_path: Path) -> None:
    """Training picks crops and captions, and uses mirror images. A pass takes 5.75 steps, and a checkpoint 10.

    Every step reads its images from the files. Those of tests that kill other runs are in folders of image files.
    """
    (tmp_path / "site").mkdir()
    Site(tmp_path / "site").install("made", PLUGIN + WITHOUT_MEMORY)
    images, captions = list[bytes](), [f"image {number}" for number in range(23)]
    for pixels in np.random.default_rng(0).integers(0, 256, (23, 20, 30, 3)).astype(np.uint8):
        Image.fromarray(pixels).save(file := io.BytesIO(), "png")
        images.append(file.getvalue())
    choices = []
    for source in [name] if name in SOURCES else ["webdataset", "parquet"]:
        (tmp_path / source).mkdir()
        written = [f"{caption}\nnumber" for caption in captions] if source == "webdataset" else captions
        SOURCES[source](tmp_path / source, images, written)
        path = str(tmp_path / source)
        choices.append({"name": source, "path": path, "size": 16, "crops": 2, "draw_captions": True})
    mixture = {"name": "mixture", "datasets": [{**choice, "weight": n + 1} for n, choice in enumerate(choices)]}
    config = SOURCE.format(data=json.dumps(choices[0] if name in SOURCES else mixture))
    resumes_after(lambda folder: kill_in("", folder, "torch"), "torch", tmp_path, config, arrays=8)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_killed_in_the_first_pass_of_its_caches_and_resumed(backend: str, tmp_path: Path) -> None:
    """With 0, 1 and 2 workers, what is trained and cached equals that of a run that was not killed."""
    (tmp_path / "site").mkdir()
    Site(tmp_path / "site").install("made", PLUGIN)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (800, 16, 24, 3)).astype(np.uint8)):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:03}.png")
        (tmp_path / "images" / f"{number:03}.txt").write_text(f"image {number}\nnumber {number}", encoding="utf-8")
    folders = {name: tmp_path / name for name in ("whole", "killed-0", "killed-1", "killed-2")}
    for name, folder in folders.items():
        folder.mkdir()
        text = FIRST_PASS.format(path=tmp_path / "images", workers=name[-1] if name[-1].isdigit() else 0)
        (folder / "run.yaml").write_text(text, encoding="utf-8")
    expected, caches = finish(folders["whole"], backend), marks(folders["whole"])
    for name in list(folders)[1:]:
        process = start(folders[name], backend)
        while not list((folders[name] / "runs" / "run").glob("checkpoints/step-*")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for cache, found in marks(folders[name]).items():
            assert 0 < np.count_nonzero(found) < np.count_nonzero(caches[cache]), cache
        same(finish(folders[name], backend), expected)
        for cache, found in marks(folders[name]).items():
            both = (found > 0) & (caches[cache] > 0)
            np.testing.assert_array_equal(found[both], caches[cache][both], err_msg=cache)
            assert np.count_nonzero(both) > 700, cache


def marks(folder: Path) -> dict[str, np.ndarray]:
    """The marks of each cache that a run has filled, which are 0 or contain the checksum of a row."""
    files = folder.glob("cache/*/marks.bin")
    return {file.parent.name: np.fromfile(file, np.uint64) for file in files}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_killed_four_times_in_two_stages_and_resumed(backend: str, tmp_path: Path) -> None:
    resumes(backend, tmp_path, CONFIG, kills=4, most=1)


@pytest.mark.slow
def test_the_three_stages_of_dall_e_2_are_killed_and_resumed(tmp_path: Path) -> None:
    def kill(folder: Path) -> None:
        for stage in (*STAGES, ""):
            kill_in(stage, folder, "torch")

    resumes_after(kill, "torch", tmp_path, EMBEDDINGS)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_500_steps_with_each_optimizer_are_killed_and_resumed(optimizer: str, tmp_path: Path) -> None:
    rows = resumes("tensorflow", tmp_path, ONE_STAGE.replace("OPTIMIZER", OPTIMIZERS[optimizer]), kills=1, most=8)
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert len(losses) == 10
    assert losses[0] > 1.2 and losses[-1] < TRAINED, losses


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys() and len(expected) > 5
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def resumes(backend: str, tmp_path: Path, config: str, kills: int, most: int, arrays: int = 50) -> list[dict[str, str]]:
    """Kills a run at random moments, and compares it with one that is not killed."""

    def kill(folder: Path) -> None:
        for _ in range(kills):
            kill_at_a_random_moment(folder, backend, most)

    return resumes_after(kill, backend, tmp_path, config, arrays)


def resumes_after(
    kill: Callable[[Path], None], backend: str, tmp_path: Path, config: str, arrays: int = 50
) -> list[dict[str, str]]:
    """Compares a run that is killed with one that is not. Returns the rows of its metrics.csv.

    Args:
        arrays: A number of arrays that the last checkpoint exceeds.
    """
    whole, killed = (tmp_path / name for name in KINDS)
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "run.yaml").write_text(config, encoding="utf-8")
    kill(killed)
    assert not (killed / "runs" / "run" / "model").exists()  # it was killed before its end
    resumed, expected = finish(killed, backend), finish(whole, backend)
    same(resumed, expected)
    assert len(expected) > arrays
    rows = read_rows(killed / "runs" / "run" / "metrics.csv")
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(steps) and steps[-1] == yaml.safe_load(config)["fit"]["steps"]
    return rows
