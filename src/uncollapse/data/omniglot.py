"""Omniglot: handwritten characters of many alphabets (Lake et al. 2015), PNG files in zip
archives."""

import io
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from uncollapse._utils.errors import FileError, one_line
from uncollapse.data.arrays import Data
from uncollapse.data.download import Source

SIDE = 105  # pixels of upstream's drawings
REDUCED_SIDE = 28
MAX_BYTES = SIDE * SIDE  # largest PNG that is read; upstream's largest has 419 bytes
N_CHARACTERS = 242
# Each character was drawn by 20 people.
DRAWINGS = {"train": range(1, 17), "test": range(17, 21)}
DRAWING_NAME = re.compile(
    r"[^/]+/(?P<alphabet>[^/]+)/(?P<character>[^/]+)/[^/]+_(?P<number>\d\d)\.png"
)

# K23 table 3: dynamically binarized images, 32 latents, hidden layers of 200 units.
BINARIZED_CHARACTERS = {
    "family": "bernoulli",
    "latent_dim": 32,
    "hidden": (200, 200),
    "max_epochs": 100,
    "batch_size": 100,
}

# The Greek and the Latin alphabet are in both files.
OMNIGLOT = Source(
    folder="omniglot",
    url="https://github.com/brendenlake/omniglot/raw/master/python/",
    md5={
        "images_background_small1.zip": "e704a628b5459e08445c13499850abc4",
        "images_background_small2.zip": "b75a71a51d3b13f821f212756fe481fd",
    },
)

Key = tuple[str, str, int]  # alphabet, character and number of a drawing


def load_omniglot(source: Source, n_characters: int, split: str) -> Data:
    """Load characters as ink in [0, 1], 28 x 28 pixels, with their alphabets as labels.

    Drawings 1 to 16 of each character are for training and 17 to 20 for testing, so that no person
    drew a character for both.
    """
    drawings: dict[Key, np.ndarray] = {}
    for path in [source.fetch(name) for name in source.md5]:
        for key, ink in read_drawings(path, DRAWINGS[split]).items():
            if not np.array_equal(drawings.setdefault(key, ink), ink):
                raise FileError(
                    f"{path} holds another drawing {key} than the files before it: delete all and "
                    "fetch them again."
                )
    expected = n_characters * len(DRAWINGS[split])
    if len(drawings) != expected:
        raise FileError(
            f"omniglot expects {expected} drawings in its {split} part, got {len(drawings)}: fetch "
            "its files again."
        )
    keys = sorted(drawings)
    X = np.stack([drawings[key].ravel() for key in keys])
    labels = np.array([alphabet for alphabet, _, _ in keys])
    shape = (REDUCED_SIDE, REDUCED_SIDE)
    return Data(X, labels, "omniglot", image_shape=shape, defaults=BINARIZED_CHARACTERS)


def read_drawings(path: Path, numbers: range) -> dict[Key, np.ndarray]:
    """Return the ink of the drawings with these numbers, shape (28, 28) each, from an archive.

    Nothing is written to disk. Raises `FileError` if the archive is damaged.
    """
    drawings = {}
    try:
        with (
            warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
            zipfile.ZipFile(path) as archive,
        ):
            for entry in archive.infolist():
                name = DRAWING_NAME.fullmatch(entry.filename)
                if name is not None and int(name["number"]) in numbers:
                    drawings[name["alphabet"], name["character"], int(name["number"])] = _reduce(
                        _read_ink(archive, entry)
                    )
    except Exception as error:  # Archives and images fail in many ways.
        reason = one_line(error) or type(error).__name__
        raise FileError(
            f"{path} cannot be read as a zip of drawings ({reason}): it may be damaged; delete it "
            "and fetch it again."
        ) from None
    return drawings


def _read_ink(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Return 1 for ink and 0 for paper, shape (105, 105)."""
    if entry.file_size > MAX_BYTES:
        raise ValueError(f"{entry.filename} has {entry.file_size} bytes, more than {MAX_BYTES}")
    with Image.open(io.BytesIO(archive.read(entry)), formats=["PNG"]) as image:
        if image.size != (SIDE, SIDE):
            size = "{} x {}".format(*image.size)
            raise ValueError(f"{entry.filename} has {size} pixels, not {SIDE} x {SIDE}")
        brightness: np.ndarray = np.asarray(image.convert("L")) / 255
    return 1 - brightness


def _area_weights(n: int, n_reduced: int) -> np.ndarray:
    """Return the weights that average n pixels into fewer, wider ones, shape (n_reduced, n)."""
    edges, reduced_edges = np.arange(n + 1), np.linspace(0, n, n_reduced + 1)
    left = np.maximum.outer(reduced_edges[:-1], edges[:-1])
    right = np.minimum.outer(reduced_edges[1:], edges[1:])
    overlaps: np.ndarray = np.clip(right - left, 0, None)
    return overlaps * n_reduced / n


AREA_WEIGHTS = _area_weights(SIDE, REDUCED_SIDE)


def _reduce(image: np.ndarray) -> np.ndarray:
    """Average an image over areas of 3.75 x 3.75 pixels."""
    return np.asarray(AREA_WEIGHTS @ image @ AREA_WEIGHTS.T, np.float32)
