"""The schema of `manifest.json`, which describes a run and its progress. A run adds the keys one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic
from typing_extensions import TypedDict

OPEN = pydantic.ConfigDict(extra="allow")


class Component(TypedDict):
    """A component of the run, and its distribution."""

    id: str
    distribution: str
    version: str


class Components(TypedDict):
    """All components of the run."""

    dataset: Component
    encoder: Component
    generator: Component
    decoder: Component


class Software(TypedDict):
    """Versions of packages. The version of the backend is under its name."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    backend: str
    keras: str


class Data(TypedDict):
    """The training data."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    fingerprint: str
    images: int


class Timings(TypedDict):
    """Times in seconds, summed over all processes."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    training_seconds: float


OLD_TIMINGS = {"drawing_seconds": "sampling_seconds"}
"""The current names of times, by their names in older manifests."""


def current_timings(timings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the times of a manifest under their current names."""
    return {OLD_TIMINGS.get(name, name): seconds for name, seconds in timings.items()}


class Manifest(TypedDict, total=False):
    """The manifest of a run, or of the training of its encoder or decoder."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    api: int
    name: str
    seed: int
    step: int
    stopped_before: int | None
    finished: str | None
    software: Software
    components: Components
    data: Data
    timings: Timings
    scores: dict[str, Any]
    depends_on: dict[str, Any]
    initial_weights: str
    metrics: list[Component]
    optimizer: Component
    callbacks: list[Component]
    loggers: list[Component]
    encoders: list[Component]
    changes: list[dict[str, Any]]
    notes_on_scores: list[str]


TRAINED = ("name", "seed", "step", "software", "components", "data", "timings")
"""The keys that the manifest of a trained run must have."""
