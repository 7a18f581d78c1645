"""Named data sets of text, with a training, a validation and a test file each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from uncollapse._utils.errors import FileError
from uncollapse._utils.vocabulary import UNKNOWN_NAMES
from uncollapse.data.arrays import Data, read_file
from uncollapse.data.download import Source

FILE_WORDS = {"train": "train", "validation": "valid", "test": "test"}
LATENTS = {"latent_dim": 32}
UPSTREAM_UNKNOWN = "_UNK"  # of Yahoo Answers
UNKNOWN_WORD = UNKNOWN_NAMES["word"]


def _source(name: str) -> Source:
    # No address is known whose files have been compared with these.
    return Source(
        name, url=None, md5={f"{name}.{word}.txt.gz": None for word in FILE_WORDS.values()}
    )


YAHOO, YELP = _source("yahoo"), _source("yelp")


def load_corpus(source: Source, split: str) -> Data:
    """The documents of a part. Words that upstream has left out are unknown words of ours.

    Raises:
        InputError: if the part's file is not on this machine, or is damaged.
    """
    files = {part: f"{source.folder}.{word}.txt.gz" for part, word in FILE_WORDS.items()}
    path = source.find(files[split])
    if path is None:
        there = [part for part, file in files.items() if source.find(file) is not None]
        raise FileError(
            f"{source.folder} has no {split} part on this machine (there is: "
            f"{', '.join(there) or 'none'}): "
            f"put {files[split]}, which is not for download, into {source.place}, or take a part "
            "that is there (--split)."
        )
    read = read_file(path)
    documents = np.array(
        [document.replace(UPSTREAM_UNKNOWN, UNKNOWN_WORD) for document in read.X], dtype=object
    )
    return replace(read, X=documents, name=source.folder, defaults=LATENTS)
