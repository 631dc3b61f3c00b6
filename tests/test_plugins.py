from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import kgen
from kgen import hookspecs, plugins
from kgen.plugins import discover
from kgen.registry import Registrar

PLUGIN = """
import kgen

@kgen.hookimpl
def kgen_components(registry):
    registry.encoder({name!r}, "nowhere:Nothing", summary="Made for a test")
"""


def plugin(name: str) -> str:
    return PLUGIN.format(name=name)


def ids(found) -> list[str]:
    return [component.id for component in found.of_kind("encoder")]


def test_a_plugin_is_found_through_its_entry_point_and_its_provenance_is_known(site) -> None:
    site.install("fruit", plugin("apple"), distribution="kgen-fruit-salad")
    found = discover(site.entry_points())
    origin = found.find("encoder", "apple").origin
    assert (origin.namespace, origin.distribution, origin.version) == ("fruit", "kgen-fruit-salad", "0.5")
    assert found.broken == {}


def test_the_process_wide_registry_sees_what_is_installed_but_for_disabled_plugins(site, monkeypatch) -> None:
    module = site.install("fruit", plugin("apple"))
    plugins.registry.cache_clear()
    try:
        assert plugins.registry().find("encoder", "fruit/apple")
        monkeypatch.setenv("KGEN_DISABLE_PLUGINS", "other, fruit")
        monkeypatch.delitem(sys.modules, module)
        plugins.registry.cache_clear()
        assert "fruit/apple" not in ids(plugins.registry())
        assert module not in sys.modules, "a disabled plugin is not even imported"
    finally:
        plugins.registry.cache_clear()


@pytest.mark.parametrize(
    "source, reason",
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        (plugin("a/b"), "PluginError: encoder name 'a/b'"),
        (
            plugin("x") + "    registry.encoder('x', 'a:B', summary='')",
            "PluginError: encoder 'bad/x' is registered twice",
        ),
        (plugin("x").replace("kgen_components", "kgen_component"), "kgen_component"),
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


def test_two_distributions_may_not_share_a_namespace(site) -> None:
    site.install("fruit", plugin("apple"), distribution="kgen-plugin-first")
    site.install("fruit", plugin("pear"), distribution="kgen-plugin-second")
    found = discover(site.entry_points())
    assert len(ids(found)) == 1
    [reason] = found.broken.values()
    assert reason == "another plugin already has the namespace 'fruit'"


def test_nobody_may_take_the_namespace_of_kgen_itself(site) -> None:
    site.install("kgen", plugin("identity"), distribution="kgen-plugin-evil")
    found = discover(site.entry_points())
    assert ids(found) == [] and found.find("decoder", "identity").origin.distribution == "kgen"
    assert [origin.distribution for origin in found.broken] == ["kgen-plugin-evil"]


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
    assert hooks == {"kgen_components"}, "a new hook needs tests in this file, and its name here"


def test_the_hook_can_declare_every_kind_of_component() -> None:
    from kgen.registry import KINDS

    declared = {name for name, value in vars(Registrar).items() if not name.startswith("_") and callable(value)}
    assert declared == set(KINDS)
    for kind in KINDS:
        assert f"{kind}" in (hookspecs.kgen_components.__doc__ or "")


def test_kgens_own_components_can_all_be_imported() -> None:
    own = [c for c in plugins.registry().components.values() if c.origin.namespace == "kgen"]
    assert len(own) >= 5
    for component in own:
        if component.id != "kgen/tfds" or importlib.util.find_spec("tensorflow_datasets"):
            assert component.load().__name__ == component.target.partition(":")[2]


def test_every_public_name_is_there_and_is_listed() -> None:
    assert list(kgen.__all__) == list(dict.fromkeys(kgen.__all__))
    assert set(dir(kgen)) == set(kgen.__all__) >= {name for name in vars(kgen) if name in kgen._LAZY}
    imported = {name for name, value in vars(kgen).items() if getattr(value, "__module__", "").startswith("kgen.")}
    assert {name for name in imported if not name.startswith("_")} | set(kgen._LAZY) | {"hookimpl"} == set(kgen.__all__)
    with pytest.raises(AttributeError, match="module 'kgen' has no attribute 'nothing'"):
        kgen.nothing  # noqa: B018


def test_a_public_name_is_never_hidden_by_a_module_of_that_name() -> None:
    modules = {path.stem for path in Path(kgen.__file__).parent.iterdir()}
    assert modules.isdisjoint(kgen.__all__), "importing kgen.NAME would set kgen's attribute NAME to the module"


def test_importing_kgen_and_its_registry_loads_no_framework() -> None:
    script = (
        "import sys, kgen; from kgen.plugins import registry; registry();"
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
