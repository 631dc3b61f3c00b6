"""Shares the images of an evaluation between several processes.

Each process measures its share of the portions and keeps the states of its metrics in a folder, where the first process
finds and merges them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kgen.contracts.dataset import Split
from kgen.errors import KgenError, RunError
from kgen.evaluation.results import Result
from kgen.evaluation.scoring import (
    Generation,
    OnImages,
    collect,
    make_plans,
    measurable,
    require_enough_images,
    seeds,
    unit_name,
)
from kgen.evaluation.states import States
from kgen.experiments.directory import RunDirectory
from kgen.experiments.experiment import Experiment, Metrics, open_experiment
from kgen.pipeline.loading import load
from kgen.pipeline.model import Pipeline

PROGRAM = "from kgen.evaluation.workers import work; work()"

LAST_LINES = 20
"""Number of lines of a worker's output that an error shows."""


def score_with_workers(
    experiment: Experiment,
    pipeline: Pipeline,
    directory: RunDirectory,
    states: States,
    workers: int,
    on_images: OnImages | None = None,
) -> list[Result]:
    """Scores generated images like `score_generated`, with several processes.

    Args:
        experiment: The experiment.
        pipeline: The pipeline, with which the images are planned. Each worker loads the saved one.
        directory: The run directory.
        states: The folder of the states.
        workers: Number of processes, at least 2.
        on_images: Called when images have been measured.

    Raises:
        ConfigError: a metric needs more images.
        RunError: a worker failed. The states of the measured images are kept.
    """
    plans = make_plans(experiment, pipeline.encoder.fields)
    if not plans:
        return []
    require_enough_images(experiment, plans)
    states.claim()
    jobs = [
        {
            "run": str(directory.path),
            "config": experiment.config.dump(),
            "folder": str(states.folder),
            "described": states.described,
            "worker": worker,
            "workers": workers,
        }
        for worker in range(workers)
    ]
    _run(jobs, len(seeds(experiment.config)) * sum(plan.images for plan in plans.values()), on_images)

    def merge(split: Split, seed: int, metrics: Metrics) -> None:
        for metric in metrics.values():
            metric.start(experiment.dataset, split)
        for worker in range(workers):
            kept = states.load(unit_name(split, seed, worker, workers))
            if kept is None:
                raise RunError(f"{states.folder} lacks the measurements of worker {worker + 1}: evaluate again")
            for name, metric in metrics.items():
                metric.merge(kept[1][name])

    return collect(experiment, plans, merge)


def _run(jobs: Sequence[Mapping[str, Any]], total: int, on_images: OnImages | None) -> None:
    """Runs one process per job, and waits for all of them. If one fails, the others are terminated.

    Args:
        jobs: The input of each process, as plain data.
        total: The number of images of all jobs.
        on_images: Called when images have been measured.

    Raises:
        RunError: a process failed.
    """
    done = [0] * len(jobs)
    lock = threading.Lock()
    problems: list[str] = []

    def follow(number: int, process: subprocess.Popen[str]) -> None:
        lines: list[str] = []
        assert process.stdout is not None and process.stdin is not None
        with process.stdin as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(json.dumps(jobs[number]))
        for line in process.stdout:
            message = _message(line)
            if "images" in message:
                with lock:
                    done[number] = message["images"]
                    if on_images is not None:
                        on_images(sum(done), total)
            elif "error" in message:
                problems.append(message["error"])
            else:
                lines = [*lines, line.rstrip()][-LAST_LINES:]
        if process.wait() and not problems:
            problems.append(f"worker {number + 1} of the evaluation failed:\n" + "\n".join(lines))
        if problems:
            for other in processes:
                other.terminate()

    with contextlib.ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        for environment in _environments(len(jobs)):
            processes.append(stack.enter_context(_started(environment)))
        threads = [threading.Thread(target=follow, args=pair) for pair in enumerate(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if problems:
        raise RunError(problems[0])


@contextlib.contextmanager
def _started(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Starts a worker, and terminates it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=dict(environment),
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _environments(workers: int) -> list[dict[str, str]]:
    """The environment of each worker, in which it sees one of the GPUs that CUDA_VISIBLE_DEVICES names.

    If the variable names no GPU, all workers see the same devices.
    """
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    return [
        {**os.environ, **({"CUDA_VISIBLE_DEVICES": visible[worker % len(visible)]} if visible else {})}
        for worker in range(workers)
    ]


def _message(line: str) -> dict[str, Any]:
    """A line that `work` printed for the first process; {} for any other line."""
    try:
        message = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def work() -> None:
    """Reads the job of a worker from standard input, measures its share, keeps the states, and prints its progress."""
    job = json.load(sys.stdin)
    try:
        _work(job)
    except KgenError as error:
        _print(error=str(error))
        sys.exit(2)


def _work(job: Mapping[str, Any]) -> None:
    from kgen.config import RunConfig

    config = RunConfig.from_dict(job["config"])
    experiment = open_experiment(config, trained=True)
    pipeline = load(RunDirectory(job["run"]).model)
    states = States(Path(job["folder"]), job["described"])
    generation = Generation(
        experiment,
        pipeline,
        config.sample.options,
        states,
        lambda done, total: _print(images=done),
        job["worker"],
        job["workers"],
    )
    for split, plan in generation.plans.items():
        metrics = measurable(experiment.metrics, plan.images)
        for seed in seeds(config):
            generation.measure(split, seed, metrics)


def _print(**message: Any) -> None:
    print(json.dumps(message), flush=True)
