from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kgen
from kgen.cli.commands.plugins import list_plugins
from kgen.cli.commands.schema import command
from kgen.config import schema
from kgen.plugins import discovery, hookspecs, isolation
from kgen.plugins.discovery import discover
from kgen.plugins.registry import Registrar

PLUGIN = """
import kgen

@kgen.hookimpl
def kgen_components(registry):
    registry.encoder({name!r}, "nowhere:Nothing", summary="Made for a test")
"""


LOUD = """
import kgen

class Loud(kgen.Metric):
    def update(self, batch): pass
    def compute(self): return {}

print("built")

@kgen.hookimpl
def kgen_components(registry):
    print("asked")
    registry.metric("loud", __name__ + ":Loud", summary="Prints")
"""


def plugin(name: str) -> str:
    return PLUGIN.format(name=name)


def ids(found) -> list[str]:
    return [component.id for component in found.of_kind("encoder") if component.origin.namespace != "kgen"]


def test_a_plugin_is_found_through_its_entry_point_and_its_provenance_is_known(site) -> None:
    site.install("fruit", plugin("apple"), distribution="kgen-fruit-salad")
    found = discover(site.entry_points())
    origin = found.find("encoder", "apple").origin
    assert (origin.namespace, origin.distribution, origin.version) == ("fruit", "kgen-fruit-salad", "0.5")
    assert found.broken == {}


def test_the_process_wide_registry_sees_what_is_installed_but_for_disabled_plugins(site, monkeypatch) -> None:
    module = site.install("fruit", plugin("apple"))
    discovery.registry.cache_clear()
    try:
        assert discovery.registry().find("encoder", "fruit/apple")
        monkeypatch.setenv("KGEN_DISABLE_PLUGINS", "other, fruit")
        monkeypatch.delitem(sys.modules, module)
        discovery.registry.cache_clear()
        assert "fruit/apple" not in ids(discovery.registry())
        assert module not in sys.modules, "a disabled plugin is not even imported"
        assert "disabled by KGEN_DISABLE_PLUGINS" in discovery.registry().broken.values()
        with pytest.raises(kgen.ConfigError, match=r"plugin 'fruit' .* could not be loaded: disabled by"):
            discovery.registry().find("encoder", "fruit/apple")
    finally:
        discovery.registry.cache_clear()


@pytest.mark.parametrize(
    "source, reason",
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError: invalid syntax (/"),
        (plugin("a/b"), "encoder name 'a/b' of plugin 'bad' must be letters"),
        (
            plugin("x") + "    registry.encoder('x', 'a:B', summary='')",
            "encoder 'bad/x' is registered twice",
        ),
        (plugin("x\x1b[31m"), r"encoder name 'x\x1b[31m' of plugin 'bad' must be letters"),
        (
            plugin("x").replace('"Made for a test"', "['a list']"),
            "the summary must be one line of text, not ['a list']",
        ),
        (
            plugin("x").replace("Made for", r"\x1b]0;pwned\x07"),
            r"must be one line of text, not '\x1b]0;pwned\x07 a test'",
        ),
        (plugin("x").replace('"nowhere:Nothing"', "None"), "must read 'package.module:Class', not None"),
        ("import sys; sys.exit('bye')", "it calls sys.exit('bye') when it is imported"),
        ("import sys; sys.exit(3)", "it calls sys.exit(3) when it is imported"),
        (plugin("x") + "    raise SystemExit", "it calls sys.exit(None) when it is imported"),
        ("class X(BaseException): pass\nraise X('boo')", "X: boo"),
        (
            plugin("x").replace("kgen_components", "kgen_component"),
            "kgen has no hook 'kgen_component'; did you mean 'kgen_components'?",
        ),
        (plugin("x").replace("(registry)", "(registry, more)"), "PluginValidationError"),
    ],
)
def test_a_plugin_that_fails_is_recorded_with_its_reason_and_the_others_work(site, source: str, reason: str) -> None:
    site.install("aaa", plugin("apple"))
    site.install("bad", source)
    site.install("zzz", plugin("zucchini"))
    found = discover(site.entry_points())
    assert ids(found) == ["aaa/apple", "zzz/zucchini"], "nothing of the broken plugin is left"
    [(origin, recorded)] = found.broken.items()
    assert origin.distribution == "kgen-plugin-bad" and reason in recorded
    assert found.of_kind("decoder"), "kgen's own components are there"


