"""Runs over many images: the time from `kgen run` to the first step, a resume, and the memory of a long training.

    python benchmarks/run_speed.py [--images 1000 200000] [--rounds 3] [--output benchmarks/RESULTS.md]
    KERAS_BACKEND=jax python benchmarks/run_speed.py --steps 20000 --images 20000

The images are JPEG files of 64x64 pixels, as in `start_speed.py`. The network is tiny, so that the time is that of
everything else. Each run is a process of its own, which is `kgen run` with the libraries in the operating system's
memory.

Without `--steps`, the script measures the time until the line of the first step appears, in a new run and in a resumed
one, and the peak memory of the process. The folders take turns, `--rounds` times, after a round that is not measured.
The medians are compared. The exit status is 1 if the largest folder takes more than 10 seconds, or 1 GiB, above the
smallest.

With `--steps`, one run trains over the first number of images with one worker process, and the memory of the training
process is read at each tenth of the steps. The exit status is 1 if the memory at the end is more than 2% above that
after the first tenth. The script needs kgen-plugin-diffusion and kgen-plugin-text.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from start_speed import write_images

MORE_SECONDS, MORE_MEMORY, GROWTH = 10.0, 1024.0, 1.02
"""How much a start with the largest folder may take above that with the smallest, in seconds and MiB; and the largest
ratio of the memory of a training at its end to that after a tenth of its steps."""

STEP = re.compile(r"step ([\d,]+)/")


def write_run_file(file: Path, images: Path, steps: int, workers: int, every: int) -> None:
    """Writes a run file that trains a tiny transformer on images of 8x8 pixels, two at a time.

    Args:
        file: The run file.
        images: The folder of the images.
        steps: Number of steps.
        workers: Number of worker processes that decode images.
        every: Number of steps from one line of the log to the next.
    """
    network = {"kind": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 1}
    config: dict[str, Any] = {
        "name": "many",
        "data": {"name": "imagefolder", "path": str(images), "size": 8},
        "encoder": {"name": "text/bag", "dim": 8},
        "generator": {"name": "diffusion/diffusion", "network": network},
        "fit": {"steps": steps, "batch_size": 2, "log_every": every, "workers": workers},
        "sample": {"every": 0, "options": {"sampler": "ddim", "steps": 1}},
    }
    file.write_text(yaml.safe_dump(config), encoding="utf-8")


def follow(file: Path, out: Path, until: int | None = None, **changes: int) -> tuple[float, float, dict[int, float]]:
    """Calls `kgen run`, and waits for its end.

    Args:
        file: The run file.
        out: The run directory.
        until: The step whose line ends the measured time; None: the time is that of the whole run.
        changes: Keys of `fit`, and their values.

    Returns:
        The seconds; the peak memory of the process in MiB; and the memory in MiB at each step that was logged.
    """
    settings = [part for key, value in changes.items() for part in ("--set", f"fit.{key}={value}")]
    command = [sys.executable, "-m", "kgen.cli", "run", str(file), "--out", str(out), *settings]
    began = time.perf_counter()
    memory: dict[int, float] = {}
    seconds, lines = None, list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        of_process = psutil.Process(process.pid)
        for line in process.stdout:
            lines.append(line)
            if found := STEP.search(line):
                step = int(found[1].replace(",", ""))
                memory[step] = of_process.memory_info().rss / 2**20
                if step == until and seconds is None:
                    seconds = time.perf_counter() - began
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or (until is not None and seconds is None):
        raise SystemExit(f"{' '.join(command)} failed:\n{''.join(lines)}")
    return seconds or time.perf_counter() - began, usage.ru_maxrss / 2**10, memory


def measure_starts(folders: dict[int, Path], work: Path, rounds: int) -> tuple[list[str], bool]:
    """A table of the starts, and whether the largest folder takes little more than the smallest."""
    starts, resumes, peaks = ({count: list[float]() for count in folders} for _ in range(3))
    for number in range(rounds + 1):
        for count, folder in folders.items():
            file, out = work / "run.yaml", work / f"{count}-{number}"
            write_run_file(file, folder, steps=1, workers=0, every=1)
            start, peak, _ = follow(file, out, until=1)
            resume, _, _ = follow(file, out, until=2, steps=2)
            if number:
                starts[count].append(start)
                resumes[count].append(resume)
                peaks[count].append(peak)
    lines = [
        "| images | from `kgen run` to the first step, s | resumed, s | peak memory, MiB |",
        "|---|---|---|---|",
        *(
            f"| {count:,} | {shown(starts[count])} | {shown(resumes[count])} | {statistics.median(peaks[count]):,.0f} |"
            for count in folders
        ),
    ]
    few, many = min(folders), max(folders)
    start, resume, peak = (
        statistics.median(found[many]) - statistics.median(found[few]) for found in (starts, resumes, peaks)
    )
    lines += ["", f"{many:,} images take {start:.1f} s more than {few:,}, and {resume:.1f} s more if resumed."]
    return lines, start <= MORE_SECONDS and resume <= MORE_SECONDS and peak <= MORE_MEMORY


def shown(seconds: list[float]) -> str:
    """The median, and the smallest and the largest."""
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


def measure_memory(folder: Path, count: int, work: Path, steps: int) -> tuple[list[str], bool]:
    """A table of the memory of one training, and whether it stays flat."""
    write_run_file(work / "run.yaml", folder, steps, workers=1, every=steps // 10)
    seconds, _, memory = follow(work / "run.yaml", work / "run")
    lines = [
        f"| step ({steps:,} steps over {count:,} images, {seconds:.0f} s) | memory of the training process, MiB |",
        "|---|---|",
        *(f"| {step:,} | {size:,.0f} |" for step, size in memory.items()),
    ]
    first, last = memory[steps // 10], memory[steps]
    return [*lines, "", f"From the first line to the last, the memory grows by {100 * (last / first - 1):.1f}%."], (
        last <= GROWTH * first
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 200_000], help="numbers of images")
    parser.add_argument("--rounds", type=int, default=3, help="number of measured runs with each folder")
    parser.add_argument("--steps", type=int, help="measure the memory over so many steps, a multiple of 10")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        os.environ["KGEN_CACHE"] = str(work / "cache")
        folders = {count: work / f"images-{count}" for count in args.images}
        for count, folder in folders.items():
            folder.mkdir()
            write_images(folder, count)
        if args.steps:
            lines, holds = measure_memory(folders[args.images[0]], args.images[0], work, args.steps)
        else:
            lines, holds = measure_starts(folders, work, args.rounds)
    print(text := "\n".join(lines))
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")
    sys.exit(not holds)


if __name__ == "__main__":
    main()
