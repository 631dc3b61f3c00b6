"""The run files that kgen ships, so that `kgen run quickstart` works without a clone of the repository."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from kgen.errors import ConfigError
from kgen.storage.files import write_text

FOLDER = Path(__file__).parents[1] / "configs"
YAML = ".yaml"


def shipped() -> list[str]:
    """The names of the run files that kgen ships: "quickstart", "families/vae", ..."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob(f"*{YAML}"))


def find_run_file(path: str | Path) -> Path:
    """Returns the path of a run file, with or without `.yaml`; else that of the run file that kgen ships by that name.

    Raises:
        ConfigError: there is neither a file nor a run file of that name.
    """
    path = Path(path)
    own = (path, path.with_name(f"{path.name}{YAML}")) if path.name else (path,)
    return next((found for found in own if found.exists()), None) or shipped_file(path)


def shipped_file(name: str | Path) -> Path:
    """The path of the run file that kgen ships by a name, with or without `.yaml`.

    The name may begin with "configs/", the folder of these files in the repository, as in the documentation.

    Raises:
        ConfigError: there is none of that name; the message names the others.
    """
    bare = Path(name).as_posix().removeprefix("configs/").removesuffix(YAML)
    names = shipped()
    if bare in names:
        return FOLDER / f"{bare}{YAML}"
    near = difflib.get_close_matches(bare, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise ConfigError(f"{name}: there is no such file{hint} kgen ships {', '.join(names)}")


def title(name: str) -> str:
    """The first sentence of the comment at the beginning of a run file that kgen ships."""
    lines = shipped_file(name).read_text(encoding="utf-8").splitlines()
    end = next((i for i, line in enumerate(lines) if line.strip("# ") == "" or not line.startswith("#")), len(lines))
    text = " ".join(line.strip("# ") for line in lines[:end])
    return f"{text.partition('. ')[0].rstrip('.')}."


def copy_run_file(name: str, path: Path) -> None:
    """Copies a run file that kgen ships. In its comments, the new path takes the place of the old one.

    Raises:
        ConfigError: kgen ships no file of that name, or there is already something at the path.
    """
    source = shipped_file(name)
    if os.path.lexists(path):
        raise ConfigError(f"{path} already exists: give another name with -o, or move it away")
    old = f"configs/{source.relative_to(FOLDER).as_posix()}"
    write_text(path, source.read_text(encoding="utf-8").replace(old, path.as_posix()))
