"""Time and memory of the statistics that FID is computed from, beside torch-fidelity's.

    python benchmarks/metrics_cost.py [--images 500] [--rounds 1] [--output benchmarks/RESULTS.md]

Speed: both compute the mean and covariance of Inception's features of the same images (uint8, 32x32 by default), with
the same random weights in the public layout, because the published ones are a download. Each is a process of its own,
which loads the network and computes one batch before the time counts. They run in turn, `--rounds` times; the medians
are compared. Both use all cores that the process may use, and their own batch size: 32 and 64.

Memory: the peak of a process that streams images through the metric `frechet`, with features of Inception's size that
need no network. It is measured for 1,000 and for 50,000 images.

The exit status is 1 if kgen is slower than torch-fidelity, if the statistics differ, or if the peak grows by more than
5%. The script needs kgen-plugin-metrics, and the packages torch, torchvision and torch-fidelity. 500 images take five
minutes on two cores, and 10,000 take half an hour or more.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOOLS = ("kgen", "torch-fidelity")
FEW, MANY, BATCH = 1_000, 50_000, 50
"""Numbers of images whose peaks of memory are compared, and the size of their batches."""

GROWTH = 1.05

Statistics = tuple[np.ndarray, np.ndarray]


def images_of(count: int, size: int) -> np.ndarray:
    """Noise: the time does not depend on what the images show."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def save_weights(file: Path) -> None:
    """Saves random weights, at which activations stay of order one, in the layout of torch-fidelity and pytorch-fid."""
    import torch
    from kgen_plugin_metrics.features.inception_network import build

    rng = torch.Generator().manual_seed(0)
    weights = {"fc.weight": torch.randn(1008, 2048, generator=rng) * 0.02, "fc.bias": torch.zeros(1008)}
    for (name, _), layer in build()[1].items():
        height, width, inputs, outputs = layer.kernel.shape
        kernel = torch.randn(outputs, inputs, height, width, generator=rng)
        weights[f"{name}.conv.weight"] = kernel * (2 / (height * width * inputs)) ** 0.5
        weights |= {f"{name}.bn.{part}": torch.ones(outputs) for part in ("weight", "running_var")}
        weights |= {f"{name}.bn.{part}": torch.zeros(outputs) for part in ("bias", "running_mean")}
    torch.save(weights, file)


# ---- one process: the time of one tool ---------------------------------------------------------------------------


def of_kgen(weights: Path) -> Callable[[np.ndarray], Statistics]:
    from kgen_plugin_metrics.features.contract import BATCH
    from kgen_plugin_metrics.features.inception import Inception
    from kgen_plugin_metrics.formulas.moments import MomentStream

    network = Inception(weights, "torch-fidelity")

    def compute(images: np.ndarray) -> Statistics:
        stream = MomentStream(network.dim)
        for start in range(0, len(images), BATCH):
            stream.add(network(images[start : start + BATCH])["features"])
        moments = stream.moments()
        return moments.mean, moments.covariance

    return compute


def of_torch_fidelity(weights: Path) -> Callable[[np.ndarray], Statistics]:
    torch = importable_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics

    extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights)).eval()

    def compute(images: np.ndarray) -> Statistics:
        with torch.no_grad():
            features = [
                extractor(torch.from_numpy(images[start : start + 64].transpose(0, 3, 1, 2).copy()))[0]
                for start in range(0, len(images), 64)
            ]
            found = fid_features_to_statistics(torch.cat(features))
        return found["mu"], found["sigma"]

    return compute


def importable_torchvision() -> Any:
    """PyTorch, beside which torchvision, of which torch-fidelity uses nothing here, can be imported.

    PyPI's build of torchvision needs PyPI's PyTorch. Beside PyTorch for CPUs, it imports if two operators have a name.
    """
    import torch

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations, "pip install torchvision"
    try:
        torch.ops.load_library(next(Path(spec.submodule_search_locations[0]).glob("_C*")))
    except (OSError, StopIteration):
        torch.library_of_names = torch.library.Library("torchvision", "FRAGMENT")  # which must be kept
        for name in {"nms", "qnms"} - set(dir(torch.ops.torchvision)):
            torch.library_of_names.define(f"{name}(Tensor x) -> Tensor")
    return torch


