"""The conformance kit: what every component must fulfil, as test classes for a plugin's own tests.

Subclass the class of the kind, say how to build a tiny component, and let pytest collect it::

    from kgen.testing import GeneratorConformance

    class TestDDPM(GeneratorConformance):
        def build(self):
            return DDPM(Space("continuous", (8, 8, 3)), ConditionSpace(4, 16), network=TINY)

A class builds its component once, and gives the weights their first values before each check. Class attributes say what
differs: options to sample with, how far the loss must fall, and so on. The classes need no pytest: a method whose name
begins with ``test_`` fails by an `AssertionError` that says what is wrong, and why it matters.
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
