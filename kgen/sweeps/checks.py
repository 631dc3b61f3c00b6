"""Tries the metrics of a sweep before anything is trained, in a separate process, whose memory is free afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kgen.config import RunConfig
from kgen.errors import ComponentError, ConfigError, KgenError, RunError
from kgen.evaluation.results import BITS, Result
from kgen.evaluation.scoring import make_plans, measurable, require_enough_images
from kgen.experiments.experiment import Experiment, open_experiment
from kgen.parts.construction import find
from kgen.plugins.faults import component_errors
from kgen.runs.preflight import examples, try_metrics
from kgen.storage.files import write_text
from kgen.storage.json_file import read_json
from kgen.studies.references import find_texts
from kgen.studies.trials import Trial

CHECK = "check"
"""The key of a check among the inputs of processes."""


@dataclass(frozen=True)
class Check:
    """Configurations whose metrics are to be tried.

    Args:
        configs: The configurations, as plain data.
        untried: The names of metrics that cannot be tried, because they use runs that the sweep trains first.
        out: The file of the outcome.
    """

    configs: Sequence[dict[str, Any]]
    untried: Sequence[str]
    out: str

    def to_json(self) -> str:
        """The check on one line."""
        return json.dumps({CHECK: asdict(self)})

    def labels(self, ended: object) -> list[str]:
        """The labels of all numbers that are measured.

        Args:
            ended: The end of the process that did the check, for a message.

        Raises:
            ConfigError: a metric cannot be measured. The message says why.
            ComponentError: a metric has a fault.
            RunError: the process has failed.
        """
        if not Path(self.out).is_file():
            raise RunError(f"the metrics could not be tried: {ended}")
        found = read_json(Path(self.out), dict[str, Any])
        if "error" in found:
            raise (ComponentError if found["fault"] else ConfigError)(str(found["error"]))
        return list(found["labels"])


def make_check(trials: Sequence[Trial], runs: Path, out: Path) -> Check:
    """Makes the check of trials. Those that measure the same numbers of the same data are checked once.

    Args:
        trials: The trials.
        runs: The folder of the runs that the sweep trains.
        out: The file of the outcome.
    """
    configs: dict[str, dict[str, Any]] = {}
    untried: dict[str, None] = {}
    for trial in trials:
        config = trial.config.dump()
        metrics = config["evaluate"]["metrics"]
        own = [m for m in metrics if any(str(runs.resolve()) in text for _, text in find_texts(m, ()))]
        untried |= dict.fromkeys(name for m in own for name in (m["name"], m["name"].split("/")[-1]))
        config["evaluate"]["metrics"] = [metric for metric in metrics if metric not in own]
        differs = {key: config[key] for key in ("data", "encoder", "evaluate")}
        configs.setdefault(json.dumps(differs, sort_keys=True), config)
    return Check(list(configs.values()), list(untried), str(out))


def try_all(check: Check) -> None:
    """Does a check in this process, and writes its outcome. An error that a user can fix is its outcome, too."""
    try:
        labels = [label for config in check.configs for label in _labels(RunConfig.from_dict(config))]
        outcome: dict[str, Any] = {"labels": list(dict.fromkeys(labels))}
    except KgenError as error:
        outcome = {"error": str(error), "fault": isinstance(error, ComponentError)}
    write_text(Path(check.out), json.dumps(outcome) + "\n")


@component_errors()
def _labels(config: RunConfig) -> list[str]:
    """Tries the metrics of a configuration on two images of its dataset. Returns the labels of their numbers."""
    experiment = open_experiment(config, trained=True)
    plans = make_plans(experiment, _fields(experiment))
    require_enough_images(experiment, plans)
    tried = try_metrics(experiment.metrics, examples(experiment.dataset)[0], experiment.dataset)
    labels = [
        Result(name, split, number, {}).label
        for split, plan in plans.items()
        for name in measurable(experiment.metrics, plan.images)
        for number in tried[split][name]
    ]
    return [*labels, *([BITS] if config.evaluate.likelihood.images else [])]


def _fields(experiment: Experiment) -> tuple[str, ...]:
    """The fields that the encoder reads, which its class says."""
    encoder = experiment.config.encoder
    parts = [part for part in encoder.joined if not part.joined] or [encoder]
    classes = [find("encoder", part.name)[0].load() for part in parts]
    return tuple(dict.fromkeys(field for cls in classes for field in cls.fields))
