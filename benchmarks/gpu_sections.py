"""What `gpu.py` measures of kgen: matrix products, DiT and U-Net, tokens, and the loader."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from gpu_timing import AT_START, Blocks, Sizes, repeated


def load_keras() -> Any:
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    return keras


def matmul(sizes: Sizes, deadline: float) -> dict[str, Any]:
    """The rate of products of two square matrices, in FLOP per second."""
    keras = load_keras()
    from keras import ops

    from kgen.backend.compiled import Compiled

    count = 8  # products in a row, so that no copy between host and device counts

    def products(x: Any) -> Any:
        scale = 1.0 / sizes.matrix
        return ops.sum(ops.fori_loop(0, count, lambda i, y: ops.matmul(x, y) * ops.cast(scale, x.dtype), x), axis=1)

    model = Compiled(lambda batch: products(ops.cast(batch["x"], "bfloat16")), [])
    x = ops.ones((sizes.matrix, sizes.matrix), "bfloat16")
    found = repeated(lambda: keras.ops.convert_to_numpy(model.predict_on_batch({"x": x})), sizes, deadline)
    return {**found, "flops": found["per second"] * count * 2 * sizes.matrix**3, "device": device()}


def device() -> str:
    from kgen.backend.devices import accelerators

    return ", ".join(accelerators()) or "CPU"


def diffusion(kind: str, sizes: Sizes, deadline: float) -> dict[str, Any]:
    """Training steps and DDIM of kgen's DiT or U-Net."""
    keras = load_keras()
    from diffusers_speed import SIZE, kgen_pipeline
    from kgen_plugin_diffusion.networks import DiT, UNet

    from kgen.backend.devices import compile_training
    from kgen.backend.stream import stream

    if kind == "dit":
        network = DiT(patch=2, width=sizes.width, depth=sizes.depth, heads=sizes.heads)
    else:
        network = UNet(width=sizes.unet, multipliers=(1, 2, 2), blocks=2, attention=(1, 2), head_dim=32)
    pipeline = kgen_pipeline(network)
    pipeline.compile(optimizer=keras.optimizers.AdamW(1e-4, weight_decay=0.01), jit_compile=compile_training())
    images = np.random.default_rng(0).integers(0, 256, (sizes.batch, SIZE, SIZE, 3), np.uint8)
    prompts = [f"image {i}" for i in range(sizes.batch)]
    batch = pipeline.inputs(images, prompts)
    flops = 3 * forward_flops(pipeline, batch) if keras.backend.backend() == "jax" else None
    began = time.monotonic()
    clock = block_clock(Blocks(sizes, began + (deadline - began) * AT_START))
    steps = sizes.block * (sizes.blocks + clock.blocks.warm_up)
    pipeline.fit(stream([batch] * steps), steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
    options = {"sampler": "ddim", "steps": sizes.sampling_steps, "guidance": 1.0, "batch_size": sizes.samples}
    texts = [f"image {i}" for i in range(sizes.samples)]
    sampling = repeated(lambda: pipeline.generate(texts, **options), sizes, deadline - 5)
    weights = sum(int(np.prod(weight.shape)) for weight in pipeline.trainable_weights)
    return {
        "training": clock.blocks.result(sizes.batch * sizes.block),
        "sampling": {**sampling, "per second": sampling["per second"] * sizes.samples},
        "weights": weights,
        "flops": flops and flops / sizes.batch,
    }


def block_clock(blocks: Blocks) -> Any:
    """A callback that ends a block of steps with a wait for the device, and the training when there are enough."""
    import keras

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.blocks = blocks

        def on_train_batch_end(self, step: int, logs: Any = None) -> None:
            if (step + 1) % blocks.sizes.block == 0:
                float(logs["loss"])
                self.model.stop_training = not blocks.end()

    return Clock()


def forward_flops(pipeline: Any, batch: Any) -> float:
    """The FLOP of the matrix products and convolutions of a forward pass, on JAX, from its traced program."""
    import jax
    import keras

    groups = (pipeline.trainable_variables, pipeline.non_trainable_variables)
    trained, others = ([variable.value for variable in group] for group in groups)
    flash = keras.config.is_flash_attention_enabled()
    keras.config.disable_flash_attention()  # so that attention consists of products
    try:
        program = jax.make_jaxpr(lambda t, n, b: pipeline.stateless_call(t, n, b, training=True)[0])
        return program_flops(program(trained, others, batch).jaxpr)
    finally:
        if flash is not False:
            keras.config.enable_flash_attention()


def program_flops(program: Any) -> float:
    """The FLOP of the products and convolutions of a JAX program, and of the programs inside of it."""
    total = 0.0
    for equation in program.eqns:
        inputs = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
        output = getattr(equation.outvars[0].aval, "shape", ()) if equation.outvars else ()
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2.0 * float(np.prod(output)) * float(np.prod([inputs[0][axis] for axis in contracted]))
        elif equation.primitive.name == "conv_general_dilated":
            outputs = equation.params["dimension_numbers"].rhs_spec[0]  # the axis of the kernel with output channels
            total += 2.0 * float(np.prod(output)) * float(np.prod(inputs[1])) / inputs[1][outputs]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                total += times * program_flops(inner) if hasattr(inner, "eqns") else 0.0
    return total


def tokens(sizes: Sizes, deadline: float) -> dict[str, Any]:
    """Images per second of AR and NAR, for each number of tokens."""
    load_keras()
    from kgen_plugin_tokens.ar import Autoregressive
    from kgen_plugin_tokens.nar import NonAutoregressive
    from kgen_plugin_tokens.transformer import Transformer
    from token_speed import TEXT, VOCABULARY, condition

    from kgen import ConditionSpace, Space
    from kgen.backend.compiled import Compiled
    from kgen.random import sample

    network = Transformer(width=sizes.width, depth=sizes.depth, heads=sizes.heads)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "AR": (Autoregressive, {}),
        "NAR": (NonAutoregressive, {"steps": sizes.nar_steps}),
    }
    jobs = [(side, kind) for side in sizes.sides for kind in kinds]
    found: dict[str, Any] = {}
    for number, (side, kind) in enumerate(jobs):
        build, options = kinds[kind]
        generator = build(Space("tokens", (side, side), VOCABULARY), ConditionSpace(*TEXT), network=network)
        text = condition(sizes.token_samples)
        ids = np.zeros((sizes.token_samples, side, side), np.int32)
        generator.compute_losses(*map(as_tensors, (ids, text)), False)  # which creates the weights
        generator.built = True
        program = Compiled(
            lambda b, g=generator, o=options: g.generate(b["text"], b["text"], b["noise"], **o), [generator], generator
        )
        noise = sample(generator.noise_spec(**options), [(0, copy) for copy in range(sizes.token_samples)])
        batch, now = {"text": text, "noise": noise}, time.monotonic()
        until = now + (deadline - now) / (len(jobs) - number)
        timed = repeated(lambda p=program, b=batch: np.asarray(p.predict_on_batch(b)), sizes, until - 1)
        found[f"{kind}, {side * side:,} tokens"] = {**timed, "per second": timed["per second"] * sizes.token_samples}
    return found


