"""An unexpected exception names the component that it comes from, and the distribution of that."""

from __future__ import annotations

import errno
import re

import numpy as np
import pytest
from command_line import GOOD, TOY

from kgen import ConfigError, Decoder, Metric, PluginError, Space, assemble
from kgen.cli import app
from kgen.contracts.metric import GeneratedImages, measure
from kgen.errors import ComponentError
from kgen.metrics.retrieval import Retrieval
from kgen.parts.construction import make_dataset, make_metric
from kgen.plugins.discovery import registry
from kgen.plugins.faults import address, component_errors, reason
from kgen.training.optimizers.averaging import make_optimizer
from kgen.training.optimizers.warmup import WarmUp

SHARP = """\
from kgen import *
class Sharp(Metric):
    def update(self, batch): raise IndexError('boom in my metric')
    compute = None
"""
HOOK = (
    "@hookimpl\ndef kgen_components(registry):\n    registry.{kind}('sharp', __name__ + ':{cls}', summary='A test')\n"
)
DISK = """\
from kgen import *
class Disk(Dataset):
    image_space = Space('continuous', (4, 4, 3))
    def captions(self, split): return ['a']
    def image(self, split, index): raise OSError('disk')
"""
EXITS = """\
from kgen import *
class Exits(Metric):
    def __init__(self): raise SystemExit(7)
    update = compute = None
"""

PICKY = """\
import keras
from kgen import *
class Picky(keras.optimizers.SGD):
    def __init__(self, learning_rate, **kwargs): super().__init__(learning_rate, **kwargs)
    def update_step(self, gradient, variable, learning_rate):
        if len(gradient.shape) == 2 and gradient.shape[1] > 3: raise IndexError('boom in my optimizer')
        super().update_step(gradient, variable, learning_rate)
"""


class Local(Metric):
    def update(self, batch):
        self.add(first=batch.images[0].mean(), second=self.dataset.image(self.split, 0).mean())

    def compute(self):
        return self.sums


@pytest.fixture
def mine(site):
    """Installs a plugin of one component, "mine/sharp"."""

    def install(kind: str, cls: str, source: str) -> None:
        site.install("mine", source + HOOK.format(kind=kind, cls=cls))
        registry.cache_clear()

    yield install
    registry.cache_clear()


def test_a_metric_of_a_plugin_is_named_with_its_distribution_and_line(mine) -> None:
    mine("metric", "Sharp", SHARP)
    metric = make_metric("sharp")
    expected = (
        r"metric 'mine/sharp' of kgen-plugin-mine 0\.5 failed \(.*made_plugin_\d+\.py, line 3\): "
        "IndexError: boom in my metric$"
    )
    with pytest.raises(ComponentError, match=expected) as caught, component_errors(metric):
        metric.update(None)
    assert isinstance(caught.value.__cause__, IndexError) and caught.value.exit_code == 1


def test_an_error_of_the_operating_system_is_named_and_is_no_fault_to_report(mine) -> None:
    mine("dataset", "Disk", DISK)
    dataset = make_dataset("mine/sharp")
    with pytest.raises(PluginError, match=r"^dataset 'mine/sharp' of kgen-plugin-mine 0\.5: disk$") as caught:
        component_errors()(dataset.image)("train", 0)
    assert caught.value.exit_code == 2


def test_the_innermost_component_is_named_not_its_caller(mine) -> None:
    mine("dataset", "Disk", DISK)
    with pytest.raises(PluginError, match=r"^dataset 'mine/sharp'"), component_errors():
        batch = GeneratedImages(np.zeros((1, 4, 4, 3), np.uint8), ["a"])
        measure(Retrieval(), make_dataset("mine/sharp"), "train", [batch])


def test_a_constructor_that_fails_or_exits_is_named(mine) -> None:
    mine("metric", "Exits", EXITS)
    with pytest.raises(ComponentError, match=r"^metric 'mine/sharp' of kgen-plugin-mine 0\.5 failed.*: SystemExit: 7$"):
        make_metric("sharp")


