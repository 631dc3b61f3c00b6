"""Synthetic scenes with captions: every combination of color, shape, size and position, which can be held out."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field

from kgen.contracts.dataset import Column, Dataset, Split
from kgen.data.datasets.drawing import SHAPES, Shape, coverage
from kgen.errors import DataError
from kgen.spaces import Space

Color = Literal["red", "orange", "yellow", "green", "blue", "purple", "brown", "black"]
Size = Literal["small", "large"]
Position = Literal["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 40),
    "orange": (255, 140, 20),
    "yellow": (250, 220, 40),
    "green": (40, 165, 70),
    "blue": (45, 95, 225),
    "purple": (145, 60, 190),
    "brown": (125, 75, 40),
    "black": (25, 25, 25),
}
"""RGB colors; the background is white."""

RADII: dict[str, float] = {"small": 0.12, "large": 0.2}
"""Half the width of an object, as a share of the image's width."""

POSITIONS: dict[str, tuple[float, float]] = {
    name: (x, y)
    for (y, row) in ((0.24, "top"), (0.5, ""), (0.76, "bottom"))
    for (x, column) in ((0.24, "left"), (0.5, ""), (0.76, "right"))
    for name in [f"{row} {column}".strip() or "middle"]
}
"""Centers (x, y), as shares of the image's width and height; (0, 0) is the top left corner."""

STREAMS: dict[Split, int] = {"train": 1, "holdout": 2, "validation": 3}
"""Seeds that give the splits different jitter."""

MAX_IMAGES = 10_000_000
"""Largest number of images in a split. Each takes about 16 bytes of memory."""

MARGIN = 0.1
"""Smallest gap between the boxes of two objects, as a share of the image's width."""


class Thing(NamedTuple):
    """One object of a scene."""

    color: str
    shape: str
    size: str
    position: str

    def __str__(self) -> str:
        where = "in the middle" if self.position == "middle" else f"at the {self.position}"
        return f"a {self.size} {self.color} {self.shape} {where}"


Scene = tuple[Thing, ...]

_EXAMPLE = Thing("red", "circle", "large", "top left")
_THING = re.compile(
    "a ({}) ({}) ({}) (?:in the middle|at the ({}))".format(
        *("|".join(names) for names in (RADII, COLORS, SHAPES, sorted(POSITIONS.keys() - {"middle"})))
    )
)


