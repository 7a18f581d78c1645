"""What every convex potential offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import ParameterError

# Standard normal inputs on which a new potential is scaled.
CALIBRATION_SIZE = 256


class Potential(nn.Module, ABC):
    """A convex function G: R^dim -> R with a gradient in closed form.

    Args:
        dim: dimension of the input.
        hidden: widths of the hidden layers.
        max_curvature: no eigenvalue of the Hessian exceeds it.

    Attributes:
        linear: a, of a term a·u that every potential has, and that shifts its gradient; shape
            (dim,).

    Raises:
        InputError: if there is no layer, a size is not positive, or the potential cannot keep its
            curvature so low.
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
                f"a convex potential expects a curvature above 0, got {max_curvature}."
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
        """The gradient of G(u) + strength |u|^2 / 2 at u = B v, for an isometric B; None pads v
        with zeros."""

    @abstractmethod
    def reset_parameters(self, in_dim: int | None = None) -> None:
        """Initialise so that, for v ~ N(0, I) in `in_dim` dimensions padded with zeros, activations
        are O(1) at any width and depth, and grad G has mean 0 and, if its curvature is not limited,
        a root mean square of 1.
        """

    def extra_repr(self) -> str:
        bound = "" if self.max_curvature == inf else f", max_curvature={self.max_curvature:g}"
        return f"dim={self.dim}, hidden={self.hidden}{bound}"


def unit_rows(n_rows: int, dim: int, in_dim: int) -> Float[Tensor, "n_rows dim"]:
    """Normal rows of variance 1 / in_dim, with norm 1 in the first `in_dim` coordinates, so that
    a·v ~ N(0, 1) for v ~ N(0, I)."""
    rows: Tensor = torch.randn(n_rows, dim) / in_dim**0.5
    rows[:, :in_dim] /= rows[:, :in_dim].norm(dim=1, keepdim=True)
    return rows