def as_tensors(values: Any) -> Any:
    import keras

    return keras.tree.map_structure(keras.ops.convert_to_tensor, values)


def inputs(sizes: Sizes, deadline: float) -> dict[str, Any]:
    """The wait for the loader in a run of DiT-B/2 on JPEG files, from its own log."""
    import yaml
    from start_speed import write_images

    from kgen.training.journal import read_rows

    network = {"kind": "dit", "patch": 2, "width": sizes.width, "depth": sizes.depth, "heads": sizes.heads}
    every = sizes.block * 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        write_images(folder / "images", sizes.images)
        config = {
            "name": "input",
            "data": {"name": "imagefolder", "path": str(folder / "images"), "size": 32},
            "encoder": {"name": "text/bag", "dim": 64},
            "generator": {"name": "diffusion/diffusion", "network": network},
            "fit": {
                "steps": 100_000,
                "batch_size": sizes.batch,
                "log_every": every,
                "checkpoint_every": 100_000,
                "workers": min(8, os.cpu_count() or 1),
                "ema": None,
            },
            "precision": "mixed_bfloat16",
            "sample": {"every": 0},
            "loggers": [],
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "kgen.cli", "run", str(folder / "run.yaml"), "--out", str(folder / "run")]
        log = folder / "run" / "metrics.csv"
        rows: list[dict[str, str]] = []
        with (folder / "log").open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as run:
            try:
                while time.monotonic() < deadline - 5 and len(rows) <= sizes.blocks and run.poll() is None:
                    time.sleep(0.5)
                    rows = read_rows(log) if log.exists() else []
            finally:
                run.kill()
        if len(rows) < 2:
            raise SystemExit(f"only {len(rows)} rows of the log in time: {(folder / 'log').read_text()[-400:]}")
    counted = rows[1:]
    mean = {
        name: statistics.median(float(row[name]) for row in counted) for name in ("images_per_second", "input_wait")
    }
    return {**mean, "warm-up": every, "steps": len(counted) * every, "batch": sizes.batch}
