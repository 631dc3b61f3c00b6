"""The start of a run with many images: the time to open a folder, its fingerprint and inventory, and the memory.

    python benchmarks/start_speed.py [--images 20000 200000 1000000] [--output benchmarks/RESULTS.md]

Each folder has JPEG files of 64x64 pixels in subfolders of 1,000, which are copies of 50 different ones, and a caption
for each in `metadata.jsonl`. A million of them take 4 GB on the disk. Each measurement is the second of two processes,
so that the operating system has read the folder before; kgen's cache is empty. The import of kgen and of the backend is
not included. The last line extrapolates the times to ten million images.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, IN_FOLDER, DIFFERENT = 64, 1000, 50
MANY = 10_000_000


def write_images(folder: Path, count: int) -> None:
    random, different = np.random.default_rng(0), list[bytes]()
    for _ in range(DIFFERENT):
        small = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file := io.BytesIO(), "jpeg")
        different.append(file.getvalue())
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as table:
        for number in range(count):
            name = f"{number // IN_FOLDER:05}/{number:08}.jpg"
            if number % IN_FOLDER == 0:
                (folder / name).parent.mkdir()
            (folder / name).write_bytes(different[number % DIFFERENT])
            table.write(json.dumps({"file_name": name, "text": f"image {number}"}) + "\n")


def measure(folder: Path) -> dict[str, float]:
    """The seconds of each part of the start, and the peak memory in MiB."""
    import kgen
    from kgen.backend.memory import peak_memory

    clock = [time.perf_counter()]
    dataset = kgen.make_dataset({"name": "imagefolder", "path": str(folder), "size": SIZE})
    clock.append(time.perf_counter())
    dataset.fingerprint()
    clock.append(time.perf_counter())
    dataset.inventory()
    clock.append(time.perf_counter())
    return {**dict(zip(("open", "fingerprint", "inventory"), np.diff(clock), strict=True)), "peak": peak_memory()}


def worker(folder: Path) -> dict[str, float]:
    """Calls `measure` in a new process, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--folder", str(folder)]
        environment = {**os.environ, "KGEN_CACHE": cache}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000, 1_000_000], help="numbers of images")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(measure(args.folder)))
        return
    rows, totals = [], []
    for count in args.images:
        with tempfile.TemporaryDirectory() as temporary:
            write_images(Path(temporary), count)
            found = [worker(Path(temporary)) for _ in range(2)][-1]
        parts = [found[name] for name in ("open", "fingerprint", "inventory")]
        totals.append(sum(parts))
        rows.append(f"| {count:,} | {' | '.join(f'{part:.2f}' for part in parts)} | {found['peak']:,.0f} |")
    lines = [
        "| images | opening, s | fingerprint, s | inventory, s | peak memory, MiB |",
        "|---|---|---|---|---|",
        *rows,
    ]
    if len(totals) > 1:
        slope = (totals[-1] - totals[0]) / (args.images[-1] - args.images[0])
        lines += [
            "",
            f"From the first to the last line, each image takes {1e6 * slope:.1f} us. With this, {MANY:,} images take "
            f"{totals[-1] + slope * (MANY - args.images[-1]):.0f} s.",
        ]
    print(text := "\n".join(lines))
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