def test_ctrl_c_while_a_plugin_is_imported_ends_the_search(site) -> None:
    site.install("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover(site.entry_points())


def test_a_namespace_belongs_to_the_distribution_of_that_name_in_any_order(site) -> None:
    site.install("fruit", "raise RuntimeError('squat')", distribution="a-first")
    site.install("fruit", plugin("apple"), distribution="kgen_plugin.Fruit")
    site.install("fruit", plugin("pear"), distribution="z-last")
    found = discover(site.entry_points())
    assert ids(found) == ["fruit/apple"]
    reasons = {origin.distribution: reason for origin, reason in found.broken.items()}
    assert reasons == dict.fromkeys(["a-first", "z-last"], "the namespace 'fruit' belongs to kgen_plugin.Fruit")


def test_neither_of_two_other_distributions_gets_a_namespace(site) -> None:
    site.install("fruit", plugin("apple"), distribution="first")
    site.install("fruit", plugin("pear"), distribution="second")
    found = discover(site.entry_points())
    assert ids(found) == []
    assert sorted(found.broken.values()) == [
        f"{other} claims the namespace 'fruit' too: uninstall one of the two" for other in ("first", "second")
    ]


@pytest.mark.parametrize("distribution", ["kgen-plugin-evil", "kgen-plugin-kgen"])
def test_nobody_may_take_the_namespace_of_kgen_itself(site, distribution: str) -> None:
    site.install("kgen", plugin("identity"), distribution=distribution)
    found = discover(site.entry_points())
    assert ids(found) == [] and found.find("decoder", "identity").origin.distribution == discovery.CORE
    assert [origin.distribution for origin in found.broken] == [distribution]


def test_a_namespace_must_be_a_name(site) -> None:
    site.install("fr/uit", plugin("apple"), distribution="kgen-plugin-fruit")
    [reason] = discover(site.entry_points()).broken.values()
    assert reason == "the namespace must be letters, digits and '._+-', not 'fr/uit'"


@pytest.mark.parametrize(
    "requirement, reason",
    [
        (f"{discovery.CORE}>=99", f"it needs {discovery.CORE}>=99, but this is {discovery.CORE} "),
        (
            f"{discovery.CORE}[tensorflow]>=0.1,<0.1",
            f"it needs {discovery.CORE}<0.1,>=0.1, but this is {discovery.CORE} ",
        ),
        ("kgen>=99", f"it needs kgen>=99, but this is {discovery.CORE} "),
        (f"{discovery.CORE}>=0.1", None),
        (f"{discovery.CORE}>=99; extra == 'future'", None),
        ("numpy>=99", None),
    ],
)
def test_a_plugin_that_needs_another_version_of_kgen_is_not_loaded(site, requirement: str, reason: str | None) -> None:
    site.install("fruit", plugin("apple"), requires=[requirement])
    found = discover(site.entry_points())
    assert [why.startswith(reason or "") for why in found.broken.values()] == ([True] if reason else [])
    assert ids(found) == ([] if reason else ["fruit/apple"])


def test_output_of_a_plugin_at_its_import_goes_to_stderr(site, capsys) -> None:
    module = site.install(
        "fruit", "print('hello')\n" + plugin("apple").replace("nowhere:Nothing", "parts_of_fruit:Apple")
    )
    (site.path / "parts_of_fruit.py").write_text("print('world')\nraise SystemExit('lazy bye')\n", encoding="utf-8")
    found = discover(site.entry_points())
    assert module in sys.modules and ids(found) == ["fruit/apple"]
    expected = (
        "encoder 'fruit/apple' of kgen-plugin-fruit 0.5 cannot be imported from 'parts_of_fruit:Apple': "
        "it calls sys.exit('lazy bye') when it is imported"
    )
    with pytest.raises(kgen.PluginError, match=re.escape(expected)):
        found.find("encoder", "apple").load()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "hello\nworld\n")


def test_an_import_that_takes_long_is_named_while_it_lasts(site, capsys, monkeypatch) -> None:
    monkeypatch.setattr(isolation, "PATIENCE", 0.01)
    site.install("slow", "import time; time.sleep(0.2)\n" + plugin("apple"))
    assert ids(discover(site.entry_points())) == ["slow/apple"]
    assert capsys.readouterr().err == (
        "plugin 'slow' of kgen-plugin-slow 0.5 has been importing for 0.01 s: still waiting "
        "(KGEN_DISABLE_PLUGINS=slow leaves it out)\n"
    )


