"""Few compiled programs: for all values of options that are numbers, and for all numbers of images."""

from __future__ import annotations

import functools
import gc
import typing
import weakref
from typing import Annotated, Any

import keras
import numpy as np
import pytest
from keras import ops
from parts import Painter, Words
from pydantic import Field

import kgen
from kgen import Static, is_static
from kgen.backend import compiled
from kgen.backend.compiled import Compiled
from kgen.backend.programs import Programs, XlaPrograms, program_batch
from kgen.errors import XlaLimitWarning
from kgen.options import option_model, options, split_options, supplied
from kgen.parts.construction import find
from kgen.plugins.discovery import registry
from kgen.plugins.registry import Kind
from kgen.random import sample
from kgen.testing.execution import Program, as_arrays, evaluate, perturb, tensors
from kgen.testing.inputs import random_conditions, random_latents

SPACE = kgen.Space("continuous", (8, 8, 3))
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends delete programs")
TRACED_ONCE = keras.backend.backend() != "torch"
"""PyTorch compiles nothing, and runs a method at every call."""


# ---- which options are numbers ------------------------------------------------------------------------------------


class Everything:
    def generate(
        self,
        condition: Any,
        *,
        plain: float = 2.0,
        ranged: Annotated[float, Field(gt=0)] = 1.0,
        saved: Annotated[float, Field(ge=0), Static(0.0, 1.0)] = 1.0,
        optional: Annotated[float, Field(gt=0)] | None = None,
        named: Annotated[Annotated[float, Field(gt=0)] | None, Static(2.0)] = None,
        count: int = 3,
        whole: int | float = 3,
        flag: bool = False,
        sampler: typing.Literal["a", "b"] = "a",
        pair: Annotated[tuple[Annotated[float, Field(ge=0)], float], Field()] | None = None,
        sizes: tuple[int, ...] = (1, 2),
    ) -> None: ...


@pytest.mark.backends
def test_floats_are_tensors_and_all_other_options_are_static() -> None:
    static, numbers = split_options(Everything.generate, {})
    rest = {"count": 3, "whole": 3, "flag": False, "sampler": "a", "sizes": (1, 2)}
    assert numbers == {"plain": 2.0, "ranged": 1.0}
    assert static == {"saved": 1.0, "optional": None, "named": None, "pair": None, **rest}
    given = {"saved": 0.5, "optional": 3.0, "named": 1.0, "plain": 4, "pair": (0, 2.0)}
    static, numbers = split_options(Everything.generate, given)
    assert numbers == {"ranged": 1.0, **given} and static == rest
    assert split_options(Everything.generate, {"saved": 0, "named": 2.0})[0] == {
        "saved": 0,
        "named": 2.0,
        "optional": None,
        "pair": None,
        **rest,
    }


@pytest.mark.backends
def test_a_tensor_is_never_static() -> None:
    assert is_static(1.0, 1.0) and is_static(1, 1.0) and not is_static(2.0, 1.0)
    assert not is_static(ops.convert_to_tensor(1.0), 1.0) and not is_static(None, 0.0)


# ---- how many programs ----------------------------------------------------------------------------------------------


def test_batches_are_powers_of_two_that_waste_less_than_half() -> None:
    assert [program_batch(n, 64) for n in (1, 2, 3, 5, 8, 9, 33, 64, 65, 1000)] == [1, 2, 4, 8, 8, 16, 64, 64, 64, 64]
    assert [program_batch(n, 48) for n in (1, 20, 40, 100)] == [1, 32, 32, 32]
    assert [program_batch(n, 1) for n in (1, 2)] == [1, 1]
    for most in (1, 3, 64, 100):
        sizes = {program_batch(n, most) for n in range(1, 500)}
        assert max(sizes) <= most and len(sizes) <= np.log2(most) + 1
        assert all(program_batch(n, most) < 2 * n for n in range(1, 500))


