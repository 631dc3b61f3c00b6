"""Readable paths of weights, which consist of attribute names: `network/blocks/0/attention/query/kernel`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from kgen.backend.attributes import own_attributes
from kgen.storage.weights import RANDOM_STATE

Variable = Any

COUNTER = re.compile(r"_\d+(?![^_/])")
"""The number that Keras adds to automatic names: "variable_12", "pipeline_dense_2_kernel_momentum"."""


def weight_paths(layer: keras.layers.Layer, variables: Sequence[Variable] | None = None) -> dict[str, Variable]:
    """The variables of a built layer, and of the layers in it, by their paths.

    A path consists of the attributes that lead to the variable, without leading underscores, and the indices or keys of
    lists and dicts: `blocks[0]._kernel` has the path `blocks/0/kernel`. It does not contain the numbers of Keras's
    automatic names ("dense_2"), because these depend on the layers that the process has created before. If several
    paths lead to a variable, the one through the fewest layers is used, and of these the first in alphabetical order. A
    variable or layer without an attribute has Keras's name in the path.

    Args:
        layer: The layer.
        variables: The variables to return; None: all weights, and the states of random generators and of metrics.

    Raises:
        ValueError: one of the `variables` belongs neither to the layer nor to a layer in it.
    """
    found = _all_paths(layer)
    if variables is None:
        return found
    wanted = {id(variable): variable for variable in variables}
    found = {path: variable for path, variable in found.items() if id(variable) in wanted}
    if foreign := [variable.path for key, variable in wanted.items() if key not in set(map(id, found.values()))]:
        raise ValueError(f"layer '{layer.name}' holds no layer with the weights {', '.join(foreign[:5])}")
    return found


def _all_paths(layer: keras.layers.Layer) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    seen, level = {id(layer)}, {"": layer}
    while level:
        below: dict[str, keras.layers.Layer] = {}
        for path, owner in sorted(level.items()):
            for name, child in sorted(_children(owner).items()):
                if id(child) not in seen:
                    seen.add(id(child))
                    (below if isinstance(child, keras.layers.Layer) else found)[f"{path}{name}"] = child
        level = {f"{path}/": owner for path, owner in below.items()}
    return found


def _children(layer: keras.layers.Layer) -> dict[str, Any]:
    """The layers and variables that are direct children of a layer, by name."""
    tracked = [*layer._layers, *layer._trainable_variables, *layer._non_trainable_variables]
    states = {id(state): state for state in (*layer._seed_generators, *layer._metrics)}
    known = {*map(id, tracked), *states}
    attributes: dict[str, Any] = {}
    for name, value in sorted(own_attributes(layer).items(), key=lambda held: held[0].startswith("_")):
        public = name.lstrip("_")
        attributes[name if public in attributes else public] = value
    named = {name: item for name, item in _flat(attributes) if id(item) in known}
    reached = {id(item) for item in named.values()}
    for item in (*tracked, *states.values()):
        if id(item) not in reached:
            named[_free(_name(item), named)] = item
    return {f"{name}{end}": variable for name, item in named.items() for end, variable in _variables(item, states)}


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The items of nested mappings and sequences, with the path to each."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = {str(key): item for key, item in value.items()}
        elif isinstance(value, list | tuple):
            inner = {str(index): item for index, item in enumerate(value)}
        else:
            yield name, value
            continue
        yield from ((f"{name}/{path}", item) for path, item in _flat(inner))


def _variables(item: Any, states: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    """A layer or variable itself, or the variables of a random state or a metric, each with the end of its path."""
    if id(item) not in states:
        yield "", item
    elif isinstance(item, keras.random.SeedGenerator):
        yield f"/{RANDOM_STATE}", item.state
    else:
        yield from ((f"/{_name(variable)}", variable) for variable in item.variables)


def _name(item: Any) -> str:
    """Keras's name of a layer, variable or state, without the number of an automatic name."""
    name = str(item.name)
    bare = COUNTER.sub("", name)
    automatic = (type(item).__name__.lower(), "variable")
    return bare if bare.replace("_", "") in automatic else name


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with the smallest number that makes it unique if it is taken."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
