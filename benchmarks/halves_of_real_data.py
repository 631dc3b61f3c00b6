"""Distances of two halves of real images, and of one half and changed images, or images of other classes.

    python benchmarks/halves_of_real_data.py [/usr/share/datasets/fashion-mnist] [--images 4000] [--output FILE.md]

A distance is of use if it is much smaller between two halves of the same images than between real images and others.
The script takes `--images` images of the first five classes of Fashion-MNIST (Debian's package dataset-fashion-mnist).
It compares the first half with the second, with the second half blurred (Gaussian, 1 pixel) or with noise (standard
deviation 10% of white), and with as many images of the other five classes. The table has the Fréchet and the kernel
distance of EfficientNet-Lite0's features. The exit status is 1 if any Fréchet distance is less than ten times that of
the halves.

4,000 images take three minutes on two cores. The distance of the halves is all bias, and so in proportion to 1/N: of
1,000 images, the ratios are 5 to 6 only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = 5
RATIO = 10.0


def read(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` images of the first five classes, and half as many of the other five, uint8 (N, 28, 28, 1)."""
    import kgen

    dataset = kgen.make_dataset({"name": "idx", "path": str(folder)})
    labels = [int(caption) for caption in dataset.captions("train")]
    found: dict[bool, list[Any]] = {True: [], False: []}
    for row, label in enumerate(labels):
        rows = found[label < CLASSES]
        if len(rows) < (count if label < CLASSES else count // 2):
            rows.append(dataset.image("train", row))
    if len(found[True]) < count:
        sys.exit(f"there are only {len(found[True]):,} images of the first five classes")
    return np.stack(found[True]), np.stack(found[False])


def blurred(images: np.ndarray) -> np.ndarray:
    gaussian = ImageFilter.GaussianBlur(1.0)
    return np.stack([np.asarray(Image.fromarray(image[..., 0]).filter(gaussian))[..., None] for image in images])


def noised(images: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=25.5, size=images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def distances(real: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The Fréchet and the kernel distance of features (N, D)."""
    from kgen_plugin_metrics.formulas.frechet import frechet_distance
    from kgen_plugin_metrics.formulas.kernel import kernel_distance
    from kgen_plugin_metrics.formulas.moments import Moments

    own, others = Moments.of(real), Moments.of(other)
    kernel, _ = kernel_distance(other, real, subset_size=min(1000, len(real), len(other)))
    return frechet_distance(others.mean, others.covariance, own.mean, own.covariance), kernel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="the folder of Fashion-MNIST's files")
    parser.add_argument("--images", type=int, default=4000, help="number of real images, in two halves")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()

    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    from kgen_plugin_metrics.features.contract import in_color

    import kgen

    network = kgen.part("metrics.features", "efficientnet-lite0")
    real, others = read(args.folder, args.images)
    first, second = real[::2], real[1::2]

    def features(images: np.ndarray) -> np.ndarray:
        return np.asarray(network(in_color(images))["features"])

    reference = features(first)
    compared = {
        "the other half": second,
        "blurred": blurred(second),
        "with noise": noised(second),
        "other classes": others,
    }
    found = {name: distances(reference, features(images)) for name, images in compared.items()}
    halves = found["the other half"]
    lines = [
        f"| {len(first):,} images of Fashion-MNIST against as many | Fréchet distance | ratio | kernel distance |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {one:.3f} | {one / halves[0]:.1f} | {two:.4f} |" for name, (one, two) in found.items()]
    text = "\n".join(lines)
    print(text)
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")
    least = min(one / halves[0] for name, (one, _) in found.items() if name != "the other half")
    sys.exit(int(least < RATIO))


if __name__ == "__main__":
    main()
