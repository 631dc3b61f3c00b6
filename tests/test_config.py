from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
import yaml
from command_line import TOY
from made_plugins import installed

import kgen
from kgen.config import RunConfig, sampling_options
from kgen.config.schema import run_file_schema
from kgen.config.short_keys import load_run_file
from kgen.config.shortened import shortened
from kgen.config.source import parse_value, read_file
from kgen.parts.construction import make_dataset

SMALL = {"data": "squares", "encoder": "letters", "generator": "means", "fit": {"steps": 3}}
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))

pytestmark = pytest.mark.usefixtures("toy")


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refuse(*arguments: Any) -> str:
    with pytest.raises(kgen.ConfigError) as caught:
        RunConfig.from_dict(*arguments) if isinstance(arguments[0], dict) else RunConfig.load(*arguments)
    return str(caught.value)


# ---- the reader ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1E+2", -100.0),
        ("12", 12),
        ("+12", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("no", "no"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2001-12-14", "2001-12-14"),
        ("0b11", "0b11"),
        ("'1'", "1"),
        ('"null"', "null"),
        ("[red, 1, {a: 2}]", ["red", 1, {"a": 2}]),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: &x 1", "x.yaml:1: anchors (&x) are not allowed"),
        ("a: 1\nb: *x", "x.yaml:2: "),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml:1: tags (tag:yaml.org,2002:python/object/apply:os.system)"),
        ("a: !mine 1", "tags (!mine) are not allowed"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "tags (%TAG) are not allowed"),
        ("a: {b: 1}\n<<: {c: 1}", "x.yaml:2: merge keys (<<) are not allowed"),
        ("a: 1\n---\nb: 2", "x.yaml:2: a second document ('---') is not allowed"),
        ("fit:\n  steps: 1\n  steps: 2", "x.yaml:3: fit.steps: is given twice, at "),
        ("1: a", "x.yaml:1: keys must be text, not 1"),
        ("true: a", "keys must be text, not true"),
        ("[a]: b", "keys must be text, not ['a']"),
        ("a: .inf", ".inf is not a usable number"),
        ("a: 1e999", "1e999 is not a usable number"),
        ("a: " + "9" * 5000, "is not a usable number"),
        ('a: "\\ud800"', "is"),
        ("a: [1, 2", "is not valid YAML"),
        ("a: b: c", "x.yaml:1: is not valid YAML"),
        ("\tname: x", "is not valid YAML"),
        ("a: \x01", "control character '\\x01'"),
        ("a: \x00", "control character '\\x00'"),
        ("a: " + "[" * 21 + "]" * 21, "is nested more than 20 levels deep"),
        ("a: " + "[" * 400_000, "is nested more than 20 levels deep"),
        ("a: '" + "x" * 1_000_000 + "'", "is larger than 1,000,000 bytes"),
        ("", "is empty"),
        ("# nothing", "is empty"),
        ("- a", "must be a mapping"),
        ("just text", "must be a mapping"),
    ],
)
def test_unsupported_yaml_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(kgen.ConfigError) as caught:
        read_file(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_all_problems_of_the_structure_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, "a: &x 1\nb: *x\na: 2\n3: c\n")
    lines = refuse(path).splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3", "4"]


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    assert refuse(path).startswith(f"{path}:2: is not UTF-8 text")


def test_a_byte_order_mark_and_crlf_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes("\ufeffname: ä\r\nseed: 1\r\n".encode())
    assert read_file(path).data == {"name": "ä", "seed": 1}


@pytest.mark.parametrize("name, message", [("nothing.yaml", "there is no such file"), (".", "is a folder")])
def test_files_that_are_not_run_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    assert message in refuse(tmp_path / name)


# ---- the configuration ---------------------------------------------------------------------------


def test_defaults_are_filled_in_and_names_become_full_ids() -> None:
    config = RunConfig.from_dict(SMALL)
    assert config.name == "run" and config.decoder.name == "kgen/identity" and config.fit.schedule == "cosine"
    assert config.data.dump() == {"name": "toy/squares", "size": 8, "colors": ["red", "green"], "held": False}
    assert config.generator.options["network"] == {"kind": "linear", "bias": True}
    assert config.sample.options == {}, "these defaults belong to the sampler"


