"""The run files that kgen ships, so that `kgen run quickstart` works without a clone of the repository."""

from __future__ import annotations

import difflib
from pathlib import Path

from kgen.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "configs"


def shipped() -> list[str]:
    """The names of the run files that kgen ships: "quickstart", "families/vae", ..."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def find_run_file(path: str | Path) -> Path:
    """Returns the path if the file exists, else the run file that kgen ships under that name, with or without `.yaml`.

    Raises:
        ConfigError: there is neither a file nor a run file of that name.
    """
    path = Path(path)
    if path.exists():
        return path
    name = path.as_posix().removesuffix(".yaml")
    names = shipped()
    if name in names:
        return FOLDER / f"{name}.yaml"
    near = difflib.get_close_matches(name.removeprefix("configs/"), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    raise ConfigError(f"{path}: there is no such file{hint} kgen ships {', '.join(names)}")
