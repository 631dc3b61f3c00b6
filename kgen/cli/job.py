"""The process of a job of `kgen sweep`, or of the check before the first job: `python -m kgen.cli.job`.

It reads the job, one line of JSON, from its standard input. If the input is closed, because `kgen sweep` stops or has
been killed, the process stops as after Ctrl-C: a training saves a checkpoint. Its output is then closed, too, but this
must not stop the process earlier.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import warnings

from kgen.backend.selection import load_backend
from kgen.cli.common import show_warning
from kgen.errors import RunInterruptedError


def main() -> None:
    """Does the job. The exit status is 130 if it was stopped."""
    warnings.showwarning = show_warning  # type: ignore[assignment]
    with open(0, "rb", buffering=0, closefd=False) as file:  # a buffer would hold a lock at the end
        text = file.readline().decode("utf-8")
    threading.Thread(target=_watch, daemon=True).start()
    try:
        load_backend()
        from kgen.cli.progress import progress_reporter
        from kgen.sweeps.checks import CHECK, Check, try_all
        from kgen.sweeps.jobs import Job, work

        if (check := json.loads(text).get(CHECK)) is not None:
            try_all(Check(**check))
            return
        with progress_reporter(required=False) as reporter:
            work(Job.from_json(text), log=reporter.log, on_metrics=reporter.on_metrics, on_images=reporter.on_images)
    except RunInterruptedError as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(RunInterruptedError.exit_code)


def _watch() -> None:
    """Waits until the standard input is closed, and then interrupts the main thread."""
    while os.read(0, 1024):
        pass
    _thread.interrupt_main()


if __name__ == "__main__":
    main()
