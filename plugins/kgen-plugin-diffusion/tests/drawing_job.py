"""Draws prompts with two samplers: by `drawings` here, and as a script in a process of its own."""

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

SAMPLERS = {"ddim": {"eta": 0.5}, "dpm++2m": {}}
"""With their options: one adds fresh noise at each step, one keeps the step before. Conformance tries the others."""


class Letters(kgen.Encoder):
    """Every text has a vector of its own."""

    @property
    def condition_space(self) -> kgen.ConditionSpace:
        return kgen.ConditionSpace(2, 8)

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal((2, 8)) for text in texts]
        return {"sequence": np.stack(rows).astype(np.float32)}

    def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
        sequence = tokens["sequence"]
        return {"sequence": sequence, "mask": ops.ones_like(sequence[..., 0]), "pooled": ops.mean(sequence, axis=1)}


def drawings(prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """By sampler, one picture a prompt: uint8 (len(prompts), 8, 8, 3)."""
    seed_everything(7)
    space, encoder = kgen.Space("continuous", (8, 8, 3)), Letters()
    generator = Diffusion(space, encoder.condition_space, network=DiT(patch=4, width=16, depth=1, heads=2))
    pipeline = kgen.assemble(encoder=encoder, generator=generator, image_space=space)
    perturb(pipeline.generator)
    return {
        sampler: pipeline.generate(prompts, seed=3, sampler=sampler, steps=3, guidance=2.0, **options)
        for sampler, options in SAMPLERS.items()
    }


if __name__ == "__main__":
    np.savez(sys.argv[1], **drawings(sys.argv[2:]))
