from __future__ import annotations

import sys

import pytest

from kgen.errors import ConfigError, PluginError
from kgen.plugins.registry import Component, Provenance, Registrar, Registry

FRUIT = Provenance("fruit", "kgen-plugin-fruit", "1.0")
NUTS = Provenance("nuts", "kgen-plugin-nuts", "2.0")


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    fruit, nuts = Registrar(registry, FRUIT), Registrar(registry, NUTS)
    fruit.encoder("apple", "fruit.parts:Apple", summary="Red")
    fruit.generator("pear", "fruit.parts:Pear", summary="Green")
    nuts.generator("pear", "nuts.parts:Pear", summary="Hard")
    nuts.generator("cashew", "json:JSONDecoder", summary="Bent")
    nuts.metric("retrieval", "kgen.metrics.retrieval:Retrieval", summary="Real")
    return registry


def test_a_component_is_found_by_full_id_and_by_a_bare_name_while_it_is_unique(registry: Registry) -> None:
    apple = Component("encoder", "apple", "fruit.parts:Apple", "Red", FRUIT)
    assert registry.find("encoder", "fruit/apple") == registry.find("encoder", "apple") == apple
    assert apple.id == "fruit/apple"
    assert registry.find("generator", "nuts/pear").summary == "Hard"


def test_an_ambiguous_bare_name_is_refused_and_both_are_named(registry: Registry) -> None:
    with pytest.raises(
        ConfigError,
        match=r"generator 'pear' is ambiguous: write one of 'fruit/pear' \(of kgen-plugin-fruit\), 'nuts/pear' \(of ",
    ):
        registry.find("generator", "pear")


@pytest.mark.parametrize("name, near", [("cashw", "'cashew'"), ("nuts/cashw", "'nuts/cashew'")])
def test_near_names_are_suggested(registry: Registry, name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown generator '{name}': did you mean {near}"):
        registry.find("generator", name)


def test_a_name_of_another_kind_is_unknown_and_the_known_ones_are_listed(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="unknown decoder 'apple': there are none"):
        registry.find("decoder", "apple")
    with pytest.raises(ConfigError, match="unknown encoder 'zzz': there are 'fruit/apple'"):
        registry.find("encoder", "zzz")


def test_a_broken_plugin_is_named_where_it_may_be_the_reason_and_only_there(registry: Registry) -> None:
    registry.broken[Provenance("berries", "kgen-plugin-berries", "3.0")] = "ImportError: no water"
    reason = r"plugin 'berries' \(kgen-plugin-berries\) could not be loaded: ImportError: no water"
    for name in ("berries/strawberry", "strawberry"):
        with pytest.raises(ConfigError, match=reason):
            registry.find("generator", name)
    with pytest.raises(ConfigError, match=f"^unknown generator 'berries/strawberry': {reason}$"):
        registry.find("generator", "berries/strawberry")
    with pytest.raises(ConfigError) as caught:
        registry.find("generator", "vegetables/leek")
    assert "berries" not in str(caught.value)


def test_the_same_id_twice_is_an_error_only_within_a_kind(registry: Registry) -> None:
    with pytest.raises(PluginError, match="encoder 'fruit/apple' is registered twice"):
        Registrar(registry, FRUIT).encoder("apple", "fruit.other:Apple", summary="Another")
    Registrar(registry, FRUIT).decoder("apple", "fruit.other:Apple", summary="Another kind")
    assert registry.find("encoder", "apple").target == "fruit.parts:Apple"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "\x1b[31m", "-a", None])
def test_a_name_must_be_one_that_run_files_and_terminals_can_show(registry: Registry, name: str) -> None:
    with pytest.raises(PluginError, match="must be letters, digits and"):
        Registrar(registry, FRUIT).metric(name, "a:B", summary="")


@pytest.mark.parametrize("target", ["fruit.parts", "a:b:c", ""])
def test_a_target_must_name_module_and_class(registry: Registry, target: str) -> None:
    with pytest.raises(PluginError, match=r"the target must read 'package\.module:Class'"):
        Registrar(registry, FRUIT).dataset("fig", target, summary="")


def test_declaring_imports_nothing_and_load_imports_the_class(registry: Registry) -> None:
    from kgen.metrics.retrieval import Retrieval

    assert "fruit" not in sys.modules
    assert registry.find("metric", "retrieval").load() is Retrieval
    found = registry.of_class(Retrieval)
    assert found is not None and found.id == "nuts/retrieval" and registry.of_class(Registry) is None


@pytest.mark.parametrize("target", ["json:dumps", "json:JSONDecoder", "kgen.data.datasets.shapes:Shapes"])
def test_classes_of_another_kind_are_refused(registry: Registry, target: str) -> None:
    Registrar(registry, FRUIT).metric("m", target, summary="")
    with pytest.raises(PluginError, match=f"metric 'fruit/m' of .* 1.0: {target} is not a subclass of kgen.Metric"):
        registry.find("metric", "m").load()


def test_an_unknown_plugin_comes_with_an_install_command(registry: Registry) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown generator 'vae/vae'.*; no plugin 'vae' is installed: pip install kgen-plugin-vae$"
    ):
        registry.find("generator", "vae/vae")
    for known in ("fruit/plum", "plum", "a\nb/plum"):
        with pytest.raises(ConfigError) as caught:
            registry.find("generator", known)
        assert "pip install" not in str(caught.value)


@pytest.mark.parametrize(
    "target, reason",
    [
        ("fruit.parts:Apple", "ModuleNotFoundError: No module named 'fruit'"),
        ("json:Nothing", "has no attribute 'Nothing'"),
    ],
)
def test_a_class_that_cannot_be_imported_names_plugin_and_reason(registry: Registry, target: str, reason: str) -> None:
    Registrar(registry, FRUIT).metric("m", target, summary="")
    with pytest.raises(PluginError, match=f"metric 'fruit/m' of kgen-plugin-fruit 1.0 cannot be imported.*{reason}"):
        registry.find("metric", "m").load()


def test_the_components_of_a_kind_come_in_the_order_of_their_ids(registry: Registry) -> None:
    assert [c.id for c in registry.of_kind("generator")] == ["fruit/pear", "nuts/cashew", "nuts/pear"]
    assert registry.of_kind("dataset") == []
