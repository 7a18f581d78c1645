"""Data: files in common formats, and named data sets that are found or fetched."""

from uncollapse.data.arrays import Data, read_file
from uncollapse.data.named import NAMED, load

__all__ = ["NAMED", "Data", "load", "read_file"]
