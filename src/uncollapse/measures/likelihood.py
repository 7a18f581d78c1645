"""The marginal likelihood by importance sampling (Burda et al. 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate
from uncollapse.measures.worker_pool import WorkerPool, map_rows
from uncollapse.models import LatentModel

# Where the number of draws is not given, it is doubled on some rows until a doubling is expected to
# raise their mean by less than a tenth of the standard error over all rows, or by less than a
# ten-thousandth of the mean. The bias of K draws falls about as 1/K, so what remains is as small.
FIRST_DRAWS, MAX_DRAWS = 64, 4096
MAX_DOUBLED_ROWS, MAX_EVALUATIONS = 128, 2**20
SETTLED_ERRORS, SETTLED_SHARE = 0.1, 1e-4


@dataclass(frozen=True)
class ImportanceLogLikelihood(Estimate):
    """The mean of log p(x) over rows, in nats, with its standard error.

    Attributes:
        n_samples: K, the number of draws of z for each row after the last doubling.
        effective_sample_size: of the K weights of a row, median over the rows.
        has_settled: whether the last doubling raised the mean by a negligible amount; None where K
            was given.
    """

    n_samples: int = 0
    effective_sample_size: float = math.nan
    has_settled: bool | None = None


def importance_log_likelihood(
    model: Any, X: Any = None, n_samples: int | None = None
) -> ImportanceLogLikelihood:
    """Estimate the mean of log p(x) in nats by importance sampling from q(z|x).

    The estimate of each row is a lower bound in expectation that rises to log p(x) with K, the
    number of draws. Without `n_samples`, K is 64, doubled on 128 rows until their mean settles, up
    to 4,096 or to a million evaluations of the decoder (a document takes one for each symbol); what
    these rows gain is added to the mean of all.
    """
    with evaluate(model, X) as data:
        return mean_log_likelihood(data.pool, data.rows[data.order], n_samples, data.verbose)


def mean_log_likelihood(
    model: LatentModel | WorkerPool[Any],
    rows: np.ndarray,
    n_samples: int | None = None,
    verbose: bool = False,
) -> ImportanceLogLikelihood:
    """Estimate the mean of log p(x) over rows in random order: `importance_log_likelihood`."""
    if n_samples is not None:
        weights = _draw_weights(model, rows, n_samples, verbose=verbose)
        return _summarize(Estimate.mean_of(weights.log_p), n_samples, weights, None)
    own = model.model if isinstance(model, WorkerPool) else model
    weights, n_draws = _draw_weights(model, rows, FIRST_DRAWS, verbose=verbose), FIRST_DRAWS
    first = weights.log_p
    error = first.std(ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    rows, has_settled = rows[:MAX_DOUBLED_ROWS], False
    weights = _Weights(*(part[:MAX_DOUBLED_ROWS] for part in weights))
    while (
        not has_settled
        and n_draws < MAX_DRAWS
        and own.evaluations_in_memory(rows, n_draws).sum() <= MAX_EVALUATIONS / 2
    ):
        others = _draw_weights(model, rows, n_draws, n_draws, verbose)
        both = weights.merge(others)
        # The change of the mean itself is mostly noise, and can be small while the bias is large.
        # By Jensen's inequality this gain has no negative term, and it has the same expectation.
        gain = float((both.log_p - (weights.log_p + others.log_p) / 2).mean())
        has_settled = gain <= max(SETTLED_ERRORS * error, SETTLED_SHARE * abs(weights.log_p.mean()))
        weights, n_draws = both, 2 * n_draws
    mean = _add_gains(first, weights.log_p - first[:MAX_DOUBLED_ROWS])
    return _summarize(mean, n_draws, weights, has_settled)


def _summarize(
    mean: Estimate, n_samples: int, weights: _Weights, has_settled: bool | None
) -> ImportanceLogLikelihood:
    effective = float(np.median(np.exp(2 * weights.sums - weights.squares)))
    return ImportanceLogLikelihood(
        mean.value, mean.standard_error, n_samples, effective, has_settled
    )


def _add_gains(values: np.ndarray, gains: np.ndarray) -> Estimate:
    """Add the mean gain of the first values to the mean of all, with an error that respects the
    covariance of gains and values."""
    n, m = len(values), len(gains)
    mean = float(values.mean() + gains.mean())
    if n < 2:
        return Estimate(mean)
    covariance = np.cov(values[:m], gains) if m > 1 else np.zeros((2, 2))
    variance = values.var(ddof=1) / n + covariance[1, 1] / m + 2 * covariance[0, 1] / n
    return Estimate(mean, math.sqrt(max(0.0, variance)))


class _Weights(NamedTuple):
    """Logarithms of the sums of importance weights and of their squares, and their number, each of
    shape (n,)."""

    sums: np.ndarray
    squares: np.ndarray
    n_weights: np.ndarray

    @property
    def log_p(self) -> np.ndarray:
        """log p(x) of each row, in nats."""
        return np.asarray(self.sums - np.log(self.n_weights))

    def merge(self, others: _Weights) -> _Weights:
        """Add the weights of other draws for the same rows."""
        with np.errstate(invalid="ignore"):  # NaN stays NaN.
            sums = np.logaddexp(self.sums, others.sums)
            squares = np.logaddexp(self.squares, others.squares)
        return _Weights(sums, squares, self.n_weights + others.n_weights)


def _draw_weights(
    model: LatentModel | WorkerPool[Any],
    rows: np.ndarray,
    n_samples: int,
    n_before: int = 0,
    verbose: bool = False,
) -> _Weights:
    """Weigh draws for each row, with noise that the `n_before` draws before have not used."""
    purpose = f"importance sampling{f', from draw {n_before} on' if n_before else ''}"
    return _Weights(**map_rows(model, rows, n_samples, purpose, _weigh, verbose))


@torch.inference_mode()
def _weigh(
    model: LatentModel, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> dict[str, Tensor]:
    log_weights = importance_log_weights(model, x, noise).double()
    return {
        "sums": log_weights.logsumexp(0),
        "squares": (2 * log_weights).logsumexp(0),
        "n_weights": torch.full((len(x),), len(log_weights)),
    }


def importance_log_likelihood_per_row(
    model: LatentModel | WorkerPool[Any],
    rows: np.ndarray,
    n_samples: int = 64,
    verbose: bool = False,
) -> np.ndarray:
    """Estimate log p(x) of each row by log (1/K) sum_k p(x, z_k) / q(z_k|x) at K draws from q(z|x).

    The draws belong to the row, so its value does not depend on the other rows, except where the
    posterior of another library draws by itself. K = `n_samples` counts those of each component
    where components are enumerated.
    """
    return _draw_weights(model, rows, n_samples, verbose=verbose).log_p


def importance_log_weights(
    model: LatentModel, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "draws batch"]:
    """Compute log p(x, z) - log q(z|x) in nats at the draws of z that the noise decides; there are
    more draws where components are enumerated."""
    z, log_ratio = model.propose(x, noise)
    return model.log_likelihood(x, z) + log_ratio
