"""The validated content of a run file."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import pydantic_core
from pydantic import Field, NonNegativeInt, PositiveInt

from kgen.config.components import (
    DEFAULTS,
    OPTIMIZERS,
    PARTS,
    ComponentConfig,
    check_likelihood_options,
    check_method,
    check_no_guidance,
    check_sampling,
    report_twice,
    resolve,
    resolve_all,
)
from kgen.config.fit import resolve_fit
from kgen.config.overrides import Setting, apply_overrides, apply_setting
from kgen.config.sections import (
    FitConfig,
    InitConfig,
    LikelihoodConfig,
    SampleConfig,
    Section,
    Seed,
    as_sources,
    undivided,
)
from kgen.config.source import Origin, Source, read_file, to_yaml
from kgen.config.staged import StagedConfig, resolve_staged
from kgen.errors import ConfigError, PluginError
from kgen.options import plain
from kgen.options.renamed import rename_keys
from kgen.options.validation import KeyPath, check, show

BARE: Mapping[str, str | None] = {**DEFAULTS, **OPTIMIZERS}
"""The keys whose value may be only the name of a component; see `apply_setting`."""

RENAMED: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("evaluate",): {"copies": "samples_per_prompt", "limit": "max_prompts"},
    ("evaluate", "likelihood"): {"pictures": "images"},
}
"""Keys of earlier releases and their present names, by section."""


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}", name):
        raise ValueError(
            f"names a folder: it needs 1 to 100 characters, no slash and no dot at its start, got {show(name)}"
        )
    return name


Name = Annotated[str, pydantic.AfterValidator(_folder_name)]


class EvaluateConfig(Section):
    """Settings of the evaluation of a trained pipeline."""

    metrics: tuple[ComponentConfig, ...] = ()
    """Metrics that score the generated images."""
    likelihood: LikelihoodConfig = LikelihoodConfig()
    """Measurement of the likelihood in bits per dimension, for families that have one."""
    samples_per_prompt: PositiveInt = 1
    """Images per prompt, unless `images` is given."""
    images: PositiveInt | None = None
    """Images per split and seed, which the prompts share evenly; null: `samples_per_prompt` per prompt."""
    max_prompts: PositiveInt | None = None
    """Largest number of prompts per split; null: `images`, or 256 if that is null, too."""
    seeds: PositiveInt = 1
    """Number of seeds, from `sample.seed` on. Each generates all images once; the scores have a standard error."""
    batch_size: PositiveInt = 64
    """Images that are generated in one batch."""
    every: NonNegativeInt = 0
    """Steps between two evaluations during the training, which score few images as a proxy; 0: none."""
    proxy_images: PositiveInt = 64
    """Images per split of each evaluation during the training."""


class RunConfig(Section):
    """One experiment: a dataset, the three parts, and the settings of training, sampling and evaluation."""

    name: Name
    """Name of the run and of its directory; by default that of the file."""
    seed: Seed = 0
    """Seed of the initial weights, the order of the data and the noise of training."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy of the training. With mixed_float16, the loss is scaled by a factor that adapts to the gradients."""
    distribute: Literal["none", "mirrored", "multi_worker", "tpu", "data_parallel", "model_parallel"] = "none"
    """Strategy for several devices: mirrored, multi_worker and tpu need TensorFlow, data_parallel and model_parallel
    need JAX. Only model_parallel also divides the large weights among the devices (FSDP)."""
    data: ComponentConfig
    """The dataset: captioned images."""
    encoder: StagedConfig
    """The encoder, which turns a text, a label or an image into a condition; several in a list are joined; with `fit`,
    it is trained first."""
    generator: ComponentConfig
    """The generator, which turns noise and a condition into a latent."""
    decoder: StagedConfig
    """The decoder, which turns a latent into an image; with `fit`, it is trained before the generator."""
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of training examples whose condition is dropped, which classifier-free guidance needs."""
    init: tuple[InitConfig, ...] = ()
    """Weights with which the training of the encoder and the generator starts: a run directory, a mapping of `from`,
    `include` and `exclude`, or a list of these; null: random weights."""
    fit: FitConfig
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    loggers: tuple[ComponentConfig, ...] = (ComponentConfig(name="kgen/tensorboard"),)
    """Loggers of metrics, images and scores, besides metrics.csv: names, or mappings with names and options."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Reads and validates a run file; imports the classes of its components.

        Args:
            path: The run file.
            overrides: Keys to change, such as ["fit.steps=10", "encoder.dim=64", "data.match=[red, blue]"].
                "encoder=none" replaces a whole component.

        Raises:
            ConfigError: the message lists all errors, one per line, each with its place.
        """
        path = Path(path)
        return cls._build(read_file(path), overrides, path.stem)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """Validates plain data in the same way as `load`; `name` is "run" by default."""
        try:
            copied = plain(dict(data))
        except pydantic_core.PydanticSerializationError as error:
            raise ConfigError(f"configuration: holds what YAML cannot: {error}") from error
        return cls._build(Source(copied, Origin(0, "configuration")), overrides, "run")

    @classmethod
    def from_source(cls, source: Source, settings: Sequence[Setting], name: str = "run") -> Self:
        """Validates data of a file, with changes that were written elsewhere, in the same way as `load`.

        Args:
            source: The data and their places, which stay as they are.
            settings: The changes, in order.
            name: The default of the key `name`.
        """
        source = Source(copy.deepcopy(source.data), source.origin, dict(source.where))
        for setting in settings:
            apply_setting(source, setting, BARE)
        return cls._build(source, (), name)

    @classmethod
    def _build(cls, source: Source, overrides: Sequence[str], name: str) -> Self:
        apply_overrides(source, overrides, BARE)
        _rename(source.data)
        data = {"name": name, **source.data, "init": as_sources(source.data.get("init"))}
        classes: dict[str, type[Any] | None] = {}
        for key, kind in PARTS.items():
            if (value := data.get(key, DEFAULTS[key])) is not None or key in data:
                if kind == "encoder" or kind == "decoder":
                    data[key], classes[key] = resolve_staged(source, (key,), kind, value)
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
            encoder = data.get("encoder")
            shown = isinstance(encoder, dict) and ComponentConfig(**_component(encoder)).shows_null
            if data.get("condition_dropout") == 0 and not shown:
                check_no_guidance(source, place, sample.get("options", {}), classes.get("generator"))
        if isinstance(evaluate, dict) and isinstance(likelihood := evaluate.get("likelihood"), dict):
            place = ("evaluate", "likelihood")
            check_likelihood_options(source, place, likelihood, classes.get("generator"), classes.get("decoder"))
        if isinstance(evaluate, dict) and isinstance(metrics := evaluate.get("metrics"), list):
            data["evaluate"] = {**evaluate, "metrics": resolve_all(source, ("evaluate", "metrics"), "metric", metrics)}
        if "fit" in data:
            data["fit"] = resolve_fit(source, ("fit",), data["fit"])
        if isinstance(loggers := data.get("loggers"), list):
            data["loggers"] = resolve_all(source, ("loggers",), "logger", loggers)
            report_twice(source, ("loggers",), data["loggers"])
        checked, problems = check(cls, data, "a run file")
        for path, message in problems:
            source.report(_as_written(path, source.data), message)
        if isinstance(checked, cls):
            _check_intervals(source, checked)
        source.raise_problems()
        assert isinstance(checked, cls)
        return checked

    def dump(self) -> dict[str, Any]:
        """The whole configuration as plain data, with every default; `from_dict` reads it."""
        data = self.model_dump(mode="json")
        data |= {key: getattr(self, key).dump() for key in PARTS}
        data["init"] = [source.dump() for source in self.init]
        data["fit"] = self.fit.dump()
        data["loggers"] = [logger.dump() for logger in self.loggers]
        data["evaluate"]["metrics"] = [metric.dump() for metric in self.evaluate.metrics]
        return data

    def to_yaml(self) -> str:
        """The text of `dump` as a run file, which `load` reads."""
        return to_yaml(self.dump())


def _as_written(path: KeyPath, data: Any) -> KeyPath:
    """The path of a key below `init`, whose only item may be written without a list."""
    for depth, key in enumerate(path):
        if isinstance(data, dict) and key in data:
            data = data[key]
        elif key == 0 and path[depth - 1 : depth] == ("init",):
            return (*path[:depth], *path[depth + 1 :])
    return path


def _check_intervals(source: Source, config: RunConfig) -> None:
    """Reports intervals outside of the `fit` sections that `fit.steps_per_execution` does not divide."""
    grids, scorings = {"sample.every": config.sample.every}, {"evaluate.every": config.evaluate.every}
    for path, fit, intervals in (
        (("fit",), config.fit, grids | scorings),
        (("decoder", "fit"), config.decoder.fit, grids),
    ):
        if fit is not None and (problem := undivided(fit.steps_per_execution, intervals)):
            source.report((*path, "steps_per_execution"), problem)


def _component(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a `ComponentConfig` among those of a `StagedConfig`."""
    return {key: data[key] for key in ComponentConfig.model_fields if key in data}


