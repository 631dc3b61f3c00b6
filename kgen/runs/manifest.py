"""The schema of `manifest.json`: what a run is made of, and how far it has come. A run adds the keys step by step."""

from __future__ import annotations

from typing import Any

import pydantic
from typing_extensions import TypedDict

OPEN = pydantic.ConfigDict(extra="allow")


class Component(TypedDict):
    """A part of the run, and the distribution that it came from."""

    id: str
    distribution: str
    version: str


class Components(TypedDict):
    """All parts of the run."""

    dataset: Component
    encoder: Component
    generator: Component
    decoder: Component


class Software(TypedDict):
    """Versions, also of the backend, under its own name."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    backend: str
    keras: str


class Data(TypedDict):
    """What was trained on."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    fingerprint: str
    images: int


class Timings(TypedDict):
    """Seconds, of all processes together."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    training_seconds: float


class Manifest(TypedDict, total=False):
    """Of a run, or of the stage of its decoder."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    api: int
    name: str
    seed: int
    step: int
    finished: str | None
    software: Software
    components: Components
    data: Data
    timings: Timings
    scores: dict[str, Any]
    depends_on: dict[str, Any]
    metrics: list[Component]
    encoders: list[Component]
    changes: list[dict[str, Any]]
    notes_on_scores: list[str]


TRAINED = ("name", "seed", "step", "software", "components", "data", "timings")
"""The keys of a run whose training has ended."""
