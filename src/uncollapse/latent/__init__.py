"""Distributions of the latents: priors p(z) and posteriors q(z|x)."""

from uncollapse.latent.posteriors import (
    POSTERIORS,
    ComponentPosterior,
    DiagonalGaussian,
    Posterior,
    RealNVP,
    WithoutComponents,
    draw,
)
from uncollapse.latent.priors import (
    DEFAULT_SEPARATION,
    PRIORS,
    FullComponents,
    GaussianMixture,
    LearnedComponents,
    Prior,
    SeparatedComponents,
    StandardNormal,
    UnitComponents,
)

__all__ = [
    "DEFAULT_SEPARATION",
    "POSTERIORS",
    "PRIORS",
    "ComponentPosterior",
    "DiagonalGaussian",
    "FullComponents",
    "GaussianMixture",
    "LearnedComponents",
    "Posterior",
    "Prior",
    "RealNVP",
    "SeparatedComponents",
    "StandardNormal",
    "UnitComponents",
    "WithoutComponents",
    "draw",
]
