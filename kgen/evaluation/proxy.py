"""Scores a few images during a training. These scores are a proxy: they only show whether the training progresses."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from kgen.errors import RunError
from kgen.evaluation.results import Result
from kgen.evaluation.scoring import score_generated
from kgen.experiments.experiment import Experiment
from kgen.pipeline.model import Pipeline
from kgen.storage.files import write_text
from kgen.training.journal import Journal

COLUMNS = ("step", "split", "metric", "value", "images")

PREFIX = "proxy "
"""Prefix of the names of these scores, for loggers."""


@dataclass(frozen=True)
class ProxyScore:
    """A score of a few images after a training step.

    Args:
        step: The training step.
        split: The split of the prompts.
        metric: The name of the metric, followed by the name of the number.
        value: The number.
        images: The number of images.
    """

    step: int
    split: str
    metric: str
    value: float
    images: int


class Proxy:
    """Scores `evaluate.proxy_images` images per split after a step, with one seed, and writes the scores to a file.

    Args:
        experiment: The experiment. Metrics that need more images are left out.
        path: The file `proxy.csv` of the run. It may exist, if the run continues.
        pipeline: The pipeline, which is being trained.
    """

    def __init__(self, experiment: Experiment, path: Path, pipeline: Pipeline) -> None:
        config = experiment.config
        evaluate = config.evaluate.model_copy(update={"images": config.evaluate.proxy_images, "seeds": 1})
        metrics = {n: metric for n, metric in experiment.metrics.items() if metric.min_images <= evaluate.proxy_images}
        chosen = tuple(experiment.choices[name] for name in metrics)
        evaluate = evaluate.model_copy(update={"metrics": chosen})
        small = config.model_copy(update={"evaluate": evaluate})
        self.experiment = Experiment(small, experiment.dataset, {}, metrics)
        self.path = path
        self.pipeline = pipeline

    def __call__(self, step: int, journal: Journal) -> None:
        """Scores the pipeline after a step.

        The file keeps the scores of earlier steps. Scores of this step and of later ones are from before an
        interruption, and are deleted.
        """
        options = self.experiment.config.sample.options
        results = score_generated(self.experiment, self.pipeline, options)
        earlier = [score for score in read_proxy_scores(self.path) if score.step < step]
        scores = [*earlier, *(_score(step, result) for result in results)]
        text = io.StringIO()
        rows = ((each.step, each.split, each.metric, f"{each.value:.7g}", each.images) for each in scores)
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        write_text(self.path, text.getvalue())
        values = {PREFIX + result.label: result.mean for result in results}
        if values:
            journal.loggers.log(journal.stage, step, values)

    def has(self, step: int) -> bool:
        """Whether the file has scores of a step."""
        return any(score.step == step for score in read_proxy_scores(self.path))


def read_proxy_scores(path: Path) -> list[ProxyScore]:
    """Reads `proxy.csv`; [] if there is no such file. Raises RunError if it is damaged."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                ProxyScore(int(row["step"]), row["split"], row["metric"], float(row["value"]), int(row["images"]))
                for row in csv.DictReader(file)
            ]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _score(step: int, result: Result) -> ProxyScore:
    return ProxyScore(step, result.split, result.title, result.mean, int(result.protocol["images"]))
