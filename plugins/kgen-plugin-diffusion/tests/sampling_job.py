"""Generates images of prompts: by `generated` here, and as a script in another process."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops
from kgen_plugin_diffusion.generator import Diffusion
from kgen_plugin_diffusion.networks import DiT

import kgen
from kgen.random import seed_everything
from kgen.testing.execution import perturb


class Letters(kgen.Encoder):
    """Encodes each text as random vectors that depend on the text alone."""

    @property
    def condition_space(self) -> kgen.ConditionSpace:
        return kgen.ConditionSpace(2, 8)

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal((2, 8)) for text in texts]
        return {"sequence": np.stack(rows).astype(np.float32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        sequence = tokens["sequence"]
        return {"sequence": sequence, "mask": ops.ones_like(sequence[..., 0]), "pooled": ops.mean(sequence, axis=1)}


def generated(*batches: Sequence[str]) -> list[np.ndarray]:
    """Generates one image per prompt, batch by batch: uint8 (len(prompts), 8, 8, 3) each.

    The sampler is DDIM with fresh noise at each step. The conformance kit tests the other samplers.
    """
    seed_everything(7)
    space, encoder = kgen.Space("continuous", (8, 8, 3)), Letters()
    generator = Diffusion(space, encoder.condition_space, network=DiT(patch=4, width=16, depth=1, heads=2))
    pipeline = kgen.assemble(encoder=encoder, generator=generator, image_space=space)
    perturb(pipeline.generator)
    options = {"sampler": "ddim", "eta": 0.5, "steps": 3, "guidance": 2.0}
    return [pipeline.generate(prompts, seed=3, **options) for prompts in batches]


if __name__ == "__main__":
    np.save(sys.argv[1], generated(sys.argv[2:])[0])
