"""Distributions of the latents: priors p(z) and posteriors q(z|x)."""

from uncollapse.latent.posteriors import DiagonalGaussian, reparameterise
from uncollapse.latent.priors import StandardNormal

__all__ = ["DiagonalGaussian", "StandardNormal", "reparameterise"]
