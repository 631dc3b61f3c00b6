"""Lets the processes of a training wait for each other before JAX connects them.

JAX ends a process that does not find the others by SIGABRT, with a stack trace in place of a message.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack

from kgen.errors import ConfigError
from kgen.training.distribution.environment import JaxProcess

TIMEOUT = 300.0
"""Seconds in which all processes must have been started, as in `jax.distributed.initialize`."""

PAUSE = 0.2
"""Seconds between two attempts to reach process 0."""


def meet(process: JaxProcess, timeout: float = TIMEOUT) -> None:
    """Waits until all processes are running. Process 0 listens at its address, and the others report to it.

    Raises:
        ConfigError: a process is missing after `timeout` seconds; or process 0 cannot listen.
    """
    if process.address is None:
        return
    host, _, port = process.address.rpartition(":")
    deadline = time.monotonic() + timeout
    if process.index == 0:
        _receive(process, int(port), deadline, timeout)
    else:
        _report(process, host.strip("[]"), int(port), deadline, timeout)


def _receive(process: JaxProcess, port: int, deadline: float, timeout: float) -> None:
    """Waits for a connection of each of the other processes, and then tells all of them to go on."""
    missing = set(range(1, process.count))
    with ExitStack() as stack:
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = stack.enter_context(socket.create_server(("", port), family=family, dualstack_ipv6=both))
        except OSError as error:
            raise ConfigError(
                f"distribute: process 0 cannot listen at {process.address} ({os.strerror(error.errno or 0)}): choose "
                "another port, or wait for an earlier process to end"
            ) from error
        reported = []
        while missing:
            try:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                missing.discard(int.from_bytes(connection.makefile("rb").read(4)))
                reported.append(connection)
            except ConnectionError:
                continue
            except TimeoutError as error:
                named = ", ".join(map(str, sorted(missing)))
                raise ConfigError(
                    f"distribute: of {process.count} processes, {named} did not report to process 0 at "
                    f"{process.address} within {timeout:g} seconds: start all of them, with the same address"
                ) from error
        for connection in reported:
            connection.sendall(b"1")


def _report(process: JaxProcess, host: str, port: int, deadline: float, timeout: float) -> None:
    """Connects to process 0, and waits until it has seen all processes."""
    reason: object = "it has ended"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), max(deadline - time.monotonic(), 0.001)) as connection:
                connection.sendall(process.index.to_bytes(4))
                if connection.recv(1):
                    return
        except OSError as error:
            reason = error
        time.sleep(PAUSE)
    raise ConfigError(
        f"distribute: process {process.index} of {process.count} did not find process 0 at {process.address} within "
        f"{timeout:g} seconds ({reason}), or others are missing: start all of them, with the same address"
    )
