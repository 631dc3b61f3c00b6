"""The share of a run's images of clothes that show the requested class, according to a classifier trained here.

    kgen run configs/fashion-mnist/gan.yaml
    python benchmarks/fashion_classes.py runs/fashion-mnist-gan [--number 200] [--output benchmarks/RESULTS.md]

The classifier, a small convolutional network, learns from all training images of the run's own data, and is tested on
all test images. Then the run generates `--number` images per class, and the table shows the share that the
classifier assigns to that class. The exit status is 1 if the classifier is right on less than 90% of the
test images, or if a class is never generated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS, BATCH, RIGHT_ENOUGH = 4, 128, 0.9


def read_images(dataset: Any, split: str, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, C) float32 in [0, 1], and (N,) the numbers of the classes."""
    captions = dataset.captions(split)
    images = np.stack([dataset.image(split, i) for i in range(len(captions))])
    return images.astype("float32") / 255.0, np.array([classes.index(caption) for caption in captions])


def train_classifier(images: np.ndarray, labels: np.ndarray, classes: int) -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            *(
                layer
                for width in (32, 64)
                for layer in (
                    layers.Conv2D(width, 3, padding="same", use_bias=False),
                    layers.BatchNormalization(),
                    layers.ReLU(),
                    layers.MaxPooling2D(),
                )
            ),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = EPOCHS * len(images) // BATCH
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), loss)
    model.fit(images, labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def judge(model: Any, images: np.ndarray) -> np.ndarray:
    """(N,) the most likely classes."""
    return model.predict(images, batch_size=500, verbose=0).argmax(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--number", type=int, default=200, help="number of images per class")
    parser.add_argument("--output", type=Path, help="append the table to this file")
    args = parser.parse_args()

    from kgen.backend.selection import load_backend

    load_backend()  # quietly
    import kgen
    from kgen.config import RunConfig
    from kgen.data.datasets.idx import Idx
    from kgen.experiments.directory import RunDirectory

    directory = RunDirectory(args.run)
    config = RunConfig.load(directory.config)
    dataset = Idx(**{**config.data.options, "limit": None, "validation": 10_000, "holdout": ()})
    classes = list(dataset.classes) or sorted(set(dataset.captions("train")))
    model = train_classifier(*read_images(dataset, "train", classes), len(classes))
    images, labels = read_images(dataset, "validation", classes)
    right = float((judge(model, images) == labels).mean())

    pipeline = kgen.load(directory.model)
    generated = [pipeline.generate([name], n=args.number, seed=0, **config.sample.options) for name in classes]
    found = np.stack([judge(model, images.astype("float32") / 255.0) for images in generated])  # (classes, images)
    shares = (found == np.arange(len(classes))[:, None]).mean(1)
    lines = ["| class | share of correct images |", "|---|---|"]
    lines += [f"| {name} | {share:.2f} |" for name, share in zip(classes, shares, strict=True)]
    lines += [f"| all | {shares.mean():.3f} |", "", f"The classifier is right on {right:.3f} of the test images."]
    text = "\n".join(lines)
    print(text)
    if args.output:
        with args.output.open("a") as file:
            file.write(f"\n{text}\n")
    sys.exit(int(right < RIGHT_ENOUGH or shares.min() == 0))


if __name__ == "__main__":
    main()
