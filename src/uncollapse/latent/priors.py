"""Priors p(z): modules that return a distribution when called."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal


class StandardNormal(nn.Module):
    """p(z) = N(0, I) on R^latent_dim."""

    loc: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim))

    def forward(self) -> Independent[Normal]:
        """p(z)."""
        return Independent(Normal(self.loc, torch.ones_like(self.loc), validate_args=False), 1, validate_args=False)
