"""Latent variable models: a prior, a posterior, a decoder and a family, composed."""

from uncollapse.models.base import LatentModel, Latents, Terms, gradient, kl_per_unit, to_device
from uncollapse.models.layered import LayeredVAE
from uncollapse.models.mixture import EnumeratedMixtureVAE, MixtureVAE, component_kl
from uncollapse.models.sequence import History, SequenceVAE
from uncollapse.models.vae import VAE, differentiable_twice

__all__ = [
    "VAE",
    "EnumeratedMixtureVAE",
    "History",
    "LatentModel",
    "Latents",
    "LayeredVAE",
    "MixtureVAE",
    "SequenceVAE",
    "Terms",
    "component_kl",
    "differentiable_twice",
    "gradient",
    "kl_per_unit",
    "to_device",
]
