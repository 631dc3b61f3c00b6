"""The pages of all components, written from their signatures and docstrings."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

from markdown_text import anchor, code, row, table, to_markdown

from kgen.cli.describe import METHODS
from kgen.options import OneOf, model_of, options, schema_of
from kgen.options.documentation import Description, described, described_loss
from kgen.options.rows import option_rows
from kgen.plugins.discovery import registry
from kgen.plugins.registry import CONTRACTS, KINDS, OF_KERAS, Component, DeclaredKind

FOLDER = "reference/components"

KEYS = {
    "encoder": "`encoder`",
    "generator": "`generator`",
    "decoder": "`decoder`",
    "dataset": "`data`",
    "metric": "`evaluate.metrics`",
    "optimizer": "`fit.optimizer`",
    "callback": "`fit.callbacks`",
    "logger": "`loggers`",
}
"""The place of each kind in a run file."""


def component_pages() -> dict[str, str]:
    """The text of each page by its path: one page for each kind of kgen, and one for the kinds of each plugin."""
    found = registry()
    pages = {f"{FOLDER}/index.md": _index(list(found.kinds.values()))}
    for kind in KINDS:
        pages[f"{FOLDER}/{kind}.md"] = _kind_page(kind, found.of_kind(kind))
    for namespace in sorted({kind.origin.namespace for kind in found.kinds.values()}):
        pages[page_of(f"{namespace}.")] = _parts_page(namespace)
    return pages


def page_of(kind: str) -> str:
    """The path of the page with the components of a kind."""
    namespace = kind.rpartition(".")[0]
    return f"{FOLDER}/of-{namespace}.md" if namespace else f"{FOLDER}/{kind}.md"


def anchor_of(component: Component) -> str:
    """The anchor of a component on its page."""
    own = component.id if component.kind in KINDS else f"{component.kind}-{component.id}"
    return anchor(own)


def link_to(component: Component) -> str:
    """A link to a component, from the page of another one."""
    name = component.id if component.kind in KINDS else component.short
    return f"[`{name}`]({page_of(component.kind).rpartition('/')[2]}#{anchor_of(component)})"


def _index(declared: list[DeclaredKind]) -> str:
    lines = [
        *("# Components", ""),
        "A component is chosen by its name in a run file, and its options stand beside the name. These pages are",
        "written from the signatures of the installed plugins. `kgen plugins show NAME` prints the same.",
        *("", *row("kind", "in a run file", "components")),
    ]
    for kind in KINDS:
        names = ", ".join(map(link_to, registry().of_kind(kind)))
        lines += [table(f"[{kind}]({kind}.md)", KEYS[kind], names or "from your own plugin")]
    lines += ["", "## Kinds that plugins declare", ""]
    lines += [
        "Every plugin can add components to these kinds, too: see",
        "[Extend another plugin](../../guides/plugins/extend.md).",
        "",
    ]
    lines += row("kind", "what it is", "components")
    for kind in sorted(declared, key=lambda kind: kind.name):
        names = ", ".join(map(link_to, registry().of_kind(kind.name)))
        lines += [
            table(f"[{kind.name}]({page_of(kind.name).rpartition('/')[2]}#{anchor(kind.name)})", kind.summary, names)
        ]
    return "\n".join(lines) + "\n"


def _kind_page(kind: str, components: list[Component]) -> str:
    contract = CONTRACTS[kind].replace(":", ".") if kind in OF_KERAS else f"kgen.{kind.capitalize()}"
    lines = [
        f"# {kind.capitalize()}s",
        "",
        f"Their place in a run file is {KEYS[kind]}. Each is a subclass of `{contract}`.",
        "",
    ]
    if not components:
        lines += [f"kgen has no {kind} of its own: see [how to write one](../../guides/plugins/index.md)."]
    for component in components:
        lines += _section(component, 2)
    return "\n".join(lines) + "\n"


def _parts_page(namespace: str) -> str:
    lines = [f"# Parts of {namespace}", ""]
    for kind in sorted(registry().kinds.values(), key=lambda kind: kind.name):
        if kind.origin.namespace != namespace:
            continue
        lines += [f"## {kind.name} {{ #{anchor(kind.name)} }}", "", f"{kind.summary}. Each is a `{kind.contract}`.", ""]
        for component in registry().of_kind(kind.name):
            lines += _section(component, 3)
    return "\n".join(lines) + "\n"


def _section(component: Component, level: int) -> list[str]:
    """The section of one component: what it is, its options, and those of its sampling method."""
    target = component.load()
    name = component.id if component.kind in KINDS else component.short
    lines = [f"{'#' * level} `{name}` {{ #{anchor_of(component)} }}", "", f"**{component.summary}.**", ""]
    lines += [f"`{component.target}` of {component.origin.distribution}", ""]
    description = described(target)
    if description.text:
        lines += [to_markdown(description.text), ""]
    if isinstance(target, type):
        if loss := described_loss(target):
            lines += [f"Loss: {to_markdown(loss)}", ""]
        lines += _options("Options", target, description, component.id)
        if component.kind in METHODS:
            method, place = METHODS[component.kind]
            function = getattr(target, method)
            lines += _options(
                f"Options of `{method}`, under `{place}`", function, described(function, target), component.id
            )
    elif inspect.isfunction(target):
        lines += ["It has no options.", ""]
    if description.rest:
        lines += [to_markdown(description.rest), ""]
    return lines


def _options(title: str, function: Callable[..., Any], description: Description, owner: str) -> list[str]:
    """The table of the options. An option that accepts components of a declared kind links to them."""
    schema = schema_of(model_of(function, owner))
    parts = {name: kinds[0] for name, found in options(function).items() if (kinds := [*_kinds_in(found.annotation)])}
    lines = [*row("option", "value", "default", "")]
    for name, values, default in option_rows(schema, schema):
        top, _, below = name.partition(".")
        if top in parts and below:
            continue
        if top in parts:
            values = f"one of [{parts[top]}]({page_of(parts[top]).rpartition('/')[2]}#{anchor(parts[top])})"
        else:
            values = code(values)
        lines += [table(code(name), values, code(default), "" if below else description.arguments.get(name, ""))]
    if len(lines) == 2:
        return [f"{title}: none", ""]
    return [f"{title}:", "", *lines, ""]


def _kinds_in(annotation: Any) -> Iterator[str]:
    """Yields the kinds that the `OneOf` of an annotation name."""
    if isinstance(annotation, OneOf):
        yield annotation.kind
    for part in typing.get_args(annotation):
        yield from _kinds_in(part)
