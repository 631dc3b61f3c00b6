"""Likelihoods beside those of other libraries: Fashion-MNIST; the same parameters, steps, batches and learning rates.

    python benchmarks/peer_likelihoods.py flow FOLDER [--steps 2000] [--output benchmarks/RESULTS.md]
    python benchmarks/peer_likelihoods.py vae FOLDER

FOLDER holds the four files of Fashion-MNIST. "flow": kgen's RealNVP beside normflows' multiscale flow (Glow's blocks),
28x28 images in a border of 2, uniform dequantization, given the class; bits per dimension of test images. "vae":
kgen's VAE beside pythae's with its residual networks, the Bernoulli likelihood of gray images, 16 latents, no class;
the bound, in nats. Both libraries train in turn, in processes of their own: AdamW, 100 steps of warm-up, half a cosine,
gradients of norm 1 at most, no average of the weights. kgen's size is chosen to have no more parameters than its peer.

Needs the packages torch, normflows, pythae, and kgen-plugin-realnvp, kgen-plugin-vae and kgen-plugin-text.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BATCH, RATE, WARM_UP, CLASSES = 64, 1e-3, 100, 10
SIZES = {"flow": 32, "vae": 28}
PEERS = {"flow": "normflows", "vae": "pythae"}
UNITS = {"flow": "bits per dimension", "vae": "nats, of the bound"}

Result = dict[str, Any]


def read(folder: str, size: int, steps: int, test_images: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Images (N, size, size, 1) uint8 and classes (N,): the training batches in their order, and what is measured."""
    from kgen.data.datasets.idx import Idx

    dataset = Idx(path=folder, size=size, validation=test_images)
    count, random = len(dataset.captions("train")), np.random.default_rng(0)
    epochs = -(-steps * BATCH // count)
    order = np.concatenate([random.permutation(count) for _ in range(epochs)])[: steps * BATCH]
    return _take(dataset, "train", order), _take(dataset, "validation", np.arange(test_images))


def _take(dataset: Any, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    classes = np.array([int(caption) for caption in dataset.captions(split)])
    return np.stack([dataset.image(split, int(i)) for i in indices]), classes[indices]


# ---- kgen -----------------------------------------------------------------------------------------------------------


def train_kgen(kind: str, folder: str, steps: int, test_images: int) -> Result:
    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import keras
    from kgen_plugin_text.label import ClassLabel
    from kgen_plugin_text.unconditional import Unconditional

    import kgen
    from kgen.config import FitConfig
    from kgen.training.fit import compile_model

    keras.utils.set_random_seed(0)
    (images, classes), test = read(folder, SIZES[kind], steps, test_images)
    encoder = ClassLabel(dim=64) if kind == "flow" else Unconditional()
    encoder.adapt([str(i) for i in range(CLASSES)])
    space = kgen.Space("continuous", images.shape[1:])
    generator = (kgen_flow if kind == "flow" else kgen_vae)(space, encoder.condition_space)
    pipeline = kgen.assemble(encoder=encoder, generator=generator, image_space=space, condition_dropout=0.0)
    fit = FitConfig(steps=steps, batch_size=BATCH, learning_rate=RATE, warmup_steps=WARM_UP, ema=None)
    compile_model(pipeline, fit)
    inputs = pipeline.inputs(images, [str(c) for c in classes])
    start = time.perf_counter()
    pipeline.fit(inputs, batch_size=BATCH, shuffle=False, epochs=1, verbose=0)
    seconds = time.perf_counter() - start
    found = pipeline.log_likelihood(test[0], [str(c) for c in test[1]], batch_size=100)
    return result(kind, found, images[0].size, count(pipeline.trainable_variables), seconds)


def kgen_flow(space: Any, conditions: Any) -> Any:
    from kgen_plugin_realnvp.couplings import Convolutional
    from kgen_plugin_realnvp.generator import RealNVP

    return RealNVP(space, conditions, coupling=Convolutional(scales=3, couplings=4, width=44))


def kgen_vae(space: Any, conditions: Any) -> Any:
    from kgen_plugin_vae.generator import VAE
    from kgen_plugin_vae.networks import Network
    from kgen_plugin_vae.observations import Bernoulli

    network = Network(width=16, multipliers=(1, 2, 4), attention=())
    return VAE(space, conditions, network=network, observation=Bernoulli(), vector=16, prior="standard")


def count(variables: Any) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def result(kind: str, log_likelihoods: np.ndarray, size: int, parameters: int, seconds: float) -> Result:
    scale = -1.0 / (math.log(2.0) * size) if kind == "flow" else 1.0
    error = float(np.std(log_likelihoods)) * abs(scale) / math.sqrt(len(log_likelihoods))
    return {
        "score": float(np.mean(log_likelihoods)) * scale,
        "error": error,
        "parameters": parameters,
        "seconds": seconds,
    }


# ---- the peers ------------------------------------------------------------------------------------------------------


def train_peer(kind: str, folder: str, steps: int, test_images: int) -> Result:
    import torch

    torch.manual_seed(0)
    (images, classes), test = read(folder, SIZES[kind], steps, test_images)
    model = normflows_glow() if kind == "flow" else pythae_vae()
    loss, log_likelihood = (flow_loss, flow_likelihood) if kind == "flow" else (vae_loss, vae_likelihood)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))

    def batch(images: np.ndarray, classes: np.ndarray, i: int, size: int) -> tuple[Any, Any]:
        x, labels = torch.tensor(images[i : i + size]), torch.tensor(classes[i : i + size])
        return x.permute(0, 3, 1, 2).float(), labels  # (B, 1, H, W) of 0 to 255, (B,)

    start = time.perf_counter()
    for i in range(0, steps * BATCH, BATCH):
        optimizer.zero_grad(set_to_none=True)
        loss(model, *batch(images, classes, i, BATCH)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        found = [log_likelihood(model, *batch(*test, i, 100)).numpy() for i in range(0, test_images, 100)]
    return result(kind, np.concatenate(found), images[0].size, count(model.parameters()), seconds)


def rate(step: int, steps: int) -> float:
    """kgen's schedule: a warm-up, then half a cosine."""
    progress = min(1.0, max(0.0, (step - WARM_UP) / (steps - WARM_UP)))
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * progress))


