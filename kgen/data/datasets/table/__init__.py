"""Tables with a column of encoded images: the base of `parquet` and `hf`."""

from kgen.data.datasets.table.images import TableImages
from kgen.data.datasets.table.stored import StoredTable, pyarrow

__all__ = ["StoredTable", "TableImages", "pyarrow"]
