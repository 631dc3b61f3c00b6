"""Opens or prepares a dataset of tensorflow-datasets; if it is in another folder, the error says where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kgen.errors import DataError
from kgen.plugins.faults import reason

INFO = "dataset_info.json"
"""The file that identifies the folder of a version."""


def package() -> Any:
    """Imports the module tensorflow_datasets; raises DataError if it is not installed."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f'tfds: tensorflow-datasets is not installed ({error}): pip install "kgen-core[tfds]"'
        ) from error
    return tensorflow_datasets


def open_builder(dataset: str | None, data_dir: str | None) -> Any:
    """Returns the builder of a dataset. Its files are prepared if they do not exist.

    Raises:
        DataError: there is no such dataset, it is in another folder, or it cannot be prepared.
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
    except Exception as error:  # registry, parser and file system raise different errors
        raise DataError(f"tfds: there is no dataset {what}: {reason(error)}") from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # such as a network error, a full disk, or a missing package
            raise DataError(f"tfds: dataset {what} cannot be prepared: {reason(error)}") from error
    return builder


def _check_level(dataset: str | None, data_dir: Path) -> None:
    """Raises DataError if the dataset's files are in another folder nearby, or are not files of this format."""
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
            raise DataError(f"tfds: dataset '{name}' is not in {data_dir}, but in {near}: data_dir: '{near}'")


@contextmanager
def _no_foreign_features() -> Iterator[None]:
    """Keeps tensorflow-datasets from importing foreign modules that a dataset's features.json names.

    It would import any module, also from the current folder, so that downloaded files could run code. A user's own
    feature can be read after its module has been imported.
    """
    connector = package().features.FeatureConnector
    original = connector.__dict__["cls_from_name"]

    def checked(cls: Any, name: str) -> Any:
        if not name.startswith("tensorflow_datasets.") and name not in connector._registered_features:
            raise DataError(
                f"tfds: the dataset's features.json names '{name}', which is not a feature of tensorflow-datasets: "
                "kgen imports no other modules. If you trust it, import its module before, in Python"
            )
        return original.__get__(None, cls)(name)

    connector.cls_from_name = classmethod(checked)
    try:
        yield
    finally:
        connector.cls_from_name = original
