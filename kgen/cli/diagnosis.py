"""What `kgen doctor` reports: versions, devices, backends and plugins, and what is wrong with them.

The report contains no environment variables except those of `VARIABLES`, and "~" in place of the user's folder.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from kgen.backend.selection import BACKENDS, installed, select_backend
from kgen.cli.probe import COMPONENTS
from kgen.errors import KgenError
from kgen.plugins.commands import find_commands
from kgen.plugins.discovery import CORE, DISABLE, registry
from kgen.plugins.hookspecs import API
from kgen.plugins.models import installed_models
from kgen.plugins.registry import KINDS, Provenance

VARIABLES = ("KERAS_BACKEND", "KERAS_HOME", "KGEN_CACHE", DISABLE, "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS")
"""The environment variables that kgen or a backend reads, and that contain no secrets."""

PATIENCE = 300
"""Seconds after which a backend counts as broken."""

MIN_FREE = 2**28
"""Free bytes on the disk of the cache below which it counts as full."""

MAX_REASON = 400
"""Largest number of characters of a reason."""


@dataclass
class Report:
    """The lines of a report, and what is wrong."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wrong = [f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        text = "\n".join([*self.lines, "", *(["What is wrong:", *wrong] if wrong else ["Nothing is wrong."])])
        home = str(Path.home())
        return text.replace(home, "~") if len(home) > 1 else text


def diagnose(taken: Collection[str]) -> Report:
    """Looks at the installation. It imports no framework in this process.

    Args:
        taken: The names of kgen's own commands.
    """
    report = Report()
    report.lines += [f"kgen {importlib.metadata.version(CORE)}, contract {API}", *_machine(), ""]
    chosen = _chosen(report)
    _packages(report)
    _backends(report, chosen)
    _plugins(report, taken)
    _models(report)
    _settings(report, chosen)
    return report


def _machine() -> Iterator[str]:
    import psutil

    memory = psutil.virtual_memory()
    yield f"Python {platform.python_version()} in {sys.prefix}"
    yield f"{platform.platform()}, {platform.machine()}"
    yield f"{os.cpu_count()} cores, {memory.total / 2**30:.1f} GiB of memory, {memory.available / 2**30:.1f} GiB free"


def _chosen(report: Report) -> str:
    """The backend that kgen uses; "" if it can use none."""
    try:
        return select_backend()
    except KgenError as error:
        report.problems.append(str(error))
        return ""


# ---- packages -----------------------------------------------------------------------------------------------------


