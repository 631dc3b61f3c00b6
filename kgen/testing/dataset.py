"""The requirements of datasets."""

from __future__ import annotations

import contextlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from kgen.contracts.dataset import SPLITS, Dataset, Example, Split
from kgen.errors import DataError
from kgen.options import options
from kgen.testing.configuration import ConfigurationConformance, rebuild


class DatasetConformance(ConfigurationConformance):
    """Checks a dataset. Subclass it, and implement `build`, which returns a small dataset, or a small part of one."""

    images: ClassVar[int] = 24
    """Largest number of images to read per split."""

    copies: ClassVar[bool] = True
    """False for a dataset that pickle cannot copy, so that worker processes cannot read its images."""

    def build(self) -> Dataset:
        raise NotImplementedError(f"{type(self).__name__}.build must return a small dataset")

    def changed(self) -> Dataset | None:
        """Returns the dataset with an option that changes its images or captions. Default: another `size`."""
        dataset = self.build()
        size = getattr(dataset, "size", None)
        if not isinstance(size, int) or "size" not in options(type(dataset)):
            return None
        return rebuild(dataset, size=2 * size)  # type: ignore[no-any-return]

    def _some(self, dataset: Dataset) -> list[tuple[Split, int]]:
        """Examples from all parts of every split."""
        found: list[tuple[Split, int]] = []
        for split in SPLITS:
            count = len(dataset.captions(split))
            found += [(split, i) for i in sorted({int(n) for n in np.linspace(0, count - 1, self.images)}) if count]
        return found

    def test_captions_are_texts(self) -> None:
        dataset = self.build()
        assert len(dataset.captions("train")), "the split 'train' is empty: raise DataError where nothing is found"
        for split in SPLITS:
            for index, caption in enumerate(dataset.captions(split)):
                assert isinstance(caption, str) and caption.strip(), f"caption {index} of '{split}' is {caption!r}"

    def test_examples_have_the_fields(self) -> None:
        dataset = self.build()
        name, fields = type(dataset).__name__, dataset.fields
        assert {"image", "caption"} <= set(fields), f"{name}.fields must name 'image' and 'caption', not only {fields}"
        for split in SPLITS:
            for field in fields:
                found, count = len(dataset.values(split, field)), len(dataset.captions(split))
                assert found == count, f"'{split}' has {count} captions, but {found} values of '{field}'"
        for split, index in self._some(dataset):
            example = dataset.example(split, index)
            assert tuple(example) == tuple(fields), f"example {index} of '{split}' holds {tuple(example)}, not {fields}"
            label = example.get("label", "some")
            assert isinstance(label, str) and label.strip(), f"label {index} of '{split}' must be a text, not {label!r}"
        with contextlib.suppress(DataError):
            dataset.values("train", "no such field")
            raise AssertionError(f"{name}.values must raise DataError for a field that is not there")

    def test_images_are_in_the_space(self) -> None:
        dataset = self.build()
        space = dataset.image_space
        assert space.kind == "continuous" and len(space.shape) == 3, (
            f"image_space must be continuous, (height, width, channels), not {space}"
        )
        for split, index in self._some(dataset):
            image = dataset.image(split, index)
            assert type(image) is np.ndarray and image.dtype == np.uint8, (
                f"image {index} of '{split}' must be a numpy array of uint8, not {type(image)} of "
                f"{getattr(image, 'dtype', '?')}"
            )
            groups = dataset.rows_by_shape(split)
            shapes = [(*shape, space.shape[-1]) for shape, rows in groups.items() if index in rows]
            assert len(shapes) == bool(groups), f"image {index} of '{split}' must have one shape in rows_by_shape"
            shape = shapes[0] if shapes else space.shape
            assert image.shape == shape, f"image {index} of '{split}' is {image.shape}, not {shape}"

    def test_images_differ(self) -> None:
        dataset = self.build()
        images = [dataset.image(*where).tobytes() for where in self._some(dataset)]
        assert len(images) == 1 or len(set(images)) > 1, "all images are the same"

    def test_reading_is_deterministic(self) -> None:
        """Checks that example i is always the same: in another dataset or order, and after a write to its array."""
        first, second = self.build(), self.build()
        for split in SPLITS:
            assert list(first.captions(split)) == list(second.captions(split)), (
                f"the captions of '{split}' differ between two datasets of the same options"
            )
        where = self._some(first)
        before = [np.array(first.image(*w)) for w in where]
        for w in where:
            image = first.image(*w)
            if image.flags.writeable:
                image[:] = 0
        after = [first.image(*w) for w in where]
        other = [second.image(*w) for w in reversed(where)][::-1]
        for w, a, b, c in zip(where, before, after, other, strict=True):
            assert np.array_equal(a, b), f"image {w} differs when it is read again, after its array was written to"
            assert np.array_equal(a, c), f"image {w} differs between two datasets of the same options"

    def test_reading_is_thread_safe(self) -> None:
        dataset = self.build()
        where = self._some(dataset) * 4
        expected = [np.array(dataset.image(*w)) for w in where]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda w: dataset.example(*w), where))
        for (split, index), image, example in zip(where, expected, found, strict=True):
            assert np.array_equal(image, example["image"]), f"image {index} of '{split}' differs by thread"
            assert example["caption"] == dataset.captions(split)[index], (
                f"caption {index} of '{split}' differs by thread"
            )

    def test_a_copy_reads_the_same(self) -> None:
        """Checks that pickle can copy the dataset to worker processes, also after an image was read."""
        if not self.copies:
            return
        dataset = self.build()
        where = self._some(dataset)
        dataset.image(*where[0])
        name = type(dataset).__name__
        try:
            copy = pickle.loads(pickle.dumps(dataset))
        except Exception as error:
            raise AssertionError(f"{name} cannot be sent to worker processes (copies = False): {error}") from error
        assert copy.fingerprint() == dataset.fingerprint(), f"a copy of {name} has another fingerprint"
        for split in SPLITS:
            assert list(copy.captions(split)) == list(dataset.captions(split)), f"a copy of {name} has other captions"
        for w in where:
            assert np.array_equal(copy.image(*w), dataset.image(*w)), f"a copy of {name} has another image {w}"

    def test_decoding_makes_the_same_images(self) -> None:
        """Checks what workers call to make images, if the dataset has such functions (`decodes_elsewhere`)."""
        dataset = self.build()
        if not dataset.decodes_elsewhere:
            return
        for split, index in self._some(dataset):
            views = range(dataset.views) if split == "train" and dataset.views > 1 else ()
            for view in (None, *views):
                image = dataset.image(split, index) if view is None else dataset.view(split, index, view)
                function, *arguments = pickle.loads(pickle.dumps(dataset.decoding(split, index, view)))
                assert np.array_equal(function(*arguments), image), (
                    f"the function of decoding('{split}', {index}, {view}) returns another image than the dataset"
                )

    def test_splits_are_disjoint(self) -> None:
        """Checks that held-out captions are in no other split, and that no validation example is a training example."""
        dataset = self.build()
        captions = {split: set(dataset.captions(split)) for split in SPLITS}
        for split in ("train", "validation"):
            both = sorted(captions[split] & captions["holdout"])
            assert not both, f"captions that are held out are in '{split}' too: {both[:5]}"
        train, validation = (
            {_identity(dataset.example(s, i)) for s, i in self._some(dataset) if s == split}
            for split in ("train", "validation")
        )
        assert not train & validation, "examples of 'validation' are in 'train' too"

    def test_fingerprint_is_stable(self) -> None:
        first, second = self.build().fingerprint(), self.build().fingerprint()
        assert isinstance(first, str) and first, f"fingerprint must be a text, not {first!r}"
        assert first == second, f"the same data have two fingerprints, {first} and {second}: a run could not continue"

    def test_fingerprint_follows_the_options(self) -> None:
        """Checks that other images have another fingerprint; else a run would continue with them or use old latents."""
        changed = self.changed()
        if changed is not None:
            assert changed.fingerprint() != self.build().fingerprint(), (
                f"options {changed.config} give other images, but the fingerprint is the same"
            )

    def test_problems_and_credit(self) -> None:
        dataset = self.build()
        assert isinstance(dataset.credit, str), f"credit must be a text, not {dataset.credit!r}"
        for problem in dataset.problems():
            assert problem.where and problem.what, f"a problem must say where and what: {problem}"


def _identity(example: Example) -> tuple[Any, ...]:
    """Returns a hashable value that is the same for equal examples."""
    return tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in example.values())
