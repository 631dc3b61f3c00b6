"""Reads the keys and values of a study, and reports what is wrong with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from kgen.config.changes import affects_training
from kgen.config.overrides import Setting
from kgen.config.short_keys import SAMPLING, is_full, unknown
from kgen.config.source import Origin, Source
from kgen.config.staged import STAGED, Staged
from kgen.options.validation import KeyPath, show
from kgen.studies.axes import Axis, Value, key_axis, text_of, variable_axis
from kgen.studies.references import OWN_RUN, VARIABLE, find_references, find_texts, with_variables
from kgen.studies.study_file import COLUMNS, Settings, StudyFile

FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""The form of the names of runs that are trained first."""

STAGE = "stage"
"""The key of such a run that names the only part to be trained, as `kgen run --stage` does. No run file has it."""


class Keys:
    """Reads the keys and values of a study, and reports what is wrong with them.

    Args:
        source: The study, which receives the problems.
        study: Its content.
        sampling: The options of the generators' `generate`.
        trained: The directory of the run, if it is trained already.
    """

    def __init__(self, source: Source, study: StudyFile, sampling: Collection[str], trained: Path | None) -> None:
        self.source, self.study, self.sampling, self.trained = source, study, sampling, trained
        self.variables = [name for name, values in study.over.items() if isinstance(values, list) and self._free(name)]

    def _free(self, name: str) -> bool:
        """Whether the name of an axis is free for a variable, because it is no key."""
        return not is_full(name) and name.partition(".")[0] not in self.sampling and name not in COLUMNS

    def problem(self, origin: Origin, message: str) -> None:
        self.source.problems.append((origin, message))

    def settings(self, path: KeyPath, given: Mapping[str, Any], trained: bool = False) -> list[Setting]:
        """The settings at a path of the study. `trained`: whether they are of a run that the sweep trains itself."""
        return [
            Setting(self.full(key, self.source.at((*path, key)), trained), value, self.source.at((*path, key)))
            for key, value in given.items()
        ]

    def full(self, key: str, origin: Origin, trained: bool = False) -> str:
        """The full key in a run file. Reports a key that does not exist, or that must not change."""
        if not is_full(key):
            if key.partition(".")[0] in self.sampling:
                return f"{SAMPLING}.{key}"
            self.problem(origin, unknown(key, self.sampling))
        elif key == "name":
            self.problem(origin, "name: kgen names the runs of a sweep: leave this out")
        elif self.trained is not None and affects_training(key) and not trained:
            self.problem(
                origin,
                f"{key}: affects the training, but {self.trained} is trained already: sweep over keys of "
                "'sample' and 'evaluate', or name a run file in place of the run",
            )
        return key

    def evaluation(self) -> list[Setting]:
        """The settings of `metrics` and `evaluate`."""
        found, study = [], self.study
        if study.metrics is not None:
            origin = self.source.at(("metrics",))
            if "metrics" in study.evaluate:
                self.problem(origin, "metrics: are given twice, here and under 'evaluate': keep one")
            found.append(Setting("evaluate.metrics", study.metrics, origin))
            found.append(Setting("evaluate.likelihood", {}, origin))
        for key, value in study.evaluate.items():
            found.append(Setting(f"evaluate.{key}", value, self.source.at(("evaluate", key))))
        return found

    def runs(self) -> dict[str, tuple[Setting, ...]]:
        """The settings of the runs that are trained first, by name."""
        for name in self.study.runs:
            if not FOLDER_NAME.fullmatch(name):
                self.problem(
                    self.source.at(("runs", name)),
                    f"runs: {show(name)} cannot name a run: use at most 64 letters, digits, '.', '_', '+' and '-', and "
                    "a letter or a digit first",
                )
        return {
            name: tuple(self.settings(("runs", name), {k: v for k, v in own.items() if k != STAGE}, True))
            for name, own in self.study.runs.items()
        }

    def stages(self) -> dict[str, Staged]:
        """The only part to be trained of each run that is trained first, by its name, if there is such a part."""
        found: dict[str, Staged] = {}
        for name, own in self.study.runs.items():
            if STAGE not in own:
                continue
            if own[STAGE] in STAGED:
                found[name] = own[STAGE]
            else:
                self.source.report(("runs", name, STAGE), f"must be {' or '.join(STAGED)}, not {show(own[STAGE])}")
        return found

    def axes(self) -> Iterator[Axis]:
        """The axes of the study."""
        meant = set(self._check_variables())
        for name, values in self.study.over.items():
            origin = self.source.at(("over", name))
            if not values:
                self.problem(origin, f"over.{name}: needs at least one value")
                continue
            if isinstance(values, dict):
                if name in COLUMNS:
                    self.problem(origin, f"over.{name}: is the name of a column of the table: choose another name")
                yield Axis(name, tuple(self._named(name, values)), named=True)
                continue
            labels = [text_of(value) for value in values]
            if twice := [label for number, label in enumerate(labels) if label in labels[:number]]:
                self.problem(origin, f"over.{name}: {show(twice[0])} is given twice: keep one")
            used_by = list(self._used_by(name))
            if used_by or name in meant:
                yield variable_axis(name, values, used_by)
                continue
            if name in self.variables and any(isinstance(other, dict) for other in self.study.over.values()):
                takes = unknown(name, self.sampling)
                self.problem(origin, f"{takes}; if it is a variable, a named value must contain '{{{name}}}'")
                continue
            places = [(value, self.source.at(("over", name, n))) for n, value in enumerate(values)]
            yield key_axis(self.full(name, origin), places)

    def _check_variables(self) -> Iterator[str]:
        """Reports variables that are misspelt, or stand where they have no effect. Yields the axes that are meant."""
        over, study = self.study.over, self.study
        named = {name: values for name, values in over.items() if isinstance(values, dict)}
        unused = [name for name in self.variables if not any(self._used_by(name))]
        for place, text in find_texts(named, ("over",)):
            for found in VARIABLE.finditer(text):
                name = found[1]
                if name in self.variables:
                    if found[0] != text:
                        self.source.report(
                            place, f"the variable '{found[0]}' must be the whole value, not a part of it"
                        )
                elif near := difflib.get_close_matches(name, self.variables, n=1) or unused:
                    listed = ", ".join(self.variables)
                    hint = f"there is no variable '{name}'; did you mean '{near[0]}'? (the variables are: {listed})"
                    self.source.report(place, hint)
                    yield near[0]
        listed_values = {name: values for name, values in over.items() if isinstance(values, list)}
        fixed: list[tuple[KeyPath, Any]] = [
            (("set",), study.settings),
            (("runs",), study.runs),
            (("over",), listed_values),
            (("metrics",), study.metrics),
            (("evaluate",), study.evaluate),
        ]
        for place, text in (pair for path, value in fixed for pair in find_texts(value, path)):
            for name in VARIABLE.findall(text):
                if name in self.variables:
                    what = "only the named values of an axis can contain variables"
                    self.source.report(place, f"'{{{name}}}' is not replaced here: {what}")

    def _used_by(self, name: str) -> Iterator[str]:
        """The keys that named values set to a value with the variable "{name}"."""
        if not self._free(name):
            return
        for values in self.study.over.values():
            for given in values.values() if isinstance(values, dict) else ():
                for key, value in given.items():
                    if with_variables(value, {name: None}) != value:
                        yield f"{SAMPLING}.{key}" if key.partition(".")[0] in self.sampling else key

    def _named(self, name: str, values: Mapping[str, Settings]) -> Iterator[Value]:
        for label, given in values.items():
            yield Value(label, tuple(self.settings(("over", name, label), given)))

    def check_references(self) -> None:
        """Reports references to runs that the study does not name, and from one such run to another."""
        study = self.study
        parts: list[tuple[KeyPath, Any]] = [
            (("set",), study.settings),
            (("over",), study.over),
            (("metrics",), study.metrics),
            (("evaluate",), study.evaluate),
            (("runs",), study.runs),
        ]
        for path, value in parts:
            for place, name in find_references(value, path):
                if path == ("runs",):
                    self.source.report(place, f"{{runs}}/{name}: a run that is trained first cannot refer to another")
                elif name not in study.runs:
                    near = difflib.get_close_matches(name, study.runs, n=1)
                    hint = f"; did you mean '{near[0]}'?" if near else ""
                    listed = ", ".join(study.runs) or "none"
                    self.source.report(place, f"{{runs}}/{name}: there is no such run{hint} (under 'runs': {listed})")

    def check_own_run(self, settings: Collection[Setting]) -> None:
        """Reports settings other than sampling options that refer to the run of their own trial."""
        for setting in settings:
            if not setting.key.startswith(SAMPLING) and OWN_RUN.search(text_of(setting.value)):
                self.problem(setting.origin, f"{setting.key}: {{run}} can only stand in keys of '{SAMPLING}'")
