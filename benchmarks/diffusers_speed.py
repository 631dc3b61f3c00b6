"""Speed of kgen beside that of diffusers: the same networks, batch and precision, step by step in turn.

    python benchmarks/diffusers_speed.py [--quick] [--compile] [--output benchmarks/RESULTS.md]

Each library has a process of its own, which waits while the other one works. A training step is one step of kgen's
`fit` (with its data and metrics), or of the usual PyTorch loop around diffusers' modules: noise, forward, mean squared
error, backward, AdamW. Sampling is `Pipeline.generate`, or diffusers' `DDIMScheduler` around the module in
inference mode. Medians of many single steps, after warm-up. PyTorch runs as diffusers runs it by default: eagerly. With
`--compile`, a third process runs diffusers' networks through `torch.compile`, which needs a C++ compiler on a CPU.

Needs the packages diffusers and torch, and kgen-plugin-diffusion.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

SIZE, TOKENS, TEXT_WIDTH = 32, 16, 128
NETWORKS = ("unet", "dit-4", "dit-2")
WARM_UP = 2


@dataclass(frozen=True)
class Settings:
    """What is measured. `network` is "unet", or "dit-" and the patch."""

    network: str
    batch: int
    precision: str
    threads: int
    compile: bool
    train_repeats: int
    sample_repeats: int
    sample_steps: int

    @property
    def patch(self) -> int:
        return int(self.network.removeprefix("dit-"))


# ---- kgen -----------------------------------------------------------------------------------------------------------


def work_kgen(conn: Connection, settings: Settings) -> None:
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    from kgen.backend.devices import compile_training

    keras.config.set_dtype_policy("float32" if settings.precision == "float32" else "mixed_bfloat16")
    pipeline = kgen_pipeline(kgen_network(settings))
    conn.send(sum(int(np.prod(weight.shape)) for weight in pipeline.trainable_weights))

    class Metronome(keras.callbacks.Callback):
        """Waits for leave to begin a step, and reports how long it took."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            conn.recv()
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            float(logs["loss"])  # waits for the device
            conn.send(time.perf_counter() - self.start)

    pipeline.compile(optimizer=keras.optimizers.AdamW(1e-4, weight_decay=0.01), jit_compile=compile_training())
    steps = WARM_UP + settings.train_repeats
    images = np.random.default_rng(0).integers(0, 256, (settings.batch, SIZE, SIZE, 3), np.uint8)
    prompts = [f"image {i}" for i in range(settings.batch)]
    inputs = pipeline.inputs(np.tile(images, (steps, 1, 1, 1)), prompts * steps)
    pipeline.fit(inputs, batch_size=settings.batch, epochs=1, verbose=0, callbacks=[Metronome()])
    answer(
        conn,
        WARM_UP + settings.sample_repeats,
        lambda: pipeline.generate(
            prompts, sampler="ddim", steps=settings.sample_steps, guidance=1.0, batch_size=settings.batch
        ),
    )


def kgen_network(settings: Settings) -> Any:
    from kgen_plugin_diffusion.networks import DiT, UNet

    if settings.network == "unet":
        return UNet(width=64, multipliers=(1, 2, 2), blocks=2, attention=(1, 2), head_dim=32)
    return DiT(patch=settings.patch, width=192, depth=6, heads=6)


def kgen_pipeline(network: Any) -> Any:
    """The pipeline of a network for images of `SIZE`, and of conditions that are given."""
    from keras import ops
    from kgen_plugin_diffusion.generator import Diffusion
    from kgen_plugin_diffusion.times import Uniform

    import kgen

    class Features(kgen.Encoder):
        """A text's condition is given: both libraries' text encoders are left out of the comparison."""

        def __init__(self) -> None:
            super().__init__()
            self.trainable = False

        @property
        def condition_space(self) -> kgen.ConditionSpace:
            return kgen.ConditionSpace(TOKENS, TEXT_WIDTH)

        def tokenize(self, texts: Any) -> dict[str, np.ndarray]:
            rng = np.random.default_rng(0)
            return {"sequence": rng.standard_normal((len(texts), TOKENS, TEXT_WIDTH)).astype(np.float32)}

        def call(self, tokens: dict[str, Any], training: bool = False) -> dict[str, Any]:
            sequence = tokens["sequence"]
            return {"sequence": sequence, "mask": ops.ones_like(sequence[..., 0]), "pooled": ops.mean(sequence, axis=1)}

    encoder, space = Features(), kgen.Space("continuous", (SIZE, SIZE, 3))
    generator = Diffusion(
        space, encoder.condition_space, network=network, schedule="linear", prediction="eps", times=Uniform()
    )
    return kgen.assemble(encoder=encoder, generator=generator, image_space=space, condition_dropout=0.0)


