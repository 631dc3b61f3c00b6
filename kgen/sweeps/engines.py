"""Engines: where the jobs of a sweep run. The default runs each in a process of its own, one after the other."""

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
from kgen.sweeps.jobs import FAILURE_LINES, Job

COMMAND = (sys.executable, "-m", "kgen.cli.job")
"""The command of a process that reads a job from its standard input, and does it until that is closed."""

STOP_SECONDS = 120.0
"""Time in which a process that was asked to stop saves a checkpoint; it is killed then."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """The end of a process.

    Args:
        status: The exit status: 0, or another number if the process could not do its job; negative for a signal.
        lines: The last lines of its output.
        lost: Why the process was lost with the machine or the worker that ran it; "": it was not.
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
        parallel: Whether it runs several jobs at the same time, so that the evaluations of a trained run are worth
            several jobs.
    """

    parallel: ClassVar[bool] = False

    @abstractmethod
    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        """Yields each job when its process has ended, in any order.

        If the iterator is closed, or an exception is raised in it (Ctrl-C), all processes are asked to stop, so that
        they save checkpoints, and have ended when the exception leaves it.

        Args:
            jobs: The jobs, which depend on nothing but their own files.
            log: Receives lines about the progress.
        """


class OneByOne(Engine):
    """Runs one process after the other on this machine, so that a crash or a full memory ends only one job."""

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


def run_process(job: Job, say: Say, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Ended:
    """Runs a job in a process of its own, and waits for its end.

    Args:
        job: The job.
        say: Receives each line of the output.
        environment: Changes of the environment.
        folder: The current folder of the process; None: that of this process.
    """
    changes = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **(environment or {})}
    # In a group of its own, the process does not receive Ctrl-C beside the closed input.
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
            with suppress(BrokenPipeError):  # it has ended already; the output says why
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
