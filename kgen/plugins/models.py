"""Installed models: packages with a trained pipeline, which is found by its name wherever a run is needed.

A package declares its model by an entry point in the group ``kgen.models``::

    [project.entry-points."kgen.models"]
    mymodel = "kgen_model_mymodel"

The entry point's name is that of the model. Its value is a package without dots, whose folder `mymodel` contains the
files of a run, or the folder that `kgen.save` wrote. The package is data: kgen does not import it, and writes nothing
into it. `kgen models pack` writes such a package.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgen.errors import KgenError, PluginError, RunError
from kgen.plugins.discovery import CORE, check_requirement
from kgen.plugins.migrations import migrate

GROUP = "kgen.models"

PREFIX = "kgen-model-"
"""The distribution of a model is named kgen-model-NAME."""

PUBLISHED = ("openmoji",)
"""The models that are released with kgen."""

DESCRIPTIONS = ("model/pipeline.yaml", "pipeline.yaml")
"""The file that describes the pipeline, in the folder of a run, and in one that `kgen.save` wrote."""

_CONTRACT = re.compile(r"^api: *(\S+) *$", re.MULTILINE)


@dataclass(frozen=True)
class InstalledModel:
    """A trained pipeline in a package.

    Args:
        name: The name by which it is found.
        distribution: The name of the distribution.
        version: The version of the distribution.
        folder: The folder of the run, or of the saved pipeline.
        fault: Why the model cannot be used; "" if it can.
    """

    name: str
    distribution: str
    version: str
    folder: Path
    fault: str = ""

    def __str__(self) -> str:
        return f"model '{self.name}' of {self.distribution} {self.version}"

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def installed_models() -> dict[str, InstalledModel]:
    """All installed models by name, in alphabetical order. One that cannot be used has a `fault`."""
    return find_models(importlib.metadata.entry_points(group=GROUP))


def find_models(entry_points: Iterable[Any]) -> dict[str, InstalledModel]:
    """The models of the given entry points. One that cannot be used has a `fault`; the others still work."""
    found: dict[str, InstalledModel] = {}
    unique = {(ep.name, ep.dist.metadata["Name"], ep.value): ep for ep in entry_points}
    for (name, distribution, package), entry_point in sorted(unique.items(), key=lambda item: item[0]):
        model = _model(name, distribution, package, entry_point)
        if (rival := found.get(name)) is not None:
            fault = f"{rival.distribution} and {distribution} have a model of this name: uninstall one of the two"
            model = InstalledModel(name, distribution, model.version, model.folder, fault)
        found[name] = model
    return found


def find_run(path: str | Path) -> Path:
    """Returns a path that exists; else the folder of the installed model of that name.

    If there are both, a warning says that the path is used. A path that is neither is returned as it is.

    Raises:
        PluginError: the installed model cannot be used. The message gives the reason.
        RunError: it is the name of a model that is released with kgen, and that is not installed.
    """
    path = Path(path)
    if len(path.parts) != 1:
        return path
    model = installed_models().get(path.name)
    if path.exists():
        if model is not None:
            warnings.warn(
                f"{path} in the current folder is used, and not the {model}: to use the model, give the command in "
                "another folder",
                stacklevel=2,
            )
        return path
    if model is None:
        if path.name in PUBLISHED:
            raise RunError(
                f"there is no run directory {path}, and the model '{path}' is not installed: pip install {PREFIX}{path}"
            )
        return path
    if model.fault:
        raise PluginError(f"the {model} cannot be used: {model.fault}")
    return model.folder


def is_installed(path: Path) -> bool:
    """Whether a folder is that of an installed model, into which kgen writes nothing."""
    resolved = path.resolve()
    return any(resolved.is_relative_to(model.folder.resolve()) for model in installed_models().values())


def _model(name: str, distribution: str, package: str, entry_point: Any) -> InstalledModel:
    version, folder = entry_point.dist.metadata["Version"], Path(package, name)
    try:
        folder = _package_folder(package) / name
        check_requirement(entry_point.dist.requires or [], importlib.metadata.version(CORE))
        _check_contract(folder)
    except KgenError as error:
        return InstalledModel(name, distribution, version, folder, str(error))
    return InstalledModel(name, distribution, version, folder)


def _package_folder(package: str) -> Path:
    """The folder of a package, which is not imported."""
    if not package.isidentifier():
        raise PluginError(f"its entry point must name a package without dots, not '{package}'")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"there is no package '{package}': install it again")
    return Path(next(iter(spec.submodule_search_locations)))


def _check_contract(folder: Path) -> None:
    """Raises PluginError if there is no pipeline, and RunError if it was saved under a newer contract."""
    file = next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)
    if file is None:
        raise PluginError(f"{folder} contains no trained pipeline ({DESCRIPTIONS[0]}): install it again")
    found = _CONTRACT.search(file.read_text(encoding="utf-8", errors="replace"))
    number = "" if found is None else found[1]
    migrate("description", {"api": int(number) if number.isdigit() else number}, file)
