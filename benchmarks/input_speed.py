"""Compares kgen's loader with other libraries: images per second, and CPU time per image.

    python benchmarks/input_speed.py [--images 2000] [--workers 2] [--rounds 3] [--output benchmarks/RESULTS.md]

All libraries read the same JPEG files in random order, and make batches of 32 images of 256x256 pixels (uint8). The
files have 512x512 pixels, and show ellipses on noise with the spectrum of photographs. Each library runs in a process
of its own, with the same number of workers, which are processes, or threads in tf.data. Each is used as its
documentation shows:

- PyTorch, grain and webdataset decode with Pillow, and resize with its anti-aliased bilinear filter, as torchvision
  does.
- tf.data decodes all pixels with `tf.io.decode_jpeg`. `tf.image.resize` is bilinear and without anti-aliasing, which is
  its default; here it computes means of 2x2 pixels.
- kgen's JPEG decoder makes an image of half the size from the low frequencies, so that no resizing remains. At other
  sizes, kgen resizes with a Lanczos filter. TensorFlow's decoder can do the same (`ratio=2`) if the ratio is known
  before the file is read. The last row shows this. It is not compared with kgen, which finds the ratio of each file.

The measurement begins when a fourth of the images was read, so that all workers have started. The CPU time is that of
the process and of all its workers. The libraries run in turn, `--rounds` times, and the medians are compared.

The exit status is 1 if kgen reads fewer images per second than the fastest of the others, or if it takes more CPU time
per image than tf.data. The script needs the packages torch, tensorflow, grain and webdataset.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image, ImageDraw

SOURCE, SIZE, BATCH = 512, 256, 32
DIFFERENT = 50
"""Number of different images; each is written several times."""


def photo(seed: int) -> Image.Image:
    """Noise with the spectrum of photographs, with ellipses on it. Its JPEG takes 60 kB, as that of a photograph."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SOURCE), np.fft.fftfreq(SOURCE))) + 1 / SOURCE
    common = random.normal(size=(SOURCE, SOURCE))
    channels = [0.9 * common + 0.1 * random.normal(size=(SOURCE, SOURCE)) for _ in range(3)]
    noise = np.stack([np.fft.ifft2(np.fft.fft2(each) / frequency**1.7).real for each in channels], -1)
    noise = (noise - noise.mean((0, 1))) / noise.std((0, 1))
    image = Image.fromarray(np.clip(128 + 50 * noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        (x, y), (width, height) = random.integers(0, SOURCE, 2), random.integers(20, 150, 2)
        draw.ellipse((x, y, x + width, y + height), fill=tuple(map(int, random.integers(0, 256, 3))))
    return image


def write_images(folder: Path, count: int) -> None:
    """Writes `images/*.jpg`, and the same files in `shards/*.tar`, 250 in each."""
    files = []
    for seed in range(min(DIFFERENT, count)):
        file = io.BytesIO()
        photo(seed).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    (folder / "images").mkdir()
    (folder / "shards").mkdir()
    for start in range(0, count, 250):
        with tarfile.open(folder / "shards" / f"{start:06}.tar", "w") as shard:
            for number in range(start, min(start + 250, count)):
                path = folder / "images" / f"{number:06}.jpg"
                path.write_bytes(files[number % len(files)])
                shard.add(path, path.name)


def read_with_pillow(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return small(image)


def small(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


# ---- one tool each: endless batches, uint8 (BATCH, SIZE, SIZE, 3) ------------------------------------------------


def of_kgen(folder: Path, workers: int) -> Iterable[Any]:
    from kgen.data import loader
    from kgen.data.datasets.imagefolder import ImageFolder
    from kgen.data.reading.workers import Workers

    loader.MEMORY_LIMIT = 0  # no image is kept in memory
    dataset = ImageFolder(path=str(folder / "images"), size=SIZE, captions_from="none")
    batches = loader.Loader(dataset, None, batch_size=BATCH, workers=Workers(dataset, workers)).training()
    return (batch["image"] for batch in batches)


class Files:
    """The files as a map-style dataset of PyTorch. It repeats them 1,000 times, so that no epoch ends."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(map(str, (folder / "images").iterdir()))

    def __len__(self) -> int:
        return 1_000 * len(self.paths)

    def __getitem__(self, index: Any) -> np.ndarray:
        return read_with_pillow(self.paths[int(index) % len(self.paths)])


def of_torch(folder: Path, workers: int) -> Iterable[Any]:
    from torch.utils.data import DataLoader

    return DataLoader(Files(folder), batch_size=BATCH, shuffle=True, num_workers=workers)  # type: ignore[arg-type]


def of_grain(folder: Path, workers: int) -> Iterable[Any]:
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # without it, grain's processes refuse to start
    paths = Files(folder).paths
    batches = grain.MapDataset.source(paths).seed(0).shuffle().repeat().map(read_with_pillow).batch(BATCH)
    return batches.to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))


def of_tf_data(folder: Path, workers: int, ratio: int = 1) -> Iterable[Any]:
    import tensorflow as tf

    def read(path: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, ratio=ratio)
        return image if ratio > 1 else tf.cast(tf.image.resize(image, (SIZE, SIZE)), tf.uint8)

    paths = Files(folder).paths
    files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    return (
        files.map(read, num_parallel_calls=workers).batch(BATCH).prefetch(2).with_options(options).as_numpy_iterator()
    )


def of_webdataset(folder: Path, workers: int) -> Iterable[Any]:
    import webdataset

    shards = sorted(map(str, (folder / "shards").iterdir()))
    data = webdataset.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(250).decode("pil")
    data = data.to_tuple("jpg").map_tuple(small).batched(BATCH)
    return (batch[0] for batch in webdataset.WebLoader(data, batch_size=None, num_workers=workers))


TOOLS = {
    "kgen": of_kgen,
    "torch.utils.data.DataLoader": of_torch,
    "tf.data": of_tf_data,
    "grain": of_grain,
    "webdataset": of_webdataset,
    (REDUCED := "tf.data, ratio=2"): functools.partial(of_tf_data, ratio=SOURCE // SIZE),
}


# ---- the measurement ---------------------------------------------------------------------------------------------


def cpu() -> float:
    """The CPU time of this process and of its running children, in seconds."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def measure(tool: str, folder: Path, workers: int, count: int) -> dict[str, float]:
    batches: Iterator[Any] = iter(TOOLS[tool](folder, workers))
    for _ in range(max(1, count // (4 * BATCH))):
        batch = np.asarray(next(batches))
        assert batch.shape == (BATCH, SIZE, SIZE, 3) and batch.dtype == np.uint8, (batch.shape, batch.dtype)
    steps = max(1, count // BATCH)
    began, spent = time.perf_counter(), cpu()
    for _ in range(steps):
        next(batches)
    images = steps * BATCH
    return {"speed": images / (time.perf_counter() - began), "cpu": 1000 * (cpu() - spent) / images}


def worker(tool: str, folder: Path, workers: int, count: int) -> dict[str, float]:
    """Calls `measure` in a new process."""
    command = [sys.executable, __file__, "--tool", tool, "--folder", folder, "--workers", workers, "--images", count]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{tool}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(measured: dict[str, list[dict[str, float]]], workers: int, count: int) -> tuple[list[str], bool]:
    """The lines of the table, and whether kgen reaches the goal."""
    medians = {
        tool: {key: statistics.median(row[key] for row in rows) for key in ("speed", "cpu")}
        for tool, rows in measured.items()
    }
    others = [tool for tool in medians if tool not in ("kgen", REDUCED)]
    best = max(others, key=lambda tool: medians[tool]["speed"])
    ratio = medians["kgen"]["speed"] / medians[best]["speed"]
    share = medians["kgen"]["cpu"] / medians["tf.data"]["cpu"]
    lines = [
        f"| {count:,} JPEG of {SOURCE}x{SOURCE}, to {SIZE}x{SIZE} | images per second | ms of CPU per image |",
        "|---|---|---|",
        *(f"| {tool} | {found['speed']:.0f} | {found['cpu']:.2f} |" for tool, found in medians.items()),
        "",
        f"Each had {workers} workers on {os.cpu_count()} cores. kgen is {ratio:.2f} times as fast as {best}, and takes "
        f"{share:.2f} times the CPU time of tf.data.",
    ]
    return lines, ratio >= 1 and share <= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="number of images")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="append the table to this file")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # importing TensorFlow imports Keras with its backend
    if args.tool:
        print(json.dumps(measure(args.tool, args.folder, args.workers, args.images)), flush=True)
        os._exit(0)  # otherwise, some of the tools wait for their threads
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), args.images)
        measured: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
        for _ in range(args.rounds):
            for tool, rows in measured.items():
                rows.append(worker(tool, Path(folder), args.workers, args.images))
                print(f"{tool}: {rows[-1]['speed']:.0f} images per second, {rows[-1]['cpu']:.2f} ms", flush=True)
    lines, good = table(measured, args.workers, args.images)
    text = "\n".join(lines)
    print(text)
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")
    sys.exit(int(not good))


if __name__ == "__main__":
    main()
