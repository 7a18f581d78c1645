"""Priors p(z), and the diagonal Gaussians and mixtures that priors and posteriors are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

# The smallest standard deviation of a unit: far below the need of any sensible constant, far above
# float32's underflow.
MIN_SCALE = 1e-6

DiagonalNormal = Independent[Normal]


class Prior(nn.Module, ABC):
    """p(z) over R^latent_dim."""

    latent_dim: int

    @abstractmethod
    def forward(self) -> Distribution:
        """Return p(z)."""

    @abstractmethod
    def entropy_bound(self) -> float:
        """Return a lower bound on the differential entropy h(z), in nats."""

    @property
    def has_density(self) -> bool:
        """Whether z has a density, which theorems about gradients in z need."""
        return True

    def check_invariants(self) -> bool:
        """Return whether the fixed tensors are intact, so that the prior's guarantees hold."""
        return True


class StandardNormal(Prior):
    """p(z) = N(0, I) on R^latent_dim."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim))

    def forward(self) -> DiagonalNormal:
        return diagonal_normal(self.loc, torch.ones_like(self.loc))

    def entropy_bound(self) -> float:
        return float(self().entropy())


def diagonal_normal(mean: Tensor, scale: Tensor) -> DiagonalNormal:
    """Return N(mean, diag(scale^2)), with the last dimension as its event."""
    return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


def is_diagonal_normal(q: Distribution) -> TypeGuard[DiagonalNormal]:
    """Return whether a distribution consists of independent normal ones."""
    return isinstance(q, Independent) and isinstance(q.base_dist, Normal)


def gaussian(raw: Float[Tensor, "*batch two_l"]) -> DiagonalNormal:
    """Return N(mu, diag(sigma^2)) for an encoder's raw outputs (mu, softplus^-1(sigma))."""
    mean, raw_scale = raw.chunk(2, dim=-1)
    return diagonal_normal(mean, F.softplus(raw_scale) + MIN_SCALE)


def mixture(logits: Float[Tensor, "*batch c"], components: Distribution) -> MixtureSameFamily:
    """Return the mixture of components with these log weights, up to a constant."""
    weights = Categorical(logits=logits, validate_args=False)
    return MixtureSameFamily(weights, components, validate_args=False)
