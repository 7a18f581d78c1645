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
        """p(z)."""

    @abstractmethod
    def entropy_bound(self) -> float:
        """A number, in nats, that the differential entropy h(z) is not below."""

    @property
    def has_density(self) -> bool:
        """Whether z has a density. What is proved by one says nothing of a discrete z."""
        return True

    def check_invariants(self) -> bool:
        """Whether the tensors that training does not touch are such that the prior keeps what it
        promises."""
        return True


class StandardNormal(Prior):
    """p(z) = N(0, I) on R^latent_dim."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("loc", torch.zeros(latent_dim))

    def forward(self) -> Independent[Normal]:
        """p(z)."""
        return Independent(
            Normal(self.loc, torch.ones_like(self.loc), validate_args=False), 1, validate_args=False
        )

    def entropy_bound(self) -> float:
        """h(z), in nats."""
        return float(self().entropy())
