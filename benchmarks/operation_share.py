"""What kgen spends the time of a training step and of sampling on: matrix products, convolutions, and the rest.

    python benchmarks/operation_share.py [--networks unet dit-4 dit-2] [--rest 5] [--output benchmarks/RESULTS.md]

The networks and the jobs are those of `diffusers_speed.py`, on TensorFlow, with one thread, and TensorFlow's profiler
measures them. The time of an operation is that on the processor, without the operations that run inside it. The
profiler names an operation that XLA fused after the ones in it; such an operation belongs to the rest, unless its name
has a product or a convolution. The reading of inputs and Python's own time are not in the table.

Needs the packages that `diffusers_speed.py` needs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from diffusers_speed import NETWORKS, SIZE, Settings, kgen_network, kgen_pipeline, processor

WARM_UP, REPEATS, SAMPLE_STEPS = 2, 3, 5
KINDS = {
    "matrix products": re.compile("matmul|dot|gemm", re.IGNORECASE),
    "convolutions": re.compile("conv", re.IGNORECASE),
}
WAITS = re.compile("BlockUntilReady|Execut|RunAsync|FunctionRun|^end: ")
"""Events that are no operations: a thread waits in them for another one, or starts operations."""


def profile(network: str, batch: int, rest: int) -> list[str]:
    """Rows of the table for a network, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(measure, (network, batch))
    return [row(network, job, times, rest) for job, times in found.items()]


def measure(network: str, batch: int) -> dict[str, Counter[str]]:
    """By job, the seconds of each kind of operation."""
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import keras
    import tensorflow as tf

    from kgen.backend.devices import compile_training

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    pipeline = kgen_pipeline(kgen_network(Settings(network, batch, "float32", 1, False, 0, 0, SAMPLE_STEPS)))
    pipeline.compile(optimizer=keras.optimizers.AdamW(1e-4, weight_decay=0.01), jit_compile=compile_training())
    images = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    prompts = [f"image {i}" for i in range(batch)]

    def train(steps: int) -> None:
        inputs = pipeline.inputs(np.tile(images, (steps, 1, 1, 1)), prompts * steps)
        pipeline.fit(inputs, batch_size=batch, epochs=1, verbose=0)

    def sample(times: int) -> None:
        for _ in range(times):
            pipeline.generate(prompts, sampler="ddim", steps=SAMPLE_STEPS, guidance=1.0, batch_size=batch)

    jobs: dict[str, Callable[[int], None]] = {"training step": train, f"sampling, {SAMPLE_STEPS} steps": sample}
    return {name: operations(job) for name, job in jobs.items()}


def operations(job: Callable[[int], None]) -> Counter[str]:
    """The seconds that a job spends in each kind of operation per repetition."""
    import tensorflow as tf

    job(WARM_UP)
    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder, options):
            job(REPEATS)
        (file,) = Path(folder).glob("plugins/profile/*/*.xplane.pb")
        content = file.read_bytes()
    seconds: Counter[str] = Counter()
    for events in lines(content):
        seconds.update(own_times(events))
    return Counter({name: total / REPEATS for name, total in seconds.items() if not WAITS.search(name)})


def lines(content: bytes) -> Iterator[list[tuple[float, float, str]]]:
    """The begin, end and name of all events of each thread that computes, in seconds."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    for plane in xplane_pb2.XSpace.FromString(content).planes:
        names = {number: kind(entry.name) for number, entry in plane.event_metadata.items()}
        for line in plane.lines:
            if plane.name == "/host:CPU" and line.name.startswith(("tf_Compute", "tf_numa")):
                starts = ((event.offset_ps / 1e12, event) for event in line.events)
                yield [(start, start + event.duration_ps / 1e12, names[event.metadata_id]) for start, event in starts]


def kind(name: str) -> str:
    """The operation's type: "MatMul" of "block0/qkv/MatMul:MatMul", as a graph names it, or of "MatMul.12" of XLA."""
    return name.rpartition(":")[2] if "/" in name else re.sub(r"\.\d+$", "", name)


def own_times(events: list[tuple[float, float, str]]) -> Counter[str]:
    """The seconds of the events of one thread by name, without those of the events inside them."""
    seconds: Counter[str] = Counter()
    outer: list[tuple[float, str]] = []
    for start, end, name in sorted(events, key=lambda event: (event[0], -event[1])):
        while outer and outer[-1][0] <= start:
            outer.pop()
        seconds[name] += end - start
        if outer:
            seconds[outer[-1][1]] -= end - start
        outer.append((end, name))
    return seconds


def row(network: str, job: str, times: Counter[str], rest: int) -> str:
    """A row of the table, with the `rest` operations that take the most time besides products and convolutions."""
    total = sum(times.values())
    shares, others = [], times
    for pattern in KINDS.values():
        shares.append(sum(each for name, each in others.items() if pattern.search(name)) / total)
        others = Counter({name: each for name, each in others.items() if not pattern.search(name)})
    most = ", ".join(f"{name} {each / total:.1%}" for name, each in others.most_common(rest))
    cells = " | ".join(f"{share:.1%}" for share in (*shares, 1 - sum(shares)))
    return f"| {network} | {job} | {total:.3f} | {cells} | {most} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rest", type=int, default=5, help="how many of the other operations to name")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    arguments = parser.parse_args()
    columns = ("network", "job", "seconds", *KINDS, "rest", "most of it")
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    print(f"Batches of {arguments.batch} images, one thread of {processor()}.\n", *table, sep="\n", flush=True)
    for network in arguments.networks:
        rows = profile(network, arguments.batch, arguments.rest)
        print(*rows, sep="\n", flush=True)
        table += rows
    if arguments.output:
        with arguments.output.open("a") as file:
            file.write("\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    sys.exit(main())
