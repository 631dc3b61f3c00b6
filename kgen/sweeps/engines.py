"""Engines: where the jobs of a sweep run. The default runs each job in a separate process, one after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kgen.storage.locks import WINDOWS
from kgen.sweeps.checks import Check
from kgen.sweeps.jobs import FAILURE_LINES, Job

COMMAND = (sys.executable, "-m", "kgen.cli.job")
"""The command of a process that reads a job from its standard input. It stops if the input is closed."""

STOP_SECONDS = 120.0
"""Time in seconds that a process has to save a checkpoint when it is asked to stop. Then it is killed."""

Say = Callable[[str], None]
"""A function that receives a line about the progress."""


@dataclass(frozen=True)
class Ended:
    """The end of a process.

    Args:
        status: The exit status: 0, or another number if the process could not do its job; negative for a signal.
        lines: The last lines of its output.
        lost: Why the machine or the worker that ran the process was lost; "": it was not lost.
    """

    status: int
    lines: Sequence[str] = ()
    lost: str = ""

    def __str__(self) -> str:
        """What ended the process, and the last lines of its output."""
        if self.lost:
            return f"the worker was lost: {self.lost}"
        how = f"the exit status {self.status}" if self.status >= 0 else f"the signal {_signal(-self.status)}"
        full = " (perhaps because the memory was full)" if self.status == -9 else ""
        last = f": {self.lines[-1]}" if self.status > 0 and self.lines else ""
        return "\n".join([f"the process ended with {how}{full}{last}", "", *self.lines])


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class Engine(ABC):
    """Runs jobs in other processes.

    Attributes:
        parallel: Whether it runs several jobs at the same time. Each evaluation of a trained run is then a job.
    """

    parallel: ClassVar[bool] = False

    @abstractmethod
    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        """Yields each job when its process has ended, in any order.

        If the iterator is closed, or an exception is raised in it (Ctrl-C), all processes are asked to stop, so that
        they save checkpoints. All of them have ended when the exception leaves the iterator.

        Args:
            jobs: The jobs. No job depends on another one.
            log: Receives lines about the progress.
        """

    def try_metrics(self, check: Check, log: Say) -> Ended:
        """Does the check before the first job, in a separate process on this machine, and waits for its end.

        Args:
            check: The check.
            log: Receives lines about the progress.
        """
        return run_process(check, lambda line: log(f"  {line}"))


class OneByOne(Engine):
    """Runs the jobs on this machine, one after the other. If one crashes or fills the memory, the others still run."""

    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        for number, job in enumerate(jobs, start=1):
            log(f"[{number}/{len(jobs)}] {describe(job)}")
            yield job, run_process(job, lambda line: log(f"  {line}"))


def describe(job: Job) -> str:
    """A job in words: "width-64: training, 5 evaluations"."""
    steps = [] if job.is_trained else ["training"]
    count = len(job.pending)
    steps += [f"{count} evaluation{'s' if count > 1 else ''}"] if count else []
    return f"{job.name}: {', '.join(steps) or 'nothing to do'}"


def run_process(
    job: Job | Check, say: Say, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Ended:
    """Runs a job in a separate process, and waits for its end.

    Args:
        job: The job, or the check before the first job.
        say: Receives each line of the output.
        environment: Changes of the environment.
        folder: The current folder of the process; None: that of this process.

    Returns:
        The exit status and the last lines of the output.
    """
    changes = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **(environment or {})}
    # In a separate group, the process does not receive Ctrl-C in addition to the closed input.
    group: dict[str, Any] = {"creationflags": 0x200} if WINDOWS else {"start_new_session": True}
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **changes},
        cwd=folder,
        **group,
    )
    assert process.stdin is not None and process.stdout is not None
    lines: deque[str] = deque(maxlen=FAILURE_LINES)
    with process.stdout:
        try:
            with suppress(BrokenPipeError):  # the process has ended already; its output says why
                process.stdin.write(job.to_json() + "\n")
                process.stdin.flush()
            for line in process.stdout:
                lines.append(line.rstrip())
                say(lines[-1])
            status = process.wait()
        except BaseException:
            _stop(process, say)
            raise
    with suppress(BrokenPipeError):
        process.stdin.close()
    return Ended(status, list(lines))


def _stop(process: subprocess.Popen[str], say: Say) -> None:
    """Asks a process to stop, and waits for its end. A second Ctrl-C kills it."""
    assert process.stdin is not None and process.stdout is not None
    timer = threading.Timer(STOP_SECONDS, process.kill)
    timer.start()
    try:
        with suppress(BrokenPipeError):
            process.stdin.close()
        for line in process.stdout:
            say(line.rstrip())
        process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        timer.cancel()
