"""What a generator can do is read from the types of its options, whatever they are called."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from parts import Painter
from pydantic import Field

import kgen
from kgen.contracts.capabilities import Capability, guides, option_of, sampling_steps, value_of
from kgen.contracts.generator import Generator
from kgen.options import split_options


class Renamed(Painter):
    """All capabilities, under other names."""

    def generate(
        self,
        condition: Any,
        null_condition: Any,
        noise: Any,
        source: Any = None,
        edit_mask: Any = None,
        *,
        weight: kgen.Guidance = 3.0,
        passes: Annotated[kgen.Steps, Field(le=9)] | None = None,
        change: kgen.Strength = 0.5,
        teacher: kgen.Guide = None,
        guidance: str = "a word like any other",
    ) -> Any:
        return noise["z"]


def test_options_carry_capabilities_by_their_types() -> None:
    names = [option_of(Renamed.generate, capability) for capability in Capability]
    assert names == ["weight", "passes", "change", None, "teacher"]
    assert Renamed.supports_guide and not (Painter.supports_guide or Generator.supports_guide)
    assert Renamed.supports_guidance and Renamed.supports_img2img and Renamed.supports_inpainting
    plain = Painter
    assert not (plain.supports_guidance or plain.supports_img2img or plain.supports_inpainting)
    assert not (Generator.supports_guidance or Generator.supports_img2img or Generator.supports_inpainting)


def test_values_are_those_given_or_the_defaults() -> None:
    generate = Renamed.generate
    assert value_of(generate, Capability.GUIDANCE, {}) == 3.0 and guides(generate, {})
    assert not guides(generate, {"weight": 1.0}) and not guides(Painter.generate, {})
    assert [sampling_steps(generate, given) for given in ({}, {"passes": 4})] == [1, 4]
    assert split_options(generate, {"weight": 1.0}) == (
        {"weight": 1.0, "passes": None, "teacher": None, "guidance": "a word like any other"},
        {"change": 0.5},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("source=None, *, strength: float = 0.5", "takes a source, but no option of the type kgen.Strength"),
        ("*, change: kgen.Strength = 0.5", "takes 'change' of the type kgen.Strength, but no source"),
        ("edit_mask=None", "takes an edit_mask, but no source that the mask could belong to"),
    ],
)
def test_half_a_capability_is_refused_when_the_class_is_defined(arguments: str, message: str) -> None:
    members: dict[str, Any] = {}
    exec(f"def generate(self, condition, null_condition, noise, {arguments}): ...", {"kgen": kgen}, members)
    with pytest.raises(kgen.PluginError, match=f"Half: generate {message}"):
        type("Half", (Painter,), members)
