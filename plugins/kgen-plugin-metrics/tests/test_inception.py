"""The Inception network, compared with torch-fidelity, pytorch-fid and clean-fid, each in its own protocol.

The public weights are a download of 90 MB. Random ones in the three public layouts take their place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from kgen_plugin_metrics.features.inception import PROTOCOLS, Inception
from kgen_plugin_metrics.formulas.frechet import frechet_distance
from kgen_plugin_metrics.formulas.inception_score import inception_score
from kgen_plugin_metrics.formulas.kernel import kernel_distance
from kgen_plugin_metrics.formulas.moments import Moments
from PIL import Image
from scipy import linalg

from kgen import ConfigError, DataError, GeneratedImages, make_dataset
from kgen.parts.construction import make_metric

pytestmark = pytest.mark.portable

torch = pytest.importorskip("torch")


def _prepare_torchvision() -> Any:
    """Lets torchvision, of whose operators the references use none, be imported beside a PyTorch for CPUs.

    PyPI's build needs CUDA's PyTorch, and does not import until two of its operators have a name. All other tests do
    without torchvision: see conftest.py. Returns what must be kept.
    """
    if sys.modules.get("torchvision", torch) is None:
        del sys.modules["torchvision"]
    if (spec := importlib.util.find_spec("torchvision")) is None:
        pytest.skip("torchvision is not installed", allow_module_level=True)
    try:
        torch.ops.load_library(next(Path(next(iter(spec.submodule_search_locations))).glob("_C*")))
    except (OSError, StopIteration):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in {"nms", "qnms"} - set(dir(torch.ops.torchvision)):
            library.define(f"{name}(Tensor x) -> Tensor")
        return library


KEPT = _prepare_torchvision()
torch_fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
pytorch_fid = pytest.importorskip("pytorch_fid.inception")
fid_score = pytest.importorskip("pytorch_fid.fid_score")
cleanfid_network = pytest.importorskip("cleanfid.inception_torchscript")
cleanfid_utils = pytest.importorskip("cleanfid.utils")

TORCH_FIDELITY = "weights-inception-2015-12-05-6726825d.pth"
PYTORCH_FID = "pt_inception-2015-12-05-6726825d.pth"
CLEAN_FID = "inception-2015-12-05.pt"
FILES = {"torch-fidelity": TORCH_FIDELITY, "pytorch-fid": PYTORCH_FID, "clean": CLEAN_FID}

SIZES = [
    (32, 32),
    *(pytest.param(size, marks=pytest.mark.slow) for size in [(43, 61), (299, 299), (512, 512), (431, 601)]),
]
"""(height, width) of the images."""


class Conv(torch.nn.Module):
    """A convolution of `inception-2015-12-05.pt`, whose batch normalization has no gain."""

    def __init__(self, inputs: int, outputs: int, size: Any = 1, stride: int = 1, padding: Any = 0) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        self.stride, self.padding = (stride, stride), (padding, padding) if isinstance(padding, int) else padding
        self.weight = torch.nn.Parameter(torch.empty(outputs, inputs, height, width))
        for name in ("beta", "mean", "var"):
            self.register_buffer(name, torch.empty(outputs))

    def forward(self, x):
        x = torch.nn.functional.conv2d(x, self.weight, None, self.stride, self.padding)
        return torch.relu(torch.nn.functional.batch_norm(x, self.mean, self.var, None, self.beta, False, 0.0, 0.001))


class Joined(torch.nn.Sequential):
    """Branches of a block, whose outputs are concatenated."""

    def forward(self, x):
        outputs = []
        for branch in self:
            outputs.append(branch(x))
        return torch.cat(outputs, 1)


class ScriptedEnd(torch.nn.Module):
    """A block at 8 x 8, two of whose branches divide once more."""

    def __init__(self, inputs: int, pool: torch.nn.Module) -> None:
        super().__init__()
        self.conv = Conv(inputs, 320)
        self.tower_conv = Conv(inputs, 384)
        self.tower_mixed_conv = Conv(384, 384, (1, 3), 1, (0, 1))
        self.tower_mixed_conv_1 = Conv(384, 384, (3, 1), 1, (1, 0))
        self.tower_1_conv = Conv(inputs, 448)
        self.tower_1_conv_1 = Conv(448, 384, 3, 1, 1)
        self.tower_1_mixed_conv = Conv(384, 384, (1, 3), 1, (0, 1))
        self.tower_1_mixed_conv_1 = Conv(384, 384, (3, 1), 1, (1, 0))
        self.tower_2_pool = pool
        self.tower_2_conv = Conv(inputs, 192)

    def forward(self, x):
        a, b = self.tower_conv(x), self.tower_1_conv_1(self.tower_1_conv(x))
        mixed = torch.cat([self.tower_mixed_conv(a), self.tower_mixed_conv_1(a)], 1)
        mixed_1 = torch.cat([self.tower_1_mixed_conv(b), self.tower_1_mixed_conv_1(b)], 1)
        return torch.cat([self.conv(x), mixed, mixed_1, self.tower_2_conv(self.tower_2_pool(x))], 1)


class ScriptedInception(torch.nn.Module):
    """The network of `inception-2015-12-05.pt`, by the names of its modules, parameters and buffers."""

    def __init__(self) -> None:
        super().__init__()
        mixed = [
            *(at_35(192, 32), at_35(256, 64), at_35(288, 64), to_17()),
            *(at_17(128), at_17(160), at_17(160), at_17(192), to_8()),
            *(ScriptedEnd(1280, averages()), ScriptedEnd(2048, torch.nn.MaxPool2d(3, 1, 1))),
        ]
        self.layers = torch.nn.Sequential(
            OrderedDict(
                conv=Conv(3, 32, 3, 2),
                conv_1=Conv(32, 32, 3),
                conv_2=Conv(32, 64, 3, 1, 1),
                pool0=torch.nn.MaxPool2d(3, 2),
                conv_3=Conv(64, 80),
                conv_4=Conv(80, 192, 3),
                pool1=torch.nn.MaxPool2d(3, 2),
                **numbered("mixed", mixed),
                pool2=torch.nn.AvgPool2d(8, 8),
            )
        )
        self.output = torch.nn.Linear(2048, 1008)

    def forward(self, x):
        return self.output(self.layers(x).flatten(1))


for module in (Conv, Joined, ScriptedEnd, ScriptedInception):
    module.__module__ = "__main__"  # TorchScript accepts no "-" in the name of a folder


def numbered(name: str, modules: Any) -> dict[str, torch.nn.Module]:
    return {f"{name}_{i}" if i else name: module for i, module in enumerate(modules)}


def averages() -> torch.nn.AvgPool2d:
    return torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def tower(*convs: Conv, pool: torch.nn.Module | None = None) -> torch.nn.Sequential:
    return torch.nn.Sequential(OrderedDict(**({"pool": pool} if pool else {}), **numbered("conv", convs)))


def at_35(inputs: int, pooled: int) -> Joined:
    three = Conv(inputs, 64), Conv(64, 96, 3, 1, 1), Conv(96, 96, 3, 1, 1)
    last = tower(Conv(inputs, pooled), pool=averages())
    towers = tower(Conv(inputs, 48), Conv(48, 64, 5, 1, 2)), tower(*three), last
    return Joined(OrderedDict(conv=Conv(inputs, 64), **numbered("tower", towers)))


def to_17() -> Joined:
    three = tower(Conv(288, 64), Conv(64, 96, 3, 1, 1), Conv(96, 96, 3, 2))
    return Joined(OrderedDict(conv=Conv(288, 384, 3, 2), tower=three, pool=torch.nn.MaxPool2d(3, 2)))


def at_17(inner: int) -> Joined:
    wide, high = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    once = tower(Conv(768, inner), Conv(inner, inner, *wide), Conv(inner, 192, *high))
    again = Conv(inner, inner, *high), Conv(inner, inner, *wide), Conv(inner, inner, *high), Conv(inner, 192, *wide)
    towers = once, tower(Conv(768, inner), *again), tower(Conv(768, 192), pool=averages())
    return Joined(OrderedDict(conv=Conv(768, 192), **numbered("tower", towers)))


def to_8() -> Joined:
    turns = Conv(192, 192, (1, 7), 1, (0, 3)), Conv(192, 192, (7, 1), 1, (3, 0))
    towers = tower(Conv(768, 192), Conv(192, 320, 3, 2)), tower(Conv(768, 192), *turns, Conv(192, 192, 3, 2))
    return Joined(OrderedDict(**numbered("tower", towers), pool=torch.nn.MaxPool2d(3, 2)))


def random_weights() -> dict[str, torch.Tensor]:
    """Weights by the names of torchvision, at which activations stay of order one and images differ.

    The kernels are He's. The normalization's statistics differ from channel to channel, as they do after training.
    """
    network = pytorch_fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    rng = torch.Generator().manual_seed(0)
    weights = {name: torch.empty(x.shape) for name, x in network.state_dict().items() if x.dim()}  # no counts
    for name, value in weights.items():
        if name.endswith(("bn.weight", "bn.running_var")):
            value.uniform_(0.7, 1.4, generator=rng)
        elif value.dim() == 1:
            value.normal_(0.0, 0.1, generator=rng)
        else:
            value.normal_(0.0, (2.0 / value[0].numel()) ** 0.5, generator=rng)
    return weights


def scripted_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights for the TorchScript network, whose layers are in the same order; gains are in the kernels."""
    found = {}
    names = [name.removesuffix(".weight") for name in ScriptedInception().state_dict() if name.endswith(".weight")]
    layers = [name.removesuffix(".conv.weight") for name in weights if name.endswith(".conv.weight")]
    for name, layer in zip(names[:-1], layers, strict=True):
        gain = weights[f"{layer}.bn.weight"]
        found[f"{name}.weight"] = weights[f"{layer}.conv.weight"] * gain[:, None, None, None]
        found[f"{name}.mean"] = weights[f"{layer}.bn.running_mean"] * gain
        found[f"{name}.var"] = weights[f"{layer}.bn.running_var"]
        found[f"{name}.beta"] = weights[f"{layer}.bn.bias"]
    return found | {f"output.{part}": weights[f"fc.{part}"] for part in ("weight", "bias")}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same random weights in the three public layouts.

    The first two are one state dict under two names; it is saved in both formats of PyTorch.
    """
    path, weights = tmp_path_factory.mktemp("inception"), random_weights()
    torch.save(weights, path / TORCH_FIDELITY)
    extractor = torch_fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(path / TORCH_FIDELITY))
    torch.save(extractor.state_dict(), path / TORCH_FIDELITY, _use_new_zipfile_serialization=False)
    torch.save(extractor.state_dict(), path / PYTORCH_FID)
    scripted = ScriptedInception()
    scripted.load_state_dict(scripted_weights(weights))
    torch.jit.script(scripted.eval()).save(path / CLEAN_FID)
    return path


@pytest.fixture(scope="session")
def references(folder: Path) -> dict[str, Callable[[list[Path]], np.ndarray]]:
    """By protocol: the features (B, 2048) of PNG files, from the public tool's own code."""
    extractor = torch_fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(folder / TORCH_FIDELITY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid, "load_state_dict_from_url", lambda *_, **__: torch.load(folder / PYTORCH_FID))
        network = pytorch_fid.InceptionV3([pytorch_fid.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    scripted = cleanfid_network.InceptionV3W(str(folder), download=False)

    def of_torch_fidelity(files: list[Path]) -> np.ndarray:
        return extractor(nchw(np.stack([Image.open(file) for file in files])))[0].numpy()

    def of_pytorch_fid(files: list[Path]) -> np.ndarray:
        return fid_score.get_activations(files, network, batch_size=len(files), num_workers=0)

    def of_clean_fid(files: list[Path]) -> np.ndarray:
        resized = cleanfid_utils.ResizeDataset(files, mode="clean")
        with torch.no_grad():
            return scripted(torch.stack([resized[i] for i in range(len(files))])).numpy()

    return {"torch-fidelity": of_torch_fidelity, "pytorch-fid": of_pytorch_fid, "clean": of_clean_fid}


@pytest.fixture(scope="session")
def inceptions(folder: Path) -> dict[str, Inception]:
    """By protocol: this package's network, with the file of the tool that the protocol is named for."""
    return {protocol: Inception(folder / file, protocol) for protocol, file in FILES.items()}


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def images_of(height: int, width: int, count: int = 6) -> np.ndarray:
    """Images that differ in colors, large shapes and fine noise; a network tells images of noise alone hardly apart."""
    rng = np.random.default_rng(0)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
    images = []
    for _ in range(count):
        angle, waves, noise = rng.uniform(0, np.pi), rng.uniform(1, 8), rng.uniform(0, 60)
        wave = np.sin(2 * np.pi * waves * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
        image = rng.uniform(40, 215, 3) + rng.uniform(-80, 80, 3) * wave + noise * rng.normal(size=(height, width, 3))
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack(images)


def frechet(features: np.ndarray, others: np.ndarray) -> float:
    """The Fréchet distance (Heusel et al. 2017) in float64, of as many directions as three images span."""
    directions = np.linalg.qr(np.random.default_rng(1).normal(size=(2048, 2)))[0]
    a, b = (x.astype(np.float64) @ directions for x in (features, others))
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_features_and_distance_are_those_of_the_tool(
    references, inceptions, tmp_path: Path, protocol: str, size: tuple[int, int]
) -> None:
    images = images_of(*size)
    files = [tmp_path / f"{i}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    wanted, found = references[protocol](files), inceptions[protocol](images)["features"]
    assert found.dtype == "float32" and found.shape == (6, Inception.dim)
    assert wanted.std(0).mean() > 0.1 * wanted.mean(), "the images must differ, or the test says nothing"
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    distance = frechet(wanted[:3], wanted[3:])
    assert frechet(found[:3], found[3:]) == pytest.approx(distance, rel=1e-3)


@pytest.mark.backends
def test_features_and_logits_are_those_of_torch_fidelity(folder: Path, inceptions) -> None:
    """On each backend: their padding, pools and convolutions are different code."""
    names = ["2048", "logits_unbiased", "logits"]
    extractor = torch_fidelity.FeatureExtractorInceptionV3("inception", names, str(folder / TORCH_FIDELITY))
    images = images_of(40, 24, count=2)
    found, wanted = inceptions["torch-fidelity"](images), extractor(nchw(images))
    for name, tensor in zip(["features", "logits_unbiased", "logits"], wanted, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(found["logits"] - found["logits_unbiased"]).max() > 0.1


def test_a_protocol_takes_any_layout(folder: Path, inceptions) -> None:
    images = images_of(20, 20, count=2)
    wanted, found = inceptions["torch-fidelity"](images), Inception(folder / CLEAN_FID, "torch-fidelity")(images)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


def test_the_record_says_what_a_value_depends_on(folder: Path, inceptions) -> None:
    for protocol, inception in inceptions.items():
        digest = hashlib.sha256((folder / FILES[protocol]).read_bytes()).hexdigest()
        assert inception.weights_hash == inception.protocol["weights_hash"] == digest
        assert inception.protocol["protocol"] == protocol
        assert inception.protocol["network"] == inception.name == "inception-2015"
    resizings = {inception.protocol["resize"] for inception in inceptions.values()}
    assert resizings == {"TF1 bilinear to 299", "PyTorch bilinear to 299", "PIL bicubic to 299"}


def test_the_precision_of_training_does_not_change_features(folder: Path, inceptions) -> None:
    images = images_of(20, 20, count=2)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = Inception(folder / TORCH_FIDELITY)(images)
    finally:
        keras.config.set_dtype_policy(policy)
    np.testing.assert_array_equal(found["features"], inceptions["torch-fidelity"](images)["features"])


@pytest.mark.slow
def test_metrics_of_its_name_read_the_weights(folder: Path, inceptions, tmp_path: Path) -> None:
    images = images_of(24, 30)
    found = inceptions["clean"](images)
    features, others = found["features"][:3], found["features"][3:]
    mean, covariance = others.mean(0, dtype=np.float64), np.cov(others.astype(np.float64), rowvar=False)
    np.savez(tmp_path / "real.npz", mu=mean, sigma=covariance, arr_0=images[3:])
    own = Moments.of(features)
    wanted = {
        "fid": frechet_distance(own.mean, own.covariance, mean, covariance),
        "kid": kernel_distance(features, others, subset_size=3)[0],
        "inception-score": inception_score(found["logits_unbiased"][:3], splits=1)[0],
    }
    dataset = make_dataset({"name": "shapes", "size": 16, "count": 4})
    for name, number in wanted.items():
        given = {"splits": 1} if name == "inception-score" else {"reference": str(tmp_path / "real.npz")}
        metric = make_metric({"name": name, "weights": str(folder / CLEAN_FID), "implementation": "clean", **given})
        metric.start(dataset, "train")
        metric.update(GeneratedImages(images[:3], [""] * 3))
        assert metric.compute()[metric.headline] == pytest.approx(number, rel=1e-4), name
        told = metric.protocol()
        assert told["protocol"] == "clean" and told["weights_hash"] == inceptions["clean"].weights_hash


def refusal(path: Path, protocol: str = "torch-fidelity") -> str:
    with pytest.raises(ConfigError) as refused:
        Inception(path, protocol)
    return str(refused.value)


def test_refuses_a_protocol_that_it_does_not_know(folder: Path) -> None:
    assert "'fid', but must be one of torch-fidelity, pytorch-fid, clean" in refusal(folder / CLEAN_FID, "fid")


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    assert f"there is no file {tmp_path / 'weights.pth'}" in refusal(tmp_path / "weights.pth")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("name", FILES.values())
def test_refuses_a_truncated_file(folder: Path, tmp_path: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for size in (0, 1000, len(whole) // 2, len(whole) - 1000):
        (tmp_path / name).write_bytes(whole[:size])
        assert f"{name} is not a file of PyTorch tensors" in (message := refusal(tmp_path / name))
        assert message.endswith("Is the download complete?")


def test_refuses_weights_of_another_network(tmp_path: Path) -> None:
    network = pytorch_fid._inception_v3(num_classes=1000, aux_logits=False, weights=None)  # torchvision's
    torch.save(network.state_dict(), tmp_path / "inception_v3_google.pth")
    message = refusal(tmp_path / "inception_v3_google.pth")
    assert "its fc.weight has the shape (1000, 2048), not (1008, 2048)" in message
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "resnet.pth")
    assert "it has no tensor Conv2d_1a_3x3.conv.weight" in refusal(tmp_path / "resnet.pth")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "linear.pt")
    assert "it has no tensor layers.conv.weight" in refusal(tmp_path / "linear.pt")


def test_refuses_images_of_another_form(inceptions) -> None:
    for shape, dtype in (((2, 8, 8, 3), "float32"), ((2, 8, 8, 1), "uint8"), ((8, 8, 3), "uint8")):
        with pytest.raises(DataError, match=r"expected images of uint8 \(B, H, W, 3\), but got " + dtype):
            inceptions["clean"](np.zeros(shape, dtype))
