"""Every encoder passes the conformance kit."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from kgen_plugin_text.bag import BagOfWords
from kgen_plugin_text.label import CaptionClass, ClassLabel
from kgen_plugin_text.transformer import TransformerText
from kgen_plugin_text.unconditional import Unconditional

from kgen.plugins.discovery import registry
from kgen.testing import EncoderConformance


@pytest.mark.backends
class TestTransformer(EncoderConformance):
    def build(self) -> TransformerText:
        return TransformerText(vocabulary=280, length=12, dim=16, depth=2, heads=2)


@pytest.mark.backends
class TestBag(EncoderConformance):
    def build(self) -> BagOfWords:
        return BagOfWords(dim=16, length=6)


class TestSummedBag(EncoderConformance):
    def build(self) -> BagOfWords:
        return BagOfWords(dim=16, length=6, min_count=2, vocabulary=3, pooling="sum")

    distinguishes: ClassVar[bool] = True
    inputs: ClassVar[Any] = ("red heart", "a big blue heart", "red smiley")


@pytest.mark.backends
class TestLabel(EncoderConformance):
    inputs: ClassVar[Any] = ("3", 12, "red fox")

    def build(self) -> ClassLabel:
        return ClassLabel(dim=16)


class TestClass(EncoderConformance):
    def build(self) -> CaptionClass:
        return CaptionClass(dim=16)

    @property
    def hard_inputs(self) -> list[str]:
        return [*self.inputs, "", "  \n", f"\t{self.inputs[0]} "]


@pytest.mark.backends
class TestNone(EncoderConformance):
    distinguishes: ClassVar[bool] = False

    def build(self) -> Unconditional:
        return Unconditional()


def test_all_are_registered() -> None:
    mine = [c for c in registry().of_kind("encoder") if c.origin.namespace == "text"]
    assert {c.name: c.load() for c in mine} == {
        "transformer": TransformerText,
        "bag": BagOfWords,
        "label": ClassLabel,
        "class": CaptionClass,
        "none": Unconditional,
    }
