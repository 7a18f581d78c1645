"""Latent variable models: a prior, a posterior, a decoder and a family, composed."""

from uncollapse.models.vae import VAE, Terms, kl_per_unit

__all__ = ["VAE", "Terms", "kl_per_unit"]
