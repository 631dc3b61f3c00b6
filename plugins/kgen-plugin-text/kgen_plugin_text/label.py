"""Class labels, and captions as classes."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from pydantic import PositiveInt

from kgen import ConditionSpace, ConfigError, DataError, Encoder, read_json
from kgen_plugin_text.cleaning import clean

FILE = "classes.json"


class ClassLabel(Encoder):
    """A learned vector per class, and one for the empty text ("no class"). It reads the label of an example.

    A label is the name of a class. A whole number stands for the name that has the same digits. Spaces around a name
    are ignored.

    Args:
        dim: Dimension of the vectors.
        classes: All classes. None means the different labels of the training data.

    Raises:
        ValueError: `classes` is empty, or has an empty or repeated class.
    """

    fields = ("label",)

    def __init__(self, *, dim: PositiveInt = 192, classes: tuple[str, ...] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.classes = classes
        self.rows: dict[str, int] | None = None
        if classes is not None:
            rows = _rows(classes)
            if len(rows) != len(classes) + 1 or not classes:
                raise ValueError(f"classes must be one or more different, non-empty texts, not {list(classes)}")
            self.rows = rows

    @property
    def condition_space(self) -> ConditionSpace:
        return ConditionSpace(1, self.dim)

    @property
    def _name(self) -> str:
        """The encoder's name, for messages."""
        return "class" if self.fields == ("caption",) else "label"

    def adapt(self, inputs: Sequence[str | int]) -> None:
        found = _rows(list(map(self._text, inputs)))
        if len(found) == 1:
            raise DataError(f"encoder '{self._name}' cannot learn classes: there are no {self.fields[0]}s")
        if self.classes is None:
            self.rows = _rows(sorted(found))
        elif unknown := [text for text in found if text not in self._known()]:
            raise DataError(f"{self.fields[0]} {self._unknown(unknown[0])}")

    def _known(self) -> dict[str, int]:
        if self.rows is None:
            raise ConfigError(
                f"encoder '{self._name}' knows no classes yet: call its adapt({self.fields[0]}s), or give `classes`"
            )
        return self.rows

    def _unknown(self, text: str) -> str:
        names = [name for name in self._known() if name]
        near = difflib.get_close_matches(text, names, n=3) or names[:3]
        shown = ", ".join(f"'{name}'" for name in near)
        return f"'{text[:80]}' is not one of the {len(names)} classes of encoder '{self._name}': did you mean {shown}?"

    def _text(self, label: Any) -> str:
        """A label as a text."""
        if isinstance(label, bool) or not isinstance(label, str | int | np.integer):
            raise ConfigError(f"a {self.fields[0]} is a text or a whole number, not {type(label).__name__}")
        return clean(str(label))

    def build(self, input_shape: Any) -> None:
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.table = self.add_weight(shape=(len(self._known()), self.dim), initializer=normal, name="table")

    def tokenize(self, inputs: Sequence[str | int]) -> dict[str, np.ndarray]:
        """Returns class numbers, int32 (B,). The empty text is 0.

        Raises:
            ConfigError: An input is not a class. The message suggests similar ones.
        """
        rows = self._known()
        names = list(map(self._text, inputs))
        if unknown := [name for name in names if name not in rows]:
            raise ConfigError(f"prompt {self._unknown(unknown[0])}")
        return {"class": np.array([rows[name] for name in names], np.int32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        pooled = ops.cast(ops.take(self.table, tokens["class"], axis=0), self.compute_dtype)  # (B, D)
        return {"sequence": pooled[:, None], "mask": ops.ones_like(pooled[:, :1]), "pooled": pooled}

    def save_assets(self, path: str | Path) -> None:
        (Path(path) / FILE).write_text(json.dumps(list(self._known())[1:]), encoding="utf-8")

    def load_assets(self, path: str | Path) -> None:
        self.rows = _rows(read_json(Path(path) / FILE, list[str]))


class CaptionClass(ClassLabel):
    """A class label for data without labels: it reads the caption of an example, and each caption is a class.

    Args:
        dim: Dimension of the vectors.
        classes: All classes. None means the different captions of the training data.
    """

    fields = ("caption",)


def _rows(names: Sequence[str]) -> dict[str, int]:
    """Numbers the different names in their order. The empty name is 0."""
    return {name: row for row, name in enumerate(dict.fromkeys(["", *map(clean, names)]))}
