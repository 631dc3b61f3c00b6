"""kgen on one GPU, in eight minutes: training and sampling beside diffusers with torch.compile, tokens, and the loader.

    KERAS_BACKEND=jax python benchmarks/gpu.py [--sections matmul dit ...] [--output benchmarks/RESULTS.md]
    python benchmarks/gpu.py --tiny        # small networks and few steps, also on a CPU: it only shows that all works

Each section is a process of its own, which ends with its share of the time:

- `matmul`: the rate of products of bfloat16 matrices, the most that a network could reach.
- `dit`, `unet`: a training step of DiT-B/2 (256 tokens), or of a U-Net of width 128, on images of 32x32 pixels in
  mixed bfloat16; then DDIM. The step is one of kgen's `fit` (its data, metrics and AdamW; no EMA). The share of the
  matmul rate counts the matrix products and convolutions of the forward pass three times, as usual.
- `dit-peer`, `unet-peer`: the same networks of diffusers' modules, with torch.compile, autocast and a fused AdamW, in
  the usual loop. They are skipped, with a line, where PyTorch or diffusers are missing.
- `tokens`: AR and NAR, one network of 12 blocks of width 768, for 256 and 1,024 tokens of a vocabulary of 1,024.
- `input`: DiT-B/2 on JPEG files through kgen's loader: the time that a step waits for its batch.

Times are those of blocks of steps, with one wait for the device at the end of each. The blocks that compile and warm up
are not counted; the numbers are medians over the blocks after them, and the line says how many steps that are. The exit
status is 1 if a section fails. Needs kgen-plugin-diffusion and -tokens; `input` also kgen-plugin-text and Pillow.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_peer import peer
from gpu_sections import diffusion, inputs, matmul, tokens
from gpu_timing import TINY, Sizes

SECONDS = {
    "matmul": 20, "dit": 95, "dit-peer": 80, "unet": 85, "unet-peer": 70, "tokens": 75, "input": 55,
}  # fmt: skip
"""The time of each section, in seconds: eight minutes in all."""


MEASURES: dict[str, Callable[[Sizes, float], dict[str, Any]]] = {
    "matmul": matmul,
    "dit": lambda sizes, deadline: diffusion("dit", sizes, deadline),
    "dit-peer": lambda sizes, deadline: peer("dit", sizes, deadline),
    "unet": lambda sizes, deadline: diffusion("unet", sizes, deadline),
    "unet-peer": lambda sizes, deadline: peer("unet", sizes, deadline),
    "tokens": tokens,
    "input": inputs,
}


def seconds(section: str, tiny: bool) -> float:
    """The time of a section. The small form has five times as long, because a CPU may be busy with other work."""
    return SECONDS[section] * (5 if tiny else 1)


def child(section: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures a section in a process of its own; {"failed": why} if it fails or takes too long."""
    command = [sys.executable, __file__, "--section", section, *(["--tiny"] if arguments.tiny else [])]
    limit = seconds(section, arguments.tiny)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {limit} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def lines_of(section: str, found: dict[str, Any], rate: float | None) -> Iterator[str]:
    """The rows of the table for a section. `rate` is the matmul rate in FLOP per second, if it was measured."""
    if reason := found.get("skipped") or found.get("failed"):
        yield f"| {section} | {'skipped' if 'skipped' in found else 'FAILED'}: {reason} | | | |"
    elif section == "matmul":
        yield row(section, found, f"{found['flops'] / 1e12:.3g} TFLOP/s on {found['device']}")
    elif section == "input":
        step = found["batch"] / found["images_per_second"]
        share = f"{found['images_per_second']:.1f} images/s; a step of {step:.4f} s waits {found['input_wait']:.4f} s"
        yield row(section, found, share)
    elif section == "tokens":
        for name, timed in found.items():
            yield row(f"{section}: {name}", timed, f"{timed['per second']:.2f} images/s")
    else:
        for job in ("training", "sampling"):
            speed = found[job]["per second"]
            share = ""
            if job == "training" and rate and found.get("flops"):
                share = f"{speed * found['flops'] / rate:.3f}"
            yield row(f"{section}: {job}, {found['weights']:,} weights", found[job], f"{speed:.1f} images/s", share)


def row(name: str, timed: dict[str, Any], result: str, share: str = "") -> str:
    return f"| {name} | {result} | {share} | {timed['warm-up']} | {timed['steps']} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps")
    parser.add_argument("--sections", nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--output", type=Path, help="append the table to this file")
    parser.add_argument("--section", choices=SECONDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if arguments.section:
        deadline = time.monotonic() + seconds(arguments.section, arguments.tiny) - 5
        measured = MEASURES[arguments.section](TINY if arguments.tiny else Sizes(), deadline)
        print(json.dumps(measured))
        return 0
    packages = [
        name
        for name in ("kgen-core", "keras", "jax", "diffusers", "torch")
        if importlib.util.find_spec(name.split("-")[0])
    ]
    lines = [
        f"Keras on {os.environ['KERAS_BACKEND']}, mixed bfloat16: {', '.join(f'{p} {version(p)}' for p in packages)}.",
        "",
        "| what | result | share of the matmul rate | steps of warm-up | steps |",
        "|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    rate, failed = None, False
    for section in arguments.sections:
        found = child(section, arguments)
        failed = failed or "failed" in found
        rate = found.get("flops", rate) if section == "matmul" else rate
        for line in lines_of(section, found, rate):
            print(line, flush=True)
            lines.append(line)
    if arguments.output:
        with arguments.output.open("a", encoding="utf-8") as file:
            print("", *lines, sep="\n", file=file)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
