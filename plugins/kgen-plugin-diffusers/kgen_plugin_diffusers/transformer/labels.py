"""The classes of a published DiT."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from keras import ops
from pydantic import Field
from typing_extensions import TypedDict

from kgen import ConditionSpace, ConfigError, DataError, Encoder, read_json
from kgen.pretrained import Section
from kgen_plugin_diffusers.folder import PIPELINE, Folder
from kgen_plugin_diffusers.transformer.architecture import EARLIER, DiTArchitecture
from kgen_plugin_diffusers.transformer.options import DiTLayer

FILE = "classes.json"
ID2LABEL = "id2label"
"""The key of a pipeline's file that has the names of each class, by its number."""


class Classes(TypedDict):
    """The content of `FILE`.

    Attributes:
        count: Number of classes.
        numbers: The numbers of the classes of each name.
    """

    count: int
    numbers: dict[str, list[int]]


class ClassLabel(Encoder):
    """The class of a published DiT, as a one-hot vector. It has no weights, and reads the label of an example.

    A label is the name of a class, if the pipeline has names, or its number. A class can have several names. The empty
    text is "no class", the last number of the vector.

    Args:
        pretrained: The folder of a pipeline with a `DiTTransformer2DModel`, or of such a model, which has no names.

    Raises:
        ConfigError: in `adapt`, the folder has no such model, or its names are damaged.
    """

    fields = ("label",)

    def __init__(self, *, pretrained: Annotated[str, Field(min_length=1)], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pretrained = pretrained
        self.classes: Classes | None = None
        self.trainable = False

    @classmethod
    def is_pretrained(cls, options: Mapping[str, Any]) -> bool:
        return True

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1, self._known()["count"] + 1)

    def _known(self) -> Classes:
        if self.classes is None:
            raise ConfigError(f"encoder 'class-label' has not read {self.pretrained} yet: call its adapt([]) first")
        return self.classes

    def adapt(self, inputs: Sequence[str | int]) -> None:
        folder = Folder(self.pretrained, DiTLayer.model_class, DiTLayer.parts, earlier=(EARLIER,))
        count = DiTArchitecture.read_classes(folder.config())
        file = Path(self.pretrained).expanduser() / PIPELINE
        numbers = _numbers(Section.of_file(file), count) if file.is_file() else {}
        self.classes = {"count": count, "numbers": numbers}
        for label in inputs:
            try:
                self._number(label)
            except ConfigError as error:
                raise DataError(str(error)) from error

    def _number(self, label: Any) -> int:
        """The number of a class. Raises ConfigError if there is no such class, or if several have the name."""
        known = self._known()
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            raise ConfigError(f"a label is a text or a whole number, not {type(label).__name__}")
        text, count = str(label).strip(), known["count"]
        if not text:
            return count
        found = known["numbers"].get(text, [])
        if len(found) > 1:
            numbers = " and ".join(map(str, found))
            raise ConfigError(f"label '{text}' is a name of the classes {numbers}: give the number")
        if found:
            return found[0]
        if text.isdecimal() and int(text) < count:
            return int(text)
        near = difflib.get_close_matches(text, known["numbers"], n=3) or list(known["numbers"])[:3]
        names = f", or a name such as {', '.join(map(repr, near))}" if near else ""
        raise ConfigError(f"label '{text[:80]}' is not a class: give a number from 0 to {count - 1}{names}")

    def tokenize(self, inputs: Sequence[str | int]) -> dict[str, np.ndarray]:
        return {"class": np.array(list(map(self._number, inputs)), np.int32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        pooled = ops.one_hot(tokens["class"], self._known()["count"] + 1, dtype=self.compute_dtype)  # (B, classes + 1)
        return {"sequence": pooled[:, None], "mask": ops.ones_like(pooled[:, :1]), "pooled": pooled}

    def save_assets(self, path: str | Path) -> None:
        (Path(path) / FILE).write_text(json.dumps(self._known()), encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        self.classes = read_json(Path(path) / FILE, Classes)


def _numbers(pipeline: Section, count: int) -> dict[str, list[int]]:
    """The numbers of the classes of each name. The names of one class are separated by commas."""
    labels = pipeline.value(ID2LABEL, None) or {}
    if not isinstance(labels, dict) or not all(isinstance(names, str) for names in labels.values()):
        pipeline.refuse(ID2LABEL, "must map the number of each class to its names")
    numbers: dict[str, list[int]] = {}
    for key, names in labels.items():
        if not key.isdecimal() or int(key) >= count:
            pipeline.refuse(ID2LABEL, f"must map numbers from 0 to {count - 1} to names, not '{key[:80]}'")
        for name in dict.fromkeys(part.strip() for part in names.split(",")):
            if name:
                numbers.setdefault(name, []).append(int(key))
    return numbers
