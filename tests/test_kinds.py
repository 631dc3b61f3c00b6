"""Kinds that plugins declare: a plugin's parts come from anywhere, and their options are checked as its own."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from typing import Annotated, Any

import numpy as np
import pytest
from pages import examples, read_page

import kgen
from kgen import load
from kgen.config import RunConfig, schema
from kgen.errors import ConfigError, PluginError
from kgen.options import Configurable, check_options, model_of, plain, schema_of
from kgen.options.static import split_options
from kgen.plugins import discovery
from kgen.plugins.discovery import discover
from kgen.plugins.fit import misfit
from kgen.plugins.registry import Provenance, Registrar, Registry

pytestmark = pytest.mark.portable

SOUP = '''
from dataclasses import dataclass
from typing import Protocol
import kgen

class Herb(Protocol):
    def taste(self, amount: float) -> float: ...

def spice(amount, heat): ...

@dataclass(frozen=True)
class Basil:
    """A herb.

    Args:
        leaves: How many.
    """

    leaves: int = 3

    def taste(self, amount: float) -> float:
        return self.leaves * amount

@kgen.hookimpl
def kgen_components(registry):
    registry.kind("soup.herb", f"{__name__}:Herb", summary="What makes a soup green")
    registry.kind("soup.spice", f"{__name__}:spice", summary="What makes a soup hot")
    registry.add("soup.herb", "basil", f"{__name__}:Basil", summary="Sweet")
    registry.add("soup.spice", "pepper", f"{__name__}:spice", summary="Hot")
'''

GARDEN = """
import kgen

class Mint:
    def __init__(self, *, leaves: int, kinds: tuple[int, ...] = (1, 2), fresh: bool = True):
        if leaves > 90:
            raise ValueError("too much mint")
        if leaves == 77:
            raise KeyError("nobody knows")
        self.leaves, self.kinds, self.fresh = leaves, kinds, fresh

    def taste(self, amount):
        return -amount

class Wrong:
    def taste(self): ...

def chili(amount, heat, unused=None):
    return amount * heat

class Curry:
    def __init__(self, *, heat: float = 2.0):
        self.heat = heat

    def __call__(self, amount, heat):
        return amount * self.heat

@kgen.hookimpl
def kgen_components(registry):
    registry.add("soup.herb", "mint", f"{__name__}:Mint", summary="Fresh")
    registry.add("soup.herb", "wrong", f"{__name__}:Wrong", summary="No herb")
    registry.add("soup.herb", "gone", f"{__name__}:Gone", summary="Not there")
    registry.add("soup.spice", "chili", f"{__name__}:chili", summary="Red")
    registry.add("soup.spice", "curry", f"{__name__}:Curry", summary="Yellow")