def test_the_list_prints_a_strangers_words_as_they_are(site, capsys, monkeypatch) -> None:
    site.install("markup", plugin("apple").replace("Made for a test", "[bold]x[/nope] :smile:"))
    site.install("ansi", "raise ValueError('\\x1b[2J')")
    monkeypatch.setattr(discovery, "registry", lambda: discover(site.entry_points()))
    list_plugins()
    printed = capsys.readouterr().out
    assert "markup/apple" in printed and "[bold]x[/nope] :smile:" in printed
    assert "broken: plugin 'ansi' of kgen-plugin-ansi 0.5: ValueError: \\x1b[2J\n" in printed and "\x1b" not in printed


def test_output_of_plugins_does_not_reach_the_schema(site, capfd, monkeypatch) -> None:
    noise = "import os, sys; print('python'); sys.__stdout__.write('kept'); os.write(1, b'native')\n"
    module = site.install("noisy", noise + LOUD, distribution="kgen-plugin-noisy")
    monkeypatch.setattr(schema, "registry", lambda: discover(site.entry_points()))
    command(None)
    printed = capfd.readouterr()
    assert module in sys.modules and "noisy/loud" in json.dumps(json.loads(printed.out)["$defs"]["metric"])
    assert all(word in printed.err for word in ("python", "native", "built"))


def test_an_object_in_a_module_can_be_the_plugin(site) -> None:
    source = "class Plugin:\n" + "".join(f"    {line}\n" for line in plugin("apple").splitlines()).replace(
        "(registry)", "(self, registry)"
    )
    module = site.install("fruit", f"{source}\nplugin = Plugin()\n", value="PLACEHOLDER:plugin")
    entry_points = site.path / "kgen_plugin_fruit-0.5.dist-info" / "entry_points.txt"
    entry_points.write_text(f"[kgen]\nfruit = {module}:plugin\n", encoding="utf-8")
    assert ids(discover(site.entry_points())) == ["fruit/apple"]


def test_every_hook_is_tested_here() -> None:
    hooks = {name for name, value in vars(hookspecs).items() if hasattr(value, "kgen_spec")}
    assert hooks == {"kgen_components", "kgen_commands", "kgen_run_finished"}, (
        "a new hook needs tests, and its name here"
    )


def test_the_hook_can_declare_every_kind_of_component() -> None:
    from kgen.plugins.registry import KINDS

    declared = {name for name, value in vars(Registrar).items() if not name.startswith("_") and callable(value)}
    assert declared == {*KINDS, "add", "kind"}
    for kind in KINDS:
        assert f"{kind}" in (hookspecs.kgen_components.__doc__ or "")


def test_kgens_own_components_can_all_be_imported() -> None:
    own = [c for c in discovery.registry().components.values() if c.origin.namespace == "kgen"]
    assert len(own) >= 5
    for component in own:
        if component.id != "kgen/tfds" or importlib.util.find_spec("tensorflow_datasets"):
            assert component.load().__name__ == component.target.partition(":")[2]


def test_every_public_name_is_there_and_is_listed() -> None:
    assert list(kgen.__all__) == list(dict.fromkeys(kgen.__all__))
    assert set(dir(kgen)) == set(kgen.__all__) >= {name for name in vars(kgen) if name in kgen._LAZY}
    imported = {name for name, value in vars(kgen).items() if getattr(value, "__module__", "").startswith("kgen.")}
    there = {name for name in imported if not name.startswith("_")} | set(kgen._LAZY) | {"API", "hookimpl"}
    assert there == set(kgen.__all__)
    with pytest.raises(AttributeError, match="module 'kgen' has no attribute 'nothing'"):
        kgen.nothing  # noqa: B018


def test_a_public_name_is_never_hidden_by_a_module_of_that_name() -> None:
    modules = {path.stem for path in Path(kgen.__file__).parent.iterdir()}
    assert modules.isdisjoint(kgen.__all__), "importing kgen.NAME would set kgen's attribute NAME to the module"


def test_importing_kgen_and_its_registry_loads_no_framework() -> None:
    script = (
        "import sys, kgen; from kgen.plugins.discovery import registry; registry();"
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
