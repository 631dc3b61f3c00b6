"""kgen's own components, declared as any plugin declares its own."""

from __future__ import annotations

from kgen.plugins.hookspecs import hookimpl
from kgen.plugins.registry import Registrar


@hookimpl
def kgen_components(registry: Registrar) -> None:
    registry.encoder("joint", "kgen.contracts.joint:Joint", summary="Several encoders side by side: encoder: [a, b]")
    registry.decoder("identity", "kgen.contracts.identity:Identity", summary="The latent is the image itself")
    registry.dataset("shapes", "kgen.data.datasets.shapes:Shapes", summary="Drawn scenes: color, shape, size, position")
    registry.dataset(
        "imagefolder", "kgen.data.datasets.imagefolder:ImageFolder", summary="A folder of captioned images"
    )
    registry.dataset(
        "idx", "kgen.data.datasets.idx:Idx", summary="MNIST, Fashion-MNIST and others in their file format"
    )
    registry.dataset("tfds", "kgen.data.datasets.tfds:TFDS", summary="Any dataset of tensorflow-datasets")
    registry.metric("retrieval", "kgen.metrics.retrieval:Retrieval", summary="Nearest real image has the prompt")
    registry.metric("attributes", "kgen.metrics.attributes:Attributes", summary="Reads 'shapes' images by an oracle")
