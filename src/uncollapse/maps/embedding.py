"""Isometric embeddings B: R^p -> R^t, t >= p, with B'B = I. They keep every inverse Lipschitz
constant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.autocast import without_autocast
from uncollapse._utils.errors import ParameterError

# Rows that decide the principal directions; more would not move them visibly.
MAX_PRINCIPAL_ROWS = 20_000
MAX_ROWS_BESIDE_CONTEXT = 2000

Vectors = Float[Tensor, "*batch p"]
Embedded = Float[Tensor, "*batch t"]
Matrix = Float[Tensor, "m q"] | None


class Embedding(nn.Module, ABC):
    """The map v -> B v.

    Args:
        in_dim: p.
        out_dim: t.
        context_dim: number of the p coordinates, the last ones, that are a context.

    Raises:
        ParameterError: if t < p, where nothing injective exists.
    """

    def __init__(self, in_dim: int, out_dim: int, context_dim: int = 0) -> None:
        super().__init__()
        if not 1 <= in_dim <= out_dim:
            raise ParameterError(
                f"an embedding expects 1 <= in_dim <= out_dim, got {in_dim} and {out_dim}."
            )
        self.in_dim = in_dim
        self.out_dim = out_dim
        self.context_dim = context_dim

    @property
    @abstractmethod
    def matrix(self) -> Matrix:
        """Directions of the first q coordinates of v, within the first m coordinates of B v.

        The rest of v are the last coordinates of B v. Without context this is B, of shape (t, p).
        None stands for B v = (v, 0), which costs nothing.
        """

    def forward(self, v: Vectors) -> Embedded:
        """Return B v, in the precision of v whatever autocast or TF32 allow."""
        return embed(v, self.matrix, self.out_dim)

    def project(self, x: Embedded) -> Vectors:
        """Return B'x, which is v at x = B v."""
        return project(x, self.matrix, self.in_dim)

    def initialize_from_data(self, data: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Fit B to data before training; by default do nothing.

        Args:
            data: rows of the statistics that B v is to predict, shape (n, m).
            noise: positive standard deviations of the noise in each column, up to a factor, shape
                (m,).
        """
        del data, noise

    def extra_repr(self) -> str:
        context = f", context_dim={self.context_dim}" if self.context_dim else ""
        return f"in_dim={self.in_dim}, out_dim={self.out_dim}{context}"


class ZeroPadding(Embedding):
    """B v = (v, 0), the embedding of both papers; the identity if p = t.

    The constraint then falls on the first p coordinates of the output, whatever they are.
    """

    @property
    def matrix(self) -> None:
        return None


class PrincipalDirections(Embedding):
    """B spans the leading principal directions of the data, so that the constraint falls where they
    vary most.

    If the noise of the columns is known, the directions are those along which data vary most
    relative to it; for shares of symbols this is close to correspondence analysis. A step along b
    in the natural parameters moves means by N b, with N the covariance of the noise, so that means
    that vary along N b ask for natural parameters that vary along b.

    A context goes to the last coordinates. The other coordinates then go to directions within the
    first 2,000 at most: symbols of a vocabulary are sorted by frequency, and directions within all
    of a large one would cost as much as what is predicted from them. Before `initialize_from_data`
    directions are coordinates.
    """

    basis: Tensor

    def __init__(self, in_dim: int, out_dim: int, context_dim: int = 0) -> None:
        super().__init__(in_dim, out_dim, context_dim)
        n_directions, n_rows = in_dim - context_dim, out_dim - context_dim
        if context_dim:
            n_rows = min(n_rows, max(n_directions, MAX_ROWS_BESIDE_CONTEXT))
        self.register_buffer("basis", torch.eye(n_rows, n_directions))

    @property
    def matrix(self) -> Float[Tensor, "m q"]:
        return self.basis

    def initialize_from_data(self, data: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Fit B to data of shape (n, m); directions lie within the first m coordinates."""
        n_rows, n_directions = min(len(self.basis), data.shape[1]), self.basis.shape[1]
        noise = None if noise is None else noise[:n_rows]
        directions = _principal_directions(data[:, :n_rows], n_directions, noise)
        self.basis.zero_()[:n_rows].copy_(directions)


class LearnedDirections(Embedding):
    """B is trained: the orthonormal factor of a free matrix X = B R, R with a positive diagonal.

    B'B = I holds for every X. `initialize_from_data` starts B at the principal directions of the
    data; before, it is the zero-padding. If X loses rank, B is still isometric, but its gradient is
    not finite. (Householder reflections, as in `torch.nn.utils.parametrizations.orthogonal`, take
    80 times as long for 64 of 784 dimensions.)
    """

    def __init__(self, in_dim: int, out_dim: int, context_dim: int = 0) -> None:
        if context_dim:
            raise ParameterError("learned directions expect no context: use principal ones.")
        super().__init__(in_dim, out_dim)
        self.free = nn.Parameter(torch.eye(out_dim, in_dim))

    @property
    def matrix(self) -> Float[Tensor, "t p"]:
        basis, triangle = torch.linalg.qr(self.free)
        signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0)
        return torch.mul(basis, signs.to(basis))

    @torch.no_grad()
    def initialize_from_data(self, data: np.ndarray, noise: np.ndarray | None = None) -> None:
        """Start B at the principal directions of data of shape (n, t)."""
        self.free.copy_(_principal_directions(data, self.in_dim, noise))

    @torch.no_grad()
    def fixed(self) -> PrincipalDirections:
        """Return the present directions, not trained, for exporters without QR decomposition."""
        embedding = PrincipalDirections(self.in_dim, self.out_dim).to(self.free)
        embedding.basis.copy_(self.matrix)
        return embedding


