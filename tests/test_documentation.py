"""Options are described: by the docstring of a component, or by that of a base class."""

from __future__ import annotations

import re

import pytest

from kgen.options import Configurable, options
from kgen.options.documentation import documentation
from kgen.plugins.discovery import registry

pytestmark = pytest.mark.portable


class Base:
    """A base class.

    Args:
        size: Height
            and width.
        low, high: The range.
        path: Any path.
    """


class Image(Base):
    """An image.

    It has a file.

    Args:
        space: Supplied by kgen.
        path: The file.

    Raises:
        ValueError: never.
    """

    def __init__(self, space: str, *, high: int, path: str, size: int = 4, unknown: int = 1) -> None: ...


class Bare(Base):
    """It describes nothing."""

    def __init__(self, *, size: int = 4) -> None: ...


class Same(Bare):
    pass


def test_base_classes_describe_shared_options() -> None:
    assert documentation(Image).splitlines() == [
        *("An image.", "", "It has a file.", "", "Args:", "    space: Supplied by kgen.", "    low, high: The range."),
        *("    path: The file.", "    size: Height", "        and width.", "", "Raises:", "    ValueError: never."),
    ]
    assert documentation(Bare) == "It describes nothing.\n\nArgs:\n    size: Height\n        and width."
    assert documentation(Same) == documentation(Bare)
    assert documentation(Base).splitlines()[:3] == ["A base class.", "", "Args:"]


def test_every_option_of_every_component_is_described() -> None:
    for component in registry().components.values():
        cls = component.load()
        if isinstance(cls, type) and issubclass(cls, Configurable):
            for name in options(cls):
                described = re.search(rf"^    (\w+, )*{name}(, \w+)*: ", documentation(cls), re.MULTILINE)
                assert described, f"{component.id} does not describe {name}"


def test_datasets_of_image_files_show_all_their_options() -> None:
    cls = registry().find("dataset", "kgen/imagefolder").load()
    shown = re.findall(r"^    (\w+): ", (cls.__doc__ or "").partition("Args:")[2].partition("Raises:")[0], re.MULTILINE)
    assert shown == [*options(cls)]
