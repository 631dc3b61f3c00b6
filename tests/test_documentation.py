"""Options are described: by the docstring of a component, or by that of a base class."""

from __future__ import annotations

import re

import pytest

from kgen.options import Configurable, options
from kgen.options.documentation import described_loss, described_scores, documentation, first_paragraph
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


def test_every_metric_says_what_its_numbers_are_and_every_family_what_its_loss_is() -> None:
    for component in registry().of_kind("metric"):
        assert first_paragraph(component.load()).endswith("."), component.id
    trained = [component for kind in ("encoder", "decoder", "generator") for component in registry().of_kind(kind)]
    losses = {component.id: described_loss(component.load()) for component in trained}
    silent = {name for name, loss in losses.items() if not loss}
    assert all(not losses_of(component.load()) for component in trained if component.id in silent), silent
    assert losses["vae/vae"].startswith("The negative ELBO ")
    assert losses["gan/gan"].startswith("The discriminator's loss") and "does not measure how good" in losses["gan/gan"]
    scores = described_scores(registry().find("encoder", "clip/clip").load())
    assert scores.startswith("The recall among the given images")


def losses_of(cls: type) -> bool:
    """Whether a component computes losses, and does not only inherit the method of its contract."""
    return not cls.compute_losses.__module__.startswith("kgen.contracts.")


def test_the_command_shows_what_the_loss_is(kgen) -> None:
    shown = kgen("plugins", "show", "gan/gan")
    assert shown.status == 0 and "\nloss: The discriminator's loss, with the gradient penalty" in shown.out
    assert "loss: " not in kgen("plugins", "show", "kgen/identity").out