"""


class Pot(Configurable):
    def __init__(
        self,
        *,
        herb: Annotated[Any, kgen.OneOf("soup.herb")] = None,
        spice: Annotated[Any, kgen.OneOf("soup.spice")] = "pepper",
        more: tuple[Annotated[Any, kgen.OneOf("soup.herb")], ...] = (),
    ) -> None:
        self.herb, self.spice, self.more = herb, spice, more

    def cook(self, *, spice: Annotated[Any, kgen.OneOf("soup.spice")] = "pepper", salt: float = 1.0) -> None: ...


@pytest.fixture
def kitchen(site, monkeypatch) -> Registry:
    """`garden` comes before `soup`, which declares what it contributes to."""
    site.install("soup", SOUP)
    site.install("garden", GARDEN)
    found = discover(site.entry_points())
    monkeypatch.setattr(discovery, "registry", lambda: found)
    return found


def test_a_plugin_contributes_to_the_kind_of_another(kitchen: Registry) -> None:
    assert not kitchen.broken and not kitchen.refused
    assert [c.id for c in kitchen.of_kind("soup.herb")] == ["garden/gone", "garden/mint", "garden/wrong", "soup/basil"]
    assert [c.short for c in kitchen.of_kind("soup.herb")] == ["garden/gone", "garden/mint", "garden/wrong", "basil"]
    pot = Pot(herb={"kind": "mint", "leaves": 5, "kinds": [7]}, spice="chili")
    assert type(pot.herb).__name__ == "Mint" and pot.herb.kinds == (7,) and pot.spice == "garden/chili"
    assert kgen.part("soup.spice", pot.spice)(3, 4) == 12
    assert kgen.part("soup.herb", {"kind": "soup/basil", "leaves": 2}).taste(0.5) == 1.0
    assert kgen.part("soup.herb", pot.herb) is pot.herb


def test_the_configuration_is_plain_and_gives_the_same_again(kitchen: Registry) -> None:
    basil = kitchen.find("soup.herb", "basil").load()
    pot = Pot(herb=basil(leaves=4), spice={"kind": "curry"}, more=("basil", {"kind": "garden/mint", "leaves": 1}))
    assert pot.config == {
        "herb": {"kind": "basil", "leaves": 4},
        "spice": {"kind": "garden/curry", "heat": 2.0},
        "more": [
            {"kind": "basil", "leaves": 3},
            {"kind": "garden/mint", "leaves": 1, "kinds": [1, 2], "fresh": True},
        ],
    }
    again = Pot(**json.loads(json.dumps(pot.config)))
    assert again.config == pot.config and again.herb == pot.herb
    chili = kitchen.find("soup.spice", "chili").load()
    assert Pot(spice=chili).config["spice"] == "garden/chili", "an object without options is its name"


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"herb": {"kind": "mnit", "leaves": 1}},
            "Pot: herb.kind: unknown soup.herb 'mnit': did you mean 'mint'?",
        ),
        ({"herb": "parsley"}, "Pot: herb: unknown soup.herb 'parsley': there are "),
        (
            {"spice": "saffron"},
            "Pot: spice: unknown soup.spice 'saffron': there are 'garden/chili', 'garden/curry', 'pe",
        ),
        ({"herb": {"leaves": 1}}, "Pot: herb: needs 'kind', one of garden/gone, garden/mint, garden/wrong, basil"),
        ({"herb": 5}, "Pot: herb: must be the name of one soup.herb, or a mapping, got 5"),
        ({"herb": {"kind": 5}}, "Pot: herb.kind: must be the name of one soup.herb, got 5"),
        (
            {"herb": {"kind": "basil", "leavs": 1}},
            "Pot: herb.leavs: unknown key; did you mean 'leaves'? ('herb' takes: kind, leaves)",
        ),
        ({"herb": {"kind": "basil", "leaves": "2"}}, "Pot: herb.leaves: must be a whole number, got '2'"),
        ({"herb": {"kind": "mint"}}, "Pot: herb.leaves: is required"),
        ({"herb": "mint"}, "Pot: herb: 'garden/mint' needs options (leaves): write {kind: garden/mint, leaves: ...}"),
        ({"herb": {"kind": "mint", "leaves": 91}}, "Pot: herb: too much mint"),
        (
            {"herb": {"kind": "mint", "leaves": 77}},
            "soup.herb 'garden/mint' of kgen-plugin-garden 0.5 cannot be made: KeyError: 'nobody knows'",
        ),
        ({"spice": {"kind": "chili"}}, "Pot: spice.kind: 'garden/chili' has no options: write its name alone"),
        (
            {"more": ["basil", {"kind": "mint", "leaves": 1, "fresh": 2}]},
            "Pot: more[1].fresh: must be true or false, got",
        ),
        (
            {"herb": "wrong"},
            "Wrong cannot be called as taste(amount): too many positional arguments",
        ),
        ({"herb": "gone"}, "soup.herb 'garden/gone' of kgen-plugin-garden 0.5 cannot be imported from"),
    ],
)
def test_options_of_any_plugins_parts_are_checked(kitchen: Registry, given: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, PluginError)) as caught:
        Pot(**given)
    assert message in str(caught.value)


def test_the_schema_knows_every_part_that_can_be_imported(kitchen: Registry) -> None:
    found = schema_of(model_of(Pot, "pot"))["properties"]
    text, basil_or_mint = found["herb"]["anyOf"][0], found["herb"]["anyOf"][1:]
    assert text == {"type": "string", "enum": ["basil", "soup/basil"]}, "mint needs an option"
    by_name = {mapping["properties"]["kind"]["enum"][0]: mapping for mapping in basil_or_mint}
    assert set(by_name) == {"basil", "garden/mint"}
    assert by_name["garden/mint"]["properties"]["kind"]["enum"] == ["garden/mint", "mint"]
    assert by_name["garden/mint"]["required"] == ["kind", "leaves"]
    assert by_name["garden/mint"]["properties"]["fresh"] == {"default": True, "title": "Fresh", "type": "boolean"}
    assert found["spice"]["default"] == "pepper"
    basil = kitchen.find("soup.herb", "basil").load()
    assert plain(basil()) == {"kind": "basil", "leaves": 3}


def test_methods_accept_parts_too(kitchen: Registry) -> None:
    checked = check_options(Pot.cook, {"spice": {"kind": "curry", "heat": 3.0}, "salt": 2.0}, "cook")
    static, numbers = split_options(Pot.cook, checked)
    assert static["spice"].heat == 3.0 and numbers == {"salt": 2.0}, "a part is compiled in"
    assert plain(static) == {"spice": {"kind": "garden/curry", "heat": 3.0}}


def plugin(*lines: str) -> str:
    body = "\n".join(f"    {line}" for line in lines)
    return f"import kgen\n\n@kgen.hookimpl\ndef kgen_components(registry):\n{body}\n"


KIND = 'registry.kind("{}.thing", "a:B", summary="")'


def test_the_order_of_plugins_does_not_matter(site) -> None:
    sources = {
        "one": plugin(KIND.format("one"), 'registry.add("two.thing", "x", "a:B", summary="")'),
        "two": plugin('registry.add("one.thing", "y", "a:C", summary="")', KIND.format("two")),
    }
    for name, source in sources.items():
        site.install(name, source)
    for order in itertools.permutations(site.entry_points()):
        found = discover(order)
        assert sorted(c.id for c in found.components.values() if "." in c.kind) == ["one/x", "two/y"]
        assert found.components["one.thing", "two/y"].contract == "a:B" and not found.refused


@pytest.mark.parametrize(
    "line, reason",
    [
        (
            'registry.add("soup.herb", "basil", "a:B", summary="")',
            "its name is that of soup.herb 'soup/basil' of kgen-plugin-soup 0.5: rename it",
        ),
        (
            'registry.add("soup.hreb", "x", "a:B", summary="")',
            "no plugin declares the kind 'soup.hreb': did you mean 'soup.herb'?; kgen-plugin-soup 0.5 declares "
            "'soup.herb', 'soup.spice'",
        ),
        (
            'registry.add("salad.leaf", "x", "a:B", summary="")',
            "no plugin declares the kind 'salad.leaf': plugin 'salad' would declare it: pip install kgen-plugin-salad",
        ),
        (
            'registry.add("broken.leaf", "x", "a:B", summary="")',
            "no plugin declares the kind 'broken.leaf'; plugin 'broken' (kgen-plugin-broken 0.5) could not be loaded: "
            "ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_contribution_that_cannot_be_used_is_refused_alone(site, capsys, monkeypatch, line: str, reason: str) -> None:
    from kgen.cli.commands.plugins import list_plugins

    site.install("broken", "1 / 0")
    site.install("mine", plugin(line, 'registry.encoder("good", "a:B", summary="")'))
    site.install("soup", SOUP)
    found = discover(site.entry_points())
    [(refused, why)] = found.refused.items()
    assert str(refused).endswith("of kgen-plugin-mine 0.5") and why == reason
    assert found.find("encoder", "mine/good") and found.find("soup.herb", "basil").origin.namespace == "soup"
    with pytest.raises(ConfigError, match=r"is refused: "):
        found.find(refused.kind, refused.id)
    monkeypatch.setattr(discovery, "registry", lambda: found)
    list_plugins()
    printed = capsys.readouterr().out
    assert f"refused: {refused}: {reason}\n" in printed and "soup/basil" in printed


def test_a_bare_name_of_two_plugins_is_ambiguous_and_both_are_named(site, monkeypatch) -> None:
    site.install("soup", SOUP)
    for name in ("east", "west"):
        site.install(name, plugin('registry.add("soup.spice", "salt", "os:getpid", summary="")'))
    monkeypatch.setattr(discovery, "registry", lambda: discover(site.entry_points()))
    with pytest.raises(ConfigError) as caught:
        Pot(spice="salt")
    assert str(caught.value) == (
        "Pot: spice: soup.spice 'salt' is ambiguous: write one of 'east/salt' (of kgen-plugin-east), 'west/salt' "
        "(of kgen-plugin-west)"
    )


@pytest.mark.parametrize(
    "call, reason",
    [
        (("kind", "herb", "a:B"), "kind 'herb' of plugin 'mine' must be named 'mine.KIND'"),
        (("kind", "soup.herb", "a:B"), "kind 'soup.herb' of plugin 'mine' must be named 'mine.KIND'"),
        (("kind", "mine.a.b", "a:B"), "kind 'mine.a.b' of plugin 'mine' must be named 'mine.KIND'"),
        (("kind", None, "a:B"), "kind None of plugin 'mine' must be named 'mine.KIND'"),
        (("kind", "mine.herb", "a"), "kind 'mine.herb': the contract must read 'package.module:Class', not 'a'"),
        (("add", "encodr", "x", "a:B"), "there is no kind 'encodr': did you mean 'encoder'?"),
        (("add", "thing", "x", "a:B"), "there is no kind 'thing': there are 'encoder', "),
        (("add", "mine.herb", "a b", "a:B"), "mine.herb name 'a b' of plugin 'mine' must be letters"),
        (("add", "mine.herb", "x", "a"), "mine.herb 'x': the target must read 'package.module:Class', not 'a'"),
    ],
)
def test_invalid_declarations_are_refused(call: tuple[Any, ...], reason: str) -> None:
    registrar = Registrar(Registry(), Provenance("mine", "kgen-plugin-mine", "1"))
    method, *arguments = call
    with pytest.raises(PluginError) as caught:
        getattr(registrar, method)(*arguments, summary="")
    assert str(caught.value).startswith(reason)


def test_a_kind_is_declared_once() -> None:
    registrar = Registrar(Registry(), Provenance("mine", "kgen-plugin-mine", "1"))
    registrar.kind("mine.herb", "a:B", summary="")
    with pytest.raises(PluginError, match=r"kind 'mine\.herb' is declared twice"):
        registrar.kind("mine.herb", "a:C", summary="")


def test_an_option_of_an_undeclared_kind_is_an_error_of_its_owner(kitchen: Registry) -> None:
    class Odd(Configurable):
        def __init__(self, *, x: Annotated[Any, kgen.OneOf("soup.hreb")] = None) -> None: ...

    with pytest.raises(
        PluginError, match=r"the options of 'Odd': no plugin declares the kind 'soup.hreb': did you mean"
    ):
        Odd()


class Base: ...


class Sub(Base): ...


@pytest.mark.parametrize(
    "target, contract, reason",
    [
        (Sub, Base, ""),
        (Sub(), Base, ""),
        (int, Base, "is not a subclass of N"),
        (3, Base, "is not a subclass of N"),
        (lambda a, b: 0, lambda a, b: 0, ""),
        (lambda a, *, b: 0, lambda a, b: 0, "cannot be called as it(a, b): "),
        (3, lambda a: 0, "cannot be called, which N requires"),
        (Sub, lambda a: 0, "cannot be called, which N requires"),
        (max, lambda a: 0, ""),
    ],
)
def test_targets_that_fit_a_contract(target: Any, contract: Any, reason: str) -> None:
    assert misfit(target, contract, "N").startswith(reason) and bool(reason) == bool(misfit(target, contract, "N"))


# ---- a stranger's parts of the diffusion plugin ------------------------------------------------------------------

PARTS = '''
"""A network, a schedule and samplers for the diffusion plugin, in one file."""

from dataclasses import dataclass

import keras
from keras import ops
from kgen_plugin_diffusion.schedules import Schedule

import kgen

KGEN_API = 1


@dataclass(frozen=True)
class Pointwise:
    """One layer at each pixel.

    Args:
        width: Of the hidden layer.
    """

    width: int = 4

    def check(self, space):
        if len(space.shape) != 3:
            raise kgen.SpaceError("pixels only")

    def build(self, space, condition_space, out_channels):
        return Layer(self.width, out_channels)


class Layer(keras.layers.Layer):
    def __init__(self, width, channels):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(width, activation="gelu"), keras.layers.Dense(channels)

    def build(self, x_shape, condition_shape):
        self.hidden.build((*x_shape[:-1], x_shape[-1] + 1))
        self.out.build((*x_shape[:-1], self.hidden.units))

    def call(self, x, noise_level, condition, training=False):
        level = ops.ones_like(x[..., :1]) * ops.reshape(noise_level, (-1, 1, 1, 1)) / 1000.0
        return self.out(self.hidden(ops.concatenate([x, level], -1)))


@dataclass(frozen=True)
class Shifted(Schedule):
    """Rectified flow with more steps near the noise (Esser et al. 2024, equation 23)."""

    shift: float = 3.0

    def sigma(self, t):
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)

    def alpha(self, t):
        return 1.0 - self.sigma(t)


def lazy(denoise, x, grid, noise):
    """One step, whatever the grid."""
    return denoise(x, *grid.at(0))


class Blend:
    """Part of one step."""

    def __init__(self, *, share: float = 0.5):
        self.share = share

    def __call__(self, denoise, x, grid, noise):
        return self.share * denoise(x, *grid.at(0))


@kgen.hookimpl
def kgen_components(registry):
    registry.add("diffusion.network", "pointwise", f"{__name__}:Pointwise", summary="One layer at each pixel")
    registry.add("diffusion.schedule", "shifted", f"{__name__}:Shifted", summary="Rectified flow, shifted")
    registry.add("diffusion.sampler", "lazy", f"{__name__}:lazy", summary="A single step")
    registry.add("diffusion.sampler", "blend", f"{__name__}:Blend", summary="Part of a single step")
'''

RUN = """\
data: {name: shapes, size: 16, colors: [red, blue], shapes: [circle], sizes: [small], positions: [left]}
encoder: {name: bag, dim: 4}
generator:
  name: diffusion
  network: {kind: pointwise, width: 6}
  schedule: {kind: shifted, shift: 2.0}
