"""What kgen reads of a run or a saved pipeline may be damaged, or a stranger's: that is a user's error, and named."""

from __future__ import annotations

import copy
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from full_disk import full_disk
from parts import Painter, Patterns, Words

import kgen
from kgen.evaluation.results import read_results
from kgen.experiments.directory import RunDirectory
from kgen.parts.description import PipelineDescription, read_description
from kgen.runs.stage import copy_stage
from kgen.storage import weights
from kgen.storage.json_file import MAX_BYTES, read_json
from kgen.storage.paths import weight_paths
from kgen.storage.weights import load_variables, save_variables
from kgen.training.journal import read_rows

MISSING = object()
WRONG: tuple[Any, ...] = (MISSING, None, "nope", -1, 2**62, 10**9, 1e300, [], {}, [[1]], {"name": 5}, "x" * 10_000)

HARMLESS = {
    ("api", "missing"),
    *(("files", value) for value in ("missing", "[]")),
    *(("generator.noise", value) for value in ("-1", str(2**62), str(10**9), "1e+300", "missing")),
    *((f"{part}.{key}", "missing") for part, key in (("encoder", "dim"), ("generator", "width"))),
}
"""Changes after which the description still is that of the saved weights."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = Patterns(count=4)
    encoder = Words()
    encoder.adapt(dataset.captions("train"))
    generator = Painter(dataset.image_space, encoder.condition_space)
    folder = tmp_path_factory.mktemp("saved") / "model"
    kgen.assemble(encoder=encoder, generator=generator, dataset=dataset).save(folder)
    return folder


def load(folder: Path) -> kgen.Pipeline:
    return kgen.load(folder, custom=[Words, Painter])


def changes(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every key of nested data, with each wrong value."""
    for key in data if isinstance(data, dict) else range(len(data)):
        yield from (((*path, key), value) for value in WRONG)
        if isinstance(data[key], dict | list):
            yield from changes(data[key], (*path, key))


def test_every_key_of_a_description_may_be_wrong(saved: Path, tmp_path: Path) -> None:
    """One test and not hundreds: each takes milliseconds, and what failed is listed."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    whole = yaml.safe_load((saved / "pipeline.yaml").read_text())
    assert load(folder)
    wrong = []
    for path, value in changes(whole):
        data = copy.deepcopy(whole)
        *parents, key = path
        node = data
        for parent in parents:
            node = node[parent]
        if value is MISSING:
            del node[key]
        else:
            node[key] = value
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(data))
        name = ".".join(map(str, path)), "missing" if value is MISSING else str(value)[:30]
        try:
            load(folder)
        except kgen.KgenError as error:
            if len(str(error)) > 1000:
                wrong.append((*name, "a long message", str(error)[:100]))
        except Exception as error:
            wrong.append((*name, type(error).__name__, str(error)[:100]))
        else:
            if name not in HARMLESS and path[0] != "files":
                wrong.append((*name, "no error", ""))
    assert not wrong, "\n".join(map(str, wrong))


def bomb() -> str:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join([*lines, "api: 1", "image_shape: [16, 16, 3]", "decoder: *a9"])


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is empty"),
        ("5", "must be a mapping"),
        ("a: [", "is not valid YAML"),
        ("a: " + "[" * 3000, "is nested more than 20 levels deep"),
        (bomb(), r"anchors \(&a0\) are not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "tags .* are not allowed"),
        ("\x00", "control character"),
        ("\xff\xfe", "is not UTF-8 text"),
        ("api: 2\nmore: 1", "was saved under contract 2 of kgen"),
        ("# " + "x" * 8_000_001, "is larger than 8,000,000 bytes"),
        ("api: 0x" + "f" * 5000, "is not a usable number"),
    ],
)
def test_dangerous_or_invalid_descriptions_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(kgen.RunError, match=message) as error:
        read_description(file, PipelineDescription)
    assert str(file) in str(error.value) and len(str(error.value)) < 2000


@pytest.mark.backends
@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "BF16", "F64", "U8", "nonsense"])
def test_weights_of_another_type_or_size(saved: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    file = folder / "weights.safetensors"
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    head = json.loads(content[8:end])
    tensor = next(value for key, value in head.items() if key != "__metadata__")
    tensor |= {"dtype": kind, "shape": [np.diff(tensor["data_offsets"]).item() // {"BF16": 2, "F64": 8}.get(kind, 1)]}
    text = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[end:])
    with pytest.raises(kgen.RunError, match=r"weights\.safetensors.*(cannot be read|is damaged)"):
        load(folder)


@pytest.mark.portable
@pytest.mark.parametrize("checksum", [weights.checksum_of, weights._older_checksum])
def test_a_changed_bit_or_name_is_found(checksum: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in files with the checksum of an older kgen."""
    arrays = {name: np.full((40, 3), number, np.float32) for number, name in enumerate("abc")}
    file = tmp_path / "weights.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(weights, "checksum_of", checksum)
        save_variables(file, arrays, {"step": "1"})
    whole = file.read_bytes()
    assert weights.read_arrays(file)[1] == {"step": "1"}
    bit = bytearray(whole)
    bit[-700] ^= 1
    for content in (bytes(bit), whole.replace(b'"b":{', b'"d":{')):
        assert content != whole
        file.write_bytes(content)
        with pytest.raises(kgen.RunError, match="is damaged: its numbers do not match their checksum"):
            weights.read_arrays(file)


