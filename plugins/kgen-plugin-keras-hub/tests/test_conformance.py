"""Every component passes the conformance kit; test_images.py has the encoders of images."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from kgen_plugin_keras_hub.bert import BertText
from kgen_plugin_keras_hub.clip import ClipText
from kgen_plugin_keras_hub.images.models import ClipImage, DINOv2, SigLIPImage
from kgen_plugin_keras_hub.sd3.generator import StableDiffusion3
from kgen_plugin_keras_hub.sd3.mmdit import MMDiTSizes
from kgen_plugin_keras_hub.sd3.text import StableDiffusion3Text
from kgen_plugin_keras_hub.sd3.vae import VAE, VAESizes
from kgen_plugin_keras_hub.t5 import T5Text

from kgen import ConditionSpace, Space
from kgen.plugins.discovery import registry
from kgen.testing import DecoderConformance, EncoderConformance, GeneratorConformance

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


class TestStableDiffusion3Text(EncoderConformance):
    pads: ClassVar = False  # Stable Diffusion attends to the padding, too

    @pytest.fixture(autouse=True)
    def _folder(self, sd3: tuple[object, Path]) -> None:
        self.folder = sd3[1]

    def build(self) -> StableDiffusion3Text:
        return StableDiffusion3Text(preset=str(self.folder))


@pytest.mark.slow  # test_sd3.py trains and samples
class TestStableDiffusion3(GeneratorConformance):
    generate_options: ClassVar = ({"sampler": "euler", "steps": 2, "guidance": 2.0},)
    likelihood_options: ClassVar = {"steps": 3}
    replicas: ClassVar = False  # the losses are those of kgen-plugin-diffusion
    no_gradient: ClassVar = ("*/joint_block_1/context_block/q_norm/*",)  # the last block returns no text

    def build(self) -> StableDiffusion3:
        sizes = MMDiTSizes(width=16, depth=2, heads=2, positions=4, normalize=True, dual_attention=(0,))
        return StableDiffusion3(Space("continuous", (4, 4, 3), bounded=False), ConditionSpace(3, 8), sizes=sizes)


@pytest.mark.slow  # test_sd3.py compares it with KerasHub's
class TestVAE(DecoderConformance):
    latent_deviation: ClassVar = (0.001, 10.0)  # the weights are random, and the scale is not measured
    replicas: ClassVar = False  # the losses are those of kgen-plugin-codecs
    fit_steps: ClassVar = 20

    def build(self) -> VAE:
        half = {"filters": (32, 32), "blocks": (1, 1)}
        sizes = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in half.items()}
        return VAE(Space("continuous", (8, 8, 3)), sizes=VAESizes(**sizes, channels=2))


def test_all_are_registered() -> None:
    kinds = ("encoder", "generator", "decoder")
    mine = [c for kind in kinds for c in registry().of_kind(kind) if c.origin.namespace == "keras-hub"]
    texts = {"bert": BertText, "clip-text": ClipText, "t5": T5Text, "sd3-text": StableDiffusion3Text}
    images = {"clip-image": ClipImage, "siglip-image": SigLIPImage, "dinov2": DINOv2}
    assert {c.name: c.load() for c in mine} == {**texts, **images, "sd3": StableDiffusion3, "sd3-vae": VAE}
