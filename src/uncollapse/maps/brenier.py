"""Brenier maps: gradients of convex functions (W21 section 3.1, K23 section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from uncollapse.errors import InputError
from uncollapse.maps.embedding import Embedding, ZeroPadding
from uncollapse.maps.icnn import ICNN


class BrenierMap(nn.Module):
    """f(u) = grad G(u) + L u on R^dim, with G an input convex network.

    f is strongly monotone, (f(u) - f(v))·(u - v) >= L |u - v|^2, hence L-inverse Lipschitz (K23 definition 3.1), and its Jacobian
    is symmetric with all eigenvalues >= L. At L = 0 it is monotone, and W21 take it for injective; at L > 0 it is injective for
    every value of its parameters.

    Args:
        dim: dimension of the input and of the output.
        hidden: widths of the network's layers.
        inverse_lipschitz: L >= 0.

    Raises:
        InputError: if L is negative or not finite, or a size is not positive.

    >>> import torch
    >>> f = BrenierMap(3, hidden=(16, 16), inverse_lipschitz=0.5).double()
    >>> u, v = torch.randn(2, 100, 3, dtype=torch.double)
    >>> bool((((f(u) - f(v)) * (u - v)).sum(1) >= 0.5 * (u - v).square().sum(1)).all())
    True
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (64, 64), inverse_lipschitz: float = 0.0) -> None:
        super().__init__()
        if not (math.isfinite(inverse_lipschitz) and inverse_lipschitz >= 0):
            raise InputError(
                f"inverse_lipschitz expects finite constants >= 0, got {inverse_lipschitz}: give 0 for a map that is only monotone."
            )
        self.convex = ICNN(dim, hidden)
        self.identity = ZeroPadding(dim, dim)
        self.inverse_lipschitz = float(inverse_lipschitz)

    def forward(self, u: Float[Tensor, "*batch p"], embedding: Embedding | None = None) -> Float[Tensor, "*batch dim"]:
        """f(B u), where B is the identity unless an embedding is given."""
        embedding = self.identity if embedding is None else embedding
        value: Tensor = self.convex.gradient(u, embedding) + self.inverse_lipschitz * embedding(u)
        return value

    def potential(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """The convex function of which f is the gradient, G(u) + L |u|^2 / 2."""
        potential: Tensor = self.convex(u) + self.inverse_lipschitz / 2 * u.square().sum(-1)
        return potential

    def extra_repr(self) -> str:
        return f"inverse_lipschitz={self.inverse_lipschitz:g}"
