"""Distributions of the latents: priors p(z) and posteriors q(z|x)."""

from uncollapse.latent.chains import ChainPosterior, CommittedPrior, GaussianChain
from uncollapse.latent.components import (
    DEFAULT_SEPARATION,
    PRIORS,
    FullComponents,
    GaussianMixture,
    LearnedComponents,
    SeparatedComponents,
    UnitComponents,
)
from uncollapse.latent.enumerated import ComponentPosterior, WithoutComponents
from uncollapse.latent.layers import CategoricalLayer, Layer, NormalLayer
from uncollapse.latent.posteriors import (
    POSTERIORS,
    DiagonalGaussian,
    FamilyPosterior,
    Posterior,
    RealNVP,
    draw,
)
from uncollapse.latent.priors import (
    DiagonalNormal,
    Prior,
    StandardNormal,
    diagonal_normal,
    is_diagonal_normal,
    mixture,
)

__all__ = [
    "DEFAULT_SEPARATION",
    "POSTERIORS",
    "PRIORS",
    "CategoricalLayer",
    "ChainPosterior",
    "CommittedPrior",
    "ComponentPosterior",
    "DiagonalGaussian",
    "DiagonalNormal",
    "FamilyPosterior",
    "FullComponents",
    "GaussianChain",
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
    "diagonal_normal",
    "draw",
    "is_diagonal_normal",
    "mixture",
]
