"""The CLIP score is that of the package torchmetrics: the same images and texts, and a model in a local folder."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from kgen_plugin_clip.metrics import ClipScore

from kgen.contracts.metric import GeneratedImages, measure
from kgen.data.datasets.shapes import Shapes

pytestmark = pytest.mark.portable

BROKEN = ("torchvision", "torch-fidelity")
"""Packages that torchmetrics imports if they are installed. PyPI's torchvision fails beside a PyTorch for CPUs, and
torch-fidelity needs it. The CLIP score uses neither."""

TEXTS = ["a red heart", "", "HEART & a", "red red heart"]
"""Texts of at most 11 tokens, which the model reads whole: torchmetrics cuts off the end token of longer ones."""


@pytest.fixture(scope="module")
def torchmetrics() -> Any:
    """The module of torchmetrics' CLIPScore."""
    version = importlib.metadata.version

    def hidden(name: str) -> str:
        if name.replace("_", "-") in BROKEN:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.metadata, "version", hidden)
        import torchmetrics.multimodal.clip_score as module
    return module


class Tensors:
    """A CLIPModel whose methods return tensors, as before transformers 5, and as torchmetrics expects."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def to(self, device: Any) -> Tensors:
        return self

    def get_image_features(self, *given: Any) -> Any:
        return self.model.get_image_features(*given).pooler_output

    def get_text_features(self, *given: Any) -> Any:
        return self.model.get_text_features(*given).pooler_output


def test_clip_score_is_that_of_torchmetrics(torchmetrics: Any, published: ModuleType, tmp_path: Path) -> None:
    """In two batches of unequal sizes. If the sign of the texts is changed, the mean cosine is negative: 0."""
    data = Shapes(size=16, count=12, objects=1)
    images = np.random.default_rng(0).integers(0, 256, (4, 31, 20, 3), dtype=np.uint8)
    batches = [GeneratedImages(images[rows], TEXTS[rows]) for rows in (slice(0, 3), slice(3, 4))]
    found = []
    for sign in (1.0, -1.0):
        model = published.random_model("quick_gelu")
        with torch.no_grad():
            model.text_projection.weight.mul_(sign)
        folder = published.save(model, tmp_path / str(sign))
        read = Tensors(transformers.CLIPModel.from_pretrained(folder))
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        processor = transformers.CLIPProcessor(published.processor(), tokenizer)
        theirs = torchmetrics.CLIPScore(lambda: (read, processor))  # noqa: B023
        for batch in batches:
            theirs.update([torch.tensor(image).permute(2, 0, 1) for image in batch.images], list(batch.prompts))
        ours = measure(ClipScore(model=str(folder)), data, "train", batches)["score"]
        assert abs(ours - float(theirs.compute())) < 1e-4, sign
        found.append(ours)
    assert min(found) == 0.0 and max(found) > 0.1
