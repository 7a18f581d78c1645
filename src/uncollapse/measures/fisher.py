"""The relative Fisher information divergences between prior and posterior (K23 definition 3.3), and
their lower bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uncollapse._utils.random import seeded
from uncollapse.maps.jacobian import jacobian
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.row_map import RowMap, map_rows
from uncollapse.models import (
    LatentModel,
    RowModel,
    SequenceVAE,
    differentiable_twice,
    gradient,
    to_device,
)

# Residuals held at once.
MAX_NUMBERS = 2**24
MAX_SCORED_ROWS, SCORED_AT_ONCE = 64, 8


@dataclass(frozen=True)
class PriorScores:
    """grad_z log p(x|z) at draws of z from the prior, shared by all rows, and its lower bound at
    the same draws.

    With the decoder's first map f1 and the rest of it r, grad_z log p(x|z) = J1(z) R for R = J_r'
    (T(x) - E[T(x)|z]), so that its norm is at least L1 |R| (K23 theorems 3.4 and A.7).

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


def relative_fisher_divergence(
    model: LatentModel, rows: np.ndarray, n_samples: int = 64, seed: int = 0
) -> Estimate:
    """F(p(z) || p(z|x)) = E_p(z) |grad_z log p(x|z)|^2, averaged over the rows. Inverse squared
    units of z.

    The true posterior's, not q's: with z drawn from the prior, p(z) and the unknown p(x) drop out
    (K23 remark 3.5).

    Args:
        model: log p(x|z) has a gradient in z.
        rows: shape (n, *features), as the model observes them. Of sequences, and of models of other
            libraries, 64 random ones are looked at.
        n_samples: draws of z, shared by all rows; a quarter of them for sequences.
        seed: of these draws.

    Returns:
        The divergence and its Monte Carlo error over the draws of z, and over the rows where they
        are only some.
    """
    if isinstance(model, RowModel):
        return Estimate.mean_of(
            prior_scores(model, rows, prior_draws(model, n_samples, seed)).squared_scores.mean(1)
        )
    draws = prior_draws(
        model, max(2, n_samples // 4) if isinstance(model, SequenceVAE) else n_samples, seed
    )
    some = np.random.default_rng(0).permutation(len(rows))[:MAX_SCORED_ROWS]
    squares = _squared_scores(model, rows[some], draws)
    over_draws, map_rows = Estimate.mean_of(squares.mean(1)), Estimate.mean_of(squares.mean(0))
    return Estimate(
        over_draws.value, math.hypot(over_draws.standard_error, map_rows.standard_error)
    )


def _squared_scores(model: LatentModel, rows: np.ndarray, draws: Tensor) -> np.ndarray:
    """|grad_z log p(x|z)|^2, shape (draws, n), without a Jacobian to share, as the histories of
    sequences leave none."""
    pieces = [
        to_device(model, rows[start : start + SCORED_AT_ONCE])
        for start in range(0, len(rows), SCORED_AT_ONCE)
    ]
    return np.stack(
        [np.concatenate([_squared_score(model, x, draw) for x in pieces]) for draw in draws]
    )


def _squared_score(model: LatentModel, x: Tensor, draw: Tensor) -> np.ndarray:
    z = draw.expand(len(x), -1).clone().requires_grad_()
    with (
        torch.enable_grad(),
        differentiable_twice(),
    ):  # kernels of recurrent networks have gradients in training mode only
        score = gradient(model.log_likelihood(x, z), z)
    squares: np.ndarray = score.square().sum(1).cpu().double().numpy()
    return squares


def prior_draws(model: LatentModel, n_samples: int, seed: int) -> Tensor:
    """Draws of z from the prior, shape (n_samples, l)."""
    with seeded(seed):
        return model.draw_prior(n_samples)


@torch.no_grad()
def prior_scores(model: RowModel, rows: np.ndarray, z: Tensor) -> PriorScores:
    """Scores at these draws of z. One Jacobian for each of them serves all rows.

    Args:
        model: its family gives T and E[T|z].
        rows: shape (n, data_dim), as the family observes them.
        z: shape (draws, l).
    """
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
    """At each z: the Jacobian of the first map, that of the rest up to natural parameters (None if
    nothing is left), E[T(x)|z]."""
    decoder, link = model.decoder, model.family.link
    v = decoder.first(z)
    outer = None if decoder.is_one_map else jacobian(lambda v: link(decoder.rest(v)), v)
    return jacobian(decoder.first, z), outer, model.family.expectation(link(decoder.rest(v)))


@dataclass(frozen=True)
class PosteriorScores:
    """What draws from the true posteriors, by self-normalised importance weights on draws from
    q(z|x), say of each row.

    All of shape (n,). Where the weights rest on few draws, all of this is worthless.

    Attributes:
        divergence: F(p(z|x) || p(z)) = E_p(z|x) |grad_z log p(x|z)|^2 (K23 remark 3.5).
        divergence_error: its standard error.
        bound: E_p(z|x) L1^2 |R|^2, which the divergence cannot fall below.
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
    model: RowModel, rows: np.ndarray, n_samples: int, verbose: bool = False, work: RowMap | None = None
) -> PosteriorScores:
    """Scores averaged over the true posterior of each row; the draws belong to the row.

    Args:
        model: in evaluation.
        rows: shape (n, data_dim), as the family observes them.
        n_samples: draws from q(z|x) for each row.
        verbose: show a progress bar where there is a terminal.
        work: by whom the rows are looked at.
    """
    return PosteriorScores(
        **map_rows(model, rows, n_samples, "posterior scores", _scores_of_rows, verbose, work)
    )


def _scores_of_rows(model: LatentModel, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The fields of `PosteriorScores`."""
    assert isinstance(model, RowModel)
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
        # By linearisation of both terms in the draws.
        "kl_error": _error(weights * (log_likelihood - mean - 1) + 1 / len(z), len(noise)),
        "effective_sample_size": 1 / weights.square().sum(0),
    }
    return {name: part.double() for name, part in parts.items()}


def _error(deviations: Tensor, n_independent: int) -> Tensor:
    """The standard error of their sum over draws. Those of one noise, of each component where
    components are enumerated, depend."""
    independent = deviations.reshape(n_independent, -1, deviations.shape[1]).sum(1)
    return independent.square().sum(0).sqrt()
