"""Brenier maps: gradients of convex functions (W21 section 3.1, K23 section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import DataError, ParameterError
from uncollapse.maps.embedding import Embedding
from uncollapse.maps.icnn import ICNN
from uncollapse.maps.inverse import newton_cg
from uncollapse.maps.jacobian import Extremes, log_determinant, symmetric_extremes
from uncollapse.maps.potential import Potential


class BrenierMap(nn.Module):
    """f(u) = grad G(u) + L u on R^dim, with a convex potential G.

    f is strongly monotone, (f(u) - f(v))·(u - v) >= L |u - v|^2, hence L-inverse Lipschitz (K23
    definition 3.1), and its Jacobian is symmetric with all eigenvalues >= L. At L = 0 it is
    monotone, and W21 take it for injective; at L > 0 it is injective for every value of its
    parameters. With an upper constant U it is bi-Lipschitz: all eigenvalues lie in [L, U].

    Args:
        dim: dimension of the input and of the output.
        hidden: widths of the potential's layers.
        inverse_lipschitz: L >= 0.
        lipschitz: U > L, or infinity for none. A finite U needs a potential whose curvature can be
            bounded: `RidgeSum`.
        potential: the kind of G.

    Attributes:
        convex: G.

    Raises:
        InputError: if L is negative or not finite, U is not above L, the potential cannot be
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
        self.convex = potential(dim, hidden, lipschitz - inverse_lipschitz)
        self.inverse_lipschitz = float(inverse_lipschitz)
        self.lipschitz = float(lipschitz)

    def set_constant(self, inverse_lipschitz: float) -> None:
        """Change L, of a map without upper constant, whose potential does not depend on it.

        Raises:
            InputError: if L is negative or not finite, or there is an upper constant.
        """
        _check_constants(inverse_lipschitz, self.lipschitz)
        if isfinite(self.lipschitz) and inverse_lipschitz != self.inverse_lipschitz:
            raise ParameterError(
                f"a map between two constants keeps them, got {inverse_lipschitz:g} for one of "
                "them: make a new map."
            )
        self.inverse_lipschitz = float(inverse_lipschitz)

    @property
    def dim(self) -> int:
        """Dimension of the input and of the output."""
        return self.convex.dim

    def forward(
        self, u: Float[Tensor, "*batch p"], embedding: Embedding | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """f(B u), where B is the identity unless an embedding is given; of the type of the
        parameters.

        The L term is exact whatever precision autocast or TF32 give to the rest.

        Raises:
            InputError: if u has other than dim coordinates, or the embedding's in_dim.
        """
        u = self._points(u, self.dim if embedding is None else embedding.in_dim)
        value: Tensor = self.convex.gradient(
            u, None if embedding is None else embedding.matrix, self.inverse_lipschitz
        )
        return value

    def _points(self, u: Tensor, n_coordinates: int) -> Tensor:
        if u.shape[-1] != n_coordinates:
            raise DataError(
                f"a map expects points of {n_coordinates} coordinates, got {u.shape[-1]}."
            )
        return u.to(self.convex.linear.dtype)

    def potential(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """The convex function of which f is the gradient, G(u) + L |u|^2 / 2."""
        u = self._points(u, self.dim)
        potential: Tensor = self.convex(u) + self.inverse_lipschitz / 2 * u.square().sum(-1)
        return potential

    def inverse(
        self, y: Float[Tensor, "*batch dim"], tol: float = 1e-10, max_iter: int = 100
    ) -> Float[Tensor, "*batch dim"]:
        """u with f(u) = y: the minimiser of the strongly convex potential(u) - y·u, by Newton's
        method with conjugate gradients.

        Computed in float64 and without gradients.

        Args:
            y: where to invert.
            tol: |f(u) - y| <= tol max(1, |y|) ends the search; then |u - f^-1(y)| is at most that
                over L.
            max_iter: Newton steps.

        Raises:
            InputError: if L = 0, as the inverse may then not exist, or y is not finite.

        Warns:
            ConvergenceWarning: if some rows did not get there; they hold the best that was found.
        """
        if self.inverse_lipschitz == 0:
            raise ParameterError(
                "inverse expects a map with inverse_lipschitz > 0, got 0: an inverse need not "
                "exist."
            )
        return newton_cg(self, y, tol, max_iter)

    def jacobian_extremes(self, u: Float[Tensor, "*batch dim"]) -> Extremes:
        """The smallest and the largest eigenvalue of the Jacobian at u."""
        return symmetric_extremes(self, u)

    def logabsdet(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """log |det J(u)|, from the dense Jacobian; in float64, and not differentiable.

        Raises:
            InputError: if the dimension is beyond 1,000.
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
