"""Lists the images of ArrayRecord files whose records are tf.train.Example messages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kgen.data.datasets.shards.example import ExampleError, Value, read_example
from kgen.data.datasets.shards.listing import Listing
from kgen.data.encoded.captions import CAPTION_COLUMNS, TextError, are_boxes, captions_in_text, decode_text
from kgen.errors import DataError

IMAGE_KEYS = ("image", "image/encoded", "jpg", "jpeg", "png", "webp", "image_bytes", "img")
"""Names of the feature that holds the encoded image; the first one that exists is used."""

LABEL_KEYS = ("image/class/text", "label", "class", "cls", "image/class/label")
"""Names of the feature that holds the class, a text or a number."""

AT_ONCE = 32
"""Number of records that are read together when a file is listed."""

OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
"""The options of a reader that is used for random access."""


def open_reader(path: Path) -> Any:
    """Opens a file with the package array-record.

    Raises:
        DataError: the package is not installed.
    """
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise DataError(
            f"array_record: the package array-record is not installed ({error}): pip install array-record. If it does "
            "not exist for your system, write the images as tar shards or Parquet files, for webdataset or parquet"
        ) from error
    return array_record_module.ArrayRecordReader(str(path), options=OPTIONS, file_reader_buffer_size=2**15)


def list_records(path: Path, image_key: str | None, caption_key: str | None) -> Listing:
    """Reads the captions and labels of all records.

    Raises:
        OSError: the file cannot be read.
        DataError: the records are not tf.train.Example messages, or have no image; the package is not installed.
    """
    found = Listing()
    with path.open("rb"):  # raises OSError; the reader says nothing about a file that it may not read
        reader = open_reader(path)
    count = reader.num_records()
    if not count:
        what = "it holds no record" if reader.ok() else "it is empty, cut off, or not an ArrayRecord file"
        found.problems.append(("", what))
    group = re.search(r"group_size:(\d+)", reader.writer_options_string() if count else "")
    if group and int(group[1]) > 1:
        found.notes.append(
            f"to read one image, a group of {group[1]} records is read: write the file with group_size:1 to read faster"
        )
    sources: set[str] = set()
    for number, record in _records(reader, count):
        try:
            example = read_example(_intact(record))
            image, size = _image(example, image_key)
        except (ExampleError, RuntimeError) as error:
            if number == 0 and isinstance(record, bytes):
                raise DataError(f"array_record: {path}: {_refusal(record, error)}") from error
            found.problems.append((str(number), str(error)))
            continue
        captions, reason, source = _captions(example, caption_key, image)
        sources |= {source} if captions else set()
        found.add(str(number), number, size, captions, _label(example, caption_key), reason)
        found.boxes = found.boxes and are_boxes(captions)
    found.sources = [f"'{source}'" for source in sorted(sources)]
    return found


def read_image(record: bytes, image_key: str | None) -> bytes:
    """The encoded image of a record. Raises ExampleError."""
    example = read_example(record)
    value = example[_image(example, image_key)[0]][0]
    return value if isinstance(value, bytes) else b""


def _records(reader: Any, count: int) -> Iterator[tuple[int, bytes | RuntimeError]]:
    """All records in order. For a damaged record, this yields the error in its place."""
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        try:
            yield from zip(numbers, reader.read(start, numbers.stop), strict=True)
            continue
        except RuntimeError:  # one of them is damaged
            pass
        for number in numbers:
            try:
                yield number, reader.read([number])[0]
            except RuntimeError as error:
                yield number, error


def _intact(record: bytes | RuntimeError) -> bytes:
    if isinstance(record, RuntimeError):
        raise RuntimeError(f"the record is damaged: {str(record).partition(';')[0]}") from record
    return record


def _image(example: Mapping[str, Value], image_key: str | None) -> tuple[str, int]:
    """The feature of the image, and its size in bytes. Raises ExampleError."""
    wanted = IMAGE_KEYS if image_key is None else (image_key,)
    key = next((key for key in wanted if key in example), None)
    if key is None:
        what = f"'{image_key}'" if image_key else "image"
        raise ExampleError(f"it has no {what}, but {_described(example)}: set image_key")
    values = example[key]
    if len(values) != 1:
        raise ExampleError(f"its '{key}' holds {len(values)} images")
    if not isinstance(values[0], bytes):
        raise ExampleError(f"its '{key}' holds numbers, not an encoded image")
    return key, len(values[0])


def _captions(example: Mapping[str, Value], caption_key: str | None, image: str) -> tuple[list[str], str, str]:
    """The captions, the reason if there are none, and the name of the feature."""
    usual = (*CAPTION_COLUMNS, *(f"image/{name}" for name in CAPTION_COLUMNS))
    wanted = usual if caption_key is None else (caption_key,)
    key = next((key for key in wanted if key in example and key != image), None)
    if key is None:
        return [], f"it has no '{caption_key or 'caption'}', but {_described(example)}", ""
    try:
        texts = [value for value in example[key] if isinstance(value, bytes)]
        if len(texts) != len(example[key]):
            raise TextError("holds numbers")
        lines = [" ".join(decode_text(text, key).split()) for text in texts]
        return captions_in_text("\n".join(lines))[0], "", key
    except TextError as error:
        return [], f"its '{key}' {error}", key


def _label(example: Mapping[str, Value], caption_key: str | None) -> str:
    """The class, a name or a number; "" if there is none."""
    wanted = LABEL_KEYS if caption_key is None else (caption_key,)
    values: Sequence[Any] = next((example[key] for key in wanted if example.get(key)), [])
    if len(values) != 1:
        return ""
    (value,) = values
    if isinstance(value, bytes):
        return " ".join(value.decode("utf-8", "replace").replace("_", " ").split())
    return str(value) if isinstance(value, int) and value >= 0 else ""  # -1 means that the class is unknown


def _described(example: Mapping[str, Value]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(example))


def _refusal(record: bytes, error: Exception) -> str:
    """Says what the records of a file are, and what to do, if the first one cannot be used."""
    try:
        read_example(record)
        return f"record 0: {error}"
    except ExampleError:
        pass
    write = "Write each as a tf.train.Example with 'image' (the bytes of a JPEG or PNG file) and 'caption'"
    if re.match(rb"\x80[\2-\5].*\.\Z", record, re.DOTALL):
        return f"its records are pickled, and reading them would run the code that they contain. {write}"
    if record.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
        return f"its records are images without captions. {write}"
    if record and (record[0] in b"{[\xde\xdf" or 0x81 <= record[0] <= 0x8F):
        return f"its records are JSON or msgpack, which kgen does not read. {write}"
    return f"its records are not tf.train.Example messages ({error}). {write}"
