"""The files beside the code: workflows, issue forms, the hooks of pre-commit, the citation and the Dockerfile."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kgen.config.source import read_file

pytestmark = pytest.mark.portable

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
MIRRORS = {"https://github.com/astral-sh/ruff-pre-commit": "ruff"}
"""The repositories with hooks of pre-commit, and the packages whose versions their tags follow."""

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def yaml(path: Path) -> dict[str, Any]:
    """The content of a YAML file. As on GitHub, `on` is text; keys that are given twice are errors."""
    return read_file(path).data


def workflows() -> list[Path]:
    """kgen's own workflows, and that of `kgen plugins new`."""
    return [*GITHUB.glob("workflows/*"), *ROOT.glob("kgen/authoring/templates/*/dot-github/workflows/*")]


def test_every_yaml_file_is_valid() -> None:
    """Except for the files of tests, which are broken on purpose."""
    left_out, found = {".git", "tests", "runs", "site", "build", "dist", "node_modules"}, []
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name not in left_out and not name.startswith(".venv")]
        found += [Path(folder) / name for name in names if name.endswith((".yml", ".yaml", ".cff"))]
    for path in found:
        assert yaml(path), path
    assert {ROOT / "mkdocs.yml", ROOT / ".pre-commit-config.yaml", GITHUB / "workflows/release.yml"} <= set(found)


@pytest.mark.parametrize("path", workflows(), ids=lambda path: path.stem)
def test_a_workflow_is_complete(path: Path) -> None:
    content = yaml(path)
    assert content["permissions"] == {"contents": "read"}, "no job may do more, unless it says so"
    for name, job in content["jobs"].items():
        needed = job.get("needs", [])
        assert {needed} if isinstance(needed, str) else set(needed) <= set(content["jobs"]), name
        assert job["runs-on"]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1")), step
            targets = re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))
            assert [target for target in targets if f"\n{target}:" not in MAKEFILE] == []


def test_only_the_job_that_publishes_can_have_a_token_and_it_follows_the_trial() -> None:
    jobs = yaml(GITHUB / "workflows/release.yml")["jobs"]
    assert [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})] == ["publish"]
    assert {"build", "try"} == set(jobs["publish"]["needs"])
    assert not any("checkout" in step.get("uses", "") for step in jobs["try"]["steps"])
    assert not re.search(r"password|secrets|(?<!id-)token", str(jobs)), "nothing is kept that could be stolen"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_accepts(path: Path) -> None:
    form = yaml(path)
    assert form["name"] and form["description"] and set(form) <= {"name", "description", "labels", "title", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert fields and len({field["id"] for field in fields}) == len(fields)
    for field in form["body"]:
        assert field["type"] in ("markdown", "input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["value" if field["type"] == "markdown" else "label"]
        assert (field["type"] in ("dropdown", "checkboxes")) == ("options" in field["attributes"])
        assert set(field.get("validations", {})) <= {"required"}


@pytest.mark.parametrize("name", ["bug", "results"])
def test_forms_about_faults_require_the_report_of_the_doctor(name: str) -> None:
    (field,) = [field for field in yaml(GITHUB / f"ISSUE_TEMPLATE/{name}.yml")["body"] if field.get("id") == "doctor"]
    assert "`kgen doctor`" in field["attributes"]["label"] and field["validations"] == {"required": True}


def test_pre_commit_runs_the_linters_of_make_lint_in_their_pinned_versions() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    commands = []
    for repository in yaml(ROOT / ".pre-commit-config.yaml")["repos"]:
        hooks = repository["hooks"]
        if repository["repo"] == "local":  # in the environment of `make develop`, which has the pinned versions
            commands += [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
        else:
            tool = MIRRORS[repository["repo"]]
            assert repository["rev"] == f"v{pins[tool]}"
            commands += [hook["id"].replace("-", " ") for hook in hooks]
    linted = re.search(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert linted is not None
    wanted = [line.strip().removeprefix("$(BIN)/").removesuffix(" --check") for line in linted[1].splitlines()]
    assert commands == wanted == ["ruff check", "ruff format", "mypy", "lint-imports --no-logo"]


def test_the_citation_is_of_this_version() -> None:
    citation, project = yaml(ROOT / "CITATION.cff"), PYPROJECT["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    assert f"\n## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_docker_image_is_built_from_files_that_are_there_and_runs_without_privileges() -> None:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    words = [word for _, rest in steps for word in shlex.split(rest)]
    assert {steps[-4][0], steps[-2][0]} == {"USER", "ENTRYPOINT"} and steps[-4][1] != "root"
    sources = re.findall(r"source=([\w.]+),target", text)
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert "constraints.txt" in sources and set(sources) <= set(kept)
    assert [name for name in kept if not (ROOT / name).exists()] == []
    assert PYPROJECT["build-system"]["requires"][0] in words
    assert {PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]} <= set(kept)


def test_no_page_holds_the_marks_of_a_conflict() -> None:
    """The linters read Python alone."""
    marks = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    pages = [path for pattern in ("*.md", "*/*.md", "docs/**/*.md", "plugins/*/*.md") for path in ROOT.glob(pattern)]
    assert len(pages) > 50
    assert not [path for path in pages if marks.search(path.read_text(encoding="utf-8"))]
