"""Injective maps: gradients of input convex networks, and the decoders made of them."""

from uncollapse.maps.brenier import BrenierMap
from uncollapse.maps.decoder import MAX_CONSTANT, Decoder, InverseLipschitzDecoder, NetworkDecoder
from uncollapse.maps.embedding import (
    EMBEDDINGS,
    Embedding,
    LearnedDirections,
    PrincipalDirections,
    ZeroPadding,
)
from uncollapse.maps.jacobian import Extremes
from uncollapse.maps.potentials import ICNN, POTENTIALS, Potential, RidgeSum

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
    "NetworkDecoder",
    "Potential",
    "PrincipalDirections",
    "RidgeSum",
    "ZeroPadding",
]
