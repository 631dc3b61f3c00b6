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
