"""Inversion of strongly monotone maps with a symmetric Jacobian."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from uncollapse._utils.errors import DataError
from uncollapse.maps.jacobian import precisely

# A step is accepted if the slope at its end is at most this share of the slope at its start.
SLOPE_SHARE = 0.5
MAX_HALVINGS = 30


def newton_cg(
    f: nn.Module, y: Float[Tensor, "*batch dim"], tol: float, max_iter: int
) -> Float[Tensor, "*batch dim"]:
    """Return u with f(u) = y by minimizing phi(u) - y·u; f = grad phi, phi strongly convex.

    Conjugate gradients solve for Newton's steps. A line search judges a step by the slope along it,
    because differences of function values drown in rounding near the minimum. Rows that have
    converged are left out of further work.

    The arguments are those of `BrenierMap.inverse`.
    """
    if not y.isfinite().all():
        raise DataError("inverse expects finite points, got NaN or infinity. Leave them out.")
    with precisely(f, y) as (precise, targets):
        u = _search(precise, targets, tol, max_iter)
    return u.to(y.dtype).to(y.device).reshape(y.shape)


def _search(precise: nn.Module, targets: Tensor, tol: float, max_iter: int) -> Tensor:
    bound = tol * targets.norm(dim=1).clamp(min=1)
    u = torch.zeros_like(targets)
    active = torch.arange(len(u), device=u.device)
    for _ in range(max_iter):
        value, product = _linearized(precise, u[active])
        residual = value - targets[active]
        going = ~(residual.norm(dim=1) <= bound[active])
        if not going.all():
            active = active[going]
            if not len(active):
                break
            value, product = _linearized(precise, u[active])
            residual = residual[going]
        step = _conjugate_gradients(product, -residual)
        u[active] = _line_search(precise, u[active], targets[active], residual, step)
    residuals = (precise(u[active]) - targets[active]).norm(dim=1)
    missed = ~(residuals <= bound[active])
    if missed.any():
        from sklearn.exceptions import ConvergenceWarning

        left = (residuals / bound[active]).max().item() * tol
        warnings.warn(
            f"the inverse did not converge for {int(missed.sum())} of {len(u)} points: residual "
            f"{left:.2g} after {max_iter} steps, above tol={tol:g}. Raise max_iter or tol, or give "
            "points in the range of the map.",
            ConvergenceWarning,
            stacklevel=4,
        )
    return u


def _linearized(f: nn.Module, u: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return f(u) and the product with its Jacobian, by the backward pass, as it is symmetric."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = f(u)
    return value.detach(), lambda g: torch.autograd.grad(value, u, g, retain_graph=True)[0]


def _conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    """Return x with J x close to b for each row, the closer the smaller b, the Newton residual."""
    size = b.norm(dim=1)
    goal = size * size.sqrt().clamp(max=0.1)
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    square = r.square().sum(1)
    for _ in range(2 * b.shape[1]):
        going = square.sqrt() > goal
        if not going.any():
            break
        image = product(p)
        curvature = (p * image).sum(1)
        length = torch.where(going, square / curvature.clamp(min=math.ulp(0)), 0.0)
        x += length[:, None] * p
        r -= length[:, None] * image
        square, before = r.square().sum(1), square
        p = r + torch.where(going, square / before, 0.0)[:, None] * p
    return x


def _line_search(f: nn.Module, u: Tensor, y: Tensor, residual: Tensor, step: Tensor) -> Tensor:
    """Return u + alpha step, with alpha halved until the objective no longer climbs steeply."""
    start = (residual * step).sum(1).abs()
    alpha = torch.ones_like(start)
    for _ in range(MAX_HALVINGS):
        slope = ((f(u + alpha[:, None] * step) - y) * step).sum(1)
        too_far = ~(slope <= SLOPE_SHARE * start)
        if not too_far.any():
            break
        alpha = torch.where(too_far, alpha / 2, alpha)
    return u + alpha[:, None] * step
