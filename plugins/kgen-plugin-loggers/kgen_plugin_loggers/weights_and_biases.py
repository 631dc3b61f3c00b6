"""The logger for Weights & Biases. A run directory is one run there, also over several processes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

import kgen
from kgen_plugin_loggers.packages import package

ID = "run-id"
"""The file in the folder `wandb` of a run directory with the id of the run in Weights & Biases."""


class WandB(kgen.Logger):
    """Sends rows, images and scores to Weights & Biases, or writes them to the run directory's folder `wandb`.

    A resumed run continues under the same id. The steps are those of each training, "generator/step" and
    "decoder/step". W&B's own step only counts calls.

    Args:
        project: The project, which is created if it does not exist.
        entity: The user or team; null: the user's default.
        mode: "online", or "offline", which writes files that `wandb sync` can send later.
        group: Name of a group of runs; null: no group.
        tags: Words by which the run can be found.
        images: Whether to send images, too.
    """

    remote = True

    def __init__(
        self,
        directory: Path,
        *,
        project: str = "kgen",
        entity: str | None = None,
        mode: Literal["online", "offline"] = "online",
        group: str | None = None,
        tags: tuple[str, ...] = (),
        images: bool = True,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.project, self.entity, self.mode = project, entity, mode
        self.group, self.tags, self.images = group, tags, images
        self.run: Any = None

    def check(self) -> None:
        wandb = package("wandb")
        if self.mode == "offline":
            return
        try:
            problem = "" if wandb.login(prompt=False) else "nobody is logged in"
        except wandb.errors.Error as error:
            problem = str(error)
        if problem:
            cure = "run 'wandb login', set WANDB_API_KEY, or write mode: offline"
            raise kgen.ConfigError(f"logger 'wandb': {problem}: {cure}")

    def begin(self, config: Mapping[str, Any]) -> None:
        wandb = package("wandb")
        self.run = wandb.init(
            id=self._id(),
            resume="allow",
            dir=str(self.directory),
            name=config["name"],
            config=dict(config),
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            group=self.group,
            tags=self.tags or None,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        for stage in ("encoder", "decoder", "generator"):
            self.run.define_metric(f"{stage}/step", hidden=True)
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})

    def image(self, stage: str, step: int, name: str, image: np.ndarray) -> None:
        if self.images:
            self.run.log({f"{stage}/step": step, f"{stage}/{name}": package("wandb").Image(image)})

    def end(self, scores: Mapping[str, Mapping[str, float]] | None) -> None:
        for split, numbers in (scores or {}).items():
            self.run.summary.update({f"{split}/{name}": value for name, value in numbers.items()})
        self.run.finish(exit_code=0 if scores is not None else 1)

    def _id(self) -> str:
        """Returns the id of this directory's run, which the first call creates."""
        file = self.directory / "wandb" / ID
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            file.write_text(secrets.token_hex(4), encoding="utf-8")
        return file.read_text(encoding="utf-8").strip()
