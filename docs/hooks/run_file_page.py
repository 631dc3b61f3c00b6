"""The pages of the run file and the study file, written from their schemas, and of the run files that kgen ships."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from component_pages import FOLDER
from copied_pages import plugin_folders
from markdown_text import anchor, code, row, table

from kgen.config.schema import run_file_schema
from kgen.config.shipped import shipped
from kgen.options import schema_of
from kgen.options.rows import values
from kgen.plugins.registry import KINDS
from kgen.studies.study_file import StudyFile

ROOT = Path(__file__).parents[2]

SECTIONS = {
    "FitConfig": ("fit", "The keys of `fit`, also of `encoder.fit` and `decoder.fit`."),
    "LoraConfig": ("fit.lora", "Low-rank adaptation."),
    "PowerEmaConfig": ("fit.ema", "Averages of which `kgen average` makes others after the training."),
    "InitConfig": ("init", "The keys of `init`, also of `encoder.init` and `decoder.init`."),
    "SampleConfig": ("sample", ""),
    "EvaluateConfig": ("evaluate", ""),
    "LikelihoodConfig": ("evaluate.likelihood", ""),
}
"""The headings of the sections of a run file, by the names of their schemas."""

STAGE = ("fit", "data", "init", "from")
"""The keys of an encoder or a decoder that is trained in a stage of its own."""

Schema = dict[str, Any]


def run_file_pages() -> dict[str, str]:
    """The text of each page, by its path."""
    return {
        "reference/run-file.md": _run_file(),
        "reference/study-file.md": _study_file(),
        "reference/run-files.md": _shipped(),
    }


def _run_file() -> str:
    schema = run_file_schema()
    lines = [
        *("# The run file", ""),
        "A run file describes an experiment. `kgen check FILE` finds its errors without training, and `kgen schema`",
        "writes a JSON schema, with which an editor completes and checks it. Unknown keys are errors.",
        *("", "## Top level", "", *_rows(schema, schema), ""),
        *("## encoder and decoder { #stage }", ""),
        "An encoder or a decoder is a name, or a mapping of `name` and the options of the component. With these keys,",
        "it is trained before the generator:",
        *("", *row("key", "value", "default", "")),
    ]
    (reused,) = (found for found in schema["$defs"]["decoder"]["anyOf"] if found.get("required") == ["from"])
    staged = next(
        found for found in schema["$defs"]["decoder"]["anyOf"] if set(STAGE) <= set(found.get("properties", {}))
    )
    for key in STAGE:
        node = staged["properties"].get(key) or reused["properties"][key]
        text = node["description"].replace("decoder's", "part's").replace("trained decoder", "trained part")
        lines += [table(code(key), _values(node, schema), "", text)]
    for name, (heading, text) in SECTIONS.items():
        lines += ["", f"## {heading} {{ #{anchor(heading)} }}", "", *([text, ""] if text else [])]
        lines += _rows(schema["$defs"][name], schema)
    return "\n".join(lines) + "\n"


def _rows(section: Schema, root: Schema) -> list[str]:
    lines = row("key", "value", "default", "")
    for name, node in section["properties"].items():
        default = "required" if name in section.get("required", []) else _default(node)
        lines += [table(code(name), _values(node, root), default, node.get("description", ""))]
    return lines


def _default(node: Schema) -> str:
    if "default" not in node or isinstance(node["default"], dict):
        return ""
    return code(json.dumps(node["default"]))


def _values(node: Schema, root: Schema) -> str:
    """The values that a key accepts, with links to sections and components."""
    links = []
    for reference in _references(node):
        if reference in KINDS:
            links += [f"[{reference}]({FOLDER.rpartition('/')[2]}/{reference}.md)"]
        elif reference in SECTIONS:
            links += [f"[section](#{anchor(SECTIONS[reference][0])})"]
        elif reference == "Init":
            links += ["[init](#init)"]
    if links:
        prefix = "list of " if node.get("type") == "array" else ""
        nullable = " or `null`" if any(found.get("type") == "null" for found in node.get("anyOf", [])) else ""
        return prefix + " or ".join(dict.fromkeys(links)) + nullable
    return code(values(node, root))


def _references(node: Schema) -> list[str]:
    """The names of the definitions that a schema refers to at its top."""
    found = [node["$ref"].rpartition("/")[2]] if "$ref" in node else []
    for member in (*node.get("anyOf", []), *([node["items"]] if "items" in node else [])):
        found += _references(member)
    return found


def _study_file() -> str:
    schema = schema_of(StudyFile)
    lines = [
        *("# The study file", ""),
        "`kgen sweep STUDY.yaml` runs a study: see the [guide to sweeps](../guides/sweep.md).",
        *("", *row("key", "value", "default", "")),
    ]
    lines += _study_rows(schema, schema)
    lines += [
        "",
        "## plot",
        "",
        *row("key", "value", "default", ""),
        *_study_rows(schema["$defs"]["PlotConfig"], schema),
    ]
    return "\n".join(lines) + "\n"


def _study_rows(section: Schema, root: Schema) -> list[str]:
    lines = []
    for name, node in section["properties"].items():
        plots = any("PlotConfig" in str(found) for found in (node.get("items"), node.get("$ref")))
        allowed = "[plot](#plot), or a list of these" if plots else code(values(node, root))
        default = "required" if name in section.get("required", []) else "" if plots else _default(node)
        lines += [table(code(name), allowed, default, node.get("description", ""))]
    return lines


def _shipped() -> str:
    lines = [
        *("# Run files that kgen ships", ""),
        "`kgen run NAME` runs a run file; those of `studies/` are for `kgen sweep`. The header of a file gives the",
        "time and the hardware that it needs, and the result to expect.",
        "",
    ]
    for name in sorted(shipped()):
        text = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
        needed = ", ".join(f"[`{plugin}`](../plugins/{plugin}.md)" for plugin in _needed(text))
        lines += [f"## {name} {{ #{anchor(name)} }}", "", *([f"Needs {needed}.", ""] if needed else [])]
        lines += ["```yaml", text.rstrip(), "```", ""]
    return "\n".join(lines) + "\n"


def _needed(text: str) -> list[str]:
    """The plugins whose components a run file names, "diffusion/unet": every file that kgen ships writes full names."""
    content = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    named = set(re.findall(r"(?<![\w/.-])([a-z-]+)/[a-z]", content))
    return [folder.name for folder in plugin_folders() if folder.name.removeprefix("kgen-plugin-") in named]
