"""Runs the trainings and evaluations of a sweep, except those that an earlier call has finished."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from kgen.errors import RunError, RunInterruptedError
from kgen.evaluation.results import Result, read_results
from kgen.storage.files import write_text
from kgen.studies.plot_names import require_numbers
from kgen.studies.study import Study
from kgen.studies.trials import Plan, Training, Trial, make_plan
from kgen.sweeps.checks import make_check
from kgen.sweeps.directory import SweepDirectory
from kgen.sweeps.engines import Ended, Engine, OneByOne, Say
from kgen.sweeps.jobs import Job, make_job, training_name
from kgen.sweeps.page import write_files
from kgen.sweeps.table import Table, make_table


@dataclass(frozen=True)
class Swept:
    """The outcome of a sweep.

    Args:
        directory: Its folder.
        table: The table of the trials.
        failures: The text about each trial or training that has failed, by its name.
    """

    directory: SweepDirectory
    table: Table
    failures: dict[str, str]


def sweep(study: Study, out: str | Path | None = None, *, engine: Engine | None = None, log: Say = print) -> Swept:
    """Runs the trials that an earlier call has not finished, and writes the table, the plots and the page.

    Trials whose configurations differ only in keys that have no effect on the training are evaluations of one run. If
    one trial fails, the others continue, and the next call tries it again. A study may have other values on an axis
    than at the earlier call: the table shows the trials that it names now, and the results of all others are kept.

    Args:
        study: The study.
        out: The folder; None: `sweeps/NAME`.
        engine: Runs the jobs; None: one process after the other.
        log: Receives lines about the progress.

    Raises:
        RunInterruptedError: the user pressed Ctrl-C. The same call then continues the sweep.
        ConfigError: the configuration of a trial is wrong, a metric cannot be measured, or a plot refers to a number
            that no metric has. Nothing has been trained then.
        RunError: the folder holds something else, another process works on it, or results are damaged.
    """
    directory = SweepDirectory(Path("sweeps") / study.name if out is None else out)
    plan = make_plan(study, directory.runs)
    with directory.locked(study):
        return _Sweep(study, directory, plan, engine or OneByOne(), log).run()


class _Sweep:
    """A sweep whose folder is locked."""

    def __init__(self, study: Study, directory: SweepDirectory, plan: Plan, engine: Engine, log: Say) -> None:
        self.study, self.directory, self.plan, self.engine, self.log = study, directory, plan, engine, _notes_once(log)
        self.names = [*(training_name(t.name) for t in (*plan.first, *plan.trainings)), *(t.name for t in plan.trials)]

    def run(self) -> Swept:
        """Runs the trials that have no results, and writes the files after each job."""
        results = self.results()
        left = [trial for trial in self.plan.trials if results[trial.name] is None]
        self.log(f"{len(self.plan.trials)} trials in {self.directory.path}, {len(left)} of them to be done")
        self._check(left, [found for found in results.values() if found is not None])
        self.directory.write_study(self.study)
        self.directory.forget_failures(self.names)
        for name in sorted(self.study.runs.keys() - {name for trial in self.plan.trials for name in trial.needs}):
            self.log(f"note: no trial refers to {{runs}}/{name}, so this run is not trained")
        try:
            if left:
                self._run(self._first(left))
                self._refuse(left)
                self._run(self._main(left))
        except (KeyboardInterrupt, RunInterruptedError) as error:
            done = sum(found is not None for found in self.results().values())
            self.write()
            raise RunInterruptedError(
                f"stopped: {done} of {len(self.plan.trials)} trials are finished, and the progress of the "
                f"others is saved; to continue: kgen sweep {self.directory.path}"
            ) from error
        return self.write()

    def _check(self, left: Sequence[Trial], known: Sequence[Sequence[Result]]) -> None:
        """Tries the metrics of the trials to be done, and checks the names of the numbers to be plotted.

        Raises:
            ConfigError: a metric cannot be measured, or a number does not exist.
            RunInterruptedError: the user pressed Ctrl-C.
        """
        labels = {result.label for results in known for result in results}
        untried: Sequence[str] = ()
        if left:
            self.log("trying the metrics")
            with tempfile.TemporaryDirectory() as folder:
                check = make_check(left, self.directory.runs, Path(folder) / "outcome.json")
                try:
                    ended = self.engine.try_metrics(check, self.log)
                except KeyboardInterrupt:
                    raise RunInterruptedError("stopped before anything was trained or evaluated") from None
                labels, untried = labels.union(check.labels(ended)), check.untried
        require_numbers(self.study.numbers, labels, untried)

    def results(self) -> dict[str, list[Result] | None]:
        """The results of each trial by its name; None if there are none yet.

        Raises:
            RunError: a file is damaged.
        """
        files = {trial.name: self.directory.trials / f"{trial.name}.json" for trial in self.plan.trials}
        try:
            return {name: read_results(file) if file.is_file() else None for name, file in files.items()}
        except RunError as error:
            raise RunError(
                f"{error}. Move the file away, and run the same command again: it repeats only this trial"
            ) from error

    def write(self) -> Swept:
        """Writes the table, the plots and the page of the finished trials."""
        found = self.results()
        table = make_table(self.study.axes, [(trial.values, found[trial.name]) for trial in self.plan.trials])
        failures = {name: text for name in self.names if (text := self.directory.failure(name))}
        write_files(self.directory, self.study, table, [(t, found[t.name]) for t in self.plan.trials], failures)
        return Swept(self.directory, table, failures)

    def _first(self, left: Sequence[Trial]) -> list[Job]:
        """The jobs that train the runs to which the trials refer."""
        needed = {name for trial in left for name in trial.needs}
        jobs = [self._job(training, ()) for training in self.plan.first if training.name in needed]
        return [job for job in jobs if not job.is_trained]

    def _refuse(self, left: Sequence[Trial]) -> None:
        """Writes a failure for each trial that refers to a run whose training has failed."""
        for trial in left:
            if lost := [name for name in sorted(trial.needs) if self.directory.failure(training_name(name))]:
                text = f"it needs the run '{lost[0]}', whose training has failed"
                write_text(self.directory.failures / f"{trial.name}.txt", f"{text}\n")

    def _main(self, left: Sequence[Trial]) -> list[Job]:
        """The jobs that train and evaluate the runs of the trials."""
        names = {trial.name for trial in left if self.directory.failure(trial.name) is None}
        jobs = []
        for training in self.plan.trainings:
            own = [trial for trial in training.trials if trial.name in names]
            job = self._job(training, own)
            if self.engine.parallel and job.is_trained:
                jobs += [replace(job, name=e.name, evaluations=[e]) for e in job.evaluations]
            elif own:
                jobs.append(job)
        return jobs

    def _job(self, training: Training, trials: Sequence[Trial]) -> Job:
        return make_job(training, trials, self.directory.trials, self.directory.failures)

    def _run(self, jobs: Sequence[Job]) -> None:
        """Runs jobs. If a process crashes, it also runs the rest of that job."""
        while jobs:
            left = []
            with closing(self.engine.run(jobs, self.log)) as running:
                for job, ended in running:
                    left += settle(job, ended)
                    self.write()
            jobs = left


def settle(job: Job, ended: Ended) -> list[Job]:
    """Writes a failure if a process has ended before its job was done. Returns the rest of the job, if there is any."""
    if job.failure(job.training).is_file():
        return []
    if not job.is_trained:
        write_text(job.failure(job.training), f"{ended}\n")
        return []
    if not job.pending:
        return []
    lost, *rest = job.pending
    write_text(job.failure(lost.name), f"{ended}\n")
    return [replace(job, evaluations=rest)] if rest else []


def _notes_once(log: Say) -> Say:
    """Passes lines on, but each note only once, because the runs of a sweep have the same notes on their scores."""
    told = set[str]()

    def say(line: str) -> None:
        note = line.strip()
        if note not in told:
            log(line)
        if note.startswith("note: "):
            told.add(note)

    return say
