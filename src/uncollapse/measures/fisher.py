"""Relative Fisher information divergences between prior and posterior (K23 definition 3.3), and
their lower bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.random import random_indices, seeded
from uncollapse.maps.jacobian import jacobian
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate
from uncollapse.measures.worker_pool import map_rows
from uncollapse.models import (
    LatentModel,
    RowModel,
    SequenceModel,
    differentiable_twice,
    gradient,
    to_device,
)

# Residuals held at once.
MAX_NUMBERS = 2**24
MAX_SCORED_ROWS, SCORED_AT_ONCE = 64, 8


def fisher_divergence(
    model: Any, X: Any = None, n_samples: int = 64, seed: int = 0
) -> Estimate | None:
    """Estimate F(p(z) || p(z|x)) = E_p(z) |grad_z log p(x|z)|^2, mean over the rows, in inverse
    squared units of z.

    The posterior is the true one, not q: with z drawn from the prior, p(z) and the unknown p(x)
    drop out (K23 remark 3.5). All rows share the `n_samples` draws of z, a quarter of them for
    sequences. The divergence is unknown where log p(x|z) has no gradient in z.
    """
    with evaluate(model, X) as data:
        if not data.has_gradient:
            return None
        return fisher_divergence_of_rows(data.model, data.rows, n_samples, seed)


def fisher_divergence_of_rows(
    model: LatentModel, rows: np.ndarray, n_samples: int = 64, seed: int = 0
) -> Estimate:
    """Estimate the divergence of `fisher_divergence` on rows as the model observes them.

    The standard error is that of the draws of z. Sequences and models of other libraries are
    evaluated on 64 random rows, and the error includes theirs.
    """
    if isinstance(model, RowModel):
        scores = prior_scores(model, rows, prior_draws(model, n_samples, seed))
        return Estimate.mean_of(scores.squared_scores.mean(1))
    n_draws = max(2, n_samples // 4) if isinstance(model, SequenceModel) else n_samples
    some = rows[random_indices(len(rows), MAX_SCORED_ROWS)]
    squares = _squared_scores(model, some, prior_draws(model, n_draws, seed))
    over_draws, over_rows = Estimate.mean_of(squares.mean(1)), Estimate.mean_of(squares.mean(0))
    error = math.hypot(over_draws.standard_error, over_rows.standard_error)
    return Estimate(over_draws.value, error)


def _squared_scores(model: LatentModel, rows: np.ndarray, draws: Tensor) -> np.ndarray:
    """Compute |grad_z log p(x|z)|^2, shape (draws, n), without a Jacobian that rows could share."""
    squares = np.empty((len(draws), len(rows)))
    for start in range(0, len(rows), SCORED_AT_ONCE):
        batch = slice(start, start + SCORED_AT_ONCE)
        x = to_device(model, rows[batch])
        for index, draw in enumerate(draws):
            z = draw.expand(len(x), -1).clone().requires_grad_()
            with torch.enable_grad(), differentiable_twice():
                score = gradient(model.log_likelihood(x, z), z)
            squares[index, batch] = score.square().sum(1).cpu().double().numpy()
    return squares


def prior_draws(model: LatentModel, n_samples: int, seed: int) -> Tensor:
    """Draw z from the prior, shape (n_samples, l)."""
    with seeded(seed):
        return model.draw_prior(n_samples)


@dataclass(frozen=True)
class PriorScores:
    """grad_z log p(x|z) at draws of z from the prior that all rows share, and its lower bound.

    With the decoder's first map f1 and the rest r, grad_z log p(x|z) = J1(z) R for R = J_r' (T(x) -
    E[T(x)|z]), so its norm is at least L1 |R| (K23 theorems 3.4 and A.7).

    Attributes:
        squared_scores: |grad_z log p(x|z)|^2, shape (draws, n).
        squared_bounds: L1^2 |R|^2, shape (draws, n).
        mean_scores: the mean over rows of grad_z log p(x|z), shape (draws, l).
        mean_residuals: L1 times the mean over rows of R, shape (draws, l).
    """

    squared_scores: np.ndarray
    squared_bounds: np.ndarray
    mean_scores: np.ndarray
    mean_residuals: np.ndarray


@torch.no_grad()
def prior_scores(model: RowModel, rows: np.ndarray, z: Tensor) -> PriorScores:
    """Compute scores at draws of z, shape (draws, l); a Jacobian for each draw serves all rows."""
    inner, outer, expectation = _jacobians(model, z)
    squares = torch.empty(2, len(z), len(rows), dtype=z.dtype)
    total = torch.zeros_like(expectation[0])
    size = max(1, MAX_NUMBERS // expectation.shape[1])
    for start in range(0, len(rows), size):
        statistic = model.family.sufficient(to_device(model, rows[start : start + size]))
        total += statistic.sum(0)
        for draw in range(len(z)):
            residual = statistic - expectation[draw]
            residual = residual if outer is None else residual @ outer[draw]
            squares[0, draw, start : start + size] = (residual @ inner[draw]).square().sum(1)
            squares[1, draw, start : start + size] = residual.square().sum(1)
    first_constant = model.decoder.first_constant
    mean = total / len(rows) - expectation
    mean = mean if outer is None else torch.einsum("st,stl->sl", mean, outer)
    mean_score = torch.einsum("sl,slk->sk", mean, inner)
    parts = (squares[0], first_constant**2 * squares[1], mean_score, first_constant * mean)
    return PriorScores(*(part.cpu().double().numpy() for part in parts))


def _jacobians(model: RowModel, z: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Compute at each z the Jacobian of the first map, that of the maps from there to natural
    parameters (None if there are none), and E[T(x)|z]."""
    decoder, link = model.decoder, model.family.link
    v = decoder.first(z)
    outer = None if decoder.is_one_map else jacobian(lambda v: link(decoder.rest(v)), v)
    return jacobian(decoder.first, z), outer, model.family.expectation(link(decoder.rest(v)))


