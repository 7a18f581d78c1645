"""Convex potentials with a gradient in closed form: input convex networks and sums of ridges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError
from uncollapse.maps.embedding import embed, exact_product, restrict
from uncollapse.maps.network import (
    Weights,
    brenier_map,
    preactivations,
    share,
    smooth_leaky,
    squared,
    squared_leaky,
)

# Standard normal inputs on which a new potential is scaled.
CALIBRATION_SIZE = 256
# If skip weights and the layer below cancel, a unit is scaled up as if it had this size.
SMALLEST_SIZE = 0.1


class Potential(nn.Module, ABC):
    """A convex function G: R^dim -> R with a gradient in closed form.

    Args:
        dim: dimension of the input.
        hidden: widths of the hidden layers.
        max_curvature: bound on the eigenvalues of the Hessian.

    Attributes:
        linear: a, shape (dim,), of the term a·u that every potential has.

    Raises:
        ParameterError: if there is no layer, a size is not positive, or the potential cannot bound
            its curvature.
    """

    linear: nn.Parameter

    def __init__(
        self, dim: int, hidden: Sequence[int] = (64, 64), max_curvature: float = inf
    ) -> None:
        super().__init__()
        if dim < 1 or not hidden or min(hidden) < 1:
            raise ParameterError(
                f"a convex potential expects a positive dimension and positive hidden widths, got "
                f"{dim} and {tuple(hidden)}."
            )
        if not max_curvature > 0:
            raise ParameterError(
                f"a convex potential expects max_curvature > 0, got {max_curvature}."
            )
        self.dim = dim
        self.hidden = tuple(int(width) for width in hidden)
        self.max_curvature = float(max_curvature)

    @abstractmethod
    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """G(u)."""

    @abstractmethod
    def gradient(
        self,
        v: Float[Tensor, "*batch p"],
        basis: Float[Tensor, "dim p"] | None = None,
        strength: float = 0.0,
    ) -> Float[Tensor, "*batch dim"]:
        """Return the gradient of G(u) + strength |u|^2 / 2 at u = B v.

        Args:
            v: shape (*batch, p).
            basis: `matrix` of an `Embedding` B; None pads v with zeros.
            strength: L.
        """

    @abstractmethod
    def reset_parameters(self, in_dim: int | None = None) -> None:
        """Initialize for inputs v ~ N(0, I) in `in_dim` dimensions, padded with zeros.

        Activations are then O(1) at any width and depth, and grad G has mean 0 and, unless its
        curvature is bounded, root mean square 1.
        """

    def extra_repr(self) -> str:
        bound = "" if self.max_curvature == inf else f", max_curvature={self.max_curvature:g}"
        return f"dim={self.dim}, hidden={self.hidden}{bound}"


class ICNN(Potential):
    r"""An input convex neural network (Amos et al. 2017; W21 eq. 6).

        z_1     = h_0(A_0 u + b_0)
        z_{l+1} = h_l(W_l z_l + A_l u + b_l),    W_l >= 0
        G(u)    = w·z_k + a·u,                   w >= 0

    h_0 is a squared leaky ReLU and the other h_l are smooth leaky ReLUs. The skip weights A_0 ...
    A_{k-1} are the rows of one matrix, so that one product reads the input for all layers.
    Non-negative weights are squares of free ones (see `squared`). The curvature is unbounded, as
    the slope of h_0 is: `max_curvature` has to be infinite.
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (64, 64), max_curvature: float = inf
    ) -> None:
        super().__init__(dim, hidden, max_curvature)
        if max_curvature != inf:
            raise ParameterError(
                "an ICNN cannot bound its curvature, which an upper constant needs. Use RidgeSum "
                "(potential='ridge')."
            )
        self.skip = nn.Parameter(torch.empty(sum(self.hidden), dim))
        self.bias = nn.Parameter(torch.empty(sum(self.hidden)))
        self.root_weights = nn.ParameterList(
            torch.empty(above, below)
            for below, above in zip(self.hidden, self.hidden[1:], strict=False)
        )
        self.root_output = nn.Parameter(torch.empty(self.hidden[-1]))
        self.linear = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, in_dim: int | None = None) -> None:
        """Initialize W to average the layer below, each s_l to mean 0 and size 1, and w to set the
        size of grad G."""
        if self.skip.is_meta:  # Sizes are all there is, and each step would be slow.
            return
        in_dim = self.dim if in_dim is None else in_dim
        self.skip.copy_(_unit_rows(len(self.skip), self.dim, in_dim))
        nn.init.zeros_(self.linear)
        v = torch.randn(CALIBRATION_SIZE, in_dim).to(self.skip)
        first, *skips = torch.split(self.skip, list(self.hidden))
        z = squared_leaky(F.linear(v, first[:, :in_dim]))
        shifts = [self.bias.new_zeros(self.hidden[0])]
        for root, skip in zip(self.root_weights, skips, strict=True):
            weight = torch.rand_like(root)
            weight.div_(weight.sum(1, keepdim=True))
            s = F.linear(v, skip[:, :in_dim]) + F.linear(z, weight)
            size = s.std(0).clamp(min=SMALLEST_SIZE)
            shifts.append(-s.mean(0) / size)
            skip.div_(size[:, None])
            root.copy_(weight.div_(size[:, None]).div_(share(root)).sqrt_())
            z = smooth_leaky(s / size + shifts[-1])
        self.bias.copy_(torch.cat(shifts))
        self.root_output.uniform_(0, 2 / self.hidden[-1]).div_(share(self.root_output)).sqrt_()
        slope = self.gradient(v)
        size = (slope - slope.mean(0)).square().mean().sqrt()
        self.root_output.div_(size.sqrt())
        self.linear.copy_(-slope.mean(0) / size)

    @property
    def weights(self) -> Weights:
        """Parameters, as `brenier_map` takes them."""
        return Weights(
            self.skip, self.bias, self.linear, self.root_output, tuple(self.root_weights)
        )

    def forward(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        top = preactivations(u, None, self.weights)[-1]
        activation = smooth_leaky if len(self.hidden) > 1 else squared_leaky
        return activation(top) @ squared(self.root_output) + u @ self.linear

    def gradient(
        self,
        v: Float[Tensor, "*batch p"],
        basis: Float[Tensor, "dim p"] | None = None,
        strength: float = 0.0,
    ) -> Float[Tensor, "*batch dim"]:
        return brenier_map(v, basis, strength, self.weights)


class RidgeSum(Potential):
    r"""G(u) = sum_j w_j h(a_j·u + b_j) + a·u, with w >= 0 and h convex, 0 < h'' < 1.

    h(s) = (s^2 + s r + asinh(s)) / 4 with r = sqrt(1 + s^2), so that h' = (s + r) / 2 is a smooth
    ReLU. The sum of `hidden` is the number of ridges.

    The weights are squares q of free ones. With `max_curvature` = M they are w_j = M q_j / (M +
    sum_k |a_j·a_k| q_k) instead, and no eigenvalue of the Hessian A' diag(w h'') A exceeds M: A A'
    <= diag(M / w), because the difference, scaled by q on both sides, is diagonally dominant. Every
    pass then takes one product A A'.
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
        """Initialize ridges of unit slope; q sets the size of the gradient, if M allows."""
        in_dim = self.dim if in_dim is None else in_dim
        self.directions.copy_(_unit_rows(len(self.directions), self.dim, in_dim))
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


def _unit_rows(n_rows: int, dim: int, in_dim: int) -> Float[Tensor, "n_rows dim"]:
    """Draw rows a ~ N(0, I / in_dim) with norm 1 in the first `in_dim` coordinates.

    For v ~ N(0, I) in these coordinates, a·v ~ N(0, 1).
    """
    rows: Tensor = torch.randn(n_rows, dim) / in_dim**0.5
    rows[:, :in_dim] /= rows[:, :in_dim].norm(dim=1, keepdim=True)
    return rows


def _slope(s: Tensor) -> Tensor:
    """Return h'(s); s + r itself would lose its digits for s far below 0."""
    size = s.abs() + (1 + s.square()).sqrt()
    return torch.where(s < 0, 0.5 / size, size / 2)


POTENTIALS: dict[str, type[Potential]] = {"icnn": ICNN, "ridge": RidgeSum}
