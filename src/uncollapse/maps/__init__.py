"""Injective maps: gradients of input convex networks, and the decoders made of them."""

from uncollapse.maps.base import MAX_CONSTANT, Decoder
from uncollapse.maps.brenier import BrenierMap
from uncollapse.maps.decoder import InverseLipschitzDecoder
from uncollapse.maps.embedding import (
    EMBEDDINGS,
    Embedding,
    LearnedDirections,
    PrincipalDirections,
    ZeroPadding,
)
from uncollapse.maps.icnn import ICNN
from uncollapse.maps.jacobian import Extremes
from uncollapse.maps.potential import Potential
from uncollapse.maps.ridge import RidgeSum

POTENTIALS: dict[str, type[Potential]] = {"icnn": ICNN, "ridge": RidgeSum}

__all__ = [
    "EMBEDDINGS",
    "ICNN",
    "MAX_CONSTANT",
    "POTENTIALS",
    "BrenierMap",
    "Decoder",
    "Embedding",
    "Extremes",
    "InverseLipschitzDecoder",
    "LearnedDirections",
    "Potential",
    "PrincipalDirections",
    "RidgeSum",
    "ZeroPadding",
]
