"""Registry of named data sets."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from uncollapse._utils.errors import FileError, ParameterError
from uncollapse.data.arrays import READERS, Data, ending_of, read_file
from uncollapse.data.corpora import YAHOO, YELP, load_corpus
from uncollapse.data.download import Source
from uncollapse.data.images import FASHION_MNIST, MNIST, load_idx_images
from uncollapse.data.omniglot import N_CHARACTERS, OMNIGLOT, load_omniglot
from uncollapse.data.synthetic import pinwheel
from uncollapse.data.synthetic_text import synthetic_text

SPLITS = ("train", "test")
TEXT_SPLITS = ("train", "validation", "test")
DIGITS = {"latent_dim": 16, "hidden": (256, 256), "max_epochs": 100}


@dataclass(frozen=True)
class NamedData:
    """A data set with a training split and others.

    Attributes:
        description: in one line.
        load_split: returns a split by its name.
        source: places of its files, or None if it has none.
        splits: names of its splits.
    """

    description: str
    load_split: Callable[[str], Data]
    source: Source | None = None
    splits: tuple[str, ...] = SPLITS

    def whereabouts(self) -> str:
        """Return where the files are, in words."""
        if self.source is None:
            return "needs no files"
        found = {name: self.source.find(name) for name in self.source.md5}
        missing = [name for name, path in found.items() if path is None]
        if missing and self.source.url is None:
            names = ", ".join(missing)
            return f"{len(missing)} of {len(found)} files missing, not for download: {names}"
        if missing:
            return f"{len(missing)} of {len(found)} files to fetch"
        return str(next(path.parent for path in found.values() if path is not None))

    def fetch(self) -> list[Path]:
        """Return the paths of the files, which are downloaded where necessary.

        Raises:
            FileError: if a download fails, or a missing file has none.
        """
        return [] if self.source is None else [self.source.fetch(name) for name in self.source.md5]


def _load_digits(split: str) -> Data:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    # By default, scikit-learn holds out a quarter.
    splits = train_test_split(np.arange(len(pixels)), random_state=0, stratify=labels)
    rows = splits[SPLITS.index(split)]
    X = (pixels[rows] / 16).astype(np.float32)
    return Data(X, labels[rows], "digits", image_shape=(8, 8), defaults=DIGITS)


NAMED: dict[str, NamedData] = {
    "digits": NamedData(
        "1,797 handwritten digits of 8 x 8 pixels, shipped with scikit-learn", _load_digits
    ),
    "fashion-mnist": NamedData(
        "60,000 + 10,000 grey images of clothing, 28 x 28, 10 classes (Xiao et al. 2017)",
        partial(load_idx_images, "fashion-mnist", FASHION_MNIST),
        FASHION_MNIST,
    ),
    "mnist": NamedData(
        "60,000 + 10,000 handwritten digits, 28 x 28 (LeCun et al. 1998)",
        partial(load_idx_images, "mnist", MNIST),
        MNIST,
    ),
    "omniglot": NamedData(
        "3,872 + 968 drawings (16 + 4 of each of 242 characters), 28 x 28, 8 alphabets (Lake et "
        "al. 2015)",
        partial(load_omniglot, OMNIGLOT, N_CHARACTERS),
        OMNIGLOT,
    ),
    "pinwheel": NamedData(
        "5,000 + 5,000 points of 5 bent arms in the plane (Johnson et al. 2016)",
        lambda split: pinwheel(seed=SPLITS.index(split)),
    ),
    "synthetic-text": NamedData(
        "16,000 + 2,000 + 2,000 sentences by a sequential VAE with 5 latents (after W21 section "
        "4.1)",
        synthetic_text,
        splits=TEXT_SPLITS,
    ),
    "yahoo": NamedData(
        "100,000 + 10,000 + 10,000 questions with answers, 20,000 words (Yang et al. 2017)",
        partial(load_corpus, YAHOO),
        YAHOO,
        TEXT_SPLITS,
    ),
    "yelp": NamedData(
        "sentences of reviews, 10,000 each for validation and test (Shen et al. 2017)",
        partial(load_corpus, YELP),
        YELP,
        TEXT_SPLITS,
    ),
}


def load(source: str | Path, split: str = "train", labels: str | None = None) -> Data:
    """Load a named data set or a file.

    Args:
        source: a name of `NAMED`, or the path of a file, which is read whole.
        split: "train" or "test" of a named data set, or "validation" if it is text.
        labels: the column (or array) of a file that holds labels.

    Raises:
        ParameterError: if there is no such split, or labels are given for a named data set.
        FileError: if there is neither such a name nor such a file, or it cannot be read.

    >>> load("digits").X.shape
    (1347, 64)
    """
    named = NAMED.get(str(source))
    splits = TEXT_SPLITS if named is None else named.splits
    if split not in splits:
        what = "" if named is None else f": these are the splits of {source}"
        raise ParameterError(f"split expects one of {', '.join(splits)}, got {split!r}{what}.")
    if named is not None:
        if labels is not None:
            raise ParameterError(
                f"labels name a column of a file, and the data set {source} brings its own: leave "
                "them out."
            )
        return named.load_split(split)
    if ending_of(Path(source)) is None and not os.path.isdir(source):
        raise FileError(
            f"there is no data set {str(source)!r}: expected one of {', '.join(NAMED)}, or a file "
            f"that ends in {', '.join(READERS)}."
        )
    return read_file(source, labels)


def hold_out(
    source: str | Path, labels: str | None = None, split: str = "validation"
) -> tuple[Data, Data]:
    """Load data to train on, and others to measure models on.

    The others are a split of a named data set that has it, and else a random fifth.

    Raises:
        InputError: if the data cannot be read, or are too few.
    """
    train = load(source, "train", labels)
    named = NAMED.get(str(source))
    if named is not None and split in named.splits:
        return train, load(source, split)
    return train.hold_out()
