"""Injective maps: gradients of input convex networks, and the decoders made of them."""

from uncollapse.maps.base import Decoder
from uncollapse.maps.brenier import BrenierMap
from uncollapse.maps.decoder import InverseLipschitzDecoder
from uncollapse.maps.embedding import EMBEDDINGS, Embedding, PrincipalDirections, ZeroPadding
from uncollapse.maps.icnn import ICNN
from uncollapse.maps.mlp import MLPDecoder

__all__ = [
    "EMBEDDINGS",
    "ICNN",
    "BrenierMap",
    "Decoder",
    "Embedding",
    "InverseLipschitzDecoder",
    "MLPDecoder",
    "PrincipalDirections",
    "ZeroPadding",
]
