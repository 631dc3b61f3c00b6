"""The conformance kit, and the statistics of the latents."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from kgen import Space, SpaceError
from kgen.testing import DecoderConformance

from kgen_plugin_yourname.patches import Patches

SPACE = Space("continuous", (8, 8, 3))


class TestPatches(DecoderConformance):
    def build(self) -> Patches:
        return Patches(SPACE, patch=2, channels=4, width=16)


def test_calibrated_latents_have_mean_0_and_variance_1() -> None:
    decoder = Patches(SPACE, patch=4, channels=3)
    decoder.build()
    batches = [np.random.default_rng(seed).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8) for seed in range(3)]
    for _ in range(2):  # again, from other statistics
        decoder.calibrate(batches)
    images = np.concatenate(batches).astype("float32") / 127.5 - 1.0
    latents = ops.convert_to_numpy(decoder.encode(ops.convert_to_tensor(images))).reshape(-1, 3)
    np.testing.assert_allclose(latents.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(latents.std(axis=0), 1.0, atol=1e-4)


def test_patches_must_divide_the_image() -> None:
    with pytest.raises(SpaceError, match="patch: 3 does not divide images of 8x8 pixels"):
        Patches(SPACE, patch=3)
