"""Named data sets of text, with a training, a validation and a test file each."""

from __future__ import annotations

from dataclasses import replace

from uncollapse.data.arrays import Data, read_file
from uncollapse.data.download import Source
from uncollapse.errors import InputError

FILE_WORDS = {"train": "train", "validation": "valid", "test": "test"}
LATENTS = {"latent_dim": 32}


def _source(name: str) -> Source:
    # No address is known whose files have been compared with these.
    return Source(name, url=None, md5={f"{name}.{word}.txt.gz": None for word in FILE_WORDS.values()})


YAHOO, YELP = _source("yahoo"), _source("yelp")


def load_corpus(source: Source, split: str) -> Data:
    """The documents of a part.

    Raises:
        InputError: if the part's file is not on this machine, or is damaged.
    """
    files = {part: f"{source.folder}.{word}.txt.gz" for part, word in FILE_WORDS.items()}
    path = source.find(files[split])
    if path is None:
        there = [part for part, file in files.items() if source.find(file) is not None]
        raise InputError(
            f"{source.folder} has no {split} part on this machine (there is: {', '.join(there) or 'none'}): "
            f"put {files[split]}, which is not for download, into {source.place}."
        )
    return replace(read_file(path), name=source.folder, defaults=LATENTS)
