"""The signature is the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field

from kgen.errors import ConfigError, PluginError
from kgen.options import Configurable, option_model, options, plain


@dataclass(frozen=True)
class Small:
    kind: Literal["small"] = "small"
    width: Annotated[int, Field(ge=1)] = 4


@dataclass(frozen=True)
class Large:
    kind: Literal["large"] = "large"
    widths: tuple[int, ...] = (64, 128)


Network = Annotated[Small | Large, Field(discriminator="kind")]


class Part(Configurable):
    def __init__(
        self,
        space: Any,
        condition_space: Any,
        *,
        steps: Annotated[int, Field(ge=1, le=1000)],
        network: Network = Small(),
        rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.steps = steps
        self.network = network
        self.rate = rate

    def generate(
        self, condition: Any, null_condition: Any, noise: Any, steps: int = 10, scale: float = 1.0
    ) -> None: ...


def test_options_are_what_kgen_does_not_supply() -> None:
    assert list(options(Part)) == ["steps", "network", "rate"]
    assert list(options(Part.generate)) == ["steps", "scale"]
    assert options(Part)["steps"].default is options(Part)["steps"].empty
    assert options(Part.generate)["scale"].annotation is float  # resolved, though written as text


def test_model_takes_nested_choices_from_plain_data() -> None:
    made = option_model(Part, "part")(steps=3, network={"kind": "large", "widths": [1, 2]})
    assert made.network == Large(widths=(1, 2))
    assert option_model(Part, "part")(steps=3).network == Small()


@pytest.mark.parametrize(
    ("given", "where", "kind"),
    [
        ({"steps": 3, "stpes": 4}, ("stpes",), "extra_forbidden"),
        ({}, ("steps",), "missing"),
        ({"steps": 0}, ("steps",), "greater_than_equal"),
        ({"steps": "many"}, ("steps",), "int_parsing"),
        ({"steps": 3, "network": {"kind": "huge"}}, ("network",), "union_tag_invalid"),
        ({"steps": 3, "network": {"kind": "small", "width": 0}}, ("network", "small", "width"), "greater_than_equal"),
        (
            {"steps": 3, "network": {"kind": "small", "widht": 2}},
            ("network", "small", "widht"),
            "unexpected_keyword_argument",
        ),
    ],
)
def test_model_refuses(given: dict[str, Any], where: tuple[str, ...], kind: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        option_model(Part, "part")(**given)
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [(where, kind)]


def test_model_gives_a_schema() -> None:
    schema = option_model(Part, "part").model_json_schema()
    assert schema["title"] == "part" and schema["required"] == ["steps"] and schema["additionalProperties"] is False
    assert schema["properties"]["steps"]["maximum"] == 1000
    assert set(schema["properties"]["network"]["discriminator"]["mapping"]) == {"small", "large"}


def test_config_is_plain_and_builds_the_same_again() -> None:
    part = Part(None, None, steps=7, network=Large(widths=(3,)))
    assert part.config == {"steps": 7, "network": {"kind": "large", "widths": [3]}, "rate": None}
    again = Part(None, None, **dict(option_model(Part, "part")(**part.config)))
    assert again.config == part.config and again.network == part.network


def test_options_from_python_are_checked_and_converted_as_those_of_a_run_file() -> None:
    part = Part(None, None, steps=3, network={"kind": "large", "widths": [1, 2]})  # type: ignore[arg-type]
    assert part.network == Large(widths=(1, 2)) and part.rate is None
    assert Part(None, None, steps=3, network=Large()).network == Large()
    assert Part(None, condition_space=None, steps=3, name="x").steps == 3  # what Keras takes is none of ours
    for given, message in (
        (
            {"steps": 3, "netwrok": 1},
            r"^Part: unknown option 'netwrok'; did you mean 'network'\? \(it takes: steps, network",
        ),
        ({"steps": 0}, "^Part: steps: Input should be greater than or equal to 1$"),
        ({}, "^Part: steps: Field required$"),
        ({"steps": 3, "network": {"kind": "huge"}}, "^Part: network: .*'small'"),
    ):
        with pytest.raises(ConfigError, match=message):
            Part(None, None, **given)  # type: ignore[arg-type]


def test_a_subclass_is_checked_by_its_own_signature_and_may_pass_options_on() -> None:
    class Sub(Part):
        def __init__(self, space: Any, condition_space: Any, depth: int = 2, **kwargs: Any) -> None:
            super().__init__(space, condition_space, **{"steps": 7, **kwargs})
            self.depth = depth

    part = Sub(None, None, "3", steps=9)  # type: ignore[arg-type]  # its own option is converted, by position, too
    assert part.depth == 3 and part.steps == 9
    with pytest.raises(ConfigError, match=r"^Sub: unknown option 'dephts'; did you mean 'depth'\?"):
        Sub(None, None, dephts=3)

    class Swallowing(Configurable):
        def __init__(self, **kwargs: Any) -> None: ...

    Swallowing(dtype="float32")
    with pytest.raises(ConfigError, match=r"^Swallowing: unknown option 'stps' \(it takes: no options\)"):
        Swallowing(stps=3)

    class Same(Part):
        pass

    with pytest.raises(ConfigError, match=r"^Same: steps: .*; unknown option 'stps'; did you mean 'steps'\?"):
        Same(None, None, stps=3)  # type: ignore[call-arg]


def test_an_option_must_be_stored_as_it_was_given() -> None:
    class Lost(Configurable):
        def __init__(self, *, dim: int = 3) -> None:
            pass

    class Layers(Configurable):
        def __init__(self, *, network: Network = Small()) -> None:
            self.network = [object()]

    with pytest.raises(PluginError, match=r"Lost must store its option 'dim' as self\.dim$"):
        Lost().config  # noqa: B018
    with pytest.raises(PluginError, match=r"Layers must store its option 'network' .* store layers under another name"):
        Layers().config  # noqa: B018


def test_a_signature_that_no_file_can_serve_is_refused() -> None:
    def hidden(_a: int = 1) -> None: ...
    def name(name: str = "") -> None: ...
    def taken(copy: int = 1) -> None: ...
    def positional(a: int, /) -> None: ...

    for function, message in (
        (hidden, "'_a' is a name that no option can have"),
        (name, "'name' is a name that no option can have"),
        (taken, "'copy' is a name that no option can have"),
        (positional, "'a' can only be given by its position"),
    ):
        with pytest.raises(TypeError, match=message):
            option_model(function, "x")


def test_plain_is_what_yaml_holds() -> None:
    assert plain({"a": (1, 2), "b": Small(width=9)}) == {"a": [1, 2], "b": {"kind": "small", "width": 9}}


def test_options_of_a_class_without_constructor_are_none() -> None:
    class Bare(Configurable):
        pass

    assert Bare().config == {}