@dataclass(frozen=True)
class PosteriorScores:
    """Scores averaged over the true posterior of each row, by self-normalized importance weights on
    draws from q(z|x).

    All fields have shape (n,). They are unreliable where the effective sample size is small.

    Attributes:
        divergence: F(p(z|x) || p(z)) = E_p(z|x) |grad_z log p(x|z)|^2 (K23 remark 3.5).
        divergence_error: its standard error.
        bound: E_p(z|x) L1^2 |R|^2, a lower bound of the divergence.
        kl_nats: KL(p(z|x) || p(z)).
        kl_error: its standard error.
        effective_sample_size: of the weights.
    """

    divergence: np.ndarray
    divergence_error: np.ndarray
    bound: np.ndarray
    kl_nats: np.ndarray
    kl_error: np.ndarray
    effective_sample_size: np.ndarray


def posterior_scores(
    model: RowModel, rows: np.ndarray, n_samples: int, verbose: bool = False
) -> PosteriorScores:
    """Average scores over the true posterior of each row, by draws that belong to the row."""
    found = map_rows(model, rows, n_samples, "posterior scores", _posterior_scores, verbose)
    return PosteriorScores(**found)


def _posterior_scores(model: RowModel, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Compute the fields of `PosteriorScores`."""
    with torch.no_grad():
        z, log_ratio = model.propose(x, noise)
    z.requires_grad_()
    with torch.enable_grad():
        v = model.decoder.first(z)
        log_likelihood = model.family(model.family.link(model.decoder.rest(v))).log_prob(x)
        score, residual = torch.autograd.grad(log_likelihood.sum(), (z, v))
    log_likelihood = log_likelihood.detach()
    log_weights = log_likelihood + log_ratio
    weights = log_weights.softmax(0)
    squares = score.square().sum(-1)
    divergence, mean = (weights * squares).sum(0), (weights * log_likelihood).sum(0)
    parts = {
        "divergence": divergence,
        "divergence_error": _error(weights * (squares - divergence), len(noise)),
        "bound": model.decoder.first_constant**2 * (weights * residual.square().sum(-1)).sum(0),
        "kl_nats": mean - (log_weights.logsumexp(0) - math.log(len(z))),
        # Both terms are linearized in the draws.
        "kl_error": _error(weights * (log_likelihood - mean - 1) + 1 / len(z), len(noise)),
        "effective_sample_size": 1 / weights.square().sum(0),
    }
    return {name: part.double() for name, part in parts.items()}


def _error(deviations: Tensor, n_independent: int) -> Tensor:
    """Compute the standard error of a sum over draws. Draws with the same noise, one for each
    enumerated component, are not independent."""
    independent = deviations.reshape(n_independent, -1, deviations.shape[1]).sum(1)
    return independent.square().sum(0).sqrt()
