"""Writes the package of a new plugin.

The templates are a working plugin named "yourname", so that linters and tests read them as they are. A template has
one folder for each kind of component, and the folder `common` with the files that all kinds share. To make a package,
kgen copies the files, and replaces the name in their contents and paths. A `README.md` of a kind is followed by that of
`common`; any other file of a kind takes the place of the common one. "dot-" in a path stands for a leading dot.

The plugin that declares a kind can have a template for it: the folder `templates/KIND` of the package of its contract,
such as `kgen_plugin_myplugin/templates/sampler` for "myplugin.sampler".
"""

from __future__ import annotations

import importlib.util
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from kgen.errors import ConfigError
from kgen.plugins.discovery import registry
from kgen.plugins.registry import KINDS, PREFIX
from kgen.storage.files import atomic_folder

TEMPLATES = Path(__file__).parent / "templates"
COMMON = "common"
README = "README.md"

YOUR_NAME, YOUR_KIND = "yourname", "yourkind"
"""The name of the plugin in the templates, and its kind of component."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME = 40
"""The form and the largest length of a name: that of a distribution in its normal form (PEP 503)."""


def kinds_with_templates() -> list[str]:
    """The kinds for which there is a template: those of kgen, then those of plugins, in alphabetical order."""
    return [*KINDS, *sorted(kind for kind in registry().kinds if _template(kind) is not None)]


def new_plugin(name: str, kind: str, folder: Path) -> Path:
    """Writes a package with a small working component, its tests, an example and a workflow for GitHub.

    Args:
        name: The name of the plugin, which becomes its namespace.
        kind: The kind of its component: one of `kinds_with_templates`.
        folder: The folder in which the package's folder is created, "kgen-plugin-NAME".

    Returns:
        The folder of the package.

    Raises:
        ConfigError: the name cannot be used, there is no template for the kind, or the folder exists.
    """
    check_name(name)
    template = _template(kind)
    if template is None:
        known = ", ".join(kinds_with_templates())
        raise ConfigError(f"there is no template for the kind '{kind}': give --kind with one of {known}")
    package = folder / f"{PREFIX}{name}"
    if os.path.lexists(package):
        raise ConfigError(f"{package} already exists: choose another name, or move it away")
    with atomic_folder(package) as new:
        for path, text in render(template, name, kind).items():
            file = new / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return package


def check_name(name: str) -> None:
    """Raises ConfigError if a plugin cannot have this name, or if an installed plugin has it."""
    check_form(name, "plugin", PREFIX)
    found = registry()
    taken = {origin.namespace: origin.release for origin in (*found.plugins, *found.broken)}
    taken |= {component.origin.namespace: component.origin.release for component in found.components.values()}
    if name in taken:
        raise ConfigError(f"there is a plugin '{name}' already ({taken[name]}): choose another name")


def check_form(name: str, what: str, prefix: str) -> None:
    """Raises ConfigError if a plugin or a model cannot have this name.

    Args:
        name: The name.
        what: "plugin" or "model".
        prefix: What comes before the name in the name of the distribution.
    """
    if name.startswith(prefix) and NAME.fullmatch(name.removeprefix(prefix)):
        raise ConfigError(f"give the name without '{prefix}': {name.removeprefix(prefix)}")
    if not NAME.fullmatch(name) or len(name) > MAX_NAME:
        plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
        near = re.sub(r"[^a-z0-9]+", "-", plain).strip("-0123456789")[:MAX_NAME].strip("-")
        hint = f"; did you mean '{near}'?" if near else ""
        raise ConfigError(
            f"a {what}'s name is lower case letters and digits, with '-' between words, begins with a letter, and has "
            f"at most {MAX_NAME} characters; it is not {name!r}{hint}"
        )


def render(template: Path, name: str, kind: str) -> dict[str, str]:
    """The files of a package by their paths, as texts.

    Args:
        template: The folder of the kind's template.
        name: The name of the plugin.
        kind: The kind of its component.
    """
    common, own = _files(TEMPLATES / COMMON), _files(template)
    texts = {**common, **own}
    if README in own and README in common:
        texts[README] = own[README] + common[README]
    words = {
        f"kgen_plugin_{YOUR_NAME}": f"kgen_plugin_{name.replace('-', '_')}",
        YOUR_NAME: name,
        YOUR_KIND: kind,
    }
    return _filled(texts, words)


def filled_files(template: Path, words: Mapping[str, str]) -> dict[str, str]:
    """The files of a template by their paths, as texts, in which other words take the place of some."""
    return _filled(_files(template), words)


def _filled(texts: Mapping[str, str], words: Mapping[str, str]) -> dict[str, str]:
    def filled(text: str) -> str:
        return re.sub("|".join(map(re.escape, words)), lambda found: words[found[0]], text)

    return {filled(path): filled(text) for path, text in texts.items()}


def _files(folder: Path) -> dict[str, str]:
    """The text of each file of a template by its path in a package, without the caches of Python and of linters."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        re.sub(r"(^|/)dot-", r"\1.", name): path.read_text(encoding="utf-8")
        for name, path in files.items()
        if not any(part == "__pycache__" or part.startswith(".") for part in name.split("/"))
    }


def _template(kind: str) -> Path | None:
    """The folder of the template for a kind; None if there is none, or no such kind."""
    if kind in KINDS:
        return TEMPLATES / kind
    declared = registry().kinds.get(kind)
    if declared is None:
        return None
    spec = importlib.util.find_spec(declared.contract.partition(":")[0].partition(".")[0])
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "templates" / kind.rpartition(".")[2]
    return folder if folder.is_dir() else None
