"""Text files with one document in each line, UTF-8, plain or gzipped."""

from pathlib import Path

import numpy as np

from uncollapse._utils.errors import FileError
from uncollapse._utils.files import gunzip


def read_documents(path: Path) -> np.ndarray:
    """Return the lines of a .txt or .txt.gz file, stripped of white space, shape (n,), str.

    A byte-order mark is left out, and the last line need not end in a line break.

    Raises:
        FileError: if a line is empty or not UTF-8, or the file unpacks to suspiciously much.
        OSError, EOFError, zlib.error: if the file is damaged.
    """
    content = gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"{path} is no UTF-8 in line {line} ({error.reason}): save it as UTF-8."
        ) from None
    if not text.strip():
        raise FileError(f"{path} holds no text: expected one document a line.")
    # str.splitlines would also break lines at separators that may stand within a document.
    documents = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if "" in documents:
        raise FileError(
            f"{path} has an empty line {documents.index('') + 1}: remove it. Lines are documents."
        )
    return np.array(documents, dtype=object)
