"""Tries everything that a run will do on two images, before the training, to find errors that would occur hours later.

Two images are encoded, the losses of every training are computed, two images are generated, decoded and scored, and one
row of numbers is written. If a component returns something wrong, the error names it and its distribution.
`kgen.plugins.faults` does the same for exceptions.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from keras import ops

from kgen.backend.devices import as_graph
from kgen.backend.gradients import no_gradients
from kgen.backend.variables import kept_variables
from kgen.config import FitConfig, RunConfig
from kgen.contracts.capabilities import limit_passes, sampling_steps
from kgen.contracts.dataset import SPLITS, Dataset, Split
from kgen.contracts.decoder import Decoder, has_losses
from kgen.contracts.encoder import Condition, Encoder, freeze_trained
from kgen.contracts.inputs import AllEncoderInputs, EncoderInputs, are_texts, distinct, input_key, require_fields
from kgen.contracts.metric import GeneratedImages, measure
from kgen.data.order import random_numbers
from kgen.errors import PluginError
from kgen.evaluation.scoring import make_plans, require_enough_images
from kgen.experiments.experiment import Experiment, Metrics
from kgen.experiments.inputs import SplitImages
from kgen.experiments.prompts import prompts_to_generate
from kgen.experiments.shapes import check_parts, image_spaces, shape_of
from kgen.parts.construction import generator_for, make_decoder
from kgen.parts.trained import try_selection
from kgen.pipeline.assembly import assemble
from kgen.pipeline.model import Pipeline
from kgen.pipeline.sampler import noise_spec, validate_options
from kgen.pipeline.stage_models import DecoderModel, EncoderModel, uses_encoder
from kgen.pixels import floats, to_uint8
from kgen.plugins.faults import address, component_errors
from kgen.random import kept_randomness, noise_keys, sample
from kgen.runs.outputs import TRIED, check_in_space, check_numbers, require_finite, try_losses
from kgen.training.journal import Journal, read_rows
from kgen.training.trial import try_fit, try_loggers

Result = TypeVar("Result")
Item = TypeVar("Item")

SHOWN_TO_METRICS = 64
"""Number of images per split that a metric finds in the dataset."""

SHUFFLED = 64
"""Number of captions whose tags are shuffled, to find out whether an encoder can read them."""

LONG = 16
"""Number of steps above which a loop is traced before it runs."""


def preflight(experiment: Experiment, encoder: Encoder, assets: Mapping[str, Path] | None = None) -> Pipeline:
    """Builds the pipeline of a run, and tries everything that the run will do with it.

    This does not change the pipeline, which starts its training as if it had not been tried. If the decoder is trained
    in a separate stage, the decoder of the pipeline is only a substitute for the trained one. If the encoder has a
    separate stage, it still has its initial weights, and is already frozen.

    Args:
        experiment: The experiment.
        encoder: The encoder with its assets. Its weights need not be built.
        assets: Folders with the assets of "decoder" and "generator", for parts that already have assets.

    Raises:
        PluginError: a component violates its contract.
        KgenError: there is another error.
    """
    config, dataset, staged = experiment.config, experiment.dataset, "decoder" in experiment.stages
    assets = assets or {}
    require_fields(encoder, dataset)
    prompts = prompts_to_generate(config, dataset, encoder).inputs
    _tokenize_all(dataset, encoder)
    encoder.tokenize(prompts)
    _try_encoder_stage(experiment, encoder)
    images, inputs = examples(dataset, encoder)
    with kept_randomness() if staged else contextlib.nullcontext():
        decoder = _tried_decoder(experiment, encoder, assets.get("decoder"))
        check_parts(dataset, decoder)
        own = decoder.resized(image_spaces(dataset)[0])
        latents = _try_encoding(own, images)  # otherwise the generator would be blamed for an error here
    generator = generator_for(config.generator.choice, decoder, encoder)
    if "generator" in assets:
        generator.load_assets(assets["generator"])
    dropout = config.condition_dropout
    pipeline = assemble(
        encoder=encoder, generator=generator, decoder=decoder, dataset=dataset, condition_dropout=dropout
    )
    check_parts(dataset, decoder, pipeline.generator)
    parts = [encoder, pipeline.generator, *([] if staged else [decoder])]
    with kept_randomness(), kept_variables(variable for part in parts for variable in _changeable(part)):
        losses = _try_losses(pipeline, latents, inputs)
        try_fit(config.fit, pipeline.trainable_variables)
        _try_journal(losses)
        try_loggers(config.loggers, config.dump(), losses)
        with no_gradients():
            made = _try_generation(config, pipeline, _two(prompts), staged)
        if config.evaluate.likelihood.images:
            _try_likelihood(config, pipeline, images, inputs)
        require_enough_images(experiment, make_plans(experiment, encoder.fields))
        try_metrics(experiment.metrics, made, dataset)
        _try_saving(pipeline)
    gc.collect()  # Keras's models contain reference cycles
    return pipeline


def _changeable(part: Any) -> list[Any]:
    """The variables that trying a part may change, without external weights, whose copies could be large."""
    parts = part.parts() if isinstance(part, Encoder) else (part,)
    external = [variable for own in parts if getattr(own, "weights_are_external", False) for variable in own.variables]
    kept = {id(variable) for variable in external if variable.name != "seed_generator_state"}
    return [variable for variable in part.variables if id(variable) not in kept]


# ---- training ----------------------------------------------------------------------------------------------------


def _try_encoder_stage(experiment: Experiment, encoder: Encoder) -> None:
    """Tries the training stage of the encoder, if it has one, and freezes it."""
    fit, data = experiment.config.encoder.fit, experiment.stages.get("encoder")
    if data is not None and fit is not None:
        require_fields(encoder, data, "encoder.data")
        _tokenize_all(data, encoder)
        model = EncoderModel(encoder, data.image_space)  # builds all weights
        try_selection(model, fit)
        try_fit(fit, model.trainable_variables)
        images, inputs = examples(data, encoder)
        with kept_randomness(), kept_variables(_changeable(encoder)):
            tokens = _tensors(encoder.tokenize(inputs))
            try_losses(encoder, floats(ops.convert_to_tensor(images)), tokens)
            check_numbers(encoder.scores(images, inputs), encoder, "scores")
    freeze_trained(encoder)


def _tried_decoder(experiment: Experiment, encoder: Encoder, assets: Path | None) -> Decoder:
    """Builds the decoder of the configuration, and tries its training stage if it has one."""
    config, data = experiment.config, experiment.stages.get("decoder")
    decoder = make_decoder(config.decoder.choice, experiment.dataset.image_space, encoder.condition_space, encoder)
    if assets is not None:
        decoder.load_assets(assets)
    if data is not None and config.decoder.source is None:
        check_parts(data, decoder)
        _try_decoder_stage(decoder, data, encoder, config.decoder.fit)
    if not decoder.built:
        decoder.build(None)
    return decoder


def _try_decoder_stage(decoder: Decoder, data: Dataset, encoder: Encoder, fit: FitConfig | None) -> None:
    """Tries all steps of a decoder's training: initialization, losses if it has `fit`, calibration, and scores."""
    if fit is not None:
        model = DecoderModel(decoder, encoder)  # builds all weights
        try_selection(model, fit)
        try_fit(fit, model.trainable_variables)
    else:
        decoder.build(None)
    if uses_encoder(decoder):
        require_fields(encoder, data, "decoder.data")
        _tokenize_all(data, encoder)
    images, inputs = examples(data, encoder if uses_encoder(decoder) else None)
    condition = _condition(encoder, inputs) if uses_encoder(decoder) else {}
    # without losses, the calibration is the training, which may need more than two images
    batches = [images] if has_losses(type(decoder)) else SplitImages(data, "train")
    decoder.initialize(batches)
    if fit is not None:
        try_losses(decoder, floats(ops.convert_to_tensor(images)), condition)
    decoder.calibrate(batches)
    scores = decoder.scores([images])
    check_numbers(scores, decoder, "scores")


