"""What the tests of the conformance kit share: the spaces of their components, and how a check fails."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import pytest

from kgen import ConditionSpace, Space
from kgen.errors import PluginError

SPACE = Space("continuous", (4, 4, 3))
CONDITIONS = ConditionSpace(5, 8)


def fails(kit: type[Any], check: str, build: Any, match: str, **attributes: Any) -> None:
    """Asserts that one check of a kit fails for a component, with a message that says why."""
    keras.utils.set_random_seed(0)
    case = type("Case", (kit,), {"build": lambda self: build(), **attributes})()
    with (
        pytest.raises((AssertionError, ValueError, PluginError), match=match),
        warnings.catch_warnings(),
    ):  # Keras or kgen may refuse it first
        warnings.simplefilter("ignore")  # Keras warns of weights without gradient
        getattr(case, check)()


def hoarding(self: Any, *args: Any, **kwargs: Any) -> None:
    """Has a layer that it does not use to draw."""
    super(type(self), self).__init__(*args, **kwargs)
    self.spare = keras.layers.Dense(3, name="spare")