@pytest.mark.backends
def test_an_optimizer_that_fails_in_a_training_is_named(site, kgen, tmp_path) -> None:
    """It fails with the weights of the model, but not with the small ones on which it is tried before."""
    site.install("mine", PICKY + HOOK.format(kind="optimizer", cls="Picky"))
    run_file = tmp_path / "run.yaml"
    run_file.write_text(GOOD.replace("fit: {", "fit: {optimizer: sharp, "), encoding="utf-8")
    assert kgen("check", run_file, PYTHONPATH=f"{site.path}:{TOY}").status == 0
    outcome = kgen("run", run_file, cwd=tmp_path, PYTHONPATH=f"{site.path}:{TOY}")
    assert outcome.status == 1 and "report this to its authors, unless it is your own code." in outcome.err
    assert re.search(
        r"error: optimizer 'mine/sharp' of kgen-plugin-mine 0\.5 failed \(.*made_plugin_\d+\.py, line 6\): "
        r"IndexError: boom in my optimizer\n",
        outcome.err,
    ), outcome.err


def test_not_the_optimizer_is_to_blame_but_who_sets_its_learning_rate() -> None:
    optimizer = make_optimizer("adamw", WarmUp(0.1, 2, None), clip_norm=None, average=None)
    with pytest.raises(ComponentError, match=r"Local .* failed .*: TypeError"), component_errors(Local()):
        optimizer.learning_rate = 0.2  # Keras refuses this, because the optimizer has a schedule


def test_a_decoder_without_latent_space_is_named_by_assemble() -> None:
    class Lacking(Decoder):
        pass

    decoder = Lacking(Space("continuous", (8, 8, 3)))
    lacking = r"Lacking \(which no plugin registers\) failed .*: NotImplementedError: it does not define 'latent_space'"
    with pytest.raises(ComponentError, match=lacking):
        assemble(encoder="none", generator="diffusion/diffusion", decoder=decoder)


def test_errors_that_no_component_caused_pass_unchanged() -> None:
    for error in (ConfigError("mine"), MemoryError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")):
        with pytest.raises(type(error)) as caught, component_errors(Local()):
            raise error
        assert caught.value is error
    with pytest.raises(ZeroDivisionError), component_errors():
        1 / 0  # noqa: B018


def test_without_a_component_in_the_traceback_the_given_one_is_named() -> None:
    with pytest.raises(ComponentError, match=r"Local .* failed .*: ZeroDivisionError"), component_errors(Local()):
        1 / 0  # noqa: B018


def test_addresses_and_reasons_are_one_line() -> None:
    assert address(Retrieval).startswith("metric 'kgen/retrieval' of kgen")
    assert reason(ValueError()) == "ValueError" and reason(ValueError("a\nb")) == "ValueError: a"
    keras = "Exception encountered when calling Dense.call().\n\n\x1b[1mboom\x1b[0m\n\nArguments received: ..."
    assert reason(RuntimeError(keras)) == "RuntimeError: boom"


def test_the_command_line_names_the_component_and_whom_to_tell(mine, monkeypatch, capsys) -> None:
    mine("metric", "Sharp", SHARP)
    monkeypatch.setattr(app, "app", lambda prog_name: make_metric("sharp").update(None))
    assert app._guarded() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: metric 'mine/sharp' of kgen-plugin-mine 0.5 failed") and "Traceback" not in error
    assert "report this to its authors, unless it is your own code." in error and "KGEN_DEBUG=1" in error
    monkeypatch.setenv("KGEN_DEBUG", "1")
    assert app._guarded() == 1 and "Traceback" in capsys.readouterr().err


def test_the_command_line_does_not_end_silently_where_a_component_exits(mine, monkeypatch, capsys) -> None:
    mine("metric", "Exits", EXITS)
    monkeypatch.setattr(app, "app", lambda prog_name: make_metric("sharp"))
    assert app._guarded() == 1
    assert "SystemExit: 7" in capsys.readouterr().err