def test_the_name_is_the_files_by_default(tmp_path: Path) -> None:
    path = tmp_path / "red hearts.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    assert RunConfig.load(path).name == "red hearts"
    assert RunConfig.load(path, ["name=blue"]).name == "blue"


def test_dumped_configurations_read_back_equal(tmp_path: Path) -> None:
    given = {
        **SMALL,
        "name": "1e-3",
        "generator": {"name": "means", "network": {"kind": "deep", "rates": [1e-7, 3]}, "limit": None},
        "sample": {"prompts": ["on", "0o17", "null", "", "~", ".5", "ä\n: #", "true", "2001-01-01"]},
        "evaluate": {"metrics": ["brightness"]},
        "fit": {"steps": 3, "learning_rate": 1e-5, "ema": None},
    }
    config = RunConfig.from_dict(given)
    path = write(tmp_path, config.to_yaml())
    assert RunConfig.load(path) == config == RunConfig.from_dict(config.dump())
    assert config.name == "1e-3" and config.sample.prompts == tuple(given["sample"]["prompts"])
    assert yaml.safe_load(config.to_yaml())["fit"] == config.dump()["fit"], "other readers of YAML see the same numbers"


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        RunConfig.from_dict(SMALL).seed = 1  # type: ignore[misc]


def test_resolved_options_build_the_component() -> None:
    config = RunConfig.from_dict({**SMALL, "data": {"name": "squares", "size": 4, "colors": ["blue"]}})
    assert make_dataset(config.data.dump()).image("train", 0).tolist() == [[[0, 0, 255]] * 4] * 4


BAD = """\
data: {name: squares, colors: red}
encoder: {name: lettres}
generator:
  name: toy/means
  netwrok: {kind: deep}
  network:
    kind: deep
    widht: 3
    rates: [1, a]
  size: big
decoder: 3
fit:
  learning_rate: -1
  steps: "10"
  schedule: cosin
  warmup_steps: true
  ema: 1.0
precison: float32
sample:
  options: {setps: 3, strength: -1, decoder: {x: 1}}
evaluate: {metrics: [{name: brightnes}, {nome: brightness}, missing]}
condition_dropout: 1
"""


def test_all_problems_of_a_file_are_reported_one_a_line_in_its_order(tmp_path: Path) -> None:
    path = write(tmp_path, BAD)
    lines = [line.removeprefix(f"{path}:") for line in refuse(path).splitlines()]
    expected = [
        "1: data.colors: must be a list or 'all', got 'red'",
        "2: encoder: unknown encoder 'lettres': did you mean 'letters'",
        "5: generator.netwrok: unknown key; did you mean 'network'? (toy/means takes: network, limit, size, stride)",
        "8: generator.network.widht: unknown key; did you mean 'width'? ('network' takes: kind, width, depth, rates)",
        "9: generator.network.rates[1]: must be a number, got 'a'",
        "10: generator.size: must be a whole number or 'auto', got 'big'",
        "11: decoder: must be the name of one decoder, or a mapping with 'name' and options, got 3",
        "13: fit.learning_rate: must be greater than 0, got -1",
        "14: fit.steps: must be a whole number, got '10'",
        "15: fit.schedule: must be 'constant' or 'cosine', got 'cosin'; did you mean 'cosine'?",
        "16: fit.warmup_steps: must be a whole number, got true",
        "17: fit.ema: must be less than 1, got 1.0",
        "18: precison: unknown key; did you mean 'precision'? (a run file takes: name, ",
        "20: sample.options.setps: unknown key; did you mean 'steps'? (Means.generate takes: strength, steps)",
        "20: sample.options.strength: must be greater than or equal to 0, got -1",
        "21: evaluate.metrics[0]: unknown metric 'brightnes': did you mean 'brightness'",
        "21: evaluate.metrics[1]: needs 'name', one of ",
        "21: evaluate.metrics[2]: metric 'toy/missing' of kgen-plugin-toy 1.2 cannot be imported",
        "22: condition_dropout: must be less than 1, got 1",
    ]
    for line, start in zip(sorted(lines, key=lambda x: (int(x.split(":")[0]), x)), expected, strict=True):
        assert line.startswith(start)
    assert [int(line.split(":")[0]) for line in lines] == [int(start.split(":")[0]) for start in expected]