def test_a_program_serves_up_to_four_batches_and_twice_the_rows() -> None:
    assert [program_batch(n, 64, {4}) for n in range(1, 18)] == [1, *[4] * 15, 32]
    assert [program_batch(n, 64, {1, 4, 32}) for n in (1, 2, 15, 16, 17, 64, 65, 200)] == [1, 4, 4, 32, 32, 32, 32, 64]
    assert program_batch(5, 2, {4}) == 2  # a smaller batch was asked for
    sizes: set[int] = set()
    for count in range(1, 300):
        sizes.add(program_batch(count, 64, sizes))
    assert len(sizes) <= 4


def test_the_least_recently_used_program_is_dropped() -> None:
    made: list[int] = []
    programs = Programs(limit=2)
    for key in (1, 2, 1, 3, 1, 2):
        programs.get(key, lambda key=key: made.append(key) or object())
    assert made == [1, 2, 3, 2] and len(programs) == 2


@on_tensorflow
def test_a_dropped_program_leaves_no_graph_behind() -> None:
    """TensorFlow registers a gradient for each SiLU of a graph, for ever, and the gradient refers to the graph."""
    graphs: list[Any] = []

    def function(batch: dict[str, Any]) -> Any:
        graphs.append(weakref.ref(batch["x"].graph))
        return ops.silu(batch["x"])

    program = Compiled(function, [])
    program.run({"x": np.ones((1, 4), np.float32)}, 1, 1)
    assert graphs and graphs[0]() is not None
    del program
    gc.collect()
    assert all(graph() is None for graph in graphs)


