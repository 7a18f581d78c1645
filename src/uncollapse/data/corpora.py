"""Named data sets of text, each with a training, a validation and a test file."""

from dataclasses import replace

import numpy as np

from uncollapse._utils.errors import FileError
from uncollapse._utils.vocabulary import UNKNOWN_NAMES
from uncollapse.data.arrays import Data, read_file
from uncollapse.data.download import Source

FILE_WORDS = {"train": "train", "validation": "valid", "test": "test"}
LATENTS = {"latent_dim": 32}
UPSTREAM_UNKNOWN = "_UNK"  # unknown words in the files of Yahoo Answers


def _source(name: str) -> Source:
    # No address is known whose files have been compared with these.
    files = [f"{name}.{word}.txt.gz" for word in FILE_WORDS.values()]
    return Source(name, url=None, md5=dict.fromkeys(files))


YAHOO, YELP = _source("yahoo"), _source("yelp")


def load_corpus(source: Source, split: str) -> Data:
    """Load the documents of one split, with upstream's mark for unknown words replaced by ours."""
    files = {part: f"{source.folder}.{word}.txt.gz" for part, word in FILE_WORDS.items()}
    path = source.find(files[split])
    if path is None:
        present = [part for part, file in files.items() if source.find(file) is not None]
        raise FileError(
            f"{source.folder} has no {split} part on this machine (there is: "
            f"{', '.join(present) or 'none'}): put {files[split]}, which is not for download, into "
            f"{source.place}, or take a part that is there (--split)."
        )
    read, unknown = read_file(path), UNKNOWN_NAMES["word"]
    documents = [document.replace(UPSTREAM_UNKNOWN, unknown) for document in read.X]
    return replace(read, X=np.array(documents, dtype=object), name=source.folder, defaults=LATENTS)
