"""kgen for those who have only its wheels: they are built, and tried in an environment without the repository."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from pathlib import Path
from urllib.request import urlopen

import pytest
from command_line import Outcome, quickest_backend
from packaging.metadata import Metadata

from kgen.config.shipped import shipped

pytestmark = [pytest.mark.slow, pytest.mark.portable]

ROOT = Path(__file__).parents[1]
OFFLINE = ("--quiet", "--no-index", "--no-deps")


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def untracked(folder: str, names: list[str]) -> set[str]:
    """The names in a folder of the repository that git does not track, and those of hidden files."""
    own = {"build", "dist", "runs", "site"} if folder == str(ROOT) else {"build"}
    return {name for name in names if name[0] == "." or name == "__pycache__" or name.endswith(".egg-info")} | own


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of all distributions; that of the core is built from its sdist, as `make dist` does."""
    pytest.importorskip("setuptools")
    source, built = tmp_path_factory.mktemp("copy") / "kgen", tmp_path_factory.mktemp("wheels")
    shutil.copytree(ROOT, source, symlinks=True, ignore=untracked)
    bytecode = source / "kgen/authoring/templates/metric/kgen_plugin_yourname/__pycache__/plugin.cpython-311.pyc"
    bytecode.parent.mkdir()
    bytecode.write_bytes(b"of a linter or a test")
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(source)], cwd=source, check=True, capture_output=True)
    (sdist,) = source.glob("kgen_core-*.tar.gz")
    plugins = [path.parent for path in sorted(source.glob("*/kgen-*/pyproject.toml"))]
    pip("wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", built, sdist, *plugins)
    assert len(list(built.iterdir())) == len(plugins) + 1
    return built


