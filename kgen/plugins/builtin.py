"""kgen's own components, declared like those of a plugin."""

from __future__ import annotations

from kgen.plugins.hookspecs import hookimpl
from kgen.plugins.registry import Registrar


@hookimpl
def kgen_components(registry: Registrar) -> None:
    registry.encoder("joint", "kgen.contracts.joint:Joint", summary="Several encoders side by side: encoder: [a, b]")
    registry.decoder("identity", "kgen.contracts.identity:Identity", summary="The latent is the image itself")
    registry.dataset("shapes", "kgen.data.datasets.shapes:Shapes", summary="Synthetic scenes of colored shapes")
    registry.dataset(
        "imagefolder", "kgen.data.datasets.imagefolder:ImageFolder", summary="A folder of captioned images"
    )
    registry.dataset(
        "webdataset", "kgen.data.datasets.webdataset:WebDataset", summary="Captioned images in tar shards (WebDataset)"
    )
    registry.dataset(
        "array_record", "kgen.data.datasets.array_record:ArrayRecord", summary="Captioned images in ArrayRecord files"
    )
    registry.dataset(
        "parquet",
        "kgen.data.datasets.parquet:Parquet",
        summary="Captioned images in Parquet files",
    )
    registry.dataset(
        "hf",
        "kgen.data.datasets.huggingface:HuggingFace",
        summary="Datasets of Hugging Face, saved or on the Hub",
    )
    registry.dataset(
        "idx", "kgen.data.datasets.idx:Idx", summary="MNIST, Fashion-MNIST and other datasets in the IDX format"
    )
    registry.dataset("tfds", "kgen.data.datasets.tfds:TFDS", summary="Any dataset of tensorflow-datasets")
    registry.dataset("mixture", "kgen.data.datasets.mixture:Mixture", summary="Several datasets, with weights")
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
    ("adamw", "of_keras:AdamW", "Adam with decoupled weight decay; the default"),
    ("adam", "of_keras:Adam", "Mean gradient divided by its root mean square"),
    ("sgd", "of_keras:SGD", "Gradient descent, with momentum"),
    ("rmsprop", "of_keras:RMSprop", "Gradient divided by its root mean square"),
    ("adagrad", "of_keras:Adagrad", "Gradient divided by the root of the sum of its squares"),
    ("adadelta", "of_keras:Adadelta", "Gradient scaled to the size of the last steps"),
    ("adamax", "of_keras:Adamax", "Adam with the largest recent gradient"),
    ("adafactor", "of_keras:Adafactor", "Adam with a row and a column of state per matrix"),
    ("nadam", "of_keras:Nadam", "Adam with Nesterov's momentum"),
    ("ftrl", "of_keras:Ftrl", "Follow the regularized leader"),
    ("lion", "of_keras:Lion", "Sign of the momentum"),
    ("lamb", "of_keras:Lamb", "Adam for large batches, scaled to the norm of each weight"),
    ("schedule-free-adamw", "of_keras:ScheduleFreeAdamW", "AdamW that averages its iterates instead of a schedule"),
    ("muon", "muon:Muon", "Orthogonalized momentum for matrices, AdamW for the rest"),
)
"""Name, class and summary of every optimizer of Keras."""