def test_the_end_of_a_key_is_enough_in_changes_of_a_run_file(tmp_path: Path) -> None:
    """If no other key of `fit`, `sample` and `evaluate` ends in it. A change may name another generator, too."""
    path = write(tmp_path, "{data: squares, encoder: letters, generator: vae/vae, fit: {steps: 3}}")
    config = load_run_file(path, ["generator=means", "strength=2", "images=5", "learning_rate=0.5", "fit.steps=7"])
    assert config == RunConfig.load(
        path,
        ["generator=means", "sample.options.strength=2", "evaluate.images=5", "fit.learning_rate=0.5", "fit.steps=7"],
    )
    for override, message in (
        ("every=3", "--set every=3: every: several keys end in it: sample.every or evaluate.every"),
        ("strenght=1", "--set strenght=1: strenght: unknown key; did you mean 'strength'?"),
        ("strength=x", "--set strength=x: sample.options.strength: must be a number, got 'x'"),
        ("steps=3", "--set steps=3: steps: several keys end in it: fit.steps or sample.options.steps"),
    ):
        with pytest.raises(kgen.ConfigError) as error:
            load_run_file(path, ["generator=means", override])
        assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fit": {}}, "configuration: fit.steps: is required"),
        ({"fit": {"steps": 0}}, "fit.steps: must be greater than 0, got 0"),
        ({"fit": 3}, "fit: must be a mapping, got 3"),
        ({"encoder": None}, "encoder: must be the name of one encoder"),
        (
            {"generator": {"name": "means", "network": {"width": 8}}},
            "generator.network: needs 'kind', one of linear, deep",
        ),
        (
            {"generator": {"name": "means", "network": {"kind": "dep"}}},
            "generator.network.kind: must be 'linear' or 'deep', got 'dep'; did you mean 'deep'?",
        ),
        ({"generator": {"name": "means", "network": 3}}, "generator.network: must be a mapping, got 3"),
        ({"generator": {"name": "means", "fit": {"steps": 3}}}, "generator.fit: unknown key"),
        ({"generator": {"name": "means", "from": "x"}}, "generator.from: unknown key"),
        ({"generator": "tokens"}, "generator.vocabulary: is required"),
        ({"data": {"name": "squares", "colors": [1]}}, "data.colors[0]: must be text, got 1"),
        ({"generator": {"name": 3}}, "generator.name: must be text, got 3"),
        ({"name": "../x"}, "name: names a folder"),
        ({"name": ""}, "name: names a folder"),
        ({"name": ".git"}, "name: names a folder"),
        ({"seed": -1}, "seed: must be greater than or equal to 0"),
        ({"seed": 2**31}, "seed: must be less than 2147483648"),
        ({"sample": {"prompts": []}}, "sample.prompts: "),
        ({"sample": {"prompts": "red"}}, "sample.prompts: must be a list, got 'red'"),
        ({"sample": {"options": 3}}, "sample.options: must be a mapping, got 3"),
        ({"sample": {"options": {"decoder": {"x": 1}}}}, "decoder.x: unknown key (Identity.decode takes: no options)"),
        ({"evaluate": {"metrics": "brightness"}}, "evaluate.metrics: must be a list, got 'brightness'"),
        ({"condition_dropout": math.nan}, "condition_dropout: must be"),
    ],
)
def test_one_problem(changes: dict[str, Any], message: str) -> None:
    found = refuse({**SMALL, **changes})
    assert message in found and len(found.splitlines()) == 1


def test_missing_parts_are_named() -> None:
    lines = refuse({}).splitlines()
    assert lines == [f"configuration: {key}: is required" for key in ("data", "encoder", "generator", "fit")]


# ---- overrides -----------------------------------------------------------------------------------


