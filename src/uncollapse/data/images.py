"""Image data sets in the IDX format of MNIST."""

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from uncollapse._utils.errors import FileError, one_line
from uncollapse._utils.files import gunzip
from uncollapse.data.arrays import Data
from uncollapse.data.download import Source

IDX_UNSIGNED_BYTE = 0x08
SPLIT_PREFIX = {"train": "train", "test": "t10k"}

# K23 table 3 and W21 appendix C: dynamically binarized images, 64 latents, hidden layers of 512.
BINARIZED_IMAGES = {
    "family": "bernoulli",
    "latent_dim": 64,
    "hidden": (512, 512),
    "max_epochs": 10,
    "batch_size": 100,
}

FASHION_MNIST = Source(
    folder="fashion_mnist",
    url="https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    md5={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    system_folders=("/usr/share/datasets/fashion-mnist",),
)

MNIST = Source(
    folder="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    md5={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)


def load_idx_images(name: str, source: Source, split: str) -> Data:
    """Load images in [0, 1] and their labels."""
    prefix = SPLIT_PREFIX[split]
    images = read_idx(source.fetch(f"{prefix}-images-idx3-ubyte.gz"))
    labels = read_idx(source.fetch(f"{prefix}-labels-idx1-ubyte.gz"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise FileError(
            f"{name} has images of shape {images.shape} and labels of shape {labels.shape}."
        )
    X = (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)
    _, height, width = images.shape
    return Data(X, labels, name, image_shape=(height, width), defaults=BINARIZED_IMAGES)


def read_idx(path: Path) -> np.ndarray:
    """Return an array of bytes from a gzipped IDX file, or raise `FileError` if it is damaged."""
    try:
        content = gunzip(path)
        zeros, kind, n_dims = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{n_dims}I", content[4 : 4 + 4 * n_dims])
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise FileError(
            f"{path} cannot be read as gzipped IDX ({one_line(error)}): damaged? Fetch it again."
        ) from None
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims)
    if zeros != 0 or kind != IDX_UNSIGNED_BYTE or values.size != math.prod(shape):
        raise FileError(
            f"{path} is not an IDX file of {shape} bytes, or damaged: delete and fetch it again."
        )
    return values.reshape(shape)
