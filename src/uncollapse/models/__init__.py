"""Latent variable models: a prior, a posterior, a decoder and a family, composed."""

from uncollapse.models.base import LatentModel, Latents, Terms, gradient, kl_per_unit, to_device
from uncollapse.models.batch_context import BatchContext
from uncollapse.models.composed import ComposedModel, ModelBound, RowModel, differentiable_twice
from uncollapse.models.layered import LayeredVAE
from uncollapse.models.mixture import (
    EnumeratedMixtureVAE,
    MixtureModel,
    MixtureVAE,
    component_kl,
)
from uncollapse.models.sequence import History, SequenceVAE
from uncollapse.models.vae import VAE

__all__ = [
    "VAE",
    "BatchContext",
    "ComposedModel",
    "EnumeratedMixtureVAE",
    "History",
    "LatentModel",
    "Latents",
    "LayeredVAE",
    "MixtureModel",
    "MixtureVAE",
    "ModelBound",
    "RowModel",
    "SequenceVAE",
    "Terms",
    "component_kl",
    "differentiable_twice",
    "gradient",
    "kl_per_unit",
    "to_device",
]
