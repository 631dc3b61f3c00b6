"""How well fine-tuned models generate emoji in the style of Noto: a table and a sheet of images.

    kgen run configs/quickstart.yaml
    kgen run configs/openmoji-lora.yaml
    kgen run configs/openmoji-lora.yaml --set fit.lora=null --set fit.learning_rate=5.0e-4 --out runs/openmoji-full
    python benchmarks/emoji_styles.py runs/quickstart runs/openmoji-lora runs/openmoji-full [--output FILE.png]

Every model generates one image of each of the quickstart's 57 prompts, with the same noise. The script compares an
image with the images of all prompts in both styles, OpenMoji's and Noto's, by the mean squared difference of pixels.

- style: the share of images that are nearer to Noto's image of their prompt than to OpenMoji's.
- subject: the share of images whose nearest image, in any style, is one of their prompt.

Prompts are seen if the fine-tuning has images of them, new if it holds them out, and others if it does not name them.
It needs Debian's package fonts-noto-color-emoji. Three runs take about a minute on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

SHOWN = {"seen": 4, "new": 12}
"""Number of prompts of each group on the sheet."""


def images_of(dataset: str, match: list[str]) -> dict[str, np.ndarray]:
    """The images of a style by caption: uint8 (32, 32, 3)."""
    import kgen

    made = kgen.make_dataset({"name": dataset, "size": 32, "match": match})
    return {caption: made.image("train", index) for index, caption in enumerate(made.captions("train"))}


def groups(tuned: Path, captions: list[str]) -> dict[str, list[str]]:
    """The captions of each group, given a fine-tuned run and all captions."""
    from kgen.runs.run import open_dataset

    dataset = open_dataset(tuned)
    seen, new = list(dataset.captions("train")), list(dataset.captions("holdout"))
    others = [caption for caption in captions if caption not in {*seen, *new}]
    return {name: found for name, found in (("seen", seen), ("new", new), ("others", others)) if found}


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.square(one.astype(float) - other).mean())


def scores(
    made: dict[str, np.ndarray], openmoji: dict[str, np.ndarray], noto: dict[str, np.ndarray]
) -> tuple[float, float]:
    """The shares of images in the style of Noto, and of those with the right subject."""
    style = [distance(image, noto[caption]) < distance(image, openmoji[caption]) for caption, image in made.items()]
    subject = []
    for caption, image in made.items():
        nearest = {key: min(distance(image, style[key]) for style in (openmoji, noto)) for key in openmoji}
        subject.append(min(nearest, key=lambda key: nearest[key]) == caption)
    return float(np.mean(style)), float(np.mean(subject))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, metavar="BASE", help="The run before the fine-tuning.")
    parser.add_argument("tuned", nargs="+", type=Path, metavar="TUNED", help="Fine-tuned runs.")
    parser.add_argument("--output", type=Path, default=Path("emoji-styles.png"))
    given = parser.parse_args()
    import kgen
    from kgen.reporting.sheets import matrix, save_png
    from kgen.runs.run import open_config

    runs = [given.base, *given.tuned]
    match = open_config(given.base).data.options["match"]
    openmoji, noto = images_of("openmoji", match), images_of("noto-emoji", match)
    named = groups(given.tuned[0], list(openmoji))
    shown = [caption for group, count in SHOWN.items() for caption in named.get(group, [])[:count]]
    rows = []
    print("| run |" + "".join(f" style, {group} | subject, {group} |" for group in named))
    print("|---|" + "---|---|" * len(named))
    for run in runs:
        pipeline, options = kgen.load(run), open_config(run).sample.options
        images = dict(zip(openmoji, pipeline.generate(list(openmoji), **options), strict=True))
        found = [scores({caption: images[caption] for caption in group}, openmoji, noto) for group in named.values()]
        print(f"| {run.name} |" + "".join(f" {style:.2f} | {subject:.2f} |" for style, subject in found))
        rows.append(np.stack([images[caption] for caption in shown]))
    rows.append(np.stack([noto[caption] for caption in shown]))
    sheet = matrix(rows, [*(run.name for run in runs), "Noto"], shown, scale=2)
    save_png(given.output, sheet, {"model": ", ".join(run.name for run in runs)})
    print(given.output)


if __name__ == "__main__":
    main()