@on_tensorflow
def test_xla_compiles_a_limited_number_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow frees graphs, but nothing that XLA has compiled. The results are the same up to rounding errors."""
    monkeypatch.setattr(compiled, "xla_programs", XlaPrograms(limit=1))

    def function(batch: dict[str, Any]) -> Any:
        return ops.fori_loop(0, 5, lambda step, x: ops.softmax(2.0 * x), batch["x"])

    batch, found = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}, []
    with pytest.warns(XlaLimitWarning, match="XLA has compiled 1 programs in this process, .* A new process") as told:
        for looped in (None, *[keras.layers.Identity()] * 3):
            program = Compiled(function, [], looped)
            found.append((program.jit_compile, program.run(batch, 2, 2)))
    assert [jit for jit, _ in found] == [False, True, False, False] and len(told) == 1
    for _, made in found:
        np.testing.assert_allclose(made, found[0][1], rtol=1e-5)


@on_tensorflow
def test_kernels_of_a_dropped_program_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    """They took 0.4 MiB for each set of options (`benchmarks/options_memory.py`)."""
    from tensorflow.python.eager import context

    dropped: list[int] = []
    monkeypatch.setattr(context.context(), "clear_kernel_cache", lambda: dropped.append(len(programs)))
    programs = Programs(limit=2)
    for key in range(4):
        programs.get(key, object)
    assert dropped == [2, 2]


class Counting(Painter):
    """Counts how often its methods are run in Python: once per program."""

    likelihood = "exact"
    traced = 0

    def generate(
        self,
        condition: Any,
        null_condition: Any,
        noise: Any,
        source: Any = None,
        *,
        steps: int = 1,
        guidance: kgen.Guidance = 1.0,
        temperature: float = 1.0,
        strength: kgen.Strength = 0.5,
    ) -> Any:
        type(self).traced += 1
        x = self.mean(condition)
        if not is_static(guidance, 1.0):
            x = guidance * x + (1.0 - guidance) * self.mean(null_condition)
        if source is not None:
            x = (1.0 - strength) * source + strength * x
        return x + 0.1 * temperature * noise["z"]

    def log_likelihood(self, x: Any, condition: Any, *, scale: float = 1.0, samples: int = 1) -> Any:
        type(self).traced += 1
        return -scale * ops.sum(ops.square(x - self.mean(condition)), axis=(1, 2, 3))


@pytest.fixture
def pipeline() -> kgen.Pipeline:
    Counting.traced = 0
    keras.utils.set_random_seed(0)
    encoder = Words()
    encoder.adapt(["red", "blue"])
    return kgen.assemble(encoder=encoder, generator=Counting(SPACE, encoder.condition_space), image_space=SPACE)


@pytest.mark.backends
@pytest.mark.skipif(not TRACED_ONCE, reason="PyTorch compiles nothing")
def test_all_values_of_numbers_take_one_program(pipeline: kgen.Pipeline) -> None:
    image = np.zeros(SPACE.shape, np.uint8)
    pipeline.generate("red", guidance=0.5)
    pipeline.generate("red", guidance=0.5, image=image)
    before = Counting.traced
    made = {pipeline.generate("red", guidance=2 + i, temperature=1 + i / 9).tobytes() for i in range(12)}
    made |= {pipeline.generate("red", guidance=2.0, image=image, strength=0.08 * i).tobytes() for i in range(1, 13)}
    assert len(made) == 24
    assert Counting.traced == before and len(pipeline.programs) == 1


@pytest.mark.backends
@pytest.mark.skipif(not TRACED_ONCE, reason="PyTorch compiles nothing")
def test_numbers_of_images_share_programs(pipeline: kgen.Pipeline) -> None:
    pipeline.generate("red", n=3, guidance=2.0)
    before = Counting.traced
    for n in (2, 4, 7, 9, 16):
        assert len(pipeline.generate("red", n=n, guidance=1.5 + n)) == n
    assert len(pipeline.generate(["red", "blue", "green"], n=5, seed=[3, 1, 4], guidance=3.0)) == 15
    assert Counting.traced == before and len(pipeline.programs) == 1
    [program] = pipeline.programs
    assert list(program.program.sizes.values()) == [{4}]


@pytest.mark.backends
@pytest.mark.skipif(not TRACED_ONCE, reason="PyTorch compiles nothing")
def test_each_kind_of_call_compiles_once(pipeline: kgen.Pipeline) -> None:
    """The kinds: one prompt or many, with guidance or without, with a negative prompt or without."""
    many = ["red", "blue"] * 9
    kinds: list[dict[str, Any]] = [{}, {"guidance": 2.0}, {"guidance": 2.0, "negative_prompt": "blue"}]
    for prompts in ("red", many):
        for kind in kinds:
            before = Counting.traced
            pipeline.generate(prompts, **kind)
            assert Counting.traced == before + 1, (prompts, kind)
    before = Counting.traced
    for count, n in ((1, 3), (4, 1), (16, 1), (17, 2), (25, 1), (9, 7), (64, 2)):
        for guidance in (1.0, 0.5, 7.5):
            assert len(pipeline.generate(many[:1] * count, n=n, guidance=guidance)) == count * n
        assert len(pipeline.generate(many[:1] * count, n=n, guidance=3.0, negative_prompt="red")) == count * n
    assert Counting.traced == before and len(pipeline.programs) == 2


@pytest.mark.backends
@pytest.mark.skipif(not TRACED_ONCE, reason="PyTorch compiles nothing")
def test_numbers_of_images_compile_at_most_three_times(pipeline: kgen.Pipeline) -> None:
    for n in (1, 2, 4, 5, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 128, 200, 256):
        assert len(pipeline.generate("red", n=n)) == n
    assert Counting.traced <= 3


@pytest.mark.backends
@pytest.mark.skipif(not TRACED_ONCE, reason="PyTorch compiles nothing")
def test_likelihoods_take_one_program(pipeline: kgen.Pipeline) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, *SPACE.shape)).astype(np.uint8)
    first = pipeline.log_likelihood(images[:8], ["red"] * 8)
    before = Counting.traced
    for i in range(1, 7):
        found = pipeline.log_likelihood(images[:8], ["red"] * 8, scale=0.1 * i)
        np.testing.assert_allclose(found, 0.1 * i * first, rtol=1e-5)
    assert Counting.traced == before and len(pipeline.programs) == 1
    pipeline.log_likelihood(images[:8], ["red"] * 8, samples=2)
    assert Counting.traced > before and len(pipeline.programs) == 2


@pytest.mark.backends
def test_the_number_of_programs_is_bounded(pipeline: kgen.Pipeline) -> None:
    assert pipeline.programs.limit == 8
    pipeline.programs.limit = 2
    for steps in range(1, 5):
        pipeline.generate("red", steps=steps)
    assert len(pipeline.programs) == 2


@pytest.mark.backends
def test_without_guidance_there_is_no_second_pass(pipeline: kgen.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    mean = Painter.mean
    monkeypatch.setattr(Counting, "mean", lambda self, condition: passes.append(1) or mean(self, condition))
    pipeline.generate("red")
    alone = len(passes)
    pipeline.generate("red", guidance=1.0)
    assert len(passes) == alone or not TRACED_ONCE  # the default, when it is given, is the same program
    passes.clear()
    pipeline.generate("red", guidance=2.0)
    assert len(passes) == 2 * alone


# ---- every component ------------------------------------------------------------------------------------------------

CONDITIONS = kgen.ConditionSpace(length=2, dim=8)
VECTORS = kgen.Space("continuous", (CONDITIONS.pooled_dim,), bounded=False)
NETWORK = {"width": 8, "depth": 1, "heads": 2}
GRID, PIXELS = kgen.Space("tokens", (2, 2), vocabulary=16), kgen.Space("continuous", (8, 8, 3))
SUPERRES = {"width": 4, "multipliers": [1], "blocks": 1, "head_dim": 4}
DIT = {"kind": "dit", "patch": 4, "width": 8, "depth": 1, "heads": 2}
COMPONENTS: dict[str, tuple[Kind, kgen.Space, dict[str, Any], list[tuple[str, dict[str, Any]]]]] = {
    "diffusion/diffusion": (
        "generator",
        PIXELS,
        {"network": DIT},
        [
            ("generate", {"sampler": "ddim", "steps": 2, "guidance": 2.0, "guidance_rescale": 0.5, "eta": 0.5}),
            ("generate", {"sampler": "heun", "steps": 2, "dynamic_threshold": 0.9, "source": True}),
            ("generate", {"steps": 4, "guidance": 2.0, "guidance_interval": (0.5, 2.0)}),
            ("log_likelihood", {"steps": 2}),
        ],
    ),
    "gan/gan": (
        "generator",
        PIXELS,
        {"width": 4, "multipliers": [1], "latent_dim": 4, "features": 4},
        [("generate", {})],
    ),
    "realnvp/realnvp": (
        "generator",
        PIXELS,
        {"coupling": {"kind": "convolutional", "scales": 1, "couplings": 2, "width": 4}},
        [("generate", {})],
    ),
    "tokens/ar": (
        "generator",
        GRID,
        {"network": NETWORK},
        [("generate", {"guidance": 2.0, "top_p": 0.5, "temperature": 0.7})],
    ),
    "tokens/ar-nar": (
        "generator",
        GRID,
        {"network": NETWORK, "draft": NETWORK},
        [("generate", {"steps": 2, "rounds": 1, "guidance": 2.0, "top_p": 0.5})],
    ),
    "tokens/nar": (
        "generator",
        GRID,
        {"network": NETWORK},
        [
            ("generate", {"steps": 2, "guidance": 2.0, "top_p": 0.5, "guidance_rises": True}),
            ("generate", {"steps": 2, "source": True}),
        ],
    ),
    "vae/vae": (
        "generator",
        PIXELS,
        {"network": {"width": 4, "multipliers": [1], "attention": []}},
        [("generate", {})],
    ),
    "unclip/prior": (
        "generator",
        VECTORS,
        {"network": {"kind": "causal", **NETWORK}},
        [("generate", {"sampler": "ddim", "steps": 2, "guidance": 2.0, "eta": 0.5})],
    ),
    "unclip/ar-prior": (
        "generator",
        VECTORS,
        {"components": 3, "buckets": 4},
        [("generate", {"temperature": 0.7, "top_p": 0.5, "guidance": 2.0})],
    ),
    "unclip/decoder": (
        "decoder",
        PIXELS,
        {"network": DIT},
        [("decode", {"steps": 2, "guidance": 2.0, "guidance_rescale": 0.5, "dynamic_threshold": 0.9})],
    ),
    "superres/diffusion": (
        "decoder",
        PIXELS,
        {"factor": 2, "network": SUPERRES},
        [("decode", {"steps": 2, "augmentation": 0.1, "consistency": 0.5, "dynamic_threshold": 0.9})],
    ),
}


def embedder() -> kgen.Encoder:
    """A tiny CLIP, which embeds images."""
    text = {"kind": "transformer", "width": 8, "depth": 1, "heads": 2, "length": 8}
    image = {"kind": "convolutional", "size": 8, "width": 4, "multipliers": [1]}
    encoder = kgen.make_encoder({"name": "clip/clip", "text": text, "image": image, "dim": 8}, ["red", "blue"])
    encoder.null_condition()
    encoder.trainable = False
    return encoder


@functools.cache
def component(name: str) -> Any:
    """Returns it with all of its weights, none of which is zero."""
    kind, space, given, _ = COMPONENTS[name]
    cls = find(kind, name)[0].load()
    keras.utils.set_random_seed(0)
    checked = option_model(cls, name)(**given)
    made_of = {field: getattr(checked, field) for field in type(checked).model_fields}
    wiring = {"space": space, "image_space": space, "condition_space": CONDITIONS}
    if "encoder" in supplied(cls):
        wiring["encoder"] = embedder()
    made = cls(**{key: value for key, value in wiring.items() if key in supplied(cls)}, **made_of)
    if kind == "decoder":
        made.build(None)
    else:
        x = ops.convert_to_tensor(random_latents(space, 1, 0))
        made.compute_losses(x, tensors(conditions(1)), training=False)
    perturb(made)
    return made


def conditions(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return random_conditions(CONDITIONS, count, seed)


def arguments(part: Any, method: str, given: dict[str, Any], source: bool) -> dict[str, Any]:
    """Arrays for two rows, by the names of the method's arguments."""
    space = part.latent_space if method == "decode" else part.space
    latents, condition = random_latents(space, 2, 1), conditions(2)
    if method == "log_likelihood":
        return {"x": latents, "condition": condition}
    noise = {"noise": sample(part.noise_spec(**given), [(0, 0), (0, 1)])}
    if method == "decode":
        return {"latent": latents, "condition": condition, **noise}
    return {
        "condition": condition,
        "null_condition": conditions(2, 1),
        **noise,
        **({"source": latents} if source else {}),
    }