def test_overrides_set_options_and_replace_components() -> None:
    given = {**SMALL, "generator": {"name": "means", "network": {"kind": "deep", "width": 16}}}
    overrides = [
        "fit.steps=10",
        "fit.learning_rate=1e-4",
        "data.colors=[blue, white]",
        "generator.network.depth=4",
        "encoder.scale=2",
        "sample.options.strength=0.5",
        "decoder.name=kgen/identity",
    ]
    config = RunConfig.from_dict(given, overrides)
    assert (config.fit.steps, config.fit.learning_rate) == (10, 1e-4)
    assert config.data.options["colors"] == ["blue", "white"]
    assert config.generator.options["network"] == {"kind": "deep", "width": 16, "depth": 4, "rates": [0.5, 1.0]}
    assert config.encoder.dump() == {"name": "toy/letters", "scale": 2.0}
    assert config.sample.options == {"strength": 0.5}
    replaced = RunConfig.from_dict(given, ["generator=means", "generator.stride=2"])
    assert replaced.generator.options["network"]["kind"] == "linear" and replaced.generator.options["stride"] == 2


@pytest.mark.parametrize(
    "override, message",
    [
        ("fit.stpes=10", "--set fit.stpes=10: fit.stpes: unknown key; did you mean 'steps'?"),
        ("fit.steps=ten", "--set fit.steps=ten: fit.steps: must be a whole number, got 'ten'"),
        ("fit.steps", "--set fit.steps: must read KEY=VALUE"),
        ("fit..steps=3", "--set fit..steps=3: must read KEY=VALUE"),
        ("=3", "--set =3: must read KEY=VALUE"),
        ("fit.steps.x=3", "--set fit.steps.x=3: 'fit.steps' is 3, not a mapping"),
        ("fit.steps=[1", "--set fit.steps=[1: is not valid YAML"),
        ("data.colors=*all", "--set data.colors=*all: aliases (*all) are not allowed: quote the text"),
        ("data.colors=!!set {a}", "tags (tag:yaml.org,2002:set) are not allowed"),
        ("encoder=lettres", "--set encoder=lettres: encoder: unknown encoder 'lettres'"),
        ("decoder.x=1", "--set decoder.x=1: decoder.x: unknown key (kgen/identity takes: no options)"),
    ],
)
def test_a_wrong_override_is_reported_as_it_was_written(override: str, message: str) -> None:
    assert refuse(SMALL, [override]).startswith(message) or message in refuse(SMALL, [override])


def test_a_problem_in_a_value_that_an_override_replaced_is_the_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump({**SMALL, "data": {"name": "squares", "colors": ["red"]}}))
    found = refuse(path, ["data.colors=[blue, 1]", "data.colors=[1]"])
    assert found == "--set data.colors=[1]: data.colors[0]: must be text, got 1"


def test_an_override_can_fix_a_problem_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, BAD.replace("red}", "[red]}").split("encoder:")[0] + "encoder: letters\ngenerator: 3\n")
    found = refuse(path, ["generator=means", "fit.steps=x"])
    assert found == "--set fit.steps=x: fit.steps: must be a whole number, got 'x'"


def test_sampling_options_are_validated() -> None:
    from kgen_toy.parts import Means

    from kgen.contracts.identity import Identity

    assert sampling_options(["steps=2", "strength=0.5"], Means, Identity) == {"steps": 2, "strength": 0.5}
    with pytest.raises(kgen.ConfigError) as caught:
        sampling_options(["stps=2", "strength=-1", "decoder.y=1"], Means, Identity)
    assert str(caught.value).splitlines() == [
        "--set stps=2: stps: unknown key; did you mean 'steps'? (Means.generate takes: strength, steps)",
        "--set strength=-1: strength: must be greater than or equal to 0, got -1",
        "--set decoder.y=1: decoder.y: unknown key (Identity.decode takes: no options)",
    ]


def test_a_generator_without_generate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from kgen_toy.parts import Means

    monkeypatch.delattr(Means, "generate")
    assert refuse({**SMALL, "sample": {"options": {"steps": 3}}}) == (
        "configuration: sample.options: Means does not define 'generate'"
    )


