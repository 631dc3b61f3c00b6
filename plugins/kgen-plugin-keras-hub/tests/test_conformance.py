"""Every encoder passes the conformance kit."""

from __future__ import annotations

from pathlib import Path

import pytest
from kgen_plugin_keras_hub.bert import BertText
from kgen_plugin_keras_hub.clip import ClipText
from kgen_plugin_keras_hub.t5 import T5Text

from kgen.plugins.discovery import registry
from kgen.testing import EncoderConformance

pytestmark = pytest.mark.portable


class TestBert(EncoderConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, bert_folder: Path) -> None:
        self.folder = bert_folder

    def build(self) -> BertText:
        return BertText(preset=str(self.folder), length=12, pooling="pooler", normalize=True)


@pytest.mark.backends
class TestClip(EncoderConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, clip_folder: Path) -> None:
        self.folder = clip_folder

    def build(self) -> ClipText:
        return ClipText(preset=str(self.folder), length=16, project=True)


class TestT5(EncoderConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, t5_folder: Path) -> None:
        self.folder = t5_folder

    def build(self) -> T5Text:
        return T5Text(preset=str(self.folder), length=12)


def test_all_are_registered() -> None:
    mine = [c for c in registry().of_kind("encoder") if c.origin.namespace == "keras-hub"]
    assert {c.name: c.load() for c in mine} == {"bert": BertText, "clip-text": ClipText, "t5": T5Text}
