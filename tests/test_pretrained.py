"""Weights in files of other libraries: the forms of kernels, several files, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file

from kgen import ConfigError
from kgen.pretrained import Source, Tensors, require_files, weight_files

pytestmark = pytest.mark.portable

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def filled(folder: Path, tensors: dict[str, np.ndarray], source: Source, shape: tuple[int, ...]) -> np.ndarray:
    save_file(tensors, folder / "model.safetensors")
    weight = keras.Variable(np.zeros(shape, np.float32))
    with Tensors([folder / "model.safetensors"]) as opened:
        opened.fill({"w": weight}, {"w": source})
    return ops.convert_to_numpy(weight)


def test_a_kernel_of_a_convolution_computes_the_same(tmp_path: Path) -> None:
    """The convolution of PyTorch's definition, output by output."""
    kernel, image = normal(4, 3, 2, 5), normal(2, 5, 3)
    found = filled(tmp_path, {"k": kernel}, Source(("k",), "convolution"), (2, 5, 3, 4))
    expected = [np.sum(kernel[output] * image.transpose(2, 0, 1)) for output in range(4)]
    made = ops.conv(ops.convert_to_tensor(image[None]), ops.convert_to_tensor(found), padding="valid")
    np.testing.assert_allclose(ops.convert_to_numpy(made)[0, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_kernels_are_concatenated_along_their_outputs(tmp_path: Path) -> None:
    kernels = [normal(2, 3), normal(4, 3)]
    found = filled(tmp_path, {"a": kernels[0], "b": kernels[1]}, Source(("a", "b"), "transposed"), (3, 6))
    np.testing.assert_array_equal(found, np.concatenate(kernels).T)


@pytest.mark.parametrize(
    ("source", "shapes", "wanted"),
    [
        (Source(("k",), "convolution"), [(4, 3, 2, 2)], (2, 2, 4, 3)),
        (Source(("k",), "convolution"), [(4, 3)], (3, 4)),
        (Source(("k",), "patches"), [(4, 3, 2, 2)], (11, 4)),
        (Source(("a", "b"), "transposed"), [(4, 3), (4, 2)], (3, 8)),
        (Source(("a",)), [(1,)], (2,)),
    ],
)
def test_other_shapes_do_not_fit(source: Source, shapes: list[tuple[int, ...]], wanted: tuple[int, ...]) -> None:
    assert not source.fits(shapes, wanted)


def test_a_bias_of_one_channel_fits() -> None:
    assert Source(("b",)).fits([(1,)], (1,)) and Source(("b",)).fits([()], ())


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    """Also under an earlier name."""
    for file, name in (("1.safetensors", "query"), ("2.safetensors", "to_q")):
        save_file({name: normal(2)}, tmp_path / file)
    files = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    message = r"2\.safetensors: 'to_q' is the same tensor as 'query' of 1\.safetensors: remove one"
    with pytest.raises(ConfigError, match=message), Tensors(files, lambda name: name.replace("query", "to_q")):
        pass


def test_the_files_of_an_index(tmp_path: Path) -> None:
    assert weight_files(tmp_path, "a.safetensors", "i.json") == [tmp_path / "a.safetensors"]
    weights = {"x": "a-2.safetensors", "y": "../a-1.safetensors", "z": "a-2.safetensors"}
    (tmp_path / "i.json").write_text(json.dumps({"weight_map": weights}))
    files = weight_files(tmp_path, "a.safetensors", "i.json")
    assert files == [tmp_path / "a-1.safetensors", tmp_path / "a-2.safetensors"]
    with pytest.raises(ConfigError, match=r"a-1\.safetensors is missing: download the weights as safetensors"):
        require_files(files, ["a.bin"], "convert()")
    (tmp_path / "a.bin").touch()
    with pytest.raises(ConfigError, match=r"a pickle can run any code\. Convert it where you trust it: convert\(\)"):
        require_files(files, ["a.bin"], "convert()")
    (tmp_path / "i.json").write_text('{"weight_map": {}}')
    with pytest.raises(ConfigError, match="lists no file"):
        weight_files(tmp_path, "a.safetensors", "i.json")
