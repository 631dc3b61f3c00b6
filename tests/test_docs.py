"""The documentation: its examples are valid, its links lead to something, and its reference is complete."""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from made_plugins import Site, installed
from pages import PAGES, ROOT, commands, examples, name_of, prose, read_page

import kgen
import kgen.nn
import kgen.options
import kgen.pretrained
import kgen.testing
from kgen.cli.app import app
from kgen.config import RunConfig
from kgen.config.changes import WITHOUT_EFFECT_ON_TRAINING
from kgen.config.shipped import FOLDER, shipped
from kgen.options import options
from kgen.plugins.discovery import registry
from kgen.plugins.registry import KINDS

pytestmark = pytest.mark.portable

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
"""A link within the repository, and the anchor."""


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """The generated pages by their paths."""
    from generated_pages import generated_pages

    return generated_pages()


def parse(arguments: list[str]) -> None:
    """Parses the arguments of a command as `kgen` does, and does not run it."""
    command: Any = typer.main.get_command(app)
    name, context = "kgen", None
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, list(arguments), parent=context)
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, list(arguments), parent=context)


def test_every_command_on_the_pages_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    count, wrong = 0, []
    for page in [*PAGES, ROOT / "benchmarks/RESULTS.md"]:
        for arguments in commands(page.read_text(encoding="utf-8")):
            count += 1
            try:
                parse(arguments)
                if page in PAGES:
                    check_settings(arguments)
            except Exception as error:
                wrong.append(f"{name_of(page)}: kgen {' '.join(arguments)}: {type(error).__name__}: {error}")
    assert wrong == [] and count > 60


def check_settings(arguments: list[str]) -> None:
    """Validates the run file that `kgen run` or `kgen check` names, if kgen ships it, with the settings."""
    file = arguments[1].removeprefix("configs/").removesuffix(".yaml") if len(arguments) > 1 else ""
    if arguments[0] in ("run", "check") and file in shipped():
        settings = [value for flag, value in pairwise(arguments) if flag == "--set"]
        RunConfig.load(FOLDER / f"{file}.yaml", [setting for setting in settings if not setting.startswith("init=")])


def test_commands_in_sentences_exist() -> None:
    from command_page import commands as known_commands

    known = {context.command_path: command.get_params(context) for command, context in known_commands()}
    count = 0
    for page in PAGES:
        for text in re.findall(r"`kgen ([^`]+)`", prose(page.read_text(encoding="utf-8"))):
            words = ["kgen", *text.split()]
            if not words[1].isalpha() or not words[1].islower():  # an option, or COMMAND, which stands for any
                continue
            count += 1
            found = next((path for path in (" ".join(words[:end]) for end in (3, 2)) if path in known), None)
            group = any(path.startswith(f"{' '.join(words[:2])} ") for path in known)
            assert found or group, f"{name_of(page)}: there is no command 'kgen {text}'"
            flags = {flag for parameter in known.get(found or "", []) for flag in parameter.opts}
            used = {word for word in words if re.match(r"--?[a-z]", word)}
            assert not found or used <= flags, f"{name_of(page)}: 'kgen {text}' has no {used - flags}"
    assert count > 30


def test_every_run_file_on_the_pages_is_valid(tmp_path: Path) -> None:
    """Parts of run files are completed by the run file of the README. Those that need another run are left out."""
    from kgen.studies.study import Study

    site = Site(tmp_path)
    site.install("mine", examples(read_page("docs/guides/plugins/training.md"), "python", "class Notes")[0])
    whole = yaml.safe_load(examples(read_page("README.md"), "yaml")[0])
    file, count, wrong = tmp_path / "example.yaml", 0, []
    with installed(site.path):
        for page in PAGES:
            for text in examples(page.read_text(encoding="utf-8"), "yaml"):
                given = yaml.safe_load(text)
                if any(
                    "from" in part for part in (given.get("encoder"), given.get("decoder")) if isinstance(part, dict)
                ):
                    continue
                others = {key: value for key, value in whole.items() if key not in given}
                if "generator" in given:  # whose options of sampling differ
                    others.pop("sample", None)
                count += 1
                try:
                    if "over" in given:
                        file.write_text(text, encoding="utf-8")
                        Study.load(file)
                    else:
                        file.write_text(text + (yaml.safe_dump(others) if others else ""), encoding="utf-8")
                        RunConfig.load(file, ["fit.steps=5"])
                except kgen.KgenError as error:
                    wrong.append(f"{name_of(page)}: {error}")
    assert wrong == [] and count > 30


def test_all_python_on_the_pages_compiles() -> None:
    for page in PAGES:
        for number, text in enumerate(examples(page.read_text(encoding="utf-8"), "python")):
            compile(text, f"{name_of(page)}, block {number}", "exec")