class Installed:
    """A virtual environment with kgen's dependencies, as links to those of the tests, and with kgen's wheels."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.wheels, self.bin = wheels, folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.lower().startswith(("kgen", "__editable__", "__pycache__")) and path.suffix != ".pth":
                (site / path.name).symlink_to(path)
        self.pip("install", *OFFLINE, *wheels.glob("*.whl"))

    def pip(self, *arguments: str | Path) -> None:
        pip("--python", self.bin / "python", *arguments)

    def start(self, command: str, *arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
        """Starts a command of the environment, which finds nothing of the repository."""
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env |= {"KERAS_BACKEND": quickest_backend(), "KGEN_CACHE": str(cwd / "cache")}
        words = [str(self.bin / command), *map(str, arguments)]
        return subprocess.Popen(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, command: str, *arguments: str | Path, cwd: Path) -> Outcome:
        """Runs a command to its end."""
        process = self.start(command, *arguments, cwd=cwd)
        out, err = process.communicate(timeout=600)
        return Outcome(process.returncode, out, err)

    @contextmanager
    def without(self, plugin: str) -> Iterator[None]:
        """The environment without a plugin."""
        self.pip("uninstall", "--quiet", "--yes", f"kgen-plugin-{plugin}")
        yield
        self.pip("install", *OFFLINE, *self.wheels.glob(f"kgen_plugin_{plugin}-*.whl"))


@pytest.fixture(scope="module")
def installed(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("environment"), wheels)


def test_wheels_contain_license_marker_templates_and_run_files(wheels: Path) -> None:
    for wheel in wheels.iterdir():
        package = "kgen" if wheel.name.startswith("kgen_core-") else wheel.name.partition("-")[0]
        archive = zipfile.ZipFile(wheel)
        names = archive.namelist()
        folders = {name.partition("/")[0] for name in names}
        assert folders == {package, "-".join(wheel.name.split("-")[:2]) + ".dist-info"}
        is_model = package.startswith("kgen_model_")
        assert (f"{package}/py.typed" in names or is_model) and not [name for name in names if name.endswith(".pyc")]
        assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
        (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Metadata.from_email(archive.read(about), validate=True)
        assert metadata.license_expression == ("CC-BY-SA-4.0" if is_model else "Apache-2.0")
        assert metadata.license_files == ["LICENSE"]
        assert BytesParser().parsebytes(archive.read(about)).get_payload().strip(), "it has a description"
    (core,) = wheels.glob("kgen_core-*.whl")
    names = set(zipfile.ZipFile(core).namelist())
    templates = [path for path in (ROOT / "kgen/authoring/templates").rglob("*") if path.is_file()]
    needed = [path for path in templates if "__pycache__" not in path.parts and ".ruff_cache" not in path.parts]
    needed += [*(ROOT / "kgen/reporting/templates").glob("*.html"), *(ROOT / "kgen").rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in needed} <= names
    assert {f"kgen/configs/{name}.yaml" for name in shipped()} <= names


def test_all_plugins_work_and_nothing_comes_from_the_repository(installed: Installed, tmp_path: Path) -> None:
    found = installed.run("python", "-c", "import kgen; print(kgen.__file__)", cwd=tmp_path).out
    assert Path(found.strip()).is_relative_to(installed.bin.parent)
    doctor = installed.run("kgen", "doctor", cwd=tmp_path)
    assert "Nothing is wrong." in doctor.out and doctor.status == 0, doctor
    named = re.findall(r"^  (kgen-plugin-\S+) \S+ \(", doctor.out, re.MULTILINE)
    assert named == sorted(path.name for path in (ROOT / "plugins").glob("kgen-plugin-*"))


def test_a_first_model_is_trained_from_a_run_file_that_kgen_ships(installed: Installed, tmp_path: Path) -> None:
    assert "quickstart  " in installed.run("kgen", "init", cwd=tmp_path).out
    copied = installed.run("kgen", "init", "quickstart", "-o", "mine.yaml", cwd=tmp_path)
    assert "  kgen run mine.yaml\n" in copied.out and (tmp_path / "mine.yaml").is_file()
    checked = installed.run("kgen", "check", "quickstart", "families/vae", "mine", cwd=tmp_path)
    assert checked.status == 0 and checked.out.count(": ok\n") == 3, checked
    short = ["--set", "fit.steps=4", "--set", "sample.every=0", "--set", "evaluate.metrics=[]"]
    trained = installed.run("kgen", "run", "quickstart", *short, cwd=tmp_path)
    assert trained.status == 0 and (tmp_path / "runs/quickstart/report.html").is_file(), trained
    made = installed.run("kgen", "generate", "runs/quickstart", "red heart", "-o", "heart.png", cwd=tmp_path)
    assert made.status == 0 and (tmp_path / "heart.png").is_file(), made


def test_the_model_that_is_installed_generates_at_once(installed: Installed, tmp_path: Path) -> None:
    began = time.monotonic()
    made = installed.run("kgen", "generate", "openmoji", "red heart", cwd=tmp_path)
    assert made.status == 0 and (tmp_path / "red-heart.png").is_file(), made
    assert time.monotonic() - began < 30


def test_the_page_in_the_browser_shows_the_installed_model(installed: Installed, tmp_path: Path) -> None:
    process = installed.start("kgen", "studio", "--port", "0", cwd=tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "kgen studio: loading ...\n"
        found = re.fullmatch(r"kgen studio: (http://127\.0\.0\.1:\d+/)\n", process.stdout.readline())
        assert found, process.communicate(timeout=60)
        with urlopen(found[1]) as page:
            assert re.search(r'"choices":\s*\[\s*\["openmoji",\s*"openmoji"\]', page.read().decode())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()


def test_a_plugin_of_ones_own_is_written_and_installed(installed: Installed, tmp_path: Path) -> None:
    written = installed.run("kgen", "plugins", "new", "mine", "--kind", "metric", cwd=tmp_path)
    assert written.status == 0 and (tmp_path / "kgen-plugin-mine/.github/workflows/test.yml").is_file(), written
    installed.pip("install", *OFFLINE, "--no-build-isolation", tmp_path / "kgen-plugin-mine")
    try:
        shown = installed.run("kgen", "plugins", "show", "mine", cwd=tmp_path)
        assert shown.status == 0 and "mine/colorfulness" in shown.out, shown
    finally:
        installed.pip("uninstall", "--quiet", "--yes", "kgen-plugin-mine")


@pytest.mark.parametrize("plugin", ["openmoji", "text", "diffusion"])
def test_the_error_about_a_missing_plugin_says_which_to_install(
    installed: Installed, plugin: str, tmp_path: Path
) -> None:
    with installed.without(plugin):
        for arguments in (["check", "quickstart"], ["run", "quickstart", "--set", "guidance=3"]):
            outcome = installed.run("kgen", *arguments, cwd=tmp_path)
            outcome.refuses(f"no plugin '{plugin}' is installed: pip install kgen-plugin-{plugin}\n")
            assert len(outcome.err.splitlines()) == 1
