"""Files of PyTorch tensors, read without PyTorch, compared with what PyTorch writes."""

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
from kgen_plugin_vision.torch_file import read_torch_file

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_what_pytorch_writes(tmp_path: Path, legacy: bool) -> None:
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


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
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
