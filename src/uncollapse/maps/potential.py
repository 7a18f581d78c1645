"""The interface of convex potentials."""

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
        """Initialise for inputs v ~ N(0, I) in `in_dim` dimensions, padded with zeros.

        Activations are then O(1) at any width and depth, and grad G has mean 0 and, unless its
        curvature is bounded, root mean square 1.
        """

    def extra_repr(self) -> str:
        bound = "" if self.max_curvature == inf else f", max_curvature={self.max_curvature:g}"
        return f"dim={self.dim}, hidden={self.hidden}{bound}"


def unit_rows(n_rows: int, dim: int, in_dim: int) -> Float[Tensor, "n_rows dim"]:
    """Draw rows a ~ N(0, I / in_dim) with norm 1 in the first `in_dim` coordinates.

    For v ~ N(0, I) in these coordinates, a·v ~ N(0, 1).
    """
    rows: Tensor = torch.randn(n_rows, dim) / in_dim**0.5
    rows[:, :in_dim] /= rows[:, :in_dim].norm(dim=1, keepdim=True)
    return rows
