"""The signature is the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field

from kgen.signature import Configurable, option_model, options, plain

pytestmark = pytest.mark.one_backend


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


def test_plain_is_what_yaml_holds() -> None:
    assert plain({"a": (1, 2), "b": Small(width=9)}) == {"a": [1, 2], "b": {"kind": "small", "width": 9}}


def test_options_of_a_class_without_constructor_are_none() -> None:
    class Bare(Configurable):
        pass

    assert Bare().config == {}