# ---- the schema ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """Validates by the schema of all plugins, including the plugin `toy`."""
    with installed(TOY):
        schema = run_file_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_accepts_the_same_files_as_the_reader(validator: Any) -> None:
    assert validator.is_valid(SMALL)
    assert validator.is_valid(RunConfig.from_dict({**SMALL, "evaluate": {"metrics": ["brightness"]}}).dump())
    deep = {"name": "toy/means", "network": {"kind": "deep", "width": 4}}
    assert validator.is_valid({**SMALL, "generator": deep})
    assert validator.is_valid({**SMALL, "generator": {"name": "tokens", "vocabulary": 3}})
    for wrong in (
        {"generator": {**deep, "netwrok": 1}},
        {"generator": {**deep, "network": {"kind": "deep", "width": 3}}},
        {"generator": {**deep, "network": {"kind": "linear", "width": 8}}},
        {"generator": "letters"},
        {"generator": "tokens"},
        {"encoder": {"scale": 1}},
        {"fit": {}},
        {"fit": {"steps": 1, "ema": 1}},
        {"evaluate": {"metrics": ["letters"]}},
        {"stages": {}},
    ):
        assert not validator.is_valid({**SMALL, **wrong}), wrong
    for missing in SMALL:
        assert not validator.is_valid({key: value for key, value in SMALL.items() if key != missing})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_run_file_is_valid(path: Path, validator: Any) -> None:
    data = read_file(path).data
    assert not list(validator.iter_errors(data))
    config = RunConfig.load(path)
    assert RunConfig.from_dict(config.dump()) == config
    assert not list(validator.iter_errors(config.dump()))
    assert RunConfig.from_dict(shortened(config)) == config


def test_defaults_are_left_out() -> None:
    given = {
        "data": "squares",
        "encoder": ["letters", {"name": "letters", "condition_dropout": 0.5}],
        "generator": "means",
        "decoder": "kgen/identity",
        "fit": {"steps": 3, "ema": 0.5, "log_every": 50, "optimizer": {"name": "kgen/adamw", "beta_2": 0.999}},
        "sample": {"every": 500, "seed": 0},
        "evaluate": {"images": 8, "seeds": 1, "metrics": ["brightness"]},
    }
    config = RunConfig.from_dict(given)
    assert shortened(config) == {
        "name": "run",
        "data": "toy/squares",
        "encoder": {
            "name": "kgen/joint",
            "encoders": ["toy/letters", {"name": "toy/letters", "condition_dropout": 0.5}],
        },
        "generator": "toy/means",
        "fit": {"steps": 3, "ema": 0.5},
        "evaluate": {"images": 8, "metrics": ["toy/brightness"]},
    }
    assert RunConfig.from_dict(shortened(config)) == config


@pytest.mark.parametrize(
    "override, message",
    [
        ("fit.steps=99999999999999999999999", "99999999999999999999 is not a usable number"),
        ("fit.steps=9999999999", "fit.steps: must be at most 2,147,483,647"),
        ("seed=0x" + "f" * 5000, "is not a usable number"),
        ("sample.options={steps: [[{a: 9999999999}]]}", "sample.options.steps[0][0].a: must be at most 2,147,483,647"),
        ("a." * 5000 + "b=1", "has a key of more than 20 parts"),
    ],
)
def test_numbers_and_keys_have_bounds(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(kgen.ConfigError) as error:
        RunConfig.load(write(tmp_path, yaml.safe_dump(SMALL)), [override])
    assert message in str(error.value) and len(str(error.value)) < 500


def test_guidance_needs_dropped_conditions() -> None:
    parts = {**SMALL, "generator": "diffusion/diffusion", "condition_dropout": 0}
    message = refuse({**parts, "sample": {"options": {"guidance": 4}}})
    assert "sample.options.guidance: 4 compares with the empty text, which training never uses" in message
    for options in ({"guidance": 1.0}, {"steps": 3}):
        assert RunConfig.from_dict({**parts, "sample": {"options": options}}).condition_dropout == 0
    RunConfig.from_dict({**parts, "condition_dropout": 0.1, "sample": {"options": {"guidance": 4}}})
