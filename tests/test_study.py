"""Studies: what they say, what is refused before anything runs, and which trials and trainings follow."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import GOOD, Trained

from kgen.config import RunConfig
from kgen.config.changes import training_part
from kgen.config.source import Origin, Source, to_yaml
from kgen.errors import ConfigError
from kgen.storage.checkpoints import checkpoint_steps, kept_steps
from kgen.studies.axes import file_name, file_names, key_axis, parse_over, short_names
from kgen.studies.study import Study
from kgen.studies.trials import Plan, make_plan
from kgen.sweeps.jobs import make_job

pytestmark = pytest.mark.usefixtures("toy")

OWN_RUN = """
    run:
      data: {name: shapes, size: 16, count: 4}
      encoder: text/bag
      generator: diffusion/diffusion
      fit: {steps: 4, checkpoint_every: 2}
"""
"""The run of a study whose trials refer to their own runs."""


def study(tmp_path: Path, text: str) -> Study:
    """A study of the run file `good.yaml`, which is beside it."""
    (tmp_path / "good.yaml").write_text(GOOD, encoding="utf-8")
    path = tmp_path / "study.yaml"
    text = textwrap.dedent(text).lstrip("\n")
    path.write_text(text if text.startswith("run:") else f"run: good.yaml\n{text}", encoding="utf-8")
    return Study.load(path)


def plan(tmp_path: Path, text: str) -> Plan:
    return make_plan(study(tmp_path, text), tmp_path / "runs")


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        plan(tmp_path, text)
    return str(error.value)


def test_values_of_the_command_line_are_yaml() -> None:
    assert parse_over("generator.width=64, 128") == ("generator.width", [64, 128])
    assert parse_over("encoder=text/bag,text/transformer")[1] == ["text/bag", "text/transformer"]
    assert parse_over("a=[1,2],[3,4]")[1] == [[1, 2], [3, 4]]
    assert parse_over("a={kind: dit, width: 8},null,1e-3,true,'1'")[1] == [
        {"kind": "dit", "width": 8},
        *(None, 1e-3, True, "1"),
    ]
    for wrong in ("a", "=1", "a.=1", "a=", "a=1]", "a=[1", "a=1,,2", "a=1 # b"):
        with pytest.raises(ConfigError, match=r"^--over "):
            parse_over(wrong)


def test_trials_are_the_product_of_the_axes_and_share_trainings(tmp_path: Path) -> None:
    made = plan(tmp_path, "over: {seed: [3, 4], sample.options.strength: [0, 0.5], generator.stride: [1, 2]}")
    assert [trial.name for trial in made.trials][:3] == [
        "seed-3_strength-0_stride-1",
        "seed-3_strength-0_stride-2",
        "seed-3_strength-0.5_stride-1",
    ]
    assert len(made.trials) == 8
    assert [training.name for training in made.trainings] == [f"seed-{s}_stride-{n}" for s in (3, 4) for n in (1, 2)]
    for training in made.trainings:
        assert training.directory == tmp_path / "runs" / training.name
        assert [trial.config.sample.options for trial in training.trials] == [{"strength": 0}, {"strength": 0.5}]
        assert (
            training.config is not None and not training.config.evaluate.metrics and not training.config.sample.options
        )
        for trial in training.trials:
            assert trial.config.name == training.name
            assert training_part(trial.config.dump()) == training_part(training.config.dump())
    second = made.trainings[1].trials[0].config
    assert (second.seed, second.generator.options["stride"], second.fit.steps) == (3, 2, 6)


def test_a_single_trial_is_evaluated_by_its_run(tmp_path: Path) -> None:
    made = plan(tmp_path, "over: {generator.stride: [1, 2]}\nevaluate: {seeds: 2}\nset: {strength: 0.5}")
    for training, trial in zip(made.trainings, made.trials, strict=True):
        assert training.config == trial.config and training.trials == (trial,)
        assert trial.config.evaluate.seeds == 2 and trial.config.evaluate.metrics[0].name == "toy/brightness"
        assert trial.config.sample.options == {"strength": 0.5}


def test_named_axes_set_several_keys_and_name_their_values(tmp_path: Path) -> None:
    text = """
    over:
      method:
        plain: {}
        large: {generator.network: {kind: deep, depth: 2}, strength: 1}
      generator.network.depth: [1, 3]
    """
    with pytest.raises(ConfigError, match=r"study.yaml:5: generator.network: the axis .* overwrites it") as error:
        plan(tmp_path, text.replace("generator.network.depth", "generator"))
    assert "good.yaml" not in str(error.value)
    made = plan(tmp_path, text.replace("plain: {}", "plain: {generator.network: {kind: deep}}"))
    assert [trial.name for trial in made.trials] == [
        f"method-{method}_depth-{depth}" for method in ("plain", "large") for depth in (1, 3)
    ]
    assert made.trials[3].config.generator.options["network"]["depth"] == 3
    assert made.trials[3].config.sample.options == {"strength": 1}


def test_a_variable_stands_in_the_values_of_named_axes(tmp_path: Path) -> None:
    """So that the lines of a plot can vary one number that each of them sets under another key."""
    text = """
        over:
          x: [0.25, 0.5]
          method:
            strong: {strength: "{x}"}
            weak: {evaluate.metrics: [brightness, {name: retrieval, k: [1, "{n}"]}], sample.seed: 7}
          n: [5, 3]
        """
    made = plan(tmp_path, text)
    names = [trial.name for trial in made.trials]
    assert names[:3] == ["x-0.25_method-strong_n-5", "x-0.25_method-strong_n-3", "x-0.25_method-weak_n-5"]
    assert len(made.trainings) == 1, "no variable is a key of the training"
    assert [trial.config.sample.options for trial in made.trials[::4]] == [{"strength": 0.25}, {"strength": 0.5}]
    weak = [trial.config.evaluate.metrics[1].options["k"] for trial in made.trials if trial.config.sample.seed == 7]
    assert weak == [[1, 5], [1, 3]] * 2
    axes = study(tmp_path, text).axes
    assert [axis.numeric for axis in axes] == [True, False, True]
    trained = plan(tmp_path, 'over: {n: [1, 2], method: {a: {generator.stride: "{n}"}, b: {seed: "{n}"}}}')
    assert [training.name for training in trained.trainings] == [f"n-{n}_method-{m}" for n in (1, 2) for m in "ab"]
    assert [training.config and training.config.seed for training in trained.trainings] == [0, 1, 0, 2]


def test_a_named_value_without_an_effect_on_the_training_shares_it(tmp_path: Path) -> None:
    made = plan(tmp_path, "over: {method: {a: {}, b: {strength: 1}, c: {generator.stride: 2}, d: {fit.log_every: 1}}}")
    assert [[trial.name for trial in t.trials] for t in made.trainings] == [
        ["method-a", "method-b", "method-d"],
        ["method-c"],
    ]


def test_metrics_and_evaluation_replace_those_of_the_run(tmp_path: Path) -> None:
    text = "over: {seed: [0]}\nmetrics: [{name: retrieval, k: [1]}]\nevaluate: {max_prompts: 3}"
    (trial,) = plan(tmp_path, text).trials
    assert [metric.name for metric in trial.config.evaluate.metrics] == ["kgen/retrieval"]
    assert trial.config.evaluate.max_prompts == 3 and trial.config.evaluate.likelihood.images == 0


def test_runs_that_trials_refer_to_come_first(tmp_path: Path) -> None:
    text = """
    set: {fit.steps: 4}
    runs: {small: {generator.stride: 2}}
    over: {init: [null, "{runs}/small"], seed: [0, 1]}
    """
    made = plan(tmp_path, text)
    (small,) = made.first
    assert small.name == "small" and small.config is not None and not small.config.evaluate.metrics
    assert (small.config.fit.steps, small.config.generator.options["stride"]) == (4, 2)
    assert [trial.needs for trial in made.trials] == [frozenset()] * 2 + [frozenset({"small"})] * 2
    assert made.trials[2].config.init[0].source == str(tmp_path / "runs" / "small")
    assert made.trials[0].name == "init-null_seed-0"
    assert "over.init[1]: {runs}/smal: there is no such run; did you mean 'small'?" in refusal(
        tmp_path, text.replace("}/small", "}/smal")
    )
    assert "cannot refer to another" in refusal(tmp_path, text.replace("stride: 2}", 'stride: 2, init: "{runs}/x"}'))
    assert "runs: 'seed-0' is also the name" in refusal(
        tmp_path, "runs: {seed-0: {}}\nover: {seed: [0, 1]}\nset: {init: '{runs}/seed-0'}"
    )


def test_a_run_may_train_only_one_part(tmp_path: Path) -> None:
    """Other values use the part of that run, as with `kgen run --stage`."""
    text = """
    runs: {codes: {stage: decoder, decoder: {name: codecs/kl-autoencoder, fit: {steps: 1}}}, small: {fit.steps: 2}}
    over: {decoder: [identity, {name: codecs/kl-autoencoder, from: "{runs}/codes"}]}
    """
    first = study(tmp_path, text)
    made = make_plan(first, tmp_path / "runs")
    assert [training.stage for training in made.first] == ["decoder", None]
    assert made.trials[1].needs == {"codes"}
    assert make_job(made.first[0], (), tmp_path, tmp_path).stage == "decoder"
    again = Study.from_source(Source(yaml.safe_load(to_yaml(first.dump())), Origin(0, "again")), "study")
    assert again.dump() == first.dump() and again.stages == {"codes": "decoder"}


def test_a_trial_can_refer_to_its_own_run_also_if_it_has_the_name_of_another_trial(tmp_path: Path) -> None:
    text = (
        OWN_RUN
        + """\
    over:
      method:
        plain: {}
        small: {fit.steps: 2}
        earlier: {guide: {from: "{run}", step: 2}, autoguidance: 2}
    """
    )
    made = plan(tmp_path, text)
    assert [training.name for training in made.trainings] == ["method-plain", "method-small"]
    guide = made.trials[2].config.sample.options["guide"]
    assert guide == {"from": str(tmp_path / "runs" / "method-plain"), "step": 2}
    assert made.trainings[0].config is not None and not made.trainings[0].config.sample.options
    said = refusal(tmp_path, text.replace("checkpoint_every: 2", "checkpoint_every: 1"))
    assert "study.yaml:10: sample.options.guide: the run method-plain will not have a checkpoint of step 2" in said
    assert "but of 3 and 4: fit.steps is 4, fit.checkpoint_every is 1, and fit.keep is 2" in said
    for guide, message in (
        ("{run}/model, step: 2", "method-plain/model will not be a saved model: refer to the run itself"),
        ("{run}/weights", "method-plain/weights will not be a saved model"),
        ("elsewhere", "there is no folder elsewhere: give a finished run"),
        (str(tmp_path), f"{tmp_path}: it contains no trained weights"),
        (f"{tmp_path}, step: 7", f"{tmp_path} has no checkpoint of step 7: it has none"),
    ):
        source, comma, step = guide.partition(",")
        changed = text.replace('from: "{run}", step: 2', f'from: "{source}"{comma}{step}')
        assert f"study.yaml:10: sample.options.guide: {message}" in refusal(tmp_path, changed).replace(
            f"{tmp_path}/runs/", ""
        )
    said = refusal(tmp_path, "over: {seed: [0]}\nset: {init: '{run}'}")
    assert "init: {run} can only stand in keys of 'sample.options'" in said


def test_a_key_of_the_sampling_may_be_written_alone(tmp_path: Path) -> None:
    made = study(tmp_path, "over: {strength: [0, 1]}\nset: {steps: 2}")
    assert made.axes[0].name == "sample.options.strength" and made.settings[0].key == "sample.options.steps"
    assert "unknown key; did you mean 'strength'?" in refusal(tmp_path, "over: {strenght: [0, 1]}")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "runs: {small: {stage: all}}\nover: {seed: [0]}",
            ["study.yaml:2: runs.small.stage: must be encoder or decoder, not 'all'"],
        ),
        (
            "runs: {small: {stage: encoder}}\nover: {seed: [0]}",
            ["runs.small.stage: there is nothing to train, because encoder has no 'fit'"],
        ),
        ("over: {fit.stepps: [1, 2]}", ["study.yaml:2: fit.stepps: unknown key; did you mean 'steps'?"]),
        ("over: {fit.steps: [1, -2]}", ["study.yaml:2: fit.steps: must be greater than 0, got -2"]),
        ("ovr: {seed: [1]}", ["study.yaml:2: ovr: unknown key; did you mean 'over'?", "over: is required"]),
        ("over: {}", ["over: "]),
        ("over: {seed: []}", ["over.seed: needs at least one value"]),
        ("over: {seed: 3}", ["over.seed: must be a list or a mapping"]),
        ("over: {seed: [1, 1]}", ["over.seed: '1' is given twice"]),
        ("over: {name: [a, b]}", ["name: kgen names the runs"]),
        ("over: {metric: {a: {}}}", ["over.metric: is the name of a column"]),
        ("over: {seed: [1]}\nmetrics: [brightnes]", ["study.yaml:3: evaluate.metrics[0]", "did you mean"]),
        ("over: {seed: [1]}\nmetrics: [missing]", ["toy/missing"]),
        ("over: {seed: [1]}\nmetrics: [a]\nevaluate: {metrics: [b]}", ["metrics: are given twice"]),
        (
            "over: {seed: [1]}\nevaluate: {sedes: 3}",
            ["study.yaml:3: evaluate.sedes: unknown key; did you mean 'seeds'"],
        ),
        ("over: {seed: [1]}\nplot: {x: sed}", ["study.yaml:3: plot.x: there is no axis or number 'sed'"]),
        ("over: {seed: [1]}\nplot: {y: bright mean}", ["plot.y: there is no number 'bright mean'", "brightness"]),
        ("over: {seed: [1]}\nplot: [{}, {log: 3}]", ["study.yaml:3: plot[1].log: "]),
        ("over: {seed: [1]}\nplot: [{x: seed}, {x: sed}]", ["plot[1].x: there is no axis or number 'sed'"]),
        ("over: {seed: [1]}\nplot: {log: 3}", ["study.yaml:3: plot.log: "]),
        ("over: {seed: [1]}\nplot: []", ["plot"]),
        (
            "over: {seed: [1], fit.steps: [1]}\nplot: {label: seed}",
            ["plot.label: there is no axis 'seed' (the axes are: steps)"],
        ),
        ("over: {seed: [1]}\nevaluate: {metrics: 5}\nplot: {y: brightness mean}", ["evaluate.metrics: must be a list"]),
        ("over: {seed: [1]}\nplot: seed", ["plot"]),
        ("over: {seed: [1]}\nplot: {line: [x]}", ["plot.line: there is no axis 'x' (the axes are: none)"]),
        ("over: {seed: [1]}\nruns: {a/b: {}}", ["study.yaml:3: runs: 'a/b' cannot name a run: use at most 64 letters"]),
        ("over: {seed: [1]}\nplot: {x: ''}", ["study.yaml:3: plot.x: must not be empty"]),
        ("over: {seed: [1]}\nplot: {y: []}", ["study.yaml:3: plot.y: must not be empty"]),
        ("over: {seed: [1]}\nplot: {line: ['']}", ["plot.line[0]: must not be empty"]),
        (
            "over: {strength: [0, 1]}\nplot: {log: true}",
            ["study.yaml:3: plot.log: the axis 'strength' has the value 0, which has no logarithm"],
        ),
        (
            "over: {encoder: [letters]}\nplot: {log: true}",
            ["plot.log: the values of the axis 'encoder' are not numbers"],
        ),
        (
            "over: {seed: [1]}\nplot: {x: brightness mean, y: brightness mean}",
            ["plot.y: 'brightness mean' is also the horizontal axis"],
        ),
        (
            "over: {seed: [1]}\nplot: {y: brigtness mean}",
            ["plot.y: there is no number 'brigtness mean'; did you mean 'brightness mean'?"],
        ),
        (
            "over: {strenth: [0, 1], m: {a: {strength: '{strenght}'}}}",
            ["study.yaml:2: over.m.a.strength: there is no variable 'strenght'; did you mean 'strenth'?"],
        ),
        (
            "over: {weight: [0, 1], m: {a: {strength: '{weight}'}, b: {strength: '{wieght}'}}}",
            ["over.m.b.strength: there is no variable 'wieght'; did you mean 'weight'? (the variables are: weight)"],
        ),
        (
            "over: {weight: [0, 1], m: {a: {strength: 1}}}",
            ["weight: unknown key", "if it is a variable, a named value must contain '{weight}'"],
        ),
        (
            "over: {weight: [0, 1], m: {a: {strength: '{weight}', sample.prompts: ['a {weight}']}}}",
            ["over.m.a.sample.prompts[0]: the variable '{weight}' must be the whole value"],
        ),
        (
            "over: {weight: [0, 1], m: {a: {strength: '{weight}'}}}\nset: {steps: '{weight}'}",
            ["study.yaml:3: set.steps: '{weight}' is not replaced here: only the named values of an axis can"],
        ),
        ("run: none.yaml\nover: {seed: [1]}", ["run: ", "none.yaml: there is no such file"]),
        ("run: study.yaml\nover: {seed: [1]}", ["is a study: name a run file"]),
        ("over: {encoder: [letters, leters], generator.stride: [0]}", ["leters", "generator.stride: must be"]),
        (
            "over: {strength: [0, 1], sed: [1]}\nset: {generator: gone/flow}",
            ["study.yaml:3: generator: unknown generator 'gone/flow'", "pip install kgen-plugin-gone"],
        ),
        (
            "over: {generator: [toy/means, gone/flow], strength: [0, 1]}",
            ["study.yaml:2: generator: unknown generator 'gone/flow'", "pip install kgen-plugin-gone"],
        ),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path: Path, text: str, messages: list[str]) -> None:
    said = refusal(tmp_path, text)
    for message in messages:
        assert message in said, said
    assert len(set(said.splitlines())) == len(said.splitlines())
    assert not re.search(r"(should|Input|String|List|Dictionary|Tuple) ", said), "these are the words of pydantic"
    if "no variable" in said or "kgen-plugin-gone" in said:
        assert len(said.splitlines()) == 1, "what follows from it is not reported, too"


def test_a_single_trial_that_refers_to_its_own_run_does_not_do_so_during_the_training(tmp_path: Path) -> None:
    text = (
        OWN_RUN
        + """\
      sample: {options: {steps: 3}}
      evaluate: {metrics: [kgen/retrieval]}
    over: {seed: [0, 1]}
    set: {guide: {from: "{run}", step: 2}, autoguidance: 2}
    """
    )
    made = plan(tmp_path, text)
    for training in made.trainings:
        assert training.config is not None and training.config.sample.options == {"steps": 3}
        assert not training.config.evaluate.metrics
        assert training.trials[0].config.sample.options["guide"]["from"] == str(training.directory)


def test_a_run_is_found_again_when_the_trial_that_gave_it_its_name_is_removed(tmp_path: Path) -> None:
    before = plan(tmp_path, "over: {method: {a: {}, b: {strength: 1}, c: {generator.stride: 2}}}")
    for training in before.trainings:
        training.directory.mkdir(parents=True)
        assert training.config is not None
        (training.directory / "config.yaml").write_text(training.config.to_yaml())
    after = plan(tmp_path, "over: {method: {b: {strength: 1}, d: {strength: 2}, c: {generator.stride: 2}}}")
    assert [training.name for training in after.trainings] == ["method-a", "method-c"]
    assert [[trial.name for trial in t.trials] for t in after.trainings] == [["method-b", "method-d"], ["method-c"]]


def test_too_many_trials_are_refused_before_they_are_made(tmp_path: Path) -> None:
    axes = ", ".join(f"{key}: {list(range(1, 200))}" for key in ("seed", "fit.steps", "fit.keep", "fit.log_every"))
    assert "1,568,239,201 combinations" in refusal(tmp_path, f"over: {{{axes}}}")


def test_a_trained_run_is_only_evaluated(tmp_path: Path, trained: Trained) -> None:
    assert checkpoint_steps(trained.directory / "checkpoints") == kept_steps(6, 3, 2) == [3, 6]
    assert [kept_steps(*given) for given in ((7, 3, 2), (7, 3, 9), (2, 5, 2), (6, 1, 1))] == [
        [6, 7],
        [3, 6, 7],
        [2],
        [6],
    ]
    text = f"run: {trained.directory}\nover: {{strength: [0, 1]}}\nruns: {{small: {{fit.steps: 1}}}}"
    made = plan(tmp_path, text)
    (training,) = made.trainings
    assert training.config is None and training.directory == trained.directory and len(training.trials) == 2
    assert made.first[0].config is not None and made.first[0].config.fit.steps == 1
    said = refusal(tmp_path, text.replace("strength: [0, 1]", "seed: [0, 1], generator.stride: [2]"))
    assert said.count("affects the training, but") == 2


def test_a_study_is_written_and_read_again(tmp_path: Path) -> None:
    text = """
    over: {seed: [0, 1], method: {plain: {}, loud: {strength: 0.5}}}
    metrics: [retrieval]
    plot: {x: method, y: retrieval R@1, line: []}
    """
    first = study(tmp_path, text)
    again = Study.from_source(Source(yaml.safe_load(to_yaml(first.dump())), Origin(0, "again")), "study")
    assert again.dump() == first.dump()
    folder = tmp_path / "runs"
    assert make_plan(again, folder).trials[3].config == make_plan(first, folder).trials[3].config


def test_names_of_files_differ_and_are_readable() -> None:
    here = Origin(0, "")

    def axis(key: str, *values: Any) -> Any:
        return key_axis(key, [(value, here) for value in values])

    axes = [axis("generator.width", 8, -1), axis("encoder.width", 1e-3), axis("encoder", "text/bag", "text/BAG", "??")]
    assert list(short_names(axes).values()) == ["generator.width", "encoder.width", "encoder"]
    parts = file_names(axes)
    assert (
        parts["generator.width", "8"] == "generator.width-8" and parts["generator.width", "-1"] == "generator.width--1"
    )
    one, two = parts["encoder", "text/bag"], parts["encoder", "text/BAG"]
    assert one.startswith("encoder-text-bag-") and one.casefold() != two.casefold()
    assert len({part.casefold() for part in parts.values()}) == len(parts)
    long = [file_name(["a" * 60, f"{n}" * 60]) for n in (1, 2)]
    assert max(map(len, long)) <= 90 and long[0] != long[1]


def test_the_training_part_of_a_configuration(toy: None) -> None:
    config = RunConfig.from_dict(yaml.safe_load(GOOD))
    same = RunConfig.from_dict(
        {**yaml.safe_load(GOOD), "name": "x", "sample": {"seed": 3}, "evaluate": {}, "loggers": []},
        ["fit.log_every=7", "fit.keep=1"],
    )
    other = RunConfig.from_dict(yaml.safe_load(GOOD), ["fit.ema=0.5"])
    assert training_part(config.dump()) == training_part(same.dump()) != training_part(other.dump())
