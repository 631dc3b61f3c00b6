"""What the distributions declare, and what is in their wheels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from kgen.config.shipped import find_run_file, shipped
from kgen.errors import ConfigError

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").glob("kgen-plugin-*"))
FOLDERS = [ROOT, *PLUGINS]


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_distributions_have_complete_metadata(folder: Path) -> None:
    declared = project(folder)
    assert declared["name"] == ("kgen-core" if folder == ROOT else folder.name)
    assert declared["version"] == project(ROOT)["version"]
    assert declared["license"] == "Apache-2.0" and declared["license-files"] == ["LICENSE"]
    assert (folder / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert declared["urls"]["License"] == "https://www.apache.org/licenses/LICENSE-2.0"
    assert declared["authors"] and "Typing :: Typed" in declared["classifiers"]
    package = "kgen" if folder == ROOT else folder.name.replace("-", "_")
    assert (folder / package / "py.typed").is_file()
    readme = declared["readme"]
    text = readme["text"] if isinstance(readme, dict) else (folder / readme).read_text(encoding="utf-8")
    assert "kgen-core[tensorflow]" in text
    assert [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")] == []


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_requires_the_core_between_two_bounds_and_nothing_by_its_old_name(folder: Path) -> None:
    declared = project(folder)
    needed = {r.name: r for r in map(Requirement, declared["dependencies"])}
    version = Version(project(ROOT)["version"])
    following = f"{version.major}.{version.minor + 1}"
    allowed = needed["kgen-core"].specifier
    assert allowed.contains(str(version)) and not allowed.contains(following)
    extras = [r for group in declared["optional-dependencies"].values() for r in map(Requirement, group)]
    assert "kgen" not in {*needed, *(requirement.name for requirement in extras)}


def test_nothing_names_the_distribution_of_other_people() -> None:
    """On PyPI, `kgen` is not this project."""
    folders = (ROOT / "kgen", ROOT / "plugins", ROOT / "docs")
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".md", ".toml"}]
    wrong = re.compile(r"""\bkgen\[[a-z]|pip install "?kgen\b(?!-)|version\(["']kgen["']\)|"kgen *[<>=]""")
    named = [path for path in [*files, *ROOT.glob("*.*")] if path.is_file() and wrong.search(path.read_text("utf-8"))]
    assert named == []


def test_a_run_file_that_kgen_ships_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert set(shipped()) == sources >= {"quickstart", "families/vae"}
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart", "quickstart.yaml"):
        assert find_run_file(name).read_bytes() == (ROOT / "configs/quickstart.yaml").read_bytes()
    (tmp_path / "quickstart").write_text("mine")
    assert find_run_file("quickstart") == Path("quickstart"), "a file of one's own comes first"
    for missing in ("quickstrat", "configs/quickstrat.yaml"):
        with pytest.raises(ConfigError, match=f"^{missing}: .* did you mean 'quickstart'\\? kgen ships"):
            find_run_file(missing)
    with pytest.raises(ConfigError, match="there is no such file"):
        find_run_file("../configs/quickstart")


def test_every_file_that_is_not_python_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    named = {path for pattern in declared["package-data"]["kgen"] for path in (ROOT / "kgen").glob(pattern)}
    others = {path for path in (ROOT / "kgen").rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others <= named and any(path.suffix == ".html" for path in others)


@pytest.mark.slow
def test_wheels_contain_license_marker_templates_and_run_files(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    copied = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copied, symlinks=True, ignore=ignored)
    for folder in (copied, copied / "plugins" / "kgen-plugin-text"):
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path]
        subprocess.run([*map(str, command), str(folder)], check=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    (core,) = tmp_path.glob("kgen_core-*.whl")
    (text,) = tmp_path.glob("kgen_plugin_text-*.whl")
    names = zipfile.ZipFile(core).namelist()
    assert {f"kgen/configs/{name}.yaml" for name in shipped()} | {"kgen/py.typed"} <= set(names)
    assert {f"kgen/reporting/templates/{name}.html" for name in ("base", "comparison", "macros", "run")} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "plugins/", "configs/"))]
    for wheel, package in ((core, "kgen"), (text, "kgen_plugin_text")):
        names = zipfile.ZipFile(wheel).namelist()
        assert f"{package}/py.typed" in names
        assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