def _rename(data: dict[str, Any]) -> None:
    """Replaces the keys of earlier releases by their present names."""
    for path, renamed in RENAMED.items():
        section: Any = data
        for key in path:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            rename_keys(section, renamed, ".".join(path))


def sampling_options(overrides: Sequence[str], generator: type[Any], decoder: type[Any]) -> dict[str, Any]:
    """Reads options of `Pipeline.generate`, such as ["steps=20", "guidance=3", "decoder.KEY=VALUE"].

    Raises:
        ConfigError: the message lists all errors, one per line.
    """
    source = _overridden(overrides)
    check_sampling(source, (), source.data, generator, decoder)
    source.raise_problems()
    return source.data


def decoding_options(overrides: Sequence[str], decoder: type[Any], *, section: str = "") -> dict[str, Any]:
    """Reads options of a decoder's `decode`, such as ["steps=20"].

    Args:
        overrides: The options.
        decoder: The class of the decoder.
        section: The name that all keys begin with: "decoder" for ["decoder.steps=20"]; "": none.

    Raises:
        ConfigError: the message lists all errors, one per line.
    """
    source = _overridden(overrides)
    path = (section,) if section else ()
    given = source.data.get(section, {}) if section else source.data
    for key in source.data.get("decoder", {}) if not section else ():
        source.report(("decoder", key), "leave 'decoder.' out: all options here are those of the decoder")
    source.raise_problems()
    check_method(source, path, given, decoder, "decode")
    source.raise_problems()
    return dict(given)


def _overridden(overrides: Sequence[str]) -> Source:
    source = Source({}, Origin(0, "--set"))
    apply_overrides(source, overrides, {})
    source.raise_problems()
    return source
