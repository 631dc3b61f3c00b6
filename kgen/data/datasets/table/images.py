"""The base of datasets whose images are in a column of tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from kgen.contracts.dataset import Problem, Split
from kgen.data.datasets.table.columns import ColumnOptions, Columns, check_same_columns, choose_columns
from kgen.data.datasets.table.rows import read_texts
from kgen.data.datasets.table.stored import StoredTable
from kgen.data.encoded import EncodedImages, Entries, Stamp
from kgen.data.encoded.captions import DEFAULT_TEMPLATE
from kgen.data.images import ImageError
from kgen.errors import DataError


class TableImages(EncodedImages):
    """Images in a column of tables. A subclass overrides `_open_table`, and calls `_open_tables`.

    Args:
        image_key: The column of images; null: the only one.
        caption_key: The column of captions or labels; null: "text", or the only one of "caption", "captions",
            "description", "prompt", "title", "comment"; else the labels.
        template: Caption with {label} in place of the name of a label, if there is no column of captions. Without
            {label}, it is the caption of all images.
    """

    image_key: str | None
    caption_key: str | None
    template: str

    @abstractmethod
    def _open_table(self, path: Path, name: str) -> StoredTable:
        """Opens a file. Raises DataError if it cannot be read."""

    def _open_tables(
        self, files: Mapping[str, tuple[Path, Split]], problems: Sequence[Problem] = (), notes: Sequence[str] = ()
    ) -> None:
        """Reads the captions and labels of files, and opens the dataset.

        Args:
            files: The path and the split of each file, by its name in messages.
            problems: What is wrong with files that are not among `files`.
            notes: Lines that say how the files were found.

        Raises:
            DataError: a file cannot be read; there is no column of images or captions; see `EncodedImages._open`.
        """
        self._tables: dict[str, StoredTable] = {}
        entries: Entries = {"train": [], "validation": []}
        labels: dict[str, str] = {}
        found: list[Problem] = [*problems]
        first, columns = None, None
        for name, (path, split) in files.items():
            table = self._open_table(path, name)
            if columns is None:
                options = ColumnOptions(self.image_key, self.caption_key, self.template)
                first, columns = table.schema, choose_columns(table.schema, options, f"{self.owner}: {path}")
            else:
                check_same_columns(table.schema, columns, first, f"{self.owner}: {path}", next(iter(files)))
            table.use(columns.image)
            texts = table.read(columns.texts) if columns.texts else None
            table.close()
            read = read_texts(texts, columns, name, table.rows, self.template)
            entries[split] += read.entries
            labels |= read.labels
            found += read.problems
            self._tables[name] = table
        if columns is None or not any(table.rows for table in self._tables.values()):
            raise DataError(f"{self.owner}: {self.path} holds no rows")
        lines = [f"{self.owner} {self.path}: {line}" for line in self._describe(columns, files, entries)]
        more = [note for table in self._tables.values() for note in table.notes()][:1]
        self._open(entries, problems=found, notes=[*notes, *lines, *more], labels=labels)

    def _describe(self, columns: Columns, files: Mapping[str, tuple[Path, Split]], entries: Entries) -> list[str]:
        """Lines that say what was read."""
        if columns.caption is not None:
            source = f"captions are from '{columns.caption}'"
        elif columns.label is not None:
            source = f"captions are made from the labels in '{columns.label}'"
        else:
            source = f"all captions are '{self.template}'"
        lines = [f"images are from the column '{columns.image}', {source}"]
        if entries["validation"]:
            train, validation = (self._count(files, entries, split) for split in ("train", "validation"))
            lines.append(f"there are {train} for training, and {validation} for validation")
        if columns.caption is not None and self.template != DEFAULT_TEMPLATE:
            lines.append("the option template is not used, because there are captions")
        return lines

    def _count(self, files: Mapping[str, tuple[Path, Split]], entries: Entries, split: str) -> str:
        count = len({name for name, _ in entries[split]})  # type: ignore[index]
        stored = sum(held == split for _, held in files.values())
        return f"{count:,} image{'s' * (count != 1)} in {stored} file{'s' * (stored != 1)}"

    def _encoded(self, name: str) -> bytes:
        table, row = self._row(name)
        data = table.image(row)
        if data is not None:
            return data
        path = table.image_path(row)
        if path is None:
            raise ImageError("there is no image: it is null")
        beside = table.path.parent / path
        if not beside.is_file():
            raise ImageError(f"it names the image {path}, which does not exist")
        return beside.read_bytes()

    def _row(self, name: str) -> tuple[StoredTable, int]:
        file, _, row = name.rpartition(":")
        return self._tables[file], int(row)

    def _stamp(self, name: str) -> Stamp:
        return self._tables[name.rpartition(":")[0]].stamp

    def _where(self, name: str) -> str:
        table, row = self._row(name)
        return f"{table.path}, row {row}"