# ---- diffusers ------------------------------------------------------------------------------------------------------


def work_compiled(conn: Connection, settings: Settings) -> None:
    work_diffusers(conn, settings, compile=True)


def work_diffusers(conn: Connection, settings: Settings, compile: bool = False) -> None:
    sys.modules["torchvision"] = None  # type: ignore[assignment]  # it is not needed, and may not fit this PyTorch
    import torch
    from diffusers import DDIMScheduler

    torch.set_num_threads(settings.threads)
    network = diffusers_unet() if settings.network == "unet" else diffusers_dit(settings.patch)
    conn.send(sum(p.numel() for p in network.parameters() if p.requires_grad))
    if compile:
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=0.01)
    scheduler = DDIMScheduler()
    text = torch.randn(settings.batch, TOKENS, TEXT_WIDTH)
    condition = (text, torch.ones(settings.batch, TOKENS), text.mean(1))
    images = torch.rand(settings.batch, 3, SIZE, SIZE) * 2 - 1
    lower = torch.autocast("cpu", torch.bfloat16, enabled=settings.precision != "float32")

    def train() -> None:
        noise, t = torch.randn_like(images), torch.randint(0, 1000, (settings.batch,))
        noisy = scheduler.add_noise(images, noise, t)
        with lower:
            output = network(noisy, t, *condition)
        loss = torch.nn.functional.mse_loss(output.float(), noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    def sample() -> None:
        scheduler.set_timesteps(settings.sample_steps)
        x = torch.randn_like(images)
        with torch.inference_mode(), lower:
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, t.expand(settings.batch), *condition), t, x).prev_sample
        ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    answer(conn, WARM_UP + settings.train_repeats, train)
    network.eval()
    answer(conn, WARM_UP + settings.sample_repeats, sample)


def diffusers_unet(width: int = 64) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    class TextUNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = UNet2DConditionModel(
                sample_size=SIZE,
                in_channels=3,
                out_channels=3,
                block_out_channels=(width, 2 * width, 2 * width),
                layers_per_block=2,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=TEXT_WIDTH,
                attention_head_dim=2 * width // 32,  # the number of heads, whatever its name
                resnet_time_scale_shift="scale_shift",
                class_embed_type="projection",
                projection_class_embeddings_input_dim=TEXT_WIDTH,
                use_linear_projection=True,
            )

        def forward(self, x: Any, t: Any, sequence: Any, mask: Any, pooled: Any) -> Any:
            return self.unet(x, t, sequence, class_labels=pooled, encoder_attention_mask=mask).sample

    return TextUNet()


def diffusers_dit(patch: int, width: int = 192, depth: int = 6, heads: int = 6) -> Any:
    """diffusers has no DiT that attends to text: this one is made of its blocks, and embeds the timestep only once."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.embeddings import PatchEmbed, TimestepEmbedding, Timesteps
    from torch import nn

    class Given(nn.Module):
        """In place of the embedding of the timestep that each of diffusers' blocks computes for itself."""

        def forward(self, timestep: Any, class_labels: Any, hidden_dtype: Any = None) -> Any:
            return timestep

    def block() -> BasicTransformerBlock:
        made = BasicTransformerBlock(
            width,
            heads,
            width // heads,
            cross_attention_dim=TEXT_WIDTH,
            attention_bias=True,
            activation_fn="gelu-approximate",
            norm_type="ada_norm_zero",
            num_embeds_ada_norm=1,
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        )
        made.norm1.emb = Given()
        return made

    class TextDiT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = PatchEmbed(SIZE, SIZE, patch, 3, width)
            self.sinusoidal = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
            self.level, self.pooled = TimestepEmbedding(256, width), TimestepEmbedding(TEXT_WIDTH, width)
            self.blocks = nn.ModuleList(block() for _ in range(depth))
            self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.modulation, self.out = nn.Linear(width, 2 * width), nn.Linear(width, patch * patch * 3)

        def forward(self, x: Any, t: Any, sequence: Any, mask: Any, pooled: Any) -> Any:
            embedding = self.level(self.sinusoidal(t)) + self.pooled(pooled)
            x, bias = self.patches(x), ((1 - mask) * -10_000.0)[:, None]
            for layer in self.blocks:
                x = layer(x, encoder_hidden_states=sequence, encoder_attention_mask=bias, timestep=embedding)
            shift, scale = self.modulation(nn.functional.silu(embedding))[:, None].chunk(2, -1)
            y, side = self.out(self.norm(x) * (1 + scale) + shift), SIZE // patch
            y = y.reshape(-1, side, side, patch, patch, 3).permute(0, 5, 1, 3, 2, 4)
            return y.reshape(-1, 3, SIZE, SIZE)

    return TextDiT()


