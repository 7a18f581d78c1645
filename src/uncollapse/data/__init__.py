"""Data from files in common formats, from named data sets, and from disk."""

from uncollapse.data.arrays import Data, are_documents, read_file
from uncollapse.data.named import NAMED, hold_out, load
from uncollapse.data.parquet import StoredParquet
from uncollapse.data.stored import RowSource, StoredArray, StoredRows

__all__ = [
    "NAMED",
    "Data",
    "RowSource",
    "StoredArray",
    "StoredParquet",
    "StoredRows",
    "are_documents",
    "hold_out",
    "load",
    "read_file",
]