def _try_encoding(decoder: Decoder, images: np.ndarray) -> Any:
    """The latents of two images."""
    with kept_variables(_changeable(decoder)):
        latents = decoder.encode(floats(ops.convert_to_tensor(images)))
    return check_in_space(latents, decoder.latent_space, decoder, "encode")


def _try_losses(pipeline: Pipeline, latents: Any, inputs: Sequence[Any]) -> Mapping[str, np.ndarray]:
    condition = _condition(pipeline.encoder, inputs, training=True)
    pipeline.generator.initialize([(ops.convert_to_numpy(latents), _as_arrays(condition))])
    return try_losses(pipeline.generator, latents, condition)


def _condition(encoder: Encoder, inputs: Sequence[Any], training: bool = False) -> Condition:
    """The condition of inputs. Raises PluginError if it does not fit `condition_space`."""
    condition: Condition = encoder(encoder.tokenize(list(inputs)), training=training)
    space = encoder.condition_space
    expected = {
        "sequence": (len(inputs), space.length, space.dim),
        "mask": (len(inputs), space.length),
        "pooled": (len(inputs), space.pooled_dim),
    }
    found = {name: tuple(value.shape) for name, value in condition.items()}
    if found != expected:
        raise PluginError(f"{address(encoder)}: call returned {found}, but its condition_space says {expected}")
    for name, value in condition.items():
        require_finite(value, encoder, f"call returned a '{name}'")
    return condition