def test_weights_of_a_layer_of_another_size(tmp_path: Path) -> None:
    layers = [keras.layers.Dense(width, name="layer") for width in (3, 4)]
    for layer in layers:
        layer.build((None, 2))
    save_variables(tmp_path / "weights.safetensors", weight_paths(layers[0]), {})
    with pytest.raises(kgen.RunError, match=r"bias has the shape \(3,\), the model needs \(4,\)"):
        load_variables(tmp_path / "weights.safetensors", weight_paths(layers[1]))


def test_a_disk_that_is_full_keeps_the_old_pipeline(saved: Path, tmp_path: Path) -> None:
    """safetensors tells of it in words of its own. No file may grow beyond a kilobyte here."""
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    pipeline, before = load(folder), (folder / "weights.safetensors").read_bytes()
    with full_disk(1024), pytest.raises(kgen.RunError, match=r"the disk is full .*: [\d,]+ bytes were needed at .*"):
        pipeline.save(folder)
    assert (folder / "weights.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_links_in_an_imported_decoder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "stage" / "model").mkdir(parents=True)
    (tmp_path / "stage" / "model" / "words.json").symlink_to(tmp_path / "secret")
    with pytest.raises(kgen.RunError, match=r"words\.json is a symbolic link, which is not copied"):
        copy_stage(tmp_path / "stage", tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- JSON and CSV of a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["", "{", "5", "null", "[1]", '{"step": "5"}', '{"timings": {}}', "[" * 3000, "\xff"]
)
def test_a_damaged_manifest(tmp_path: Path, content: str) -> None:
    directory = RunDirectory(tmp_path)
    directory.manifest.write_bytes(content.encode("latin-1"))
    with pytest.raises(kgen.RunError, match=r"manifest\.json is damaged: "):
        directory.read_manifest()


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.read_manifest() == {}
    directory.update_manifest(name="a", seed=1)
    directory.update_manifest(timings={"training_seconds": 2.5, "more": 1}, other=[{"x": None}])
    assert directory.read_manifest("name") == {
        **{"api": kgen.API, "name": "a", "seed": 1},
        **{"timings": {"training_seconds": 2.5, "more": 1}, "other": [{"x": None}]},
    }
    with pytest.raises(kgen.RunError, match="has not ended: it lacks 'components'"):
        directory.read_manifest("name", "components")


@pytest.mark.parametrize(
    "content",
    [
        *("{", "5", '{"train": 1}', '{"train": {"a": "b"}}', '{"train": {"a": [1]}}'),
        '{"title": "kgen evaluation", "format": 2, "results": [{}]}',
    ],
)
def test_damaged_scores(tmp_path: Path, content: str) -> None:
    directory = RunDirectory(tmp_path)
    assert read_results(directory.evaluation) == []
    directory.evaluation.write_text(content)
    with pytest.raises(kgen.RunError, match=r"evaluation\.json is damaged: "):
        read_results(directory.evaluation)
    directory.evaluation.write_text('{"format": 3, "results": []}')
    with pytest.raises(kgen.RunError, match=r"evaluation\.json has format 3, and this kgen reads only 2"):
        read_results(directory.evaluation)


@pytest.mark.parametrize(
    "content",
    [
        "step,seconds,loss\nabc,1,2\n",
        "step,seconds\n1.5,2\n",
        "a,b\n1,2\n",
        "step,seconds,loss\n1,2,x\n",
        "\xff\n\xff\n",
    ],
)
def test_a_damaged_metrics_csv(tmp_path: Path, content: str) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(kgen.RunError, match=r"metrics\.csv is damaged: "):
        read_rows(file)


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert read_rows(file) == []
    file.write_text("step,seconds,loss,val_loss\n1,2.5,nan,\n2,3.5")
    assert read_rows(file) == [{"step": "1", "seconds": "2.5", "loss": "nan", "val_loss": ""}]


def test_a_json_file_of_any_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(kgen.RunError, match="larger than 100,000,000 bytes"):
        read_json(tmp_path / "x.json", dict[str, Any])
