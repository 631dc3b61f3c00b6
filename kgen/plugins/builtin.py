"""kgen's own components, declared like those of a plugin."""

from __future__ import annotations

from kgen.plugins.hookspecs import hookimpl
from kgen.plugins.registry import Registrar


@hookimpl
def kgen_components(registry: Registrar) -> None:
    registry.decoder("identity", "kgen.contracts.identity:Identity", summary="The latent is the image itself")
    registry.dataset("shapes", "kgen.data.datasets.shapes:Shapes", summary="Synthetic scenes of colored shapes")
    registry.dataset(
        "imagefolder", "kgen.data.datasets.imagefolder:ImageFolder", summary="A folder of captioned images"
    )
    registry.dataset(
        "idx", "kgen.data.datasets.idx:Idx", summary="MNIST, Fashion-MNIST and other datasets in the IDX format"
    )
    registry.dataset("tfds", "kgen.data.datasets.tfds:TFDS", summary="Any dataset of tensorflow-datasets")
    registry.metric(
        "retrieval", "kgen.metrics.retrieval:Retrieval", summary="Whether the nearest real image has the same prompt"
    )
    registry.metric(
        "attributes",
        "kgen.metrics.attributes:Attributes",
        summary="Whether the objects of 'shapes' are right, as an oracle reads them",
    )
    registry.logger("tensorboard", "kgen.training.tensorboard:TensorBoard", summary="Event files for TensorBoard")
    for name, cls, summary in OPTIMIZERS:
        registry.optimizer(name, f"kgen.training.optimizers.{cls}", summary=summary)


OPTIMIZERS = (
    ("adamw", "of_keras:AdamW", "Adam with weight decay apart from the gradient; the default"),
    ("adam", "of_keras:Adam", "Mean gradient over root mean square"),
    ("sgd", "of_keras:SGD", "Gradient descent, with momentum"),
    ("rmsprop", "of_keras:RMSprop", "Gradient over root mean square"),
    ("adagrad", "of_keras:Adagrad", "Gradient over the root of all squares so far"),
    ("adadelta", "of_keras:Adadelta", "Steps as long as the last ones"),
    ("adamax", "of_keras:Adamax", "Adam with the largest recent gradient"),
    ("adafactor", "of_keras:Adafactor", "Adam with little state: a row and a column per matrix"),
    ("nadam", "of_keras:Nadam", "Adam with Nesterov's momentum"),
    ("ftrl", "of_keras:Ftrl", "Follow the regularized leader"),
    ("lion", "of_keras:Lion", "The sign of the momentum"),
    ("lamb", "of_keras:Lamb", "Adam for large batches, scaled to each weight"),
    ("schedule-free-adamw", "of_keras:ScheduleFreeAdamW", "AdamW that averages in place of a schedule"),
    ("muon", "muon:Muon", "Orthogonal steps of matrices, AdamW for the rest"),
)
"""Name, class and summary of every optimizer of Keras."""
