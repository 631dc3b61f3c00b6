"""The memory of Stable Diffusion 1 at its real size on a CPU: training with LoRA, and the decoding of large images.

    KERAS_BACKEND=torch python benchmarks/pretrained_memory.py train [--size 512] [--steps 3]
    KERAS_BACKEND=torch python benchmarks/pretrained_memory.py decode [--size 1024] [--tiles 512 256]

The weights are random. diffusers and transformers write them to a folder as a pipeline in float16 (2.1 GB), and kgen
reads it. Each variant has a process of its own, whose resident memory is that of the weights, the backend and Python,
too.

"train": the text encoder, the U-Net and the autoencoder are in memory, as in stable-diffusion-v1-lora.yaml, with the
same LoRA. A batch is one image, whose latent and condition are given, because a run caches them.

"decode": the autoencoder alone decodes one latent, by the program of `kgen generate`: as a whole, and in tiles.

Needs the packages diffusers, transformers and torch, and kgen-plugin-diffusers, -diffusion and -clip.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LORA = ["generator/*/attn1", "generator/*/attn2"]
RANK = 8

TRAINING = [
    {"precision": precision, "remat": remat} for remat in (True, False) for precision in ("mixed_bfloat16", "float32")
]
"""The variants of the training. Those that need least come first."""

# ---- the models -----------------------------------------------------------------------------------------------------


def write_pipeline(folder: Path, tiny: bool) -> None:
    """Writes Stable Diffusion 1 with random weights in float16. `tiny` has the same layers with few channels."""
    sys.modules["torchvision"] = None  # type: ignore[assignment]  # it is not needed, and may not fit this PyTorch
    import diffusers
    import torch
    import transformers

    words = [f"w{number}</w>" for number in range(94 if tiny else 49_406)] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77
    )
    dim = 32 if tiny else 768
    text = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=2 if tiny else 12,
        num_attention_heads=2 if tiny else 12,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    unet_class, vae_class, text_class = (
        diffusers.UNet2DConditionModel,
        diffusers.AutoencoderKL,
        transformers.CLIPTextModel,
    )
    torch.set_default_dtype(torch.float16)  # after the imports, some of which fail with it
    unet = unet_class(
        sample_size=64, cross_attention_dim=dim, block_out_channels=(32, 32, 64, 64) if tiny else (320, 640, 1280, 1280)
    )
    vae = vae_class(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 64) if tiny else (128, 256, 512, 512),
        layers_per_block=2,
    )
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    diffusers.StableDiffusionPipeline(
        vae,
        text_class(text),
        tokenizer,
        unet,
        diffusers.PNDMScheduler(**noise, skip_prk_steps=True),
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


# ---- measurements, each in a process of its own ---------------------------------------------------------------------


def resident() -> float:
    """The resident memory of this process, in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def measure_training(folder: Path, size: int, steps: int, precision: str, remat: bool) -> list[float]:
    """Trains LoRA with batches of one image.

    Returns:
        The weights and the trained ones in millions; the memory before the training, its peak until then, and its peak
        in the end, in MiB; the seconds of the last step; and the loss of the last step.
    """
    import keras

    import kgen
    from kgen.backend.memory import peak_memory
    from kgen.backend.stream import stream
    from kgen.config import FitConfig
    from kgen.training.fit import compile_model

    keras.config.set_dtype_policy(precision)
    pipeline = kgen.assemble(
        encoder={"name": "clip/text", "pretrained": str(folder)},
        generator={
            "name": "diffusion/diffusion",
            "network": {"kind": "diffusers/unet-2d-condition", "pretrained": str(folder)},
            "schedule": "discrete",
            "prediction": "eps",
            "times": {"kind": "uniform"},
        },
        decoder={"name": "diffusers/autoencoder-kl", "pretrained": str(folder)},
        image_space=(size, size, 3),
    )
    kgen.add_lora(pipeline, RANK, targets=LORA)
    compile_model(pipeline, FitConfig(steps=1000, batch_size=1, learning_rate=1e-4, ema=None, remat=remat))
    rng, condition = np.random.default_rng(0), pipeline.null_condition()
    shape = (1, *pipeline.decoder.latent_space.shape)
    batch = {
        "latent": rng.normal(size=shape).astype("float32"),
        "condition": {name: keras.ops.convert_to_numpy(value) for name, value in condition.items()},
    }
    ended: list[float] = []
    losses: list[float] = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, step: int, logs: Any = None) -> None:
            losses.append(float(logs["loss"]))  # waits for the device
            ended.append(time.perf_counter())

    before, loaded = resident(), float(peak_memory())
    ended.append(time.perf_counter())
    pipeline.fit(stream([batch] * steps), epochs=1, verbose=0, shuffle=False, callbacks=[Clock()])
    sizes = [
        sum(int(np.prod(v.shape)) for v in found) / 1e6 for found in (pipeline.weights, pipeline.trainable_weights)
    ]
    return [*sizes, before, loaded, float(peak_memory()), ended[-1] - ended[-2], losses[-1]]


