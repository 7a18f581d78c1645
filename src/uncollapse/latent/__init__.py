"""Distributions of the latents: priors p(z) and posteriors q(z|x)."""

from uncollapse.latent.layers import CategoricalLayer, Layer, NormalLayer
from uncollapse.latent.posteriors import (
    POSTERIORS,
    ComponentPosterior,
    DiagonalGaussian,
    FamilyPosterior,
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
    "CategoricalLayer",
    "ComponentPosterior",
    "DiagonalGaussian",
    "FamilyPosterior",
    "FullComponents",
    "GaussianMixture",
    "Layer",
    "LearnedComponents",
    "NormalLayer",
    "Posterior",
    "Prior",
    "RealNVP",
    "SeparatedComponents",
    "StandardNormal",
    "UnitComponents",
    "WithoutComponents",
    "draw",
]