@pytest.mark.parametrize("page", ["encoder", "decoder", "dataset", "metric"])
def test_the_plugins_of_the_guide_pass_their_tests(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, tests = examples(read_page(f"docs/guides/plugins/{page}.md"), "python")
    (name,) = re.findall(r"^from (kgen_plugin_\w+) import", tests, re.MULTILINE)
    module, cases = types.ModuleType(name), types.ModuleType(f"test_{name}")
    monkeypatch.setitem(sys.modules, name, module)
    for code, target in ((source, module), (tests, cases)):
        exec(compile(code, f"{page}.md", "exec"), vars(target))
    (case,) = (found for key, found in vars(cases).items() if key.startswith("Test"))
    for check in (key for key in dir(case) if key.startswith("test_")):
        getattr(case(), check)()


def test_the_command_of_the_guide_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = examples(read_page("docs/guides/plugins/command.md"), "python")
    names: dict[str, Any] = {"__name__": "counting"}
    exec(compile(source, "command.md", "exec"), names)
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.0\n2,1.0\n")
    names["count_lines"](tmp_path)
    assert capsys.readouterr().out == "2\n"


def test_every_public_name_has_a_reference_entry() -> None:
    from python_page import documented

    entries = [name for _, name in documented()]
    assert len(entries) == len(set(entries))
    for package in (kgen, kgen.nn, kgen.options, kgen.pretrained, kgen.testing):
        for name in package.__all__:
            shared = name in kgen.__all__ and getattr(kgen, name) is getattr(package, name)
            full = f"kgen.{name}" if shared else f"{package.__name__}.{name}"
            assert full in entries, f"{full} has no entry in docs/reference/python"


def test_every_component_is_on_a_page_with_its_options(generated: dict[str, str]) -> None:
    from component_pages import anchor_of, page_of

    for component in registry().components.values():
        page = generated[page_of(component.kind)]
        (section,) = re.findall(rf"{{ #{re.escape(anchor_of(component))} }}\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.M)
        target = component.load()
        for name in options(target) if isinstance(target, type) else ():
            assert f"\n| `{name}` | " in section, f"{component}: {name}"
        assert component.summary in section


def test_every_command_and_key_is_on_a_page(generated: dict[str, str]) -> None:
    page = generated["reference/commands.md"]
    assert {"kgen run", "kgen plugins show", "kgen caption"} <= set(re.findall(r"^## (.+?) {", page, re.MULTILINE))
    assert "| `--strength <float range>` | How much --image changes." in page and "kgen caption RUN IMAGE..." in page
    run_file = generated["reference/run-file.md"]
    for name, field in RunConfig.model_fields.items():
        below = getattr(field.annotation, "model_fields", {}) if name in ("fit", "sample", "evaluate") else {}
        for key in (name, *below):
            assert f"\n| `{key}` | " in run_file, key
    assert all(f"reference/components/{kind}.md" in generated for kind in KINDS)


def test_the_page_of_run_files_names_the_plugins_that_each_needs(generated: dict[str, str]) -> None:
    needed = {}
    for section in generated["reference/run-files.md"].split("\n## ")[1:]:
        first = section.partition("```")[0]
        needed[section.partition(" ")[0]] = re.findall(r"\[`kgen-plugin-([a-z-]+)`\]", first)
    assert needed["quickstart"] == ["diffusion", "openmoji", "text"] and needed["studies/guidance"][1] == "metrics"
    assert set(needed) == set(shipped()) and all(needed.values())


def test_links_lead_to_pages_and_headings(generated: dict[str, str]) -> None:
    made = {f"docs/{path}": text for path, text in generated.items()}
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "CHANGELOG.md"]}
    broken = []
    for name, text in texts.items():
        for path, anchor in LINK.findall(prose(text)):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            known = {**made, **texts}.get(f"{target}/README.md", {**made, **texts}.get(target))
            if known is None and not (ROOT / target).exists():
                broken.append(f"{name}: {path}")
            elif anchor and (known is None or anchor[1:] not in anchors(known)):
                broken.append(f"{name}: {path}{anchor}")
    assert broken == []


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        title, _, own = heading.partition(" { #")
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        found.add(own.removesuffix(" }") or slug)
    return found


def test_the_messages_that_the_faq_explains_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "kgen").rglob("*.py")))
    messages = re.findall(r"^### `(.+)` {", read_page("docs/faq.md"), re.MULTILINE)
    assert len(messages) > 10 and [message for message in messages if message not in source] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/reference/components/generator/index.html").is_file()


def test_the_keys_that_may_change_later_are_listed() -> None:
    page = (ROOT / "docs/concepts/run-directory.md").read_text(encoding="utf-8")
    listed = {key for row in re.findall(r"^\| (`.*?) \|", page, re.M) for key in re.findall("`([a-z_.]+)`", row)}
    own = {key for key in WITHOUT_EFFECT_ON_TRAINING if not key.startswith(("encoder.", "decoder."))}
    assert own and own <= listed
    assert {key for key in listed if key.startswith("fit.")} <= own
