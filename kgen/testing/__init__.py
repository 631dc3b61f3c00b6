"""The conformance kit: test classes with the requirements of each kind of component, for the tests of plugins.

Subclass the class of the kind, implement `build`, which returns a tiny component, and let pytest collect it::

    from kgen.testing import GeneratorConformance

    class TestDDPM(GeneratorConformance):
        def build(self):
            return DDPM(Space("continuous", (8, 8, 3)), ConditionSpace(4, 16), network=TINY)

A class builds its component once, and resets the weights to their initial values before each check. Class attributes
configure the checks: the options for sampling, how far the loss must fall, and so on. The classes do not need pytest: a
method whose name begins with ``test_`` raises an `AssertionError` that says what is wrong, and why it matters.
"""

from kgen.testing.dataset import DatasetConformance
from kgen.testing.decoder import DecoderConformance
from kgen.testing.encoder import EncoderConformance
from kgen.testing.execution import gradients
from kgen.testing.generator import GeneratorConformance
from kgen.testing.metric import MetricConformance
from kgen.testing.replicas import prepare

__all__ = [
    "DatasetConformance",
    "DecoderConformance",
    "EncoderConformance",
    "GeneratorConformance",
    "MetricConformance",
    "gradients",
]

prepare()
