"""A plugin adds a command to `kgen`, and is told of finished runs; what fails there costs nobody else anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kgen.cli.app import app
from kgen.evaluation.results import read_results, to_scores
from kgen.plugins import discovery
from kgen.plugins.commands import Commands
from kgen.plugins.registry import PluginError, Provenance

pytestmark = pytest.mark.portable

TIDY = """
import kgen

print("imported")

def tidy(folder: str, deep: bool = False) -> None:
    '''Tidies a folder.'''
    if folder == "gone":
        raise kgen.ConfigError("gone is not there")
    if folder == "bad":
        raise LookupError("lost")
    print(f"tidied {folder} {deep}")

@kgen.hookimpl
def kgen_commands(commands):
    commands.add("tidy", __name__ + ":tidy", summary="Tidies [bold]a[/nope] folder")
"""


def adds(name: str, target: str = "os:getcwd") -> str:
    line = f"commands.add({name!r}, {target!r}, summary='')"
    return f"import kgen\n@kgen.hookimpl\ndef kgen_commands(commands):\n    {line}\n"


def test_a_plugin_adds_a_command(kgen, site) -> None:
    site.install("tools", TIDY, distribution="tools-for-kgen")
    where = {"PYTHONPATH": str(site.path)}
    done = kgen("tidy", "here", "--deep", **where)
    assert (done.status, done.out) == (0, "tidied here True\n") and "imported" in done.err
    assert "Tidies a folder." in (own := kgen("tidy", "--help", **where)).out and own.status == 0
    listed = kgen("--help", **where)
    assert listed.status == 0 and "Commands of plugins" in listed.out, listed
    assert "Tidies [bold]a[/nope] folder (tools-for-kgen)" in " ".join(listed.out.split())
    kgen("tidy", "gone", **where).refuses("error: gone is not there")
    failed = kgen("tidy", "bad", **where)
    assert failed.status == 1
    assert failed.err.endswith(
        "error: command 'tidy' of tools-for-kgen 0.5 failed: LookupError: lost\nKGEN_DEBUG=1 shows the traceback. "
        "Please report this to its authors, unless it is your own code.\n"
    )
    assert kgen("tidy", **where).status == 2 and kgen("tdiy", **where).status == 2


def test_the_target_of_a_command_is_imported_when_the_command_is_called(kgen, site) -> None:
    site.install("tools", adds("later", "not_there:command"))
    where = {"PYTHONPATH": str(site.path)}
    assert " later " in kgen("--help", **where).out
    kgen("later", **where).refuses(
        "command 'later' of kgen-plugin-tools 0.5 cannot be imported from 'not_there:command': ModuleNotFoundError: No "
        "module named 'not_there'"
    )


@pytest.mark.parametrize(
    "sources, key, reason",
    [
        (
            {"tools": adds("run")},
            "run",
            "command 'run' of kgen-plugin-tools 0.5 is refused: kgen has a command of that name: rename it",
        ),
        (
            {"east": adds("tidy"), "west": adds("tidy")},
            "tidy",
            "command 'tidy' of kgen-plugin-west 0.5 is refused: command 'tidy' of kgen-plugin-east 0.5 has the same "
            "name: uninstall one of the two",
        ),
        (
            {"tools": adds("Tidy Up")},
            "tools",
            "plugin 'tools' of kgen-plugin-tools 0.5 adds no command: a command's name must be lower case letters, "
            "digits and '-', not 'Tidy Up'",
        ),
        (
            {"tools": adds("tidy") + "    1 / 0\n"},
            "tools",
            "plugin 'tools' of kgen-plugin-tools 0.5 adds no command: ZeroDivisionError: division by zero",
        ),
        (
            {"tools": adds("tidy") + "    raise SystemExit(3)\n"},
            "tools",
            "plugin 'tools' of kgen-plugin-tools 0.5 adds no command: it calls sys.exit(3) when it is imported",
        ),
    ],
)
def test_a_command_that_cannot_be_is_refused_alone(kgen, site, sources: dict[str, str], key: str, reason: str) -> None:
    for name, source in sources.items():
        site.install(name, source)
    site.install("zzz", TIDY.replace('"tidy"', '"tidy-up"'))
    where = {"PYTHONPATH": str(site.path)}
    listed = kgen("--help", **where)
    assert listed.status == 0 and f"warning: {reason}\n" in listed.err and " tidy-up " in listed.out
    assert kgen("tidy-up", "here", **where).out == "tidied here False\n"
    assert kgen("plugins", "list", **where).status == 0
    if key == "tidy":
        kgen("tidy", "here", **where).refuses(reason)


def test_kgens_own_commands_load_no_plugin(monkeypatch) -> None:
    import typer

    group = typer.main.get_command(app)
    monkeypatch.setattr(discovery, "discover", lambda *_: pytest.fail("a plugin was looked for"))
    assert group.get_command(None, "run").name == "run"


def test_a_declaration_of_a_command_must_be_valid() -> None:
    commands = Commands(Provenance("mine", "kgen-plugin-mine", "1"))
    for name, target, summary in (
        ("a b", "a:b", ""),
        (None, "a:b", ""),
        ("x", "a", ""),
        ("x", "a:b", "\x1b"),
        ("-x", "a:b", ""),
    ):
        with pytest.raises(PluginError):
            commands.add(name, target, summary=summary)  # type: ignore[arg-type]
    assert not commands.added


TOLD = """
import json, kgen
from pathlib import Path

@kgen.hookimpl
def kgen_run_finished(directory, scores):
    assert json.loads((directory / "manifest.json").read_text())["finished"]
    print("TOLD", directory.name, json.dumps(scores))
    scores.clear()
"""


def test_the_hook_for_finished_runs_is_called(kgen, good: Path, site, tmp_path: Path) -> None:
    site.install("aaa", "import kgen\n@kgen.hookimpl\ndef kgen_run_finished(directory):\n    raise KeyError('boo')\n")
    site.install("bbb", "import kgen\n@kgen.hookimpl\ndef kgen_run_finished(scores):\n    raise SystemExit(9)\n")
    site.install("ccc", TOLD)
    from command_line import TOY

    where = {"cwd": tmp_path, "PYTHONPATH": f"{site.path}:{TOY}"}
    done = kgen("run", good, **where)
    assert done.status == 0, done
    scores = to_scores(read_results(tmp_path / "runs" / "good" / "evaluation.json"))
    assert scores and f"TOLD good {json.dumps(scores)}\n" in done.out
    for plugin, error in (("aaa", "KeyError: 'boo'"), ("bbb", "SystemExit: 9")):
        assert (
            f"warning: kgen_run_finished of plugin '{plugin}' of kgen-plugin-{plugin} 0.5 failed: {error}; the run is "
            "finished\n"
        ) in done.err
    assert "TOLD" not in kgen("run", good, **where).out, "it had finished before"
    assert "TOLD good" in kgen("evaluate", tmp_path / "runs" / "good", **where).out
