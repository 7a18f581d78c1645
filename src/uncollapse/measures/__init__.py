"""Measures: what a model's latents carry, each an estimate in nats with its error. Nothing here
trains."""

from uncollapse.measures.estimate import Estimate
from uncollapse.measures.identifiability import Identifiability, is_identifiable

__all__ = ["Estimate", "Identifiability", "is_identifiable"]
