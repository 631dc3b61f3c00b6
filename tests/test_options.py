"""The signature is the configuration."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import pytest
from pydantic import Field

from kgen import Decoder, Generator, Pipeline
from kgen.config.staged import STAGE_KEYS
from kgen.errors import ConfigError, PluginError, RunError
from kgen.options import Arguments, Configurable, check, option_model, options, plain, supplied
from kgen.storage.json_file import check_json


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
    arguments = {"__init__": Arguments(("space", "condition_space"), frozenset({"name"}))}  # noqa: RUF012

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
        self, condition: Any, null_condition: Any, noise: Any, *, steps: int = 10, scale: float = 1.0
    ) -> None: ...


def test_keyword_only_arguments_are_options() -> None:
    assert supplied(Part) == ("space", "condition_space") and supplied(Part.generate)[2] == "noise"
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
            r"^Part: netwrok: unknown key; did you mean 'network'\? \(Part takes: steps, network",
        ),
        ({"steps": 0}, "^Part: steps: must be greater than or equal to 1, got 0$"),
        ({}, "^Part: steps: is required$"),
        ({"steps": 3, "network": {"kind": "huge"}}, "^Part: network.kind: must be 'small' or 'large', got 'huge'$"),
        ({"steps": "3"}, "^Part: steps: must be a whole number, got '3'$"),
        ({"steps": True}, "^Part: steps: must be a whole number, got true$"),
        ({"steps": 3, "rate": object()}, "^Part: rate: must be plain data that a file can hold, got <object"),
    ):
        with pytest.raises(ConfigError, match=message):
            Part(None, None, **given)  # type: ignore[arg-type]


def test_numbers_of_numpy_and_tuples_are_those_of_python() -> None:
    part = Part(None, None, steps=np.int64(3), rate=np.float32(0.5), network=Large(widths=(np.int32(1), 2)))
    assert part.config == {"steps": 3, "rate": 0.5, "network": {"kind": "large", "widths": [1, 2]}}
    assert type(part.steps) is int and type(part.rate) is float


def test_a_subclass_is_checked_by_its_own_signature() -> None:
    class Sub(Part):
        def __init__(self, space: Any, condition_space: Any, *, depth: int = 2, **kwargs: Any) -> None:
            super().__init__(space, condition_space, **{"steps": 7, **kwargs})
            self.depth = depth

    part = Sub(None, condition_space=None, depth=3, dtype="float32")
    assert part.depth == 3 and part.steps == 7
    with pytest.raises(ConfigError, match=r"^Sub: dephts: unknown key; did you mean 'depth'\?"):
        Sub(None, None, dephts=3)
    with pytest.raises(ConfigError, match=r"^Sub: steps: unknown key"):  # it would not come back from a file
        Sub(None, None, steps=9)

    class Swallowing(Configurable):
        def __init__(self, **kwargs: Any) -> None: ...

    Swallowing(dtype="float32")
    with pytest.raises(ConfigError, match=r"^Swallowing: stps: unknown key \(Swallowing takes: no options\)"):
        Swallowing(stps=3)

    class Same(Part):
        pass

    with pytest.raises(ConfigError, match=r"^Same: steps: is required; stps: unknown key; did you mean 'steps'\?"):
        Same(None, None, stps=3)  # type: ignore[call-arg]


SUPPLIED = sorted({name for arguments in Generator.arguments.values() for name in arguments.supplied})
"""Arguments of a generator's methods. Those that its constructor does not have may be options there."""


@pytest.mark.parametrize("name", [name for name in SUPPLIED if name not in ("space", "condition_space")])
def test_an_option_may_be_called_as_an_argument_of_another_method(name: str) -> None:
    made: dict[str, Any] = {}
    code = f"""
class Odd(Configurable):
    arguments = {{"__init__": Generator.arguments["__init__"]}}
    def __init__(self, space: object, condition_space: object, *, {name}: int = 1, **kwargs: object) -> None:
        self.{name} = {name}
"""
    exec(code, {"Configurable": Configurable, "Generator": Generator}, made)
    odd = made["Odd"](None, None, **{name: 5})
    assert odd.config == {name: 5}
    assert made["Odd"](None, None, **odd.config).config == odd.config


