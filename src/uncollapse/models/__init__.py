"""Latent variable models: a prior, a posterior, a decoder and a family, composed."""

from uncollapse.models.layered import LayeredVAE
from uncollapse.models.mixture import EnumeratedMixtureVAE, MixtureVAE, component_kl
from uncollapse.models.rows import observe_rows, to_device
from uncollapse.models.sequence import History, SequenceVAE
from uncollapse.models.vae import VAE, Latents, Terms, differentiable_twice, kl_per_unit

__all__ = [
    "VAE",
    "EnumeratedMixtureVAE",
    "History",
    "Latents",
    "LayeredVAE",
    "MixtureVAE",
    "SequenceVAE",
    "Terms",
    "component_kl",
    "differentiable_twice",
    "kl_per_unit",
    "observe_rows",
    "to_device",
]