class Shapes(Dataset):
    """Scenes such as "a large red circle at the top left", or of two such objects joined by "and".

    Two objects never touch, and the caption begins with the object that comes first in reading order, so that every
    scene has exactly one caption, and every caption exactly one scene. The label names the shapes of the objects:
    "circle", or "circle and star".

    Args:
        size: Height and width in pixels.
        objects: Number of objects in a scene.
        colors, shapes, sizes, positions: The attributes of the objects.
        holdout: Combinations to keep out of training, such as "purple square" or "small red bottom left". Scenes with
            an object of all these attributes form the split "holdout".
        count: Number of training images; null: every scene once. If it is smaller than the number of scenes, some are
            left out. If it is larger, scenes are repeated with another `jitter`.
        validation: Number of validation images. They show the same scenes with another `jitter`.
        jitter: Largest random shift of objects in each direction, as a share of the image's width.
        seed: Seed of the choice of scenes and of the jitter.

    Raises:
        DataError: the options leave no scene, or hold out all scenes with one of the attributes.
    """

    fields = ("image", "caption", "label")

    renamed: ClassVar[Mapping[str, str]] = {"colours": "colors"}

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=16, le=512)] = 32,
        objects: Literal[1, 2] = 1,
        colors: tuple[Color, ...] = get_args(Color),
        shapes: tuple[Shape, ...] = SHAPES,
        sizes: tuple[Size, ...] = get_args(Size),
        positions: tuple[Position, ...] = get_args(Position),
        holdout: tuple[str, ...] = (),
        count: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None,
        validation: Annotated[int, Field(ge=0, le=MAX_IMAGES)] = 0,
        jitter: Annotated[float, Field(ge=0, le=0.04)] = 0.0,
        seed: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self.size = size
        self.objects = objects
        self.colors = colors
        self.shapes = shapes
        self.sizes = sizes
        self.positions = positions
        self.holdout = holdout
        self.count = count
        self.validation = validation
        self.jitter = jitter
        self.seed = seed
        self._scenes = self._split(self._enumerate())

    @property
    def image_space(self) -> Space:
        return Space("continuous", (self.size, self.size, 3))

    def scenes(self, split: Split) -> Sequence[Scene]:
        """The scenes in the images of a split."""
        return self._scenes.get(split, ())

    @functools.cached_property
    def _captions(self) -> dict[str, list[str]]:
        texts = {scene: caption(scene) for scenes in self._scenes.values() for scene in set(scenes)}
        return {split: [texts[scene] for scene in scenes] for split, scenes in self._scenes.items()}

    def captions(self, split: Split) -> Sequence[str]:
        return self._captions.get(split, ())

    def image(self, split: Split, index: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, STREAMS[split], index])
        offsets = rng.uniform(-self.jitter, self.jitter, (self.objects, 2))
        return render(self._scenes[split][index], self.size, offsets)

    def values(self, split: Split, field: str) -> Sequence[Any]:
        if field != "label":
            return super().values(split, field)
        scenes = self.scenes(split)
        return Column(len(scenes), lambda index: " and ".join(thing.shape for thing in scenes[index]))

    def _enumerate(self) -> list[Scene]:
        every = {"colors": COLORS, "shapes": SHAPES, "sizes": RADII, "positions": POSITIONS}
        kinds = [_checked(option, getattr(self, option), known) for option, known in every.items()]
        things = sorted(itertools.starmap(Thing, itertools.product(*kinds)), key=_reading_order)
        if self.objects == 1:
            return [(thing,) for thing in things]
        boxes = itertools.product(self.positions, self.sizes)
        apart = {(a, b) for a, b in itertools.product(boxes, repeat=2) if _apart(a, b)}
        return [
            (first, second)
            for first, second in itertools.combinations(things, 2)
            if ((first.position, first.size), (second.position, second.size)) in apart
        ]

    def _split(self, scenes: list[Scene]) -> dict[str, tuple[Scene, ...]]:
        held = [self._combination(text) for text in self.holdout]
        things = {thing for scene in scenes for thing in scene}
        attributes = {thing: {thing.color, thing.shape, thing.size, thing.position} for thing in things}
        unseen = {thing for thing in things if any(combination <= attributes[thing] for combination in held)}
        holdout = tuple(scene for scene in scenes if not unseen.isdisjoint(scene))
        train = tuple(scene for scene in scenes if unseen.isdisjoint(scene))
        if not train:
            where = "two objects at these positions" if self.objects == 2 and not scenes else "what holdout leaves"
            raise DataError(f"shapes: there is no scene of {where}")
        seen = {thing for scene in train for thing in scene}
        if lost := set().union(*attributes.values()) - set().union(*(attributes[thing] for thing in seen)):
            raise DataError(f"shapes: holdout leaves no {' and no '.join(sorted(lost))} to train on at all")
        return {"train": self._choose(train), "validation": self._choose_others(train), "holdout": holdout}

    def _choose(self, scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
        if self.count is None:
            return scenes
        if self.count > len(scenes) and not self.jitter:
            raise DataError(
                f"shapes: count {self.count} is more than the {len(scenes)} scenes there are: "
                "the images would be the same, unless jitter moves them"
            )
        order = np.random.default_rng([self.seed, 0]).permutation(len(scenes))
        return tuple(scenes[i] for i in np.resize(order, self.count))

    def _choose_others(self, scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
        if self.validation and not self.jitter:
            raise DataError("shapes: validation needs jitter: the images would be those of the training")
        order = np.random.default_rng([self.seed, 0]).permutation(len(scenes))
        return tuple(scenes[i] for i in np.resize(order, self.validation))

    def _combination(self, text: str) -> frozenset[str]:
        """Reads "small red bottom left" as {"small", "red", "bottom left"}."""
        found: set[str] = set()
        words = text.split()
        known = {*self.colors, *self.shapes, *self.sizes, *self.positions}
        while words:
            pair, word = " ".join(words[:2]), words[0]
            name = pair if pair in known else word
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known), n=3)
                hint = f": did you mean {', '.join(map(repr, near))}?" if near else f"; there are {sorted(known)}"
                raise DataError(
                    f"shapes: holdout '{text}': '{name}' is not one of the colors, shapes, sizes or positions{hint}"
                )
            found.add(name)
            words = words[len(name.split()) :]
        if len(found) < 2:
            raise DataError(f"shapes: holdout '{text}' must combine two attributes or more, such as 'purple square'")
        if not any(found <= set(c) for c in itertools.product(self.colors, self.shapes, self.sizes, self.positions)):
            raise DataError(f"shapes: holdout '{text}' names two attributes of one kind: no object can have both")
        return frozenset(found)


def caption(scene: Scene) -> str:
    return " and ".join(map(str, scene))


def parse(text: str) -> Scene:
    """Parses a caption. Raises DataError if `caption` could not have written it."""
    things = []
    for part in text.split(" and "):
        found = _THING.fullmatch(part)
        if found is None:
            raise DataError(f"shapes: '{text}' is not a caption of this dataset, such as '{caption((_EXAMPLE,))}'")
        size, color, shape, position = found.groups()
        things.append(Thing(color, shape, size, position or "middle"))
    return tuple(things)


def render(scene: Scene, size: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """Renders a scene on a white background, with anti-aliasing.

    Args:
        scene: The scene.
        size: Height and width in pixels.
        offsets: (objects, 2), the shift (x, y) of each object, as shares of the image's width; None: no shift.

    Returns:
        uint8 (size, size, 3).
    """
    canvas = np.full((size, size, 3), 255.0)
    for i, thing in enumerate(scene):
        x, y = POSITIONS[thing.position] if offsets is None else POSITIONS[thing.position] + offsets[i]
        covered = coverage(thing.shape, RADII[thing.size] * size, (x * size, y * size), size)[..., None]  # (H, W, 1)
        canvas += covered * (np.array(COLORS[thing.color]) - canvas)
    return np.asarray(np.rint(canvas), np.uint8)


def _apart(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether two boxes (position, size) have a gap between them."""
    (x0, y0), (x1, y1) = POSITIONS[first[0]], POSITIONS[second[0]]
    return max(abs(x0 - x1), abs(y0 - y1)) - RADII[first[1]] - RADII[second[1]] >= MARGIN - 1e-9


def _reading_order(thing: Thing) -> list[int]:
    """A sort key: row by row, then by the order of attributes in this module, so that options do not change it."""
    known: tuple[Iterable[str], ...] = (POSITIONS, COLORS, SHAPES, RADII)
    names = (thing.position, thing.color, thing.shape, thing.size)
    return [list(every).index(name) for every, name in zip(known, names, strict=True)]


def _checked(option: str, values: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    if not values or (wrong := set(values) - set(known)):
        what = f"{sorted(wrong)} is unknown" if values else "is empty"
        raise DataError(f"shapes: {option} {what}: there are {', '.join(known)}")
    return tuple(dict.fromkeys(values))
