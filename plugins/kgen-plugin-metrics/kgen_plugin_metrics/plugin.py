"""Registers the metrics, and the kind of networks whose features they compare."""

from __future__ import annotations

import kgen

KGEN_API = 1


@kgen.hookimpl
def kgen_components(registry: kgen.Registrar) -> None:
    package = "kgen_plugin_metrics"
    registry.kind(
        "metrics.features", f"{package}.features.contract:Features", summary="Networks that compute features of images"
    )
    for name, target, summary in FEATURES:
        registry.add("metrics.features", name, f"{package}.features.{target}", summary=summary)
    for name, target, summary in METRICS:
        registry.metric(name, f"{package}.metrics.{target}", summary=summary)


FEATURES = (
    ("efficientnet-lite0", "efficientnet:EfficientNetLite0", "A small classifier trained on ImageNet; the default"),
    ("dinov2", "dinov2:DINOv2", "DINOv2, through KerasHub: its Fréchet distance is FD-DINOv2"),
    ("keras", "keras_application:KerasApplication", "Any network of keras.applications"),
    ("inception", "inception:InceptionFeatures", "The Inception network of 2015, whose features define FID"),
    ("pixels", "pixels:Pixels", "The image at a small size: no network, for tests and simple images"),
)

METRICS = (
    ("fid", "frechet:FID", "Fréchet Inception distance, in the protocol of a published implementation"),
    ("frechet", "frechet:Frechet", "Fréchet distance of any features"),
    ("kid", "kernel:KID", "Kernel Inception distance: unbiased, also for few images"),
    ("kernel-distance", "kernel:KernelDistance", "Squared maximum mean discrepancy of any features"),
    ("inception-score", "score:InceptionScore", "Certainty and variety of predicted classes, without real images"),
    ("classifier-score", "score:ClassifierScore", "The formula of the inception score, for any classifier"),
    ("precision-recall", "neighbors:PrecisionRecall", "Quality and variety, separately, by nearest neighbors"),
    ("density-coverage", "neighbors:DensityCoverage", "Quality and variety, separately, robust against outliers"),
    ("psnr", "pairs:PSNR", "Peak signal-to-noise ratio of pairs of images, such as reconstructions and originals"),
    ("ssim", "pairs:SSIM", "Structural similarity of pairs of images"),
)
"""Name, target and summary."""
