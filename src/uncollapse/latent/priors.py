"""Priors p(z): modules that return a distribution when called."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal


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
        """Return whether the tensors that training leaves alone are such that the prior's promises
        hold."""
        return True


class StandardNormal(Prior):
    """p(z) = N(0, I) on R^latent_dim."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim))

    def forward(self) -> Independent[Normal]:
        normal = Normal(self.loc, torch.ones_like(self.loc), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    def entropy_bound(self) -> float:
        """Return h(z), in nats."""
        return float(self().entropy())