def measure_time(tool: str, weights: Path, images: np.ndarray, result: Path) -> dict[str, float]:
    compute = {"kgen": of_kgen, "torch-fidelity": of_torch_fidelity}[tool](weights)
    compute(images[:64])
    wall, cpu = time.perf_counter(), time.process_time()
    mean, covariance = compute(images)
    told = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": peak()}
    np.savez(result, mean=mean, covariance=covariance)
    return told


# ---- one process: the memory of a number of images ---------------------------------------------------------------


def measure_memory(count: int, folder: Path) -> dict[str, float]:
    from kgen_plugin_metrics.features.pixels import Pixels
    from kgen_plugin_metrics.formulas.moments import Moments
    from kgen_plugin_metrics.metrics.frechet import Frechet
    from kgen_plugin_metrics.reference.files import write_statistics

    import kgen
    from kgen.contracts.metric import measure

    network, reference = Pixels(size=26), folder / f"{count}.npz"  # 2,028 features
    write_statistics(reference, Moments.of(np.random.default_rng(1).normal(size=(3000, network.dim))), network)
    random = np.random.default_rng(0)

    def batches() -> Iterator[kgen.GeneratedImages]:
        for _ in range(count // BATCH):
            images = random.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
            yield kgen.GeneratedImages(images, [""] * BATCH)

    metric = Frechet(features={"kind": "pixels", "size": 26}, reference=str(reference))
    found = measure(metric, kgen.make_dataset({"name": "shapes", "count": 4}), "train", batches())
    return {"distance": found["distance"], "peak": peak()}


def peak() -> float:
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# ---- all of them -------------------------------------------------------------------------------------------------


def worker(*arguments: Any) -> dict[str, float]:
    """What a process of this script with these arguments measures."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare_speed(count: int, size: int, rounds: int, folder: Path) -> tuple[list[str], bool]:
    weights = folder / "inception.pth"
    save_weights(weights)
    told: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
    for _ in range(rounds):
        for tool in TOOLS:
            told[tool].append(worker("--worker", tool, "--folder", folder, "--images", count, "--size", size))
            print(f"{tool}: {told[tool][-1]['seconds']:.1f} s", flush=True)
    lines = [
        f"| {count:,} images of {size}x{size} | seconds | seconds of CPU | images per second | peak, MiB |",
        "|---|---|---|---|---|",
    ]
    seconds = {}
    for tool, rows in told.items():
        seconds[tool], cpu, most = (statistics.median(row[key] for row in rows) for key in ("seconds", "cpu", "peak"))
        lines.append(f"| {tool} | {seconds[tool]:.1f} | {cpu:.1f} | {count / seconds[tool]:.2f} | {most:.0f} |")
    ours, theirs = (np.load(folder / f"{tool}.npz") for tool in TOOLS)
    differ = max(np.abs(ours[key] - theirs[key]).max() / np.abs(theirs[key]).max() for key in ("mean", "covariance"))
    ratio = seconds["torch-fidelity"] / seconds["kgen"]
    lines += [
        "",
        f"kgen is {ratio:.2f} times as fast. The largest difference of the statistics is {differ:.1e} of them.",
    ]
    return lines, ratio >= 1 and differ < 1e-3


def compare_memory(folder: Path) -> tuple[list[str], bool]:
    few, many = (worker("--worker", "memory", "--folder", folder, "--images", n)["peak"] for n in (FEW, MANY))
    lines = [
        "| images streamed through `frechet` | peak, MiB |",
        "|---|---|",
        *(f"| {count:,} | {most:.0f} |" for count, most in ((FEW, few), (MANY, many))),
    ]
    return lines, many < GROWTH * few


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500, help="number of images whose time is measured")
    parser.add_argument("--size", type=int, default=32, help="their height and width")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=Path, help="append the tables to this file")
    parser.add_argument("--worker", choices=(*TOOLS, "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if args.worker == "memory":
        print(json.dumps(measure_memory(args.images, args.folder)))
        return
    if args.worker:
        images = images_of(args.images, args.size)
        result = args.folder / f"{args.worker}.npz"
        print(json.dumps(measure_time(args.worker, args.folder / "inception.pth", images, result)))
        return
    with tempfile.TemporaryDirectory() as folder:
        memory, flat = compare_memory(Path(folder))
        speed, fast = compare_speed(args.images, args.size, args.rounds, Path(folder))
    text = "\n".join([*speed, "", *memory])
    print(text)
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")
    sys.exit(int(not (flat and fast)))


if __name__ == "__main__":
    main()