def normflows_glow() -> Any:
    """Glow at three scales, as in normflows' own example; given the class by the base distributions."""
    import normflows as nf

    levels, blocks, hidden = 3, 8, 192
    bases, flows, merges = [], [], []
    for i in range(levels):  # the coarsest scale first
        channels = 2 ** (levels + 1 - i)  # of 1x32x32 images, squeezed, and halved at every scale but the coarsest
        flows.append([*(nf.flows.GlowBlock(channels, hidden) for _ in range(blocks)), nf.flows.Squeeze()])
        merges += [nf.flows.Merge()] if i else []
        side = 32 // 2 ** (levels - i)
        shape = (channels // 2 if i else channels, side, side)
        bases.append(nf.distributions.ClassCondDiagGaussian(shape, CLASSES))
    return nf.MultiscaleFlow(bases, flows, merges, transform=nf.transforms.Logit(0.05), class_cond=True)


def flow_loss(model: Any, x: Any, labels: Any) -> Any:
    return -flow_likelihood(model, x, labels).mean() / (
        math.log(2.0) * 1024
    )  # as kgen: bits, so that clipping is equal


def flow_likelihood(model: Any, x: Any, labels: Any) -> Any:
    import torch

    y = (x + torch.rand_like(x)) / 256.0
    return model.log_prob(y, labels) - 1024 * math.log(256.0)


def pythae_vae() -> Any:
    from pythae.models import VAE, VAEConfig
    from pythae.models.nn.benchmarks.mnist import Decoder_ResNet_AE_MNIST, Encoder_ResNet_VAE_MNIST

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder_ResNet_VAE_MNIST(config), decoder=Decoder_ResNet_AE_MNIST(config))


def vae_loss(model: Any, x: Any, labels: Any) -> Any:
    return model({"data": x / 255.0}).loss / (math.log(2.0) * 784)  # as kgen


def vae_likelihood(model: Any, x: Any, labels: Any) -> Any:
    import torch

    return torch.stack([-model({"data": one / 255.0}).loss for one in x.split(1)])


# ---- both -----------------------------------------------------------------------------------------------------------


def apart(train: Any, *arguments: Any) -> Result:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(train, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["flow", "vae"])
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--test-images", type=int, default=2000, help="test images to measure")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()
    peer = PEERS[args.kind]
    lines = [f"| library | parameters | seconds of training | {UNITS[args.kind]} |", "|---|---|---|---|"]
    for name, train in ((f"{peer} {version(peer)}", train_peer), (f"kgen {version('kgen-core')}", train_kgen)):
        found = apart(train, args.kind, args.folder, args.steps, args.test_images)
        score = f"{found['score']:.3f} ± {found['error']:.3f}"
        lines.append(f"| {name} | {found['parameters']:,} | {found['seconds']:.0f} | {score} |")
    lines.append(
        f"\n{args.steps} steps of {BATCH}; {args.test_images} test images, with the standard error of the mean."
    )
    text = "\n".join(lines)
    print(text)
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
