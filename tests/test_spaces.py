"""Spaces say what they are, and refuse what makes no sense."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from kgen import ConditionSpace, Space


def test_space_describes_one_example() -> None:
    images, tokens = Space("continuous", (8, 6, 3)), Space("tokens", (16,), 512)
    assert (images.size, tokens.size) == (144, 16)
    assert (str(images), str(tokens)) == ("8x6x3 continuous", "16 tokens of 512")


def test_space_is_a_value() -> None:
    space = Space("continuous", [np.int64(8), 8.0, 3])  # type: ignore[arg-type, list-item]
    assert space == Space("continuous", (8, 8, 3)) and hash(space) == hash(Space("continuous", (8, 8, 3)))
    assert [type(n) for n in space.shape] == [int, int, int]
    assert space != Space("continuous", (8, 8, 1)) and space != Space("tokens", (8, 8, 3), 2)
    assert pickle.loads(pickle.dumps(space)) == space
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.kind = "tokens"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("pixels", (8,)), "'continuous' or 'tokens', not 'pixels'"),
        (("continuous", ()), "positive"),
        (("continuous", (8, 0, 3)), "positive"),
        (("continuous", (8, -1)), "positive"),
        (("tokens", (16,)), "vocabulary"),
        (("continuous", (16,), 512), "vocabulary"),
    ],
)
def test_space_refuses(arguments: tuple[Any, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Space(*arguments)


def test_the_pooled_dimension_defaults_to_the_dimension() -> None:
    assert ConditionSpace(77, 512).pooled_dim == 512
    assert ConditionSpace(77, 512, 768).pooled_dim == 768
    assert ConditionSpace(77, 512) == ConditionSpace(77, 512, 512) != ConditionSpace(77, 512, 768)


@pytest.mark.parametrize("arguments", [(0, 8), (4, 0), (4, -8), (4, 8, -1)])
def test_condition_space_refuses(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        ConditionSpace(*arguments)
