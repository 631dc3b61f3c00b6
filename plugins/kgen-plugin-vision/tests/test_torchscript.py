"""Reading TorchScript files, compared with PyTorch."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from kgen_plugin_vision.torchscript import is_torchscript, read_torchscript

torch = pytest.importorskip("torch")


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(24.0).reshape(4, 6).t())  # not contiguous
        self.stride, self.sizes = (1, 2), torch.jit.Attribute([1, 2], list[int])
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x):
        return x @ self.weight


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(Inner(), torch.nn.ReLU(), torch.nn.BatchNorm1d(4))
        self.scale = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
        self.names = torch.jit.Attribute({"a": 1.0}, dict[str, float])

    def forward(self, x):
        return self.inner(x)


for module in (Inner, Outer):
    module.__module__ = "__main__"  # TorchScript accepts no "-" in the name of a folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.jit.script(Outer()).save(tmp_path / "module.pt")
    return tmp_path / "module.pt"


def test_reads_what_pytorch_reads(file: Path) -> None:
    found, wanted = read_torchscript(file), torch.jit.load(file).state_dict()
    assert found.keys() == wanted.keys()
    assert "inner.0.weight" in found
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype


def test_tells_torchscript_from_a_state_dict(file: Path, tmp_path: Path) -> None:
    torch.save(Outer().state_dict(), tmp_path / "new.pth")
    torch.save(Outer().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert [is_torchscript(path) for path in (file, tmp_path / "new.pth", tmp_path / "old.pth")] == [True, False, False]


def rewritten(file: Path, name: str, content: bytes | None, compression: int = zipfile.ZIP_STORED) -> Path:
    """Copies an archive with another content of one entry, or without it."""
    path = file.with_name("rewritten.pt")
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(path, "w") as copy:
        for entry in archive.infolist():
            if not entry.filename.endswith(name):
                copy.writestr(entry.filename, archive.read(entry))
            elif content is not None:
                copy.writestr(entry.filename, content, compression)
    return path


def test_refuses_damaged_files(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        data = archive.read("module/data.pkl")
    for name, content, compression, message in (
        ("module/data.pkl", data[: len(data) // 2], zipfile.ZIP_STORED, ""),
        ("module/data.pkl", data, zipfile.ZIP_DEFLATED, "compressed"),
        ("module/data.pkl", pickle.dumps({}, protocol=2), zipfile.ZIP_STORED, "does not hold a module"),
        ("module/data/0", b"1234", zipfile.ZIP_STORED, "larger than its storage"),
        ("module/data/0", None, zipfile.ZIP_STORED, "no item named"),
    ):
        with pytest.raises(ValueError, match=f"is not a TorchScript file: .*{message}"):
            read_torchscript(rewritten(file, name, content, compression))


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def test_nothing_in_a_file_is_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ValueError, match="system, which is not allowed"):
        read_torchscript(rewritten(file, "module/data.pkl", pickle.dumps(Evil(), protocol=2)))
    assert not (file.parent / "evil").exists()
