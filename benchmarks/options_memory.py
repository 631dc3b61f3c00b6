"""The memory of a process that samples with ever new options, each of which is compiled into a program of its own.

    KERAS_BACKEND=tensorflow python benchmarks/options_memory.py [--sets 1000] [--output benchmarks/RESULTS.md]

A pipeline keeps the most recently used programs, and TensorFlow keeps all that XLA has compiled, so that only the first
programs of a process use XLA there (`kgen.backend.programs`). A tiny DiT generates one image with each set of options:
DDIM with another number of steps. The table has the memory of the process after parts of the sets, without what the C
library of Linux can return to the system. The exit status is 1 if the memory grows by more than 0.1 MiB per set from
the first tenth (at least 30 sets) to the end. Needs kgen-plugin-diffusion and -text.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import time
from pathlib import Path

import keras
import psutil

import kgen

LIMIT = 0.1
"""Largest growth, in MiB per set of options."""


def memory() -> float:
    """The memory of this process in MiB, after garbage is collected."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    return float(psutil.Process().memory_info().rss) / 2**20


def measure(sets: int, every: int) -> list[tuple[int, float, float]]:
    """The number of sets so far, the memory in MiB, and the seconds since the last row."""
    pipeline = kgen.assemble(
        encoder={"name": "text/bag", "dim": 8},
        generator={
            "name": "diffusion/diffusion",
            "network": {"kind": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 1},
        },
        captions=["a red star", "a blue circle"],
        image_space=kgen.Space("continuous", (8, 8, 3)),
    )
    rows, began = [], time.perf_counter()
    for number in range(1, sets + 1):
        pipeline.generate(["a red star"], sampler="ddim", steps=number + 1)
        if number % every == 0:
            now = time.perf_counter()
            rows.append((number, memory(), now - began))
            began = now
            print(*rows[-1], flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()
    every = max(args.sets // 10, 10)
    rows = measure(args.sets, every)
    begin = next(row for row in rows if row[0] >= 30)
    slope = (rows[-1][1] - begin[1]) / max(1, rows[-1][0] - begin[0])
    lines = [
        f"| {keras.backend.backend()}: sets of options | memory, MiB | seconds per set |",
        "|---|---|---|",
        *(f"| {count:,} | {found:,.0f} | {seconds / every:.2f} |" for count, found, seconds in rows),
        "",
        f"From {begin[0]:,} sets on, the memory grows by {slope:.3f} MiB per set.",
    ]
    print(*lines, sep="\n")
    if args.output:
        with args.output.open("a", encoding="utf-8") as file:
            print("", *lines, sep="\n", file=file)
    return int(slope > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
