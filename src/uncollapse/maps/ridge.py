"""Sums of convex ridge functions, whose curvature can be bounded by construction."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse.maps.embedding import embed, restrict
from uncollapse.maps.potential import CALIBRATION_SIZE, Potential, unit_rows
from uncollapse.maps.precision import exact_product


class RidgeSum(Potential):
    r"""G(u) = sum_j w_j h(a_j·u + b_j) + a·u, with w >= 0 and h convex, 0 < h'' < 1.

    h(s) = (s^2 + s r + asinh(s)) / 4 with r = sqrt(1 + s^2), so that h' = (s + r) / 2 is a smooth
    ReLU.

    The weights are squares q of free ones. With `max_curvature` = M they are w_j = M q_j / (M +
    sum_k |a_j·a_k| q_k) instead, and no eigenvalue of the Hessian A' diag(w h'') A exceeds M: A A'
    <= diag(M / w), because the difference, scaled by q on both sides, is diagonally dominant. Every
    pass then takes one product A A'.

    Args:
        dim: dimension of the input.
        hidden: widths, the sum of which is the number of ridges.
        max_curvature: M.

    Raises:
        ParameterError: if there is no unit, a size is not positive, or M is not above 0.
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (64, 64), max_curvature: float = inf
    ) -> None:
        super().__init__(dim, hidden, max_curvature)
        n_units = sum(self.hidden)
        self.directions = nn.Parameter(torch.empty(n_units, dim))
        self.bias = nn.Parameter(torch.empty(n_units))
        self.root_weight = nn.Parameter(torch.empty(n_units))
        self.linear = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, in_dim: int | None = None) -> None:
        """Initialise ridges of unit slope; q sets the size of the gradient, if M allows."""
        in_dim = self.dim if in_dim is None else in_dim
        self.directions.copy_(unit_rows(len(self.directions), self.dim, in_dim))
        nn.init.normal_(self.bias)
        nn.init.ones_(self.root_weight)
        nn.init.zeros_(self.linear)
        v = torch.randn(CALIBRATION_SIZE, in_dim).to(self.directions)
        slopes = _slope(F.linear(v, self.directions[:, :in_dim], self.bias))
        slope = F.linear(slopes, self.directions.T)
        self.root_weight.div_((slope - slope.mean(0)).square().mean().sqrt().sqrt())
        self.linear.copy_(-self.gradient(v).mean(0))

    def weights(self) -> Float[Tensor, "units"]:
        """Return w."""
        free = self.root_weight.square()
        if self.max_curvature == inf:
            return free
        overlaps = exact_product(exact_product(self.directions, self.directions.T).abs(), free)
        return self.max_curvature * free / (self.max_curvature + overlaps)

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        s = F.linear(u, self.directions, self.bias)
        ridges = (2 * s * _slope(s) + s.asinh()) / 4
        return ridges @ self.weights() + u @ self.linear

    def gradient(
        self,
        v: Float[Tensor, "*batch p"],
        basis: Float[Tensor, "dim p"] | None = None,
        strength: float = 0.0,
    ) -> Float[Tensor, "*batch dim"]:
        s = F.linear(v, restrict(self.directions, basis, v.shape[-1]), self.bias)
        gradient = F.linear(_slope(s) * self.weights(), self.directions.T) + self.linear
        return gradient + strength * embed(v, basis, self.dim)


def _slope(s: Tensor) -> Tensor:
    """Return h'(s); s + r itself would lose its digits for s far below 0."""
    size = s.abs() + (1 + s.square()).sqrt()
    return torch.where(s < 0, 0.5 / size, size / 2)
