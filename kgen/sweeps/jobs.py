"""A job of a sweep: one training, and the evaluations of the trained run. It holds all that its process needs."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kgen.config import RunConfig
from kgen.config.staged import Staged
from kgen.errors import KgenError, RunInterruptedError
from kgen.evaluation.results import read_results, write_results
from kgen.evaluation.scoring import OnImages
from kgen.experiments.directory import RunDirectory
from kgen.experiments.trainer import Log, OnMetrics
from kgen.plugins.faults import reason
from kgen.runs.evaluation import described, evaluate, is_finished
from kgen.runs.run import run
from kgen.storage.files import write_text
from kgen.studies.trials import Training, Trial

FAILURE_LINES = 40
"""Number of lines of a traceback, or of the output of a process, that are kept for a failure."""


def training_name(run: str) -> str:
    """The name of the training of a run among the failures. No trial has such a name."""
    return f"{run} (training)"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run.

    Args:
        name: The name of the trial.
        overrides: The changes of the run's configuration, as `kgen evaluate --set` takes them.
        out: The file of its results.
    """

    name: str
    overrides: Sequence[str]
    out: str


@dataclass(frozen=True)
class Job:
    """A training and its evaluations.

    Args:
        name: The name of the training.
        directory: The run directory.
        config: The content of the run file; None: the run is trained already.
        evaluations: The evaluations, in order.
        failures: The folder of the texts about failures.
        stage: The only part that is trained; None: all of it.
    """

    name: str
    directory: str
    config: dict[str, Any] | None
    evaluations: Sequence[Evaluation]
    failures: str
    stage: Staged | None = None

    def to_json(self) -> str:
        """The job on one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads what `to_json` wrote."""
        data = json.loads(text)
        return cls(**{**data, "evaluations": [Evaluation(**each) for each in data["evaluations"]]})

    def failure(self, name: str) -> Path:
        """The file about the failure of the training or of an evaluation."""
        return Path(self.failures) / f"{name}.txt"

    @property
    def training(self) -> str:
        """The name of the training among the failures."""
        return training_name(self.name)

    @property
    def is_trained(self) -> bool:
        """Whether the run was trained with the settings of `config`, and is finished."""
        if self.config is None:
            return True
        directory = RunDirectory(self.directory)
        if not directory.holds_run or not self._is_finished(directory):
            return False
        changed = directory.changes(RunConfig.from_dict(self.config))
        return not any(change.affects_training for change in changed)

    def _is_finished(self, directory: RunDirectory) -> bool:
        if self.stage is None:
            return is_finished(directory)
        return bool(directory.stage(self.stage).read_manifest().get("finished"))

    @property
    def pending(self) -> list[Evaluation]:
        """The evaluations that have neither results nor a failure."""
        return [e for e in self.evaluations if not Path(e.out).is_file() and not self.failure(e.name).is_file()]


def make_job(training: Training, trials: Sequence[Trial], results: Path, failures: Path) -> Job:
    """Makes the job that trains a run, unless it is trained, and evaluates it for some of its trials.

    Args:
        training: The training.
        trials: The trials to evaluate.
        results: The folder of the results.
        failures: The folder of the texts about failures.
    """
    return Job(
        training.name,
        str(training.directory.resolve()),
        None if training.config is None else training.config.dump(),
        [Evaluation(t.name, _overrides(t.config), str(results.resolve() / f"{t.name}.json")) for t in trials],
        str(failures.resolve()),
        training.stage,
    )


def _overrides(config: RunConfig) -> list[str]:
    """Overrides that give any run of the same training the sampling and evaluation of a configuration."""
    data = config.dump()
    return [f"{key}={json.dumps(data[key], ensure_ascii=False)}" for key in ("sample", "evaluate")]


def work(job: Job, *, log: Log = print, on_metrics: OnMetrics | None = None, on_images: OnImages | None = None) -> None:
    """Does a job in this process.

    If an evaluation fails, its error is written to a file, and the others continue. If the training fails, its error is
    written to a file, and nothing is evaluated.

    Args:
        job: The job. The files of its results and failures say what is done already.
        log: Receives lines about the progress.
        on_metrics: See `kgen.runs.run.run`.
        on_images: See `kgen.runs.evaluation.evaluate`.

    Raises:
        RunInterruptedError: the process was asked to stop.
    """
    if not job.is_trained:
        with _noting(job, job.training, log):
            config = RunConfig.from_dict(job.config or {})
            run(config, job.directory, stage=job.stage, log=log, on_metrics=on_metrics, on_images=on_images)
        if job.failure(job.training).is_file():
            return
    for evaluation in job.pending:
        with _noting(job, evaluation.name, log):
            _evaluate(job, evaluation, log, on_images)


def _evaluate(job: Job, evaluation: Evaluation, log: Log, on_images: OnImages | None) -> None:
    """Evaluates the run, or copies the results of the run itself if its own evaluation had the same settings."""
    directory = RunDirectory(job.directory)
    if job.config is not None:
        own = RunConfig.load(directory.config)
        wanted = RunConfig.load(directory.config, evaluation.overrides)
        if (own.sample, own.evaluate) == (wanted.sample, wanted.evaluate):
            write_results(Path(evaluation.out), read_results(directory.evaluation), described(directory, wanted))
            return
    log(f"evaluating {evaluation.name}")
    evaluate(job.directory, evaluation.overrides, out=Path(evaluation.out), log=log, on_images=on_images)


@contextlib.contextmanager
def _noting(job: Job, name: str, log: Log) -> Iterator[None]:
    """Writes an error of the block to a file."""
    try:
        yield
    except RunInterruptedError:
        raise
    except KgenError as error:
        text = str(error)
    except Exception as error:
        text = "\n".join([reason(error), "", *traceback.format_exc().splitlines()[-FAILURE_LINES:]])
    else:
        return
    write_text(job.failure(name), f"{text}\n")
    log(f"{name} failed: {text.splitlines()[0]}")