fit: {steps: 2, batch_size: 4, warmup_steps: 0}
sample: {every: 0, prompts: [red], options: {sampler: lazy, steps: 2}}
evaluate: {max_prompts: 2}
"""


@pytest.fixture
def stranger(site, tmp_path):
    site.install("mine", PARTS)
    (tmp_path / "mine.yaml").write_text(RUN, encoding="utf-8")
    discovery.registry.cache_clear()
    yield tmp_path / "mine.yaml"
    discovery.registry.cache_clear()


def test_a_strangers_network_schedule_and_sampler_are_used_from_a_run_file(kgen, stranger, site) -> None:
    where = {"cwd": stranger.parent, "PYTHONPATH": str(site.path)}
    done = kgen("run", stranger, **where)
    assert done.status == 0, done
    pipeline = load(stranger.parent / "runs" / "mine")
    config = pipeline.generator.config
    assert config["network"] == {"kind": "mine/pointwise", "width": 6}
    assert config["schedule"] == {"kind": "mine/shifted", "shift": 2.0} and config["prediction"] == "velocity"
    lazy = pipeline.generate(["red"], seed=1, sampler="lazy")
    whole = pipeline.generate(["red"], seed=1, sampler={"kind": "blend", "share": 1.0})
    assert np.array_equal(lazy, whole) and len(pipeline.programs) == 2
    pipeline.generate(["red"], seed=1, sampler={"kind": "blend", "share": 1.0})
    assert len(pipeline.programs) == 2, "the same options are the same program"
    assert not np.array_equal(lazy, pipeline.generate(["red"], seed=1, sampler="mine/blend"))


def test_check_show_and_schema_know_a_strangers_parts(kgen, stranger, site) -> None:
    where = {"cwd": stranger.parent, "PYTHONPATH": str(site.path)}
    shown = kgen("plugins", "show", "diffusion/diffusion", **where).out
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    for row in (
        "network dit|unet|keras-cv-unet|pointwise|causal | dit-transformer-2d | pixart-transformer-2d | "
        "unet-2d-condition dit",
        "network.width int (kind: pointwise) 4",
        "network.patch int > 0 (kind: dit) 4",
        'schedule cosine|discrete|karras|linear|rectified-flow|shifted-flow|shifted "rectified-flow"',
        "schedule.shift float (kind: shifted) 3.0",
        "sampler ddim|ddpm|deis|dpm++2m|dpm++2m-sde|dpm++3m-sde|euler|euler-ancestral|heun|lms|pndm|unipc|blend|lazy "
        '"heun"',
        "sampler.share float (kind: blend) 0.5",
    ):
        assert row in rows, row
    kind = kgen("plugins", "show", "diffusion.sampler", **where).out
    assert "  mine/lazy: A single step (kgen-plugin-mine 0.5)\n" in kind
    kinds = kgen("plugins", "show", "diffusion", **where).out
    assert "  kind diffusion.schedule: Amounts of image and noise over time" in kinds
    assert kgen("plugins", "show", "mine/lazy", **where).out.endswith("options: none\n\n")
    text = json.loads(kgen("schema", **where).out)
    mappings = json.dumps(text["$defs"]["generator"])
    assert '["mine/shifted", "shifted"]' in mappings
    wrong = RUN.replace("shift: 2.0", "shfit: 2.0").replace("kind: pointwise", "kind: pointwsie")
    stranger.write_text(wrong.replace("sampler: lazy", "sampler: lzay"), encoding="utf-8")
    kgen("check", stranger, **where).refuses(
        "mine.yaml:5: generator.network.kind: unknown diffusion.network 'pointwsie': did you mean 'pointwise'",
        "mine.yaml:6: generator.schedule.shfit: unknown key; did you mean 'shift'? ('schedule' takes: kind, shift)",
        "mine.yaml:8: sample.options.sampler: unknown diffusion.sampler 'lzay': did you mean 'lazy'",
    )


def test_the_example_of_the_guide_adds_a_sampler(site, monkeypatch) -> None:
    (example,) = examples(read_page("docs/guides/plugins/extend.md"), "python", "sample_once")
    site.install("mine", example)
    own = [e for e in importlib.metadata.entry_points(group="kgen") if e.name == "diffusion"]
    found = discover([*own, *site.entry_points()])
    monkeypatch.setattr(discovery, "registry", lambda: found)
    assert kgen.part("diffusion.sampler", "once").__name__ == "sample_once"


def test_a_stranger_cannot_take_a_name_of_the_diffusion_plugin(kgen, stranger, site) -> None:
    site.install("rival", plugin('registry.add("diffusion.sampler", "heun", "os:getpid", summary="")'))
    listed = kgen("plugins", "list", PYTHONPATH=str(site.path)).out
    assert (
        "refused: diffusion.sampler 'rival/heun' of kgen-plugin-rival 0.5: its name is that of diffusion.sampler "
        "'diffusion/heun' of kgen-plugin-diffusion 0.1.0: rename it\n"
    ) in listed
    site.install("other", plugin('registry.add("diffusion.sampler", "lazy", "os:getpid", summary="")'))
    kgen("check", stranger, cwd=stranger.parent, PYTHONPATH=str(site.path)).refuses(
        "mine.yaml:8: sample.options.sampler: diffusion.sampler 'lazy' is ambiguous: write one of 'mine/lazy' (of "
        "kgen-plugin-mine), 'other/lazy' (of kgen-plugin-other)"
    )


def test_older_run_files_are_read_as_before() -> None:
    data = {
        "data": "shapes",
        "encoder": "text/bag",
        "generator": {"name": "diffusion", "network": {"kind": "unet", "width": 32}, "schedule": "cosine"},
        "fit": {"steps": 1},
        "sample": {"options": {"sampler": "ddim", "eta": 0.5}},
    }
    options = RunConfig.from_dict(data).generator.options
    assert options["network"]["kind"] == "unet" and options["network"]["width"] == 32
    assert options["network"]["multipliers"] == [1, 2, 2]
    assert (options["schedule"], options["prediction"]) == ("cosine", "velocity")
    assert schema.run_file_schema()["$defs"]["generator"]
