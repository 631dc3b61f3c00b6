"""Writes the package of a trained model, which others install and use by its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.version import InvalidVersion, Version

from kgen.authoring.package import TEMPLATES, check_form, filled_files
from kgen.errors import ConfigError, RunError
from kgen.plugins.discovery import CORE
from kgen.plugins.models import DESCRIPTIONS, PREFIX
from kgen.storage.files import atomic_folder
from kgen.storage.json_file import read_json
from kgen.storage.weights import WEIGHTS, read_arrays, save_variables

FILES = ("config.yaml", "manifest.json", "metrics.csv", "evaluation.json", "data.jsonl.gz", "samples/final.png")
LOGS = ("encoder/metrics.csv", "decoder/metrics.csv")
"""The files of a run that a package contains, besides the folder `model`, and the logs of the stages."""


def pack_model(run: Path, name: str, license: str, folder: Path, *, half: bool = False) -> Path:
    """Writes a package with the model of a finished run, its configuration, its log and its scores.

    Args:
        run: The run directory.
        name: The name of the model.
        license: The license of the weights, as an SPDX expression: "CC-BY-SA-4.0".
        folder: The folder in which the package's folder is created, "kgen-model-NAME".
        half: Whether weights of 32 bits are rounded to 16 bits, which halves their size.

    Returns:
        The folder of the package.

    Raises:
        RunError: the run is not finished, or it is damaged.
        ConfigError: the name or the license cannot be used, the folder exists, or a weight is too large for 16 bits.
    """
    check_form(name, "model", PREFIX)
    try:
        license = canonicalize_license_expression(license)
    except InvalidLicenseExpression as error:
        raise ConfigError(
            f"the license {license!r} is not an SPDX expression: give one such as MIT or CC-BY-SA-4.0, from "
            "https://spdx.org/licenses, or LicenseRef-NAME for another license"
        ) from error
    package = folder / f"{PREFIX}{name}"
    if os.path.lexists(package):
        raise ConfigError(f"{package} already exists: choose another name, or move it away")
    manifest = read_json(run / "manifest.json", dict[str, Any])
    if not manifest.get("finished") or not (run / DESCRIPTIONS[0]).is_file():
        raise RunError(f"{run} is not finished: finish its training first, with 'kgen run {run}'")
    words = {
        "kgen_model_yourname": f"kgen_model_{name.replace('-', '_')}",
        "yourname": name,
        "yourlicense": license,
        "yourcredit": manifest.get("data", {}).get("credit", ""),
        '"yourrequirements",': "\n    ".join(f'"{text}",' for text in _requirements(manifest)),
    }
    with atomic_folder(package) as new:
        for path, text in filled_files(TEMPLATES / "model", words).items():
            file = new / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        _copy_run(run, new / words["kgen_model_yourname"] / name, half)
    return package


def _requirements(manifest: dict[str, Any]) -> Iterable[str]:
    """The distributions of all components and metrics, from the versions of the training up to the next change."""
    parts = [*manifest.get("components", {}).values(), *manifest.get("metrics", []), *manifest.get("encoders", [])]
    versions = {part["distribution"]: part["version"] for part in parts}
    versions.setdefault(CORE, manifest["software"][CORE])
    for distribution, text in sorted(versions.items()):
        try:
            version = Version(text)
        except InvalidVersion:
            yield distribution
            continue
        following = f"0.{version.minor + 1}" if version.major == 0 else f"{version.major + 1}"
        yield f"{distribution}>={version.major}.{version.minor},<{following}"


def _copy_run(run: Path, target: Path, half: bool) -> None:
    shutil.copytree(run / "model", target / "model")
    for name in (*FILES, *LOGS):
        if (run / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / name, target / name)
    if half:
        _round(target / "model" / WEIGHTS)


def _round(file: Path) -> None:
    """Rounds the weights of 32 bits in a file to 16 bits. Raises ConfigError if one is too large for that."""
    arrays, metadata = read_arrays(file)
    for path, array in arrays.items():
        if array.dtype == np.float32:
            if np.abs(array).max(initial=0.0) > np.finfo(np.float16).max:
                raise ConfigError(f"weights of {path} are too large for 16 bits: leave --half out")
            arrays[path] = array.astype(np.float16)
    save_variables(file, arrays, metadata)
