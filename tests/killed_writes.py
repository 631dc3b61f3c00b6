"""Kills trainings while they write a checkpoint, and reads all checkpoints afterwards: for test_background.py.

Usage: python killed_writes.py FOLDER KILLS (not on Windows)

The model has a weight of 128 MB, and a checkpoint after every second step, so that a write takes most of the time. Each
training goes on from the newest checkpoint, in a process that is forked before PyTorch starts threads.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import tensorflow  # noqa: F401  # which Keras's `fit` would import in each process
from parts import Painter, Patterns
from test_training import run

from kgen.storage.checkpoints import checkpoint_file, checkpoint_steps
from kgen.storage.files import remove_abandoned
from kgen.storage.weights import read_arrays

BYTES = 128_000_000


class Large(Painter):
    def build(self, *shapes: object) -> None:
        super().build(*shapes)
        self.ballast = self.add_weight(shape=(BYTES // 4,), initializer="ones", name="ballast")


def train(folder: Path) -> None:
    import test_training

    test_training.Painter = Large  # type: ignore[misc]
    keras.utils.set_random_seed(0)
    options = {"checkpoint_every": 2, "log_every": 1000, "validate_every": 1000, "keep": 2, "ema": None}
    run(folder, 100_000, Patterns(), optimizer={"name": "sgd"}, **options)


def unfinished(folder: Path) -> set[Path]:
    return set(folder.glob(".step-*.kgen"))


def main() -> None:
    run_folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    folder, broken, newest, within = run_folder / "checkpoints", 0, -1, 0
    logging.basicConfig()
    while within < kills:
        remove_abandoned(folder)  # like a run when it starts
        known = checkpoint_steps(folder)
        child = os.fork()
        if not child:
            train(run_folder)
            os._exit(0)
        while checkpoint_steps(folder) == known or not unfinished(folder):
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the training has ended"
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        steps, writing = checkpoint_steps(folder), bool(unfinished(folder))
        within += writing
        for step in steps:
            _, metadata = read_arrays(checkpoint_file(folder, step))  # raises if the checksum is wrong
            broken += metadata["step"] != str(step)
        assert steps[-1] > newest, "no progress since the last kill"
        newest = steps[-1]
        print(f"killed {'in' if writing else 'after'} a write; newest step {newest}", flush=True)
    print(f"{within} kills within a write, {broken} broken checkpoints, newest step {newest}")


if __name__ == "__main__":
    main()
