"""Brenier maps: gradients of convex functions (W21 section 3.1, K23 section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse.maps.embedding import Embedding
from uncollapse.maps.inverse import newton_cg
from uncollapse.maps.jacobian import Extremes, log_determinant, symmetric_extremes
from uncollapse.maps.potentials import ICNN, Potential


class BrenierMap(nn.Module):
    """f(u) = grad G(u) + L u on R^dim, with a convex potential G.

    f is strongly monotone, (f(u) - f(v))·(u - v) >= L |u - v|^2, hence L-inverse Lipschitz (K23
    definition 3.1), and its Jacobian is symmetric with all eigenvalues >= L. For L > 0 it is
    injective whatever its parameters; for L = 0 it is monotone, and W21 take it to be injective.
    With an upper constant U it is bi-Lipschitz: all eigenvalues lie in [L, U].

    Args:
        dim: dimension of the input and of the output.
        hidden: widths of the potential's layers.
        inverse_lipschitz: L >= 0.
        lipschitz: U > L, or infinity for none. A finite U needs `RidgeSum`, the potential with a
            bound on its curvature.
        potential: class of G.

    Attributes:
        convex: G.

    Raises:
        ParameterError: if L is negative or not finite, U is not above L, the potential cannot be
            bounded, or a size is not positive.

    >>> import torch
    >>> f = BrenierMap(3, hidden=(16, 16), inverse_lipschitz=0.5).double()
    >>> u, v = torch.randn(2, 100, 3, dtype=torch.double)
    >>> bool((((f(u) - f(v)) * (u - v)).sum(1) >= 0.5 * (u - v).square().sum(1)).all())
    True
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        inverse_lipschitz: float = 0.0,
        lipschitz: float = inf,
        potential: type[Potential] = ICNN,
    ) -> None:
        super().__init__()
        _check_constants(inverse_lipschitz, lipschitz)
        self.dim = dim
        self.convex = potential(dim, hidden, lipschitz - inverse_lipschitz)
        self.inverse_lipschitz = float(inverse_lipschitz)
        self.lipschitz = float(lipschitz)

    def set_constant(self, inverse_lipschitz: float) -> None:
        """Change L of a map without upper constant, whose potential does not depend on it.

        Raises:
            ParameterError: if L is negative or not finite, or there is an upper constant.
        """
        _check_constants(inverse_lipschitz, self.lipschitz)
        if isfinite(self.lipschitz) and inverse_lipschitz != self.inverse_lipschitz:
            raise ParameterError(
                f"the constants of a bi-Lipschitz map are fixed, got {inverse_lipschitz:g}. "
                "Make a new map."
            )
        self.inverse_lipschitz = float(inverse_lipschitz)

    def forward(
        self, u: Float[Tensor, "*batch p"], embedding: Embedding | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """Return f(B u), where B is the identity by default, in the type of the parameters.

        The L term is exact whatever precision autocast or TF32 give to the rest.

        Raises:
            DataError: if u does not have `dim` coordinates, or `in_dim` of the embedding.
        """
        u = self._points(u, self.dim if embedding is None else embedding.in_dim)
        basis = None if embedding is None else embedding.matrix
        value: Tensor = self.convex.gradient(u, basis, self.inverse_lipschitz)
        return value

    def _points(self, u: Tensor, n_coordinates: int) -> Tensor:
        if u.shape[-1] != n_coordinates:
            raise DataError(
                f"a map expects points of {n_coordinates} coordinates, got {u.shape[-1]}."
            )
        return u.to(self.convex.linear.dtype)

    def potential(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Return G(u) + L |u|^2 / 2, whose gradient is f."""
        u = self._points(u, self.dim)
        potential: Tensor = self.convex(u) + self.inverse_lipschitz / 2 * u.square().sum(-1)
        return potential

    def inverse(
        self, y: Float[Tensor, "*batch dim"], tol: float = 1e-10, max_iter: int = 100
    ) -> Float[Tensor, "*batch dim"]:
        """Return u with f(u) = y by Newton's method, in float64, without gradients.

        Args:
            y: points to invert.
            tol: |f(u) - y| <= tol max(1, |y|) ends the search; |u - f^-1(y)| is then at most that
                bound divided by L.
            max_iter: largest number of Newton steps.

        Raises:
            InputError: if L = 0, where the inverse need not exist, or y is not finite.

        Warns:
            ConvergenceWarning: if some rows did not converge; they hold the best point found.
        """
        if self.inverse_lipschitz == 0:
            raise ParameterError(
                "inverse expects a map with inverse_lipschitz > 0, got 0, where an inverse need "
                "not exist."
            )
        return newton_cg(self, y, tol, max_iter)

    def jacobian_extremes(self, u: Float[Tensor, "*batch dim"]) -> Extremes:
        """Return the smallest and the largest eigenvalue of the Jacobian at u."""
        return symmetric_extremes(self, u)

    def logabsdet(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Return log |det J(u)| from the dense Jacobian, in float64, without gradients.

        Raises:
            ParameterError: if the dimension exceeds 1,000.
        """
        return log_determinant(self, u)

    def extra_repr(self) -> str:
        bound = "" if self.lipschitz == inf else f", lipschitz={self.lipschitz:g}"
        return f"inverse_lipschitz={self.inverse_lipschitz:g}{bound}"


def _check_constants(lower: float, upper: float) -> None:
    if not (isfinite(lower) and lower >= 0):
        raise ParameterError(
            f"inverse_lipschitz expects finite constants >= 0, got {lower}: give 0 for a map that "
            "is only monotone."
        )
    if not upper > lower:
        raise ParameterError(
            f"lipschitz expects more than inverse_lipschitz={lower:g}, got {upper}: raise it, or "
            "leave it out."
        )