def _as_arrays(condition: Condition) -> Condition:
    return {name: ops.convert_to_numpy(ops.cast(value, "float32")) for name, value in condition.items()}


def _try_journal(losses: Mapping[str, np.ndarray]) -> None:
    """Writes a row of `metrics.csv` to a temporary folder, and reads it."""
    row = {name: float(value.mean()) for name, value in losses.items()}
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), list(row), 0)
        journal.write(1, row)
        (read,) = read_rows(journal.path)
        if any(abs(float(read[name]) - value) > 1e-5 * abs(value) + 1e-9 for name, value in row.items()):
            raise PluginError(f"the losses {row} were read back from metrics.csv as {read}")


# ---- sampling and scoring ----------------------------------------------------------------------------------------


def _try_generation(config: RunConfig, pipeline: Pipeline, prompts: Sequence[Any], staged: bool) -> np.ndarray:
    """Generates two images with the untrained pipeline, whose decoder may be a substitute: uint8 (2, H, W, C)."""
    encoder, generator, decoder = pipeline.encoder, pipeline.generator, pipeline.decoder
    given = dict(config.sample.options)
    for_decoder = validate_options(decoder, "decode", given.pop("decoder", {}))
    for_generator, guide = pipeline.checked_options(given, staged)
    guided = {} if guide is None else {guide.option: guide.model(guide.tokenize(prompts))}
    texts = [input_key(prompt) for prompt in prompts]
    keys = noise_keys(texts, [config.sample.seed] * TRIED, 1, config.sample.shared_noise)
    condition, null = _condition(encoder, prompts), _condition(encoder, [encoder.null] * TRIED)

    for part, own in ((generator, for_generator), (decoder, for_decoder)):
        noise_spec(part, own)  # checks the options as they are given, because fewer steps are tried

    def generate(own: dict[str, Any]) -> Any:
        noise = _tensors(sample(noise_spec(generator, own), keys))
        run = as_graph(
            lambda: generator.generate(condition, null, noise, **{**own, **guided}),
            generator.num_sampling_steps(**own) > LONG,
        )
        return check_in_space(run(), generator.space, generator, "generate")

    def decode(own: dict[str, Any]) -> Any:
        noise = _tensors(sample(noise_spec(decoder, own), keys))
        loops = sampling_steps(type(decoder).decode, own) > LONG
        run = as_graph(lambda: decoder.decode(latents, condition, noise, **own), loops)
        return check_in_space(run(), decoder.image_space, decoder, "decode")

    latents = _first_that_works(generate, limit_passes(type(generator).generate, for_generator, TRIED), for_generator)
    images = _first_that_works(decode, decoder.limit_passes(for_decoder, TRIED), for_decoder)
    return to_uint8(ops.convert_to_numpy(ops.cast(images, "float32")))


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts noise to tensors, as a pipeline does, because PyTorch's tensors do not mix with arrays."""
    return {name: ops.convert_to_tensor(array) for name, array in arrays.items()}


def _try_likelihood(config: RunConfig, pipeline: Pipeline, images: np.ndarray, inputs: Sequence[Any]) -> None:
    generator = pipeline.generator
    latents = pipeline.decoder.encode(floats(ops.convert_to_tensor(images)))
    condition = _condition(pipeline.encoder, inputs)

    def measure(own: dict[str, Any]) -> None:
        nats = generator.log_likelihood(latents, condition, **own)
        if tuple(ops.shape(nats)) != (TRIED,):
            raise PluginError(
                f"{address(generator)}: log_likelihood returned shape {tuple(ops.shape(nats))} for {TRIED} images: "
                "it must be one number per image, (B,)"
            )
        require_finite(nats, generator, "log_likelihood returned something")

    given = validate_options(generator, "log_likelihood", config.evaluate.likelihood.options)
    _first_that_works(measure, limit_passes(type(generator).log_likelihood, given, TRIED), given)


