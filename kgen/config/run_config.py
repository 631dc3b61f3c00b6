"""What a run file holds, after it was checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import pydantic_core
from pydantic import Field, PositiveInt

from kgen.config.components import (
    DEFAULTS,
    PARTS,
    ComponentConfig,
    check_likelihood_options,
    check_method,
    check_sampling,
    resolve,
)
from kgen.config.decoder import DecoderConfig, resolve_decoder
from kgen.config.overrides import apply_overrides
from kgen.config.sections import FitConfig, LikelihoodConfig, SampleConfig, Section, Seed
from kgen.config.source import Origin, Source, read_file, to_yaml
from kgen.errors import ConfigError, PluginError
from kgen.options import plain
from kgen.options.renamed import rename_keys
from kgen.options.validation import check, show

RENAMED: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("evaluate",): {"copies": "samples_per_prompt", "limit": "max_prompts"},
    ("evaluate", "likelihood"): {"pictures": "images"},
}
"""Keys of earlier releases and their names now, by section."""


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}", name):
        raise ValueError(
            f"names a folder: it needs 1 to 100 characters, no slash and no dot at its start, got {show(name)}"
        )
    return name


Name = Annotated[str, pydantic.AfterValidator(_folder_name)]


class EvaluateConfig(Section):
    """How a trained pipeline is scored."""

    metrics: tuple[ComponentConfig, ...] = ()
    """What to measure."""
    likelihood: LikelihoodConfig = LikelihoodConfig()
    """The likelihood in bits per dimension, of the families that have one."""
    samples_per_prompt: PositiveInt = 1
    """Images a prompt."""
    max_prompts: PositiveInt = 256
    """Most prompts of a split to draw."""
    batch_size: PositiveInt = 64
    """Images that are drawn together."""


class RunConfig(Section):
    """One experiment: a dataset, three parts, and how to train, draw and score."""

    name: Name
    """Of the run, and of its directory; the file's by default."""
    seed: Seed = 0
    """Of the weights, the order of the data and the noise of training."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """What the arithmetic of training is done in."""
    distribute: Literal["none", "mirrored", "multi_worker", "tpu", "data_parallel"] = "none"
    """Over which devices: mirrored, multi_worker and tpu on TensorFlow, data_parallel on JAX."""
    data: ComponentConfig
    """Captioned images."""
    encoder: ComponentConfig
    """Text, label or image -> condition; a list of several is joined."""
    generator: ComponentConfig
    """Noise and condition -> latent."""
    decoder: DecoderConfig
    """Latent -> image; with `fit`, it is trained first."""
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of training examples that lose their condition; classifier-free guidance needs it."""
    init: str | None = None
    """The directory of a run whose encoder and generator training starts from; null: from random weights."""
    fit: FitConfig
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Reads and checks a run file; imports the classes of its components.

        Args:
            overrides: Such as ["fit.steps=10", "encoder.dim=64", "data.match=[red, blue]"]. A whole component is
                replaced by "encoder=none".

        Raises:
            ConfigError: all that is wrong, one problem a line, each with its place.
        """
        path = Path(path)
        return cls._build(read_file(path), overrides, path.stem)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """As `load`, from plain data; `name` is "run" by default."""
        try:
            copied = plain(dict(data))
        except pydantic_core.PydanticSerializationError as error:
            raise ConfigError(f"configuration: holds what YAML cannot: {error}") from error
        return cls._build(Source(copied, Origin(0, "configuration")), overrides, "run")

    @classmethod
    def _build(cls, source: Source, overrides: Sequence[str], name: str) -> Self:
        apply_overrides(source, overrides, DEFAULTS)
        _rename(source.data)
        data = {"name": name, **source.data}
        classes: dict[str, type[Any] | None] = {}
        for key, kind in PARTS.items():
            if (value := data.get(key, DEFAULTS[key])) is not None or key in data:
                if kind == "decoder":
                    data[key], classes[key] = resolve_decoder(source, (key,), value)
                    continue
                component, classes[key] = resolve(source, (key,), kind, value)
                data[key] = component.model_dump()
        sample, evaluate = data.get("sample"), data.get("evaluate")
        if isinstance(sample, dict):
            place = ("sample", "options")
            try:
                check_sampling(
                    source, place, sample.get("options", {}), classes.get("generator"), classes.get("decoder")
                )
            except PluginError as error:
                source.report(place, str(error))
            given = sample.get("options")
            guidance = given.get("guidance", 1) if isinstance(given, dict) else 1
            shown = isinstance(encoder := data.get("encoder"), dict) and ComponentConfig(**encoder).shows_null
            if guidance != 1 and data.get("condition_dropout") == 0 and not shown:
                source.report(
                    (*place, "guidance"),
                    f"{show(guidance)} compares with the empty text, but condition_dropout is 0, so training never "
                    "shows it: give a condition_dropout, such as 0.1, or leave guidance out",
                )
        if isinstance(evaluate, dict) and isinstance(likelihood := evaluate.get("likelihood"), dict):
            place = ("evaluate", "likelihood")
            check_likelihood_options(source, place, likelihood, classes.get("generator"), classes.get("decoder"))
        if isinstance(evaluate, dict) and isinstance(metrics := evaluate.get("metrics"), list):
            found = [resolve(source, ("evaluate", "metrics", i), "metric", m)[0] for i, m in enumerate(metrics)]
            data["evaluate"] = {**evaluate, "metrics": [metric.model_dump() for metric in found]}
        checked, problems = check(cls, data, "a run file")
        for path, message in problems:
            source.report(path, message)
        source.raise_problems()
        assert isinstance(checked, cls)
        return checked

    def dump(self) -> dict[str, Any]:
        """The whole configuration as plain data, with every default; `from_dict` reads it."""
        data = self.model_dump(mode="json")
        data |= {key: getattr(self, key).dump() for key in PARTS}
        data["evaluate"]["metrics"] = [metric.dump() for metric in self.evaluate.metrics]
        return data

    def to_yaml(self) -> str:
        """`dump` as a run file; `load` reads it."""
        return to_yaml(self.dump())


def _rename(data: dict[str, Any]) -> None:
    """Reads the keys of earlier releases under the names that they have now."""
    for path, renamed in RENAMED.items():
        section: Any = data
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            rename_keys(section, renamed, ".".join(path))


def sampling_options(overrides: Sequence[str], generator: type[Any], decoder: type[Any]) -> dict[str, Any]:
    """Reads options for `Pipeline.generate`: ["steps=20", "guidance=3", "decoder.KEY=VALUE"].

    Raises:
        ConfigError: all that is wrong, one problem a line.
    """
    source = _overridden(overrides)
    check_sampling(source, (), source.data, generator, decoder)
    source.raise_problems()
    return source.data


def decoding_options(overrides: Sequence[str], decoder: type[Any]) -> dict[str, Any]:
    """Reads options of a decoder's `decode`: ["steps=20"]. Raises ConfigError, as `sampling_options`."""
    source = _overridden(overrides)
    check_method(source, (), source.data, decoder, "decode")
    source.raise_problems()
    return source.data


def _overridden(overrides: Sequence[str]) -> Source:
    source = Source({}, Origin(0, "--set"))
    apply_overrides(source, overrides, {})
    source.raise_problems()
    return source
