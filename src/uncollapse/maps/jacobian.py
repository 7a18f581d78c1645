"""Extreme eigenvalues and singular values of Jacobians, and their determinants."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor, nn
from torch.func import jacfwd, jvp, vjp, vmap

from uncollapse._utils.errors import ParameterError

MAX_DENSE = 1000  # columns up to which a Jacobian is formed
PIECE = 16  # Jacobians formed at once
BLOCK, MAX_STEPS = 4, 100  # vectors and steps of the iterative method

Map = Callable[[Tensor], Tensor]
Module = TypeVar("Module", bound=nn.Module)


class Extremes(NamedTuple):
    """The ends of a spectrum at each point, in float64.

    Attributes:
        smallest: smallest eigenvalue of a map's Jacobian, or singular value of a decoder's.
        largest: the largest one.
        exact: whether the whole spectrum was computed. If not, it is at least as wide as the
            interval from `smallest` to `largest`.
    """

    smallest: Float[Tensor, "*batch"]
    largest: Float[Tensor, "*batch"]
    exact: bool


def jacobian(f: Map, u: Float[Tensor, "n p"]) -> Float[Tensor, "n t p"]:
    """Return the dense Jacobian at each row."""
    dense: Tensor = vmap(jacfwd(f), chunk_size=PIECE)(u)
    return dense


def symmetric_extremes(f: nn.Module, u: Float[Tensor, "*batch p"]) -> Extremes:
    """Return the extreme eigenvalues of the symmetric Jacobian of a Brenier map."""
    with precisely(f, u) as (f, rows):
        if rows.shape[1] <= MAX_DENSE:
            spectrum = _in_pieces(lambda piece: _eigenvalues(jacobian(f, piece)), rows)
            return _shaped(spectrum[:, 0], spectrum[:, -1], True, u)
        return _shaped(*_iterated(f, rows, _tangent), False, u)


def singular_extremes(f: nn.Module, z: Float[Tensor, "*batch l"]) -> Extremes:
    """Return the extreme singular values of the Jacobian of a decoder."""
    with precisely(f, z) as (f, rows):
        if rows.shape[1] <= MAX_DENSE:
            spectrum = _in_pieces(lambda piece: torch.linalg.svdvals(jacobian(f, piece)), rows)
            return _shaped(spectrum[:, -1], spectrum[:, 0], True, z)
        smallest, largest = _iterated(f, rows, lambda f, z, g: vjp(f, z)[1](_tangent(f, z, g))[0])
        return _shaped(smallest.clamp(min=0).sqrt(), largest.sqrt(), False, z)


def log_determinant(f: nn.Module, u: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch"]:
    """Return log |det J| of a square Jacobian, log det(J'J) / 2 of another; without gradients.

    Raises:
        ParameterError: if the Jacobian has too many columns to be formed.
    """
    if u.shape[-1] > MAX_DENSE:
        raise ParameterError(
            f"logabsdet forms Jacobians of up to {MAX_DENSE} columns, got {u.shape[-1]}: use "
            "jacobian_extremes."
        )
    with precisely(f, u) as (f, rows):
        return _in_pieces(
            lambda piece: torch.linalg.svdvals(jacobian(f, piece)).log().sum(1), rows
        ).reshape(u.shape[:-1])


def in_float64(module: Module) -> Module:
    """Return a frozen copy in float64, on the CPU if the module's device has no float64."""
    twin = copy.deepcopy(module).requires_grad_(False)
    if any(parameter.is_mps for parameter in twin.parameters()):
        twin = twin.cpu()
    return twin.double()


@contextmanager
def precisely(f: nn.Module, u: Float[Tensor, "*batch p"]) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the map and the points, as rows, in float64 and without gradients, as rounding could
    look like a broken constant."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(u.device.type, enabled=False):
        twin = in_float64(f)
        rows = u.detach().clone().reshape(-1, u.shape[-1])
        yield twin, rows.to(next(twin.parameters()).device).double()


def _tangent(f: Map, u: Tensor, g: Tensor) -> Tensor:
    """Return J(u) g."""
    tangent: Tensor = jvp(f, (u,), (g,))[1]
    return tangent


def _eigenvalues(matrix: Tensor) -> Tensor:
    eigenvalues: Tensor = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
    return eigenvalues


def _shaped(smallest: Tensor, largest: Tensor, exact: bool, like: Tensor) -> Extremes:
    return Extremes(smallest.reshape(like.shape[:-1]), largest.reshape(like.shape[:-1]), exact)


def _in_pieces(function: Map, rows: Tensor) -> Tensor:
    return torch.cat([function(piece) for piece in torch.split(rows, PIECE)])


def _iterated(
    f: nn.Module, rows: Tensor, product: Callable[[Map, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return Rayleigh quotients near the ends of the spectrum of g -> product(f, u, g)."""
    start = np.random.default_rng(0).normal(size=(rows.shape[1], BLOCK))
    ends = [_ends(_operator(f, u, product), start) for u in rows]
    smallest, largest = rows.new_tensor(ends).reshape(-1, 2).T
    return smallest, largest


def _operator(
    f: Map, u: Tensor, product: Callable[[Map, Tensor, Tensor], Tensor]
) -> LinearOperator:
    def apply(block: np.ndarray) -> np.ndarray:
        g = torch.as_tensor(np.ascontiguousarray(block.reshape(len(u), -1).T)).to(u)
        return product(f, u.expand_as(g).clone(), g).detach().cpu().numpy().T.reshape(block.shape)

    return LinearOperator((len(u), len(u)), matvec=apply, matmat=apply, dtype=np.float64)


def _ends(operator: LinearOperator, start: np.ndarray) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `exact` says that it may not have converged
        ends = [
            lobpcg(operator, start, largest=largest, maxiter=MAX_STEPS, tol=1e-8)[0]
            for largest in (False, True)
        ]
    return float(ends[0].min()), float(ends[1].max())