def _packages(report: Report) -> None:
    needed = {requirement.name for requirement in _requirements(CORE)}
    names = sorted({*needed, *BACKENDS})
    versions = [f"{name} {version}" for name in names if (version := _version(name))]
    report.lines += ["Packages:", *(f"  {', '.join(versions[i : i + 6])}" for i in range(0, len(versions), 6)), ""]
    found = registry()
    for name in dict.fromkeys([CORE, *(origin.distribution for origin in (*found.plugins, *found.broken))]):
        for requirement in _requirements(name):
            if requirement.name == CORE:  # the registry itself says so
                continue
            version = _version(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                there = "is not installed" if version is None else f"is {version}"
                wanted = f"{requirement.name}{requirement.specifier}"
                report.problems.append(f"{name} needs {wanted}, but {requirement.name} {there}: pip install '{wanted}'")


def _requirements(distribution: str) -> list[Requirement]:
    """What a distribution needs in this environment, without its extras."""
    try:
        texts = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = map(Requirement, texts)
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


# ---- backends -----------------------------------------------------------------------------------------------------


def _backends(report: Report, chosen: str) -> None:
    report.lines.append("Backends:")
    arguments = {name: [COMPONENTS] if name == chosen else [] for name in BACKENDS if installed(name)}
    processes = {name: start_probe(name, given) for name, given in arguments.items()}
    for name in BACKENDS:
        state = "is not installed"
        if name in processes:
            found, fault = finish_probe(processes[name])
            state = fault or _described(found)
            if fault:
                report.problems.append(f"the backend {name} does not work: {fault}")
            elif name == chosen and not found["accelerators"] and _nvidia():
                report.problems.append(f"there is an NVIDIA driver, but {name}, which kgen uses, sees no GPU")
            report.problems += found.get("faults", [])
        default = " (kgen uses it)" if name == chosen else ""
        report.lines.append(f"  {name}{default}: {state}")
    report.lines.append("")


def start_probe(backend: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Starts a process that tries a backend: see `kgen.cli.probe`."""
    command = [sys.executable, "-m", "kgen.cli.probe", *arguments]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def finish_probe(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """What such a process found, and why it failed, or "" if it did not."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {}, f"it did not answer within {PATIENCE} s"
    if process.returncode == 0:
        return json.loads(out.splitlines()[-1]), ""
    if process.returncode < 0:
        return {}, f"its process was ended by {signal.Signals(-process.returncode).name}"
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return {}, (lines[-1] if lines else f"its process ended with the status {process.returncode}")[:MAX_REASON]


def _described(found: dict[str, Any]) -> str:
    names = Counter(found["accelerators"])
    devices = ", ".join(f"{count} x {name}" for name, count in names.items()) or "no accelerator, CPU only"
    imported = f"; all {found[COMPONENTS]} components were imported" if COMPONENTS in found else ""
    return f"works; {devices}{imported if not found.get('faults') else ''}"


def _nvidia() -> bool:
    """Whether an NVIDIA driver is installed, and its GPUs are not hidden on purpose."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and (shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists())


# ---- plugins and settings -----------------------------------------------------------------------------------------


def _plugins(report: Report, taken: Collection[str]) -> None:
    found = registry()
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")}
    report.lines.append("Plugins:")
    for origin in sorted({*found.plugins, *found.broken}, key=lambda origin: (origin.namespace, origin.distribution)):
        reason = found.broken.get(origin)
        off = reason is not None and origin.namespace in disabled
        state = f"disabled by {DISABLE}" if off else "does not work" if reason else _contents(origin)
        report.lines.append(f"  {origin.release} ({origin.namespace}): {state}")
        if reason and not off:
            report.problems.append(f"{origin} could not be loaded: {reason}")
    report.problems += [f"{component} is refused: {reason}" for component, reason in found.refused.items()]
    report.problems += find_commands(taken)[1].values()
    report.lines.append("")


def _models(report: Report) -> None:
    found = installed_models().values()
    lines = [f"  {m.distribution} {m.version} ({m.name}): {'does not work' if m.fault else 'works'}" for m in found]
    report.lines += ["Models:", *(lines or ["  none is installed"]), ""]
    report.problems += [f"the {model} cannot be used: {model.fault}" for model in found if model.fault]


def _contents(origin: Provenance) -> str:
    """The number of components of a plugin by kind: "generator (1), myplugin.sampler (12)"."""
    counts = Counter(c.kind for c in registry().components.values() if c.origin == origin)
    order = sorted(counts, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))
    return ", ".join(f"{kind} ({counts[kind]})" for kind in order) or "no components"


def _settings(report: Report, chosen: str) -> None:
    from kgen.data.cache import cache_folder

    values = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if chosen:  # select_backend sets it
        values.pop("KERAS_BACKEND", None)
    cache = cache_folder()
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    report.lines.append("Settings:")
    report.lines += [f"  {name}={value}" for name, value in values.items()]
    report.lines.append(f"  caches in {cache}, {free / 2**30:.1f} GiB free")
    if not os.access(there, os.W_OK):
        report.problems.append(f"the caches cannot be written in {there}: set KGEN_CACHE to another folder")
    if free < MIN_FREE:
        report.problems.append(f"the disk of the caches, {cache}, is full: set KGEN_CACHE to a folder on another one")