CASES = [
    pytest.param(name, number, marks=pytest.mark.slow if number else ())
    for name, (*_, calls) in COMPONENTS.items()
    for number in range(len(calls))
]


@pytest.mark.skipif(not TRACED_ONCE, reason="on PyTorch, a tensor is as good as a number")
@pytest.mark.parametrize(("name", "number"), CASES)
def test_numbers_may_be_tensors(name: str, number: int) -> None:
    """A program gives the same results whether numbers are its inputs or are compiled in."""
    part = component(name)
    method, given = COMPONENTS[name][3][number]
    given = dict(given)
    source = given.pop("source", False)
    function = getattr(type(part), method)
    _, numbers = split_options(function, given)
    static = {key: value for key, value in given.items() if key not in numbers}
    arrays = arguments(part, method, given, source)
    call = getattr(part, method)
    wanted = evaluate(part, lambda batch: call(**batch, **static, **numbers), arrays)

    def as_tensors(batch: dict[str, Any]) -> Any:
        return call(**batch["arrays"], **static, **batch["numbers"])

    assert numbers, "nothing to check: leave this case out"
    found = Program(part, as_tensors)({"arrays": arrays, "numbers": as_arrays(numbers)})
    np.testing.assert_allclose(found, ops.convert_to_numpy(wanted), rtol=1e-3, atol=1e-3)


def test_every_component_with_numbers_is_checked() -> None:
    """A new plugin, or a new option, must not be left out. A method that a component inherits is checked once."""
    checked = {
        getattr(find(kind, name)[0].load(), method)
        for name, (kind, *_, calls) in COMPONENTS.items()
        for method, _ in calls
    }
    for kind, methods in (("generator", ("generate", "log_likelihood")), ("decoder", ("decode",))):
        for declared in registry().of_kind(kind):
            if declared.id.startswith("toy/"):
                continue
            for method in methods:
                function = getattr(declared.load(), method)
                if any(split_options(function, {name: 0.123})[1] for name in options(function)):
                    assert function in checked, f"{declared.id}: check the numbers of {method}"
