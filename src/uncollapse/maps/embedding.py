"""Isometric embeddings B: R^p -> R^t, t >= p, with B'B = I. They keep every inverse Lipschitz constant."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor, nn

from uncollapse.errors import InputError

# Rows that decide the principal directions; more would not move them visibly.
MAX_PRINCIPAL_ROWS = 20_000


class Embedding(nn.Module, ABC):
    """v -> B v.

    Args:
        in_dim: p.
        out_dim: t.

    Raises:
        InputError: if t < p, as then nothing injective exists.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        if not 1 <= in_dim <= out_dim:
            raise InputError(f"an embedding expects 1 <= in_dim <= out_dim, got {in_dim} and {out_dim}.")
        self.in_dim = in_dim
        self.out_dim = out_dim

    @abstractmethod
    def forward(self, v: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch t"]:
        """B v."""

    @abstractmethod
    def restrict(self, weight: Float[Tensor, "rows t"]) -> Float[Tensor, "rows p"]:
        """weight B, so that weight (B v) costs a product with p columns, not t."""

    def adapt(self, data: np.ndarray) -> None:
        """Fit the embedding to data of shape (n, t), before training."""
        del data

    def extra_repr(self) -> str:
        return f"in_dim={self.in_dim}, out_dim={self.out_dim}"


class ZeroPadding(Embedding):
    """B v = (v, 0), the embedding of both papers; the identity where p = t.

    The constraint then falls on the first p coordinates of the output, whatever they are.
    """

    def forward(self, v: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch t"]:
        """B v."""
        return F.pad(v, (0, self.out_dim - self.in_dim))

    def restrict(self, weight: Float[Tensor, "rows t"]) -> Float[Tensor, "rows p"]:
        """weight B: the first p columns."""
        return weight[:, : self.in_dim]


class PrincipalDirections(Embedding):
    """B spans the p leading principal directions of the data, so that the constraint falls where they vary most.

    Before `adapt` it is the zero-padding.
    """

    basis: Tensor

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim)
        self.register_buffer("basis", torch.eye(out_dim, in_dim))

    def forward(self, v: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch t"]:
        """B v."""
        return F.linear(v, self.basis)

    def restrict(self, weight: Float[Tensor, "rows t"]) -> Float[Tensor, "rows p"]:
        """weight B."""
        return weight @ self.basis

    def adapt(self, data: np.ndarray) -> None:
        """Fit B to data of shape (n, t)."""
        chance = np.random.default_rng(0)
        rows = data[chance.permutation(len(data))[:MAX_PRINCIPAL_ROWS]].astype(np.float64)
        with np.errstate(invalid="ignore"):  # constant data have no shares of variance, but directions all the same
            directions = PCA(min(self.in_dim, *rows.shape), random_state=0).fit(rows).components_.T
        # With fewer rows than directions, the rest are arbitrary. The decomposition leaves directions that it need not change
        # as they are, up to sign, and makes B'B = I hold to the last digit.
        rest = chance.normal(size=(self.out_dim, self.in_dim - directions.shape[1]))
        self.basis.copy_(torch.as_tensor(np.linalg.qr(np.hstack([directions, rest]))[0]))


EMBEDDINGS: dict[str, type[Embedding]] = {"padding": ZeroPadding, "principal": PrincipalDirections}