def try_metrics(metrics: Metrics, images: np.ndarray, dataset: Dataset) -> dict[Split, dict[str, list[str]]]:
    """Scores two images, or copies of them, by every metric, against the first images of the dataset.

    Args:
        metrics: The metrics by name.
        images: uint8 (2, H, W, C).
        dataset: The dataset.

    Returns:
        The names of the numbers of each metric, for each split that has prompts.

    Raises:
        PluginError: a metric violates its contract.
        KgenError: there is another error, such as a missing file of weights.
    """
    found: dict[Split, dict[str, list[str]]] = {}
    few = copy.copy(dataset)
    object.__setattr__(few, "captions", lambda split: dataset.captions(split)[:SHOWN_TO_METRICS])
    splits: tuple[Split, ...] = ("train", "holdout")
    for name, metric in metrics.items():
        for split in splits:
            if not few.captions(split):
                continue
            with component_errors(metric):
                copies = -(-metric.min_images // TRIED)
                batch = GeneratedImages(np.tile(images, (copies, 1, 1, 1)), _two(few.prompts(split)) * copies)
                scores = measure(copy.copy(metric), few, split, [batch])
            check_numbers(scores, metric, "compute")
            if not scores:
                raise PluginError(f"{address(metric)}: compute returned no number")
            if metric.headline is not None and metric.headline not in scores:
                raise PluginError(f"{address(metric)}: its headline '{metric.headline}' is not one of {list(scores)}")
            found.setdefault(split, {})[name] = list(dict.fromkeys([*scores, *metric.optional_numbers]))
    return found


def _try_saving(pipeline: Pipeline) -> None:
    """Writes the content of a saved pipeline except its weights."""
    for part in (pipeline.encoder, pipeline.generator, pipeline.decoder):
        yaml.safe_dump(part.config)
    with tempfile.TemporaryDirectory() as folder:
        for part in (pipeline.encoder, pipeline.generator, pipeline.decoder):
            part.save_assets(folder)


# ---- help --------------------------------------------------------------------------------------------------------


def _tokenize_all(dataset: Dataset, encoder: Encoder) -> None:
    """Tokenizes all texts that an encoder reads, such as captions and labels, or two other inputs, such as images.

    If training shuffles tags, it also tokenizes some captions with shuffled tags.
    """
    for part in encoder.parts():
        inputs = AllEncoderInputs(dataset, part.fields)
        rows = distinct(inputs).values() if are_texts(inputs) else (0, len(inputs) - 1)
        part.tokenize([inputs[row] for row in rows])
        if "caption" in part.fields and dataset.shuffle_tags:
            visits = EncoderInputs(dataset, "train", part.fields)
            few = range(0, len(visits), max(1, len(visits) // SHUFFLED))
            numbers = random_numbers(0, few).tolist()
            part.tokenize([visits.drawn(row, number) for row, number in zip(few, numbers, strict=True)])


def examples(dataset: Dataset, encoder: Encoder | None = None) -> tuple[np.ndarray, list[Any]]:
    """Two training images of one shape, uint8 (2, H, W, C), and the encoder's inputs for them.

    The first image of each split is checked, too.
    """
    groups = dataset.rows_by_shape("train")
    main = max(groups.values(), key=len) if groups else range(len(dataset.captions("train")))
    rows = (int(main[0]), int(main[-1]))
    for split in SPLITS:
        if dataset.captions(split):
            image, shape = dataset.image(split, 0), shape_of(dataset, split, 0)
            if tuple(image.shape) != shape or image.dtype != np.uint8:
                says = "rows_by_shape" if dataset.rows_by_shape(split) else "image_space"
                raise PluginError(
                    f"{address(dataset)}: image 0 of split '{split}' is {image.dtype} {tuple(image.shape)}, but its "
                    f"{says} says uint8 {shape}"
                )
    images = np.stack([dataset.image("train", row) for row in rows])
    if encoder is None:
        return images, []
    inputs = EncoderInputs(dataset, "train", encoder.fields)
    return images, [inputs[row] for row in rows]


def _two(items: Sequence[Item]) -> list[Item]:
    return [items[0], items[-1]]


def _first_that_works(
    function: Callable[[dict[str, Any]], Result], reduced: dict[str, Any], given: dict[str, Any]
) -> Result:
    """Calls a function with reduced options, which need less work, or with the given ones if it refuses those."""
    if reduced != given:
        with contextlib.suppress(Exception):
            return function(reduced)
    return function(given)
