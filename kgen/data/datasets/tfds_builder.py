"""Opens a dataset of tensorflow-datasets, or prepares it; says where it is if it lies elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kgen.errors import DataError
from kgen.plugins.faults import reason

INFO = "dataset_info.json"
"""The file that a version's folder holds."""


def package() -> Any:
    """The module tensorflow_datasets, imported when it is needed. Raises DataError without it."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f'tfds: tensorflow-datasets is not installed ({error}): pip install "kgen-core[tfds]"'
        ) from error
    return tensorflow_datasets


def open_builder(dataset: str | None, data_dir: str | None) -> Any:
    """The builder of a dataset whose files are there; they are prepared, if need be.

    Raises:
        DataError: there is no such dataset, it lies elsewhere, or it cannot be prepared.
    """
    tfds = package()
    if dataset is None and data_dir is None:
        raise DataError("tfds: needs 'dataset', a name such as 'cifar10', or 'data_dir', or both")
    what = f"'{dataset}'" if dataset else str(data_dir)
    if data_dir is not None and "://" not in data_dir:
        data_dir = str(Path(data_dir).expanduser())
        _check_level(dataset, Path(data_dir))
    try:
        with _no_foreign_features():
            builder = tfds.builder(dataset, data_dir=data_dir) if dataset else tfds.builder_from_directory(data_dir)
    except DataError:
        raise
    except Exception as error:  # registry, parser and file system each raise their own
        raise DataError(f"tfds: there is no dataset {what}: {reason(error)}") from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # the network, a full disk, a missing package: all that preparing may meet
            raise DataError(f"tfds: dataset {what} cannot be prepared: {reason(error)}") from error
    return builder


def _check_level(dataset: str | None, data_dir: Path) -> None:
    """Raises DataError where the dataset's files lie in another folder near by, or are no files of this format."""
    if dataset is None:
        if not data_dir.is_dir() or (data_dir / INFO).is_file():
            return
        below = [path.parent for depth in ("*", "*/*", "*/*/*") for path in sorted(data_dir.glob(f"{depth}/{INFO}"))]
        if below:
            others = f", or one of {len(below) - 1} more" if len(below) > 1 else ""
            raise DataError(
                f"tfds: {data_dir} holds no {INFO}; the folder of a version does: data_dir: '{below[0]}'{others}"
            )
        raise DataError(
            f"tfds: {data_dir} holds no {INFO}, as a version's folder does; if it holds images: "
            f"data: {{name: imagefolder, path: '{data_dir}'}}"
        )
    name = dataset.split("/")[0].split(":")[0]
    if not (data_dir / name).exists():
        versions = (any(data_dir.glob(f"{depth}/{INFO}")) for depth in ("*", "*/*"))  # with a config between
        above = [data_dir.parent] if data_dir.name == name and any(versions) else []
        below = sorted({path.parents[2] for path in data_dir.glob(f"*/{name}/*/{INFO}")})
        if near := next(iter((*above, *below)), None):
            raise DataError(f"tfds: dataset '{name}' does not lie in {data_dir}, but in {near}: data_dir: '{near}'")


@contextmanager
def _no_foreign_features() -> Iterator[None]:
    """Keeps tensorflow-datasets from importing what a dataset's features.json names, unless it is its own.

    It would import any module, from the current folder too, so that files of a stranger could run code. A feature of
    one's own can be read once its module is imported.
    """
    connector = package().features.FeatureConnector
    original = connector.__dict__["cls_from_name"]

    def checked(cls: Any, name: str) -> Any:
        if not name.startswith("tensorflow_datasets.") and name not in connector._registered_features:
            raise DataError(
                f"tfds: the dataset's features.json names '{name}', which is no feature of tensorflow-datasets: kgen "
                "imports no other modules. If you trust it, import its module before, in Python"
            )
        return original.__get__(None, cls)(name)

    connector.cls_from_name = classmethod(checked)
    try:
        yield
    finally:
        connector.cls_from_name = original