EMBEDDINGS: dict[str, type[Embedding]] = {
    "padding": ZeroPadding,
    "principal": PrincipalDirections,
    "learned": LearnedDirections,
}


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right in the precision of `left`, whatever autocast or TF32 allow."""
    with without_autocast(left):
        if left.dtype == torch.float32 and not left.is_mps and _float32_products_are_rounded():
            return (left.double() @ right.double()).float()
        return left @ right.to(left.dtype)


def _float32_products_are_rounded() -> bool:
    """Return whether products of float32 may be computed in TF32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # it was set by torch's newer names, which the old getter rejects
        return True


# The mark of torch.compiler.assume_constant_result, whose import of torch._dynamo takes seconds.
_float32_products_are_rounded._dynamo_marked_constant = True  # type: ignore[attr-defined]


def embed(v: Vectors, matrix: Matrix, out_dim: int) -> Embedded:
    """Return B v in the precision of v, because lower precision would loosen the constant."""
    if matrix is None:
        return v if v.shape[-1] == out_dim else F.pad(v, (0, out_dim - v.shape[-1]))
    n_rows, n_directions = matrix.shape
    along = exact_product(first(v, n_directions), matrix.T)
    if n_rows == out_dim:
        return along
    rest = last(v, v.shape[-1] - n_directions)
    return torch.cat([F.pad(along, (0, out_dim - n_rows - rest.shape[-1])), rest], -1)


def add_embedded(
    out: Float[Tensor, "n t"], v: Float[Tensor, "n p"], matrix: Matrix, strength: float
) -> None:
    """Add strength B v in place, as exactly as `embed`."""
    if matrix is None:
        first(out, v.shape[1]).add_(v, alpha=strength)
        return
    n_rows, n_directions = matrix.shape
    first(out, n_rows).add_(exact_product(first(v, n_directions), matrix.T), alpha=strength)
    n_rest = v.shape[1] - n_directions
    last(out, n_rest).add_(last(v, n_rest), alpha=strength)


def project(
    x: Embedded,
    matrix: Matrix,
    in_dim: int,
    product: Callable[[Tensor, Tensor], Tensor] = exact_product,
) -> Vectors:
    """Return B'x, as exact as `embed` with the default product."""
    if matrix is None:
        return first(x, in_dim)
    n_rows, n_directions = matrix.shape
    along = product(first(x, n_rows), matrix)
    if n_directions == in_dim:
        return along
    return torch.cat([along, last(x, in_dim - n_directions)], -1)


def restrict(weights: Float[Tensor, "k t"], matrix: Matrix, in_dim: int) -> Float[Tensor, "k p"]:
    """Return A B, in the precision of other products of weights."""
    matrix = None if matrix is None else matrix.to(weights.dtype)
    return project(weights, matrix, in_dim, torch.matmul)


def first(x: Embedded, n: int) -> Float[Tensor, "*batch n"]:
    """Return the first n coordinates."""
    return x if n == x.shape[-1] else x[..., :n]


def last(x: Embedded, n: int) -> Float[Tensor, "*batch n"]:
    """Return the last n coordinates; n may be 0."""
    return x[..., x.shape[-1] - n :]


def _principal_directions(
    data: np.ndarray, n_directions: int, noise: np.ndarray | None = None
) -> Tensor:
    """Return an orthonormal basis of the b with the largest b'Sb / b'Nb.

    S is the covariance of the data, N that of the noise, or the identity.
    """
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    rows = data[rng.permutation(len(data))[:MAX_PRINCIPAL_ROWS]].astype(np.float64)
    unit = np.ones(data.shape[1]) if noise is None else noise.astype(np.float64)
    rows /= unit
    with np.errstate(invalid="ignore"):  # the shares of variance of constant data are 0 / 0
        pca = PCA(min(n_directions, *rows.shape), random_state=0).fit(rows)
    directions = pca.components_.T / unit[:, None]
    # With fewer rows than directions, the rest are arbitrary. QR keeps the span of the first k
    # directions, for every k, and makes B'B = I hold to the last digit.
    rest = rng.normal(size=(data.shape[1], n_directions - directions.shape[1]))
    return torch.as_tensor(np.linalg.qr(np.hstack([directions, rest]))[0])