@pytest.mark.parametrize(
    ("method", "signature", "message"),
    [
        (
            "__init__",
            "self, space, width=3",
            "'width' is not an argument that kgen supplies (space, condition_space), and",
        ),
        ("__init__", "self, condition_space, space", "must have this order: space, condition_space"),
        ("__init__", "self, *, space=None", "'space' comes after the '*', but kgen supplies it: put it before"),
        ("__init__", "self, space, *, name='x'", "no option can be named 'name', which means something else"),
        ("__init__", "self, space, *, config=1", "no option can be named 'config': Configurable.config already exists"),
        (
            "__init__",
            "self, space, *, get_config=1",
            "no option can be named 'get_config': Layer.get_config already exists",
        ),
        ("__init__", "self, space, *, losses=1", "no option can be named 'losses': Layer.losses already exists"),
        (
            "generate",
            "self, condition, null_condition, noise, steps=1",
            "'steps' is not an argument that kgen supplies",
        ),
        (
            "generate",
            "self, condition, null_condition, *, noise=1.0",
            "'noise' comes after the '*', but kgen supplies",
        ),
        ("generate", "self, condition, null_condition, noise, *, source=1", "'source' comes after the '*'"),
        ("generate", "self, condition, null_condition, noise, *, seed=1", "no option can be named 'seed', which"),
        ("log_likelihood", "self, x, condition, *, images=1", "no option can be named 'images'"),
        ("noise_spec", "self, steps=1", "'steps' is not an argument that kgen supplies (there is none)"),
    ],
)
def test_ambiguous_arguments_are_refused_when_the_class_is_defined(method: str, signature: str, message: str) -> None:
    with pytest.raises(PluginError, match=rf"^.*:Odd: {method}: .*{re.escape(message)}"):
        exec(f"class Odd(Generator):\n def {method}({signature}): ...", {"Generator": Generator, "__name__": "odd"})


def test_names_that_no_option_can_have_are_those_of_the_arguments_beside_them() -> None:
    beside = [Pipeline.generate, Pipeline.interpolate]
    names = {name for function in beside for name in inspect.signature(function).parameters}
    assert Generator.arguments["generate"].reserved == names - {"self", "options"}
    names = set(inspect.signature(Pipeline.log_likelihood).parameters)
    assert Generator.arguments["log_likelihood"].reserved == names - {"self", "options"}
    assert Decoder.arguments["__init__"].reserved == {"name", *STAGE_KEYS}


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
    def hidden(*, _a: int = 1) -> None: ...
    def taken(*, copy: int = 1) -> None: ...
    def untyped(*, width=1) -> None: ...  # type: ignore[no-untyped-def]

    for function, message in (
        (hidden, "'_a' is a name that no option can have"),
        (taken, "'copy' is a name that no option can have"),
        (untyped, "option 'width' has no type: write one, as in width: int"),
    ):
        with pytest.raises(TypeError, match=message):
            option_model(function, "x")


def test_plain_values_are_those_that_yaml_can_hold() -> None:
    assert plain({"a": (1, 2), "b": Small(width=9)}) == {"a": [1, 2], "b": {"kind": "small", "width": 9}}


def test_a_class_without_constructor_has_no_options() -> None:
    class Bare(Configurable):
        pass

    assert Bare().config == {}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Annotated[str, Field(min_length=1)], "", "must not be empty"),
        (Annotated[str, Field(min_length=2)], "a", "must have at least 2 characters"),
        (Annotated[str, Field(max_length=1)], "ab", "must have at most 1 character"),
        (Annotated[str, Field(min_length=1)] | None, "", "must not be empty"),
        (Annotated[list[int], Field(min_length=1)], [], "must not be empty"),
        (Annotated[tuple[int, ...], Field(max_length=2)], [1, 2, 3], "must have at most 2 items"),
        (Annotated[dict[str, int], Field(min_length=2)], {"a": 1}, "must have at least 2 keys"),
        (Annotated[str, Field(pattern="^a$")], "b", "must match the pattern ^a$"),
        (Annotated[float, Field(gt=0)], 0.0, "must be greater than 0, got 0.0"),
        (Literal["a", "b"], "c", "must be 'a' or 'b', got 'c'"),
        (bool, 1, "must be true or false, got 1"),
        (set[int], 3, "must be a list, got 3"),
        (dict[int, int], {"x": 1}, "must be a whole number"),
    ],
)
def test_messages_are_in_words_of_kgen(kind: Any, given: Any, message: str) -> None:
    model = pydantic.create_model("Model", option=(kind, ...))
    ((path, said),) = check(model, {"option": given}, "owner")[1]
    assert path[0] == "option" and said.startswith(message), said


def test_messages_about_damaged_files_are_in_words_of_kgen(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content, message in (
        ("{", "a.json is damaged: is not valid JSON: EOF while parsing"),
        ("[]", "a.json is damaged: must be a mapping"),
        ('{"a": {"b": 1}}', "a.json is damaged: a.b: must be text"),
    ):
        with pytest.raises(RunError) as error:
            check_json(file, content, dict[str, dict[str, str]])
        assert message in str(error.value)
