"""Speed of token models: AR with and without its cache, AR and NAR, and both and peers of the same size.

    python benchmarks/token_speed.py [--rounds 5] [--width 256] [--depth 6] [--output benchmarks/RESULTS.md]

The models have 256 tokens of a vocabulary of 1,024, and a transformer of `--depth` blocks with four heads. GPT-2's
MLP is four times as wide as the vectors, and kgen's gated MLP 2.67 times, which gives the same number of weights. The
peers are `generate` of GPT-2 in transformers, with its cache, and a training step of muse-maskgit-pytorch's
transformer. Both run on PyTorch, eagerly, as they do by default. All jobs are measured in turn, `--rounds` times,
after a first time that does not count. The results are medians.

The script needs kgen-plugin-tokens, and the packages torch, transformers and muse-maskgit-pytorch. Install the last
one without torchvision, which its transformer does not use, and which would install another build of torch:

    pip install --constraint constraints.txt transformers accelerate beartype einops sentencepiece
    pip install --no-deps muse-maskgit-pytorch ema-pytorch memory-efficient-attention-pytorch torch-einops-utils
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np

SHAPE, COUNT, VOCABULARY = (16, 16), 256, 1024
HEADS = 4
TEXT = (8, 64)  # positions of the text, and their width
BATCH, NAR_STEPS, UNCACHED = 16, 8, 16
"""Batch size, passes of NAR, and number of tokens that are sampled without the cache, which is very slow."""

Job = Callable[[], Any]


def condition(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "sequence": rng.standard_normal((batch, *TEXT)).astype("float32"),
        "mask": np.ones((batch, TEXT[0]), "float32"),
        "pooled": rng.standard_normal((batch, TEXT[1])).astype("float32"),
    }


def kgen_jobs(width: int, depth: int) -> tuple[dict[str, Job], dict[str, int]]:
    """By name what to measure, and the sizes of the two models."""
    import keras
    from keras import ops
    from kgen_plugin_tokens.ar import Autoregressive
    from kgen_plugin_tokens.nar import NonAutoregressive
    from kgen_plugin_tokens.transformer import Transformer

    from kgen import ConditionSpace, Space
    from kgen.backend.devices import compile_sampling, compile_training
    from kgen.random import sample

    space, texts = Space("tokens", SHAPE, VOCABULARY), ConditionSpace(*TEXT)
    network = Transformer(width=width, depth=depth, heads=HEADS)
    ar = Autoregressive(space, texts, network=network)
    nar = NonAutoregressive(space, texts, network=network)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, *SHAPE)).astype("int32")
    for generator in (ar, nar):  # as a pipeline builds it
        generator.compute_losses(tokens, keras.tree.map_structure(ops.convert_to_tensor, condition(BATCH)), False)
        generator.built = True

    class Run(keras.Model):  # type: ignore[misc]
        def __init__(self, function: Callable[[Any], Any], generator: Any) -> None:
            super().__init__(autocast=False)
            self.generator = generator
            object.__setattr__(self, "function", function)
            self.built = True
            self.compile("adamw", jit_compile=compile_sampling(generator))

        def call(self, batch: Any) -> Any:
            return self.function(batch)

        def compute_loss(self, x: Any, y: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
            return ops.mean(y_pred)

    def sampler(generator: Any, batch: int, **options: Any) -> Job:
        noise = sample(generator.noise_spec(**options), [(0, copy) for copy in range(batch)])
        model = Run(lambda b: generator.generate(b["text"], b["text"], b["noise"], **options), generator)
        given = {"text": condition(batch), "noise": noise}
        return lambda: model.predict_on_batch(given)

    def step(index: Any, tokens: Any, text: Any) -> Any:
        """One token without what is kept: the whole sequence again."""
        logits = ar.model(tokens, ar._order, text)
        token = ops.argmax(ops.take(logits, index, axis=1), axis=-1)
        return ops.slice_update(tokens, (0, index), ops.cast(token, "int32")[:, None])

    def uncached(batch: int) -> Job:
        def function(b: Any) -> Any:
            start = ops.zeros((batch, COUNT), "int32")
            return ops.fori_loop(0, UNCACHED, lambda i, tokens: step(i, tokens, b["text"]), start)

        model = Run(function, ar)
        return lambda: model.predict_on_batch({"text": condition(batch)})

    def trainer() -> Job:
        model = Run(lambda b: nar.compute_losses(b["x"], b["text"], True)["loss"], nar)
        model.compile("adamw", jit_compile=compile_training())
        given = {"x": tokens, "text": condition(BATCH)}
        return lambda: model.train_on_batch(given, np.zeros(BATCH, "float32"))

    jobs = {
        "AR, 1 image": sampler(ar, 1),
        f"AR, {BATCH} images": sampler(ar, BATCH),
        f"AR, {BATCH} images, {UNCACHED} tokens without what is kept": uncached(BATCH),
        f"NAR of {NAR_STEPS} steps, {BATCH} images": sampler(nar, BATCH, steps=NAR_STEPS),
        f"NAR of {NAR_STEPS} steps, 1 image": sampler(nar, 1, steps=NAR_STEPS),
        "NAR, training step": trainer(),
    }
    return jobs, {"AR": weights(ar), "NAR": weights(nar)}


def weights(layer: Any) -> int:
    return sum(int(np.prod(variable.shape)) for variable in layer.trainable_variables)


def gpt2(width: int, depth: int) -> tuple[Job, int]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=COUNT + 1,
        n_embd=width,
        n_layer=depth,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    start = torch.zeros((BATCH, 1), dtype=torch.long)

    def job() -> Any:
        with torch.inference_mode():
            options = {"do_sample": True, "max_new_tokens": COUNT, "min_new_tokens": COUNT, "pad_token_id": 0}
            return model.generate(start, attention_mask=torch.ones_like(start), use_cache=True, **options)

    return job, sum(p.numel() for p in model.parameters())


def muse(width: int, depth: int) -> tuple[Job, int]:
    import accelerate  # noqa: F401 (these look for torchvision, which must not be there yet)
    import ema_pytorch  # noqa: F401
    import torch
    from transformers import T5Config, T5EncoderModel, T5Tokenizer  # noqa: F401

    for name in ("", ".transforms", ".datasets", ".utils", ".models"):  # of no use to its transformer
        sys.modules.setdefault(f"torchvision{name}", MagicMock())
    from muse_maskgit_pytorch import muse_maskgit_pytorch as peer
    from muse_maskgit_pytorch import t5

    t5.T5_CONFIGS["none"] = {"config": type("Config", (), {"d_model": TEXT[1]})()}  # else it asks a hub for its width
    model = peer.MaskGitTransformer(
        num_tokens=VOCABULARY,
        seq_len=COUNT,
        dim=width,
        depth=depth,
        dim_head=width // HEADS,
        heads=HEADS,
        ff_mult=4,
        t5_name="none",
    )
    optimizer = torch.optim.AdamW(model.parameters())
    text = torch.tensor(condition(BATCH)["sequence"])
    x = torch.randint(0, VOCABULARY, (BATCH, COUNT))

    def job() -> float:
        share = torch.cos(torch.rand(BATCH, 1) * torch.pi / 2)
        mask = torch.rand(BATCH, COUNT).argsort(dim=-1) < (share * COUNT).round().clamp(min=1)
        shown, wanted = torch.where(mask, model.mask_id, x), torch.where(mask, x, -1)
        loss = model(shown, text_embeds=text, labels=wanted, ignore_index=-1, cond_drop_prob=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return job, sum(p.numel() for p in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=256, help="of all transformers")
    parser.add_argument("--depth", type=int, default=6, help="their number of blocks")
    parser.add_argument("--output", type=Path, help="append the tables to this file")
    args = parser.parse_args()
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    size = (args.width, args.depth)
    jobs, sizes = kgen_jobs(*size)
    (jobs["GPT-2"], sizes["GPT-2"]), (jobs["muse"], sizes["muse"]) = gpt2(*size), muse(*size)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(args.rounds + 1):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            if number:
                times[name].append(time.perf_counter() - began)
    seconds = {name: statistics.median(found) for name, found in times.items()}
    text = report(seconds, sizes)
    print(text)
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")


def report(seconds: dict[str, float], sizes: dict[str, int]) -> str:
    one, many, slow, few, single, training, peer, other = seconds.values()
    lines = ["| job | milliseconds |", "|---|---|", *(f"| {k} | {1000 * v:,.0f} |" for k, v in seconds.items()), ""]
    ratios = {
        "AR faster with what is kept": slow * COUNT / UNCACHED / many,
        f"a batch of {BATCH} costs, of one image": many / one,
        f"NAR of {NAR_STEPS} steps faster than AR, {BATCH} images": many / few,
        f"NAR of {NAR_STEPS} steps faster than AR, 1 image": one / single,
        f"AR faster than GPT-2 ({sizes['AR']:,} and {sizes['GPT-2']:,} weights)": peer / many,
        f"NAR's training step faster than muse's ({sizes['NAR']:,} and {sizes['muse']:,} weights)": other / training,
    }
    return "\n".join([*lines, "| ratio | times |", "|---|---|", *(f"| {k} | {v:.2f} |" for k, v in ratios.items())])


if __name__ == "__main__":
    main()
