"""Latent variable models: a prior, a posterior, a decoder and a family, composed."""

from uncollapse.models.rows import observe_rows, to_device
from uncollapse.models.vae import VAE, Terms, kl_per_unit

__all__ = ["VAE", "Terms", "kl_per_unit", "observe_rows", "to_device"]
