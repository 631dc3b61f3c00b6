"""An engine that runs the jobs of a sweep in the process of the tests."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from kgen.sweeps.checks import Check, try_all
from kgen.sweeps.engines import Ended, Engine, Say
from kgen.sweeps.jobs import Job, work


class Here(Engine):
    """Runs jobs in this process, where Keras is imported already."""

    def run(self, jobs: Sequence[Job], log: Say) -> Generator[tuple[Job, Ended], None, None]:
        for job in jobs:
            log(f"job {job.name}")
            work(job, log=log)
            yield job, Ended(0, [])

    def try_metrics(self, check: Check, log: Say) -> Ended:
        log("check")
        try_all(check)
        return Ended(0, [])
