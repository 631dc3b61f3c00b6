"""A process that calls functions for the training process. This module holds the code of both sides.

The process imports the modules of these functions, and a framework only if they need one. It therefore starts within
half a second, and takes about 50 MB of memory. (A process of grain imports JAX if it is installed, and imports the main
program again.)

Calls and results pass through pipes, and the arrays of the results through shared memory if the system has any (see
`kgen.data.reading.memory`). The process ends when its pipe is closed, and therefore also if the training process is
killed. It ignores Ctrl-C and SIGTERM, because the training process first completes its step, and then closes the pipes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from kgen.data.reading.memory import SharedMemory, create
from kgen.errors import DataError, KgenError

PIPE = 2**20
"""Size of the buffer of a pipe, in bytes, if the system can set it."""

PATIENCE = 5.0
"""Seconds after which a process that does not end is killed."""

PROGRAM = (
    "import pickle, sys; sys.path = pickle.load(sys.stdin.buffer); from kgen.data.reading.process import work; work()"
)
"""The program of the process. `multiprocessing` is not used, because it would import the main program."""

WITHOUT = "set fit.workers to 0, so that threads of the training process read the images"

ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(2**24), "MALLOC_TRIM_THRESHOLD_": str(2**25)}
"""Environment variables with which glibc keeps up to 32 MiB of free memory. By default, it returns the memory of images
to the system, which clears it before it is used again. This takes 0.2 ms of CPU time per image of 256x256."""

Message = tuple[bool, bytes, list[int], bool]
"""Whether the call failed; the result or the exception, pickled without arrays; the sizes of the arrays, in bytes; and
whether the arrays are in the shared memory, or follow in the pipe."""


class Process:
    """A process that starts with the first call.

    Args:
        first: A function with its arguments, which the process calls before any other; None: there is none.
    """

    def __init__(self, first: tuple[Any, ...] | None = None) -> None:
        self.first = first
        self.process: subprocess.Popen[bytes] | None = None
        self.memory: SharedMemory | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function of a module. Pickle must be able to send its arguments and its result.

        The next call overwrites the arrays of the result.

        Raises:
            Exception: what the function raised.
            DataError: the process ended.
        """
        try:
            if self.process is None:
                self.process, self.memory = _started()
                if self.first is not None:
                    first, self.first = self.first, None
                    self._call(*first)
            return self._call(function, *arguments)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            if self._is_running():
                raise
            raise DataError(
                f"a worker process that reads images ended {self._how()}: if memory ran out, make fit.workers smaller; "
                f"or {WITHOUT}"
            ) from error

    def _call(self, *call: Any) -> Any:
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        pickle.dump(call, self.process.stdin, pickle.HIGHEST_PROTOCOL)
        self.process.stdin.flush()
        message: Message = pickle.load(self.process.stdout)
        failed, data, sizes, shared = message
        if shared and self.memory is not None:
            buffers = self.memory.read(sizes)
        else:
            buffers = [_received(self.process.stdout, size) for size in sizes]
        result = pickle.loads(data, buffers=buffers)
        if failed:
            raise result
        return result

    def stop(self) -> None:
        """Closes the pipe of the calls, so that the process ends after the current call."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits until the process ends, and kills it after `seconds`."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _is_running(self) -> bool:
        """Whether the process still runs. If so, an OSError came from the function, and not from the pipes."""
        if self.process is None:
            return False
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _how(self) -> str:
        code = self.process.returncode if self.process is not None else 0
        return f"by signal {-code}" if code < 0 else f"with status {code}"


def _started() -> tuple[subprocess.Popen[bytes], SharedMemory | None]:
    """Starts a process in a process group of its own, so that Ctrl-C does not reach it. Returns its memory, too."""
    file = create()
    options: dict[str, Any] = {"process_group": 0, "pass_fds": [] if file is None else [file]}
    environment = {**ALLOCATION, **os.environ}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    command = [sys.executable, "-c", PROGRAM]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **options)
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(ImportError, AttributeError, OSError):  # only Linux can set the size, up to a limit
        import fcntl

        for pipe in (process.stdin, process.stdout):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
    pickle.dump(sys.path, process.stdin)
    pickle.dump(file, process.stdin)
    return process, None if file is None else SharedMemory(file)


def _received(stream: IO[bytes], size: int) -> memoryview:
    buffer = np.empty(size, np.uint8).data
    rest = buffer
    while rest:
        if not (count := stream.readinto(rest)):  # type: ignore[attr-defined]  # of a BufferedReader
            raise EOFError
        rest = rest[count:]
    return buffer


# ---- in the process ----------------------------------------------------------------------------------------------


def work() -> None:
    """The main function: reads calls from stdin, and writes results to what was stdout."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    calls, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plugin prints must not mix with the results
    with contextlib.suppress(EOFError, BrokenPipeError):  # the training process has ended
        file: int | None = pickle.load(calls)
        memory = None if file is None else SharedMemory(file)
        while calls.peek(1):  # type: ignore[union-attr]  # of a BufferedReader; b"" if the pipe was closed
            for piece in _answer(calls, memory):
                results.write(piece)
            results.flush()


def _answer(calls: IO[bytes], memory: SharedMemory | None) -> list[Any]:
    """Reads a call and runs it. Returns the pieces of the answer, without the arrays if they fit into the memory."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        function, *arguments = pickle.load(calls)
        result = function(*arguments)
        data = pickle.dumps(result, 5, buffer_callback=buffers.append)
    except Exception as error:
        return [pickle.dumps((True, pickle.dumps(_portable(error)), [], False))]
    arrays = [buffer.raw() for buffer in buffers]
    shared = memory is not None and memory.write(arrays)
    message = pickle.dumps((False, data, [array.nbytes for array in arrays], shared))
    return [message] if shared else [message, *arrays]


def _portable(error: Exception) -> Exception:
    """An error that pickle can send. Unless it is a KgenError, a note contains the traceback in this process."""
    if not isinstance(error, KgenError):
        error.add_note(f"In a worker process:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