# ---- both in turn ---------------------------------------------------------------------------------------------------


def answer(conn: Connection, times: int, job: Callable[[], object]) -> None:
    """Runs a job on request, and reports how long it took."""
    for _ in range(times):
        conn.recv()
        start = time.perf_counter()
        job()
        conn.send(time.perf_counter() - start)


def measure(settings: Settings) -> Iterator[str]:
    """Rows of the table: training, and sampling."""
    context = multiprocessing.get_context("spawn")
    connections, processes = [], []
    for work in (work_kgen, work_diffusers, *([work_compiled] if settings.compile else [])):
        here, there = context.Pipe()
        processes.append(context.Process(target=work, args=(there, settings), daemon=True))
        processes[-1].start()
        there.close()
        connections.append(here)
    parameters = [conn.recv() for conn in connections]
    for job, repeats in (("training step", settings.train_repeats), ("sampling", settings.sample_repeats)):
        times: list[list[float]] = [[] for _ in processes]
        for _ in range(WARM_UP + repeats):
            for conn, seconds in zip(connections, times, strict=True):
                conn.send("go")
                seconds.append(conn.recv())
        ours, *theirs = (settings.batch / statistics.median(seconds[WARM_UP:]) for seconds in times)
        name = job if job != "sampling" else f"sampling, {settings.sample_steps} steps"
        counts = f"{parameters[0]:,} | {parameters[1]:,}"
        speeds = " | ".join(f"{peer:.1f} | {ours / peer:.2f}" for peer in theirs)
        yield f"| {settings.network} | {counts} | {name} | {ours:.1f} | {speeds} |"
    for process in processes:
        process.join()


def header(arguments: argparse.Namespace) -> str:
    names = ("kgen-core", "keras", "tensorflow", "diffusers", "torch")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    peers = ("diffusers", *(["torch.compile"] if arguments.compile else []))
    columns = ("network", "parameters kgen", "diffusers", "job", "kgen", *(f"{peer} | ratio" for peer in peers))
    return (
        f"kgen (Keras on {os.environ.get('KERAS_BACKEND', 'tensorflow')}) beside diffusers (PyTorch): images per "
        f"second on {processor()}, {arguments.threads} threads.\nBatches of {arguments.batch} images of "
        f"{SIZE}x{SIZE}x3, {arguments.precision}; medians of single steps taken in turn.\n"
        f"{packages}. Python {platform.python_version()}.\n\n"
        f"| {' | '.join(columns)} |\n{'|---' * (5 + 2 * len(peers))}|"
    )


def processor() -> str:
    """The processor's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps only: rough figures in some minutes")
    parser.add_argument("--compile", action="store_true", help="compare with torch.compile, too: minutes per network")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="a Markdown file to write the table to, too")
    arguments = parser.parse_args()
    repeats = (5, 3, 5) if arguments.quick else (25, 9, 10)
    lines = [header(arguments)]
    print(lines[0], flush=True)
    for network in arguments.networks:
        settings = (network, arguments.batch, arguments.precision, arguments.threads, arguments.compile, *repeats)
        for line in measure(Settings(*settings)):
            print(line, flush=True)
            lines.append(line)
    if arguments.output:
        arguments.output.write_text("# Speed\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
