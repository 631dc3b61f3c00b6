"""The command line. Heavy imports stay inside the commands, so that `kgen --help` is quick."""

from __future__ import annotations

from kgen.cli.app import main

__all__ = ["main"]
