"""What the distributions declare: metadata that agree with each other, and run files that kgen ships."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from kgen.config import RunConfig
from kgen.config.shipped import find_run_file, shipped, shipped_file
from kgen.config.short_keys import load_run_file
from kgen.errors import ConfigError
from kgen.plugins.discovery import registry
from kgen.plugins.hookspecs import API
from kgen.plugins.models import PREFIX, PUBLISHED
from kgen.studies.study import Study

pytestmark = pytest.mark.portable

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").glob("kgen-plugin-*"))
MODELS = sorted((ROOT / "models").glob("kgen-model-*"))
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


def requirements(folder: Path) -> list[tuple[str, Requirement]]:
    """All requirements of a distribution, with their group: "" or the name of an extra."""
    declared = project(folder)
    groups = {"": declared["dependencies"], **declared.get("optional-dependencies", {})}
    return [(group, Requirement(text)) for group, texts in groups.items() for text in texts]


def test_distributions_of_kgen_require_each_other_in_the_range_of_this_version() -> None:
    """The range ends before the next minor version, which may change the contract."""
    version = Version(project(ROOT)["version"])
    within = Requirement(f"x>={version.major}.{version.minor},<{version.major}.{version.minor + 1}").specifier
    own, wrong = {project(folder)["name"] for folder in FOLDERS}, []
    for folder in [*FOLDERS, *MODELS]:
        bounded = {needed.name for group, needed in requirements(folder) if group == ""}
        for group, needed in requirements(folder):
            free = group and not needed.specifier and needed.name in {*bounded, project(folder)["name"]}
            if needed.name in own and needed.specifier != within and not free:
                wrong.append(f"{folder.name}[{group}]: {needed} must be {needed.name}{within}")
    assert wrong == [] and within.contains(version)


def test_distributions_require_the_same_versions_of_other_packages() -> None:
    """A bound that was raised in one place only is out of step. The pins are within all bounds."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    bounds: dict[str, dict[str, list[str]]] = {}
    for folder in FOLDERS:
        for group, needed in requirements(folder):
            pin = pins.get(canonicalize_name(needed.name))
            if pin is not None:
                assert needed.specifier.contains(pin, prereleases=True), f"{folder.name}: {needed}, not {pin}"
            if group == "" and not needed.name.startswith("kgen-"):
                bounds.setdefault(needed.name, {}).setdefault(str(needed.specifier), []).append(folder.name)
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {} and len(bounds["keras"]) == 1


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_declares_the_contract_and_one_entry_point(folder: Path) -> None:
    ((name, module),) = project(folder)["entry-points"]["kgen"].items()
    assert f"kgen-plugin-{name}" == folder.name
    assert importlib.import_module(module).KGEN_API == API
    tool = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    package = folder.name.replace("-", "_")
    assert module.partition(".")[0] == package and tool["packages"]["find"]["include"] == [f"{package}*"]
    others = {path for path in (folder / package).rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    named = {path for pattern in tool["package-data"][package] for path in (folder / package).glob(pattern)}
    assert others <= named


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_model_is_small_and_declares_its_license_and_its_entry_point(folder: Path) -> None:
    declared = project(folder)
    ((name, package),) = declared["entry-points"]["kgen.models"].items()
    assert folder.name == declared["name"] == f"{PREFIX}{name}" and name in PUBLISHED
    assert declared["version"] == project(ROOT)["version"] and declared["license-files"] == ["LICENSE"]
    assert (folder / "LICENSE").is_file() and declared["authors"]
    files = [path for path in (folder / package / name).rglob("*") if path.is_file()]
    assert {"config.yaml", "metrics.csv", "evaluation.json", "pipeline.yaml"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 20e6
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "kgen-core[tensorflow]" in readme and declared["license"].partition("-")[0] in readme


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
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart.yaml"):
        assert find_run_file(name).read_bytes() == (ROOT / "configs/quickstart.yaml").read_bytes()
    (tmp_path / "quickstart").write_text("mine")
    assert find_run_file("quickstart") == Path("quickstart"), "a file of one's own comes first"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.yaml").write_text("mine")
    assert find_run_file("configs/quickstart.yaml") == Path("configs/quickstart.yaml")
    for missing in ("quickstrat", "configs/quickstrat.yaml"):
        with pytest.raises(ConfigError, match=f"^{missing}: .* did you mean 'quickstart'\\? kgen ships"):
            find_run_file(missing)
    with pytest.raises(ConfigError, match="there is no such file"):
        find_run_file("../configs/quickstart")


@pytest.mark.parametrize("command", [["run", "--set", "seed=-1"], ["check", "--set", "seed=-1"], ["sweep"]])
def test_commands_say_that_they_use_the_file_that_kgen_ships(kgen, command: list[str], tmp_path: Path) -> None:
    """As the documentation writes it, without a clone of the repository."""
    outcome = kgen(command[0], "configs/families/realnvp.yaml", *command[1:], cwd=tmp_path)
    note, error = outcome.err.splitlines()
    assert (
        note == "note: there is no file configs/families/realnvp.yaml here: this is 'families/realnvp', "
        "which kgen ships"
    )
    assert outcome.status == 2 and ("seed: must be" in error or "is not a study" in error)
    assert not kgen(command[0], "families/realnvp", *command[1:], cwd=tmp_path).err.startswith("note")


def test_without_its_plugins_a_run_file_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error about a missing component, in every file that kgen ships, names the distribution."""
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())
    registry.cache_clear()
    try:
        for name in shipped():
            read = Study.load if name.startswith("studies/") else RunConfig.load
            try:
                read(shipped_file(name))
            except ConfigError as error:
                lines = str(error).splitlines()
                assert [line for line in lines if "is installed: pip install kgen-plugin-" not in line] == []
        with pytest.raises(ConfigError, match=r"is installed: pip install kgen-plugin-diffusion$"):
            load_run_file(shipped_file("quickstart"), ["guidance=3"])
    finally:
        registry.cache_clear()


def test_every_file_that_is_not_python_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    named = {path for pattern in declared["package-data"]["kgen"] for path in (ROOT / "kgen").glob(pattern)}
    others = {path for path in (ROOT / "kgen").rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others <= named and any(path.suffix == ".html" for path in others)