def measure_decoding(folder: Path, size: int, tile: int) -> list[float]:
    """Decodes a random latent; `tile` 0: as a whole.

    Returns:
        The memory before the decoding, its peak until then, and its peak in the end, in MiB; the seconds; and the
        standard deviation of the pixels.
    """
    import kgen
    from kgen.backend.compiled import Compiled
    from kgen.backend.memory import peak_memory

    choice = {"name": "diffusers/autoencoder-kl", "pretrained": str(folder)}
    space = kgen.Space("continuous", (size, size, 3))
    decoder = kgen.make_decoder(choice, space, kgen.ConditionSpace(1, 1))
    decoder.build(None)
    options = {"tile": tile} if tile else {}
    program = Compiled(lambda batch: decoder.decode(batch["latent"], {}, {}, **options), [decoder])
    latent = np.random.default_rng(0).normal(size=(1, *decoder.latent_space.shape)).astype("float32")
    before, loaded, began = resident(), float(peak_memory()), time.perf_counter()
    images = program.run({"latent": latent}, 1, 1)
    return [before, loaded, float(peak_memory()), time.perf_counter() - began, float(images.std())]


# ---- tables ---------------------------------------------------------------------------------------------------------


def in_process(job: str, folder: Path, args: argparse.Namespace, variant: dict[str, Any]) -> list[float]:
    """Measures a variant in a process of its own."""
    options = [f"--variant={value}" for value in variant.values()]
    command = [sys.executable, __file__, job, f"--size={args.size}", f"--steps={args.steps}", f"--folder={folder}"]
    output = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE, text=True).stdout
    return list(map(float, output.strip().splitlines()[-1].split()))


def training_table(folder: Path, args: argparse.Namespace) -> list[str]:
    lines: list[str] = []
    for variant in TRAINING:
        weights, trained, before, loaded, peak, seconds, loss = in_process("train", folder, args, variant)
        if not lines:
            lines = [
                f"LoRA of rank {RANK} ({trained:.2f} million weights of {weights:.0f}), one image of {args.size}x"
                f"{args.size} pixels, {args.steps} steps, {backend()}:",
                "",
                "| precision | remat | loaded, MiB | peak of loading, MiB | peak, MiB | last step, s | its loss |",
                "|---|---|---|---|---|---|---|",
            ]
            print(*lines, sep="\n", flush=True)
        numbers = f"{before:,.0f} | {loaded:,.0f} | {peak:,.0f} | {seconds:.0f} | {loss:.3f}"
        lines.append(f"| {variant['precision']} | {'yes' if variant['remat'] else 'no'} | {numbers} |")
        print(lines[-1], flush=True)
    return lines


def decoding_table(folder: Path, args: argparse.Namespace) -> list[str]:
    lines = [
        f"One image of {args.size}x{args.size} pixels, float32, {backend()}:",
        "",
        "| decoded | before, MiB | peak, MiB | of the decoding, MiB | s |",
        "|---|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for tile in (*args.tiles, 0):
        before, _, peak, seconds, _ = in_process("decode", folder, args, {"tile": tile})
        name = f"in tiles of {tile}x{tile}" if tile else "as a whole"
        lines.append(f"| {name} | {before:,.0f} | {peak:,.0f} | {peak - before:,.0f} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    return lines


def backend() -> str:
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=("train", "decode", "write"), help="what is measured")
    parser.add_argument("--size", type=int, help="height and width of the image: 512 in the training, 1024 decoded")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tiles", type=int, nargs="*", default=[512, 256])
    parser.add_argument("--folder", type=Path, help="a folder for the models, or with them")
    parser.add_argument("--tiny", action="store_true", help="few channels, to try the script")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    parser.add_argument("--variant", action="append", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.size = args.size or (512 if args.job == "train" else 1024)
    if args.job == "write":
        write_pipeline(args.folder, args.tiny)
        return
    if args.variant:
        given: list[str] = args.variant
        if args.job == "train":
            print(*measure_training(args.folder, args.size, args.steps, given[0], given[1] == "True"))
        else:
            print(*measure_decoding(args.folder, args.size, int(given[0])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve() / "sd15"
        if not folder.is_dir():
            command = [sys.executable, __file__, "write", f"--folder={folder}", *(["--tiny"] if args.tiny else [])]
            subprocess.run(command, check=True)
        lines = (training_table if args.job == "train" else decoding_table)(folder, args)
    if args.output:
        with args.output.open("a", encoding="utf-8") as file:
            print("", *lines, sep="\n", file=file)


if __name__ == "__main__":
    main()
