"""Small models of keras-cv, and published models and a vocabulary like those of Stable Diffusion."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SHARE = 8
"""The models of these tests have an eighth of the channels, and as many groups in their normalizations."""

CHANNELS = re.compile(r"(?<![\w.])(40|64|80|128|160|256|320|512|640|768|1024|1280)(?![\w.])")
"""The numbers of channels in the source of keras-cv's models, whose constructors do not take them."""

MODELS = ("TextEncoder", "TextEncoderV2", "DiffusionModel", "DiffusionModelV2", "Decoder", "ImageEncoder")

BLOCKS = ("resnet_block", "attention_block", "diffusion_model", "decoder", "image_encoder", "text_encoder")
"""The modules with normalizations of groups, or inputs of models."""


class Replaced:
    """A module with some attributes replaced."""

    def __init__(self, module: Any, **changes: Any) -> None:
        self.__dict__.update({**changes, "_module": module})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def small_class(cls: Any) -> Any:
    """A model's class with fewer channels: the same blocks, as many of them, in the same order."""
    names = dict(vars(sys.modules[cls.__module__]))
    source = inspect.getsource(cls)
    source = source[source.index("class ") :]  # without the decorator
    exec(CHANNELS.sub(lambda found: str(int(found[0]) // SHARE), source), names)
    return names[cls.__name__]


@pytest.fixture(autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the models of keras-cv small, except in tests of the full size. They take batches of any size."""
    if "full_size" in request.node.name:
        return
    import keras
    from keras_cv.src.models.stable_diffusion import stable_diffusion

    groups = functools.partial(keras.layers.GroupNormalization, groups=SHARE)
    one = functools.partial(keras.layers.Input, batch_size=1)  # on PyTorch, Keras computes unknown sizes by two batches
    replaced = Replaced(keras, layers=Replaced(keras.layers, GroupNormalization=groups, Input=one))
    for name in BLOCKS:
        monkeypatch.setattr(f"keras_cv.src.models.stable_diffusion.{name}.keras", replaced)
    for name in MODELS:
        monkeypatch.setattr(stable_diffusion, name, small_class(getattr(stable_diffusion, name)))


@pytest.fixture(scope="session")
def published() -> ModuleType:
    """The module `published.py`, which imports PyTorch, diffusers and transformers."""
    spec = importlib.util.spec_from_file_location("published_keras_cv", Path(__file__).parent / "published.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like that of OpenAI, with few merges that can occur in a text."""
    real = ["r e", "re d</w>", "h e", "a r", "he ar", "hear t</w>", "b l", "u e</w>", "bl ue</w>"]
    filler = [f"x{number} y</w>" for number in range(48894 - len(real) + 5)]
    file = tmp_path_factory.mktemp("vocabulary") / "bpe_simple_vocab_16e6.txt.gz"
    file.write_bytes(gzip.compress("\n".join(["#version: 0.2", *real, *filler]).encode()))
    return file
