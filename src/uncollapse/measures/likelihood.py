"""The marginal likelihood by importance sampling (Burda et al. 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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

    The estimate of each row is a lower bound in expectation that rises to log p(x) with the number
    of draws K.

    Args:
        model: whatever `uncollapse.diagnose` takes, or an `Evaluation`.
        X: data, as `uncollapse.diagnose` takes them.
        n_samples: K, the same for every row. None takes 64 and doubles it on 128 rows until their
            mean settles, up to 4,096 or to a million evaluations of the decoder (a document takes
            one for each symbol); what these rows gain is added to the mean of all.
    """
    with evaluate(model, X) as data:
        return mean_log_likelihood(data.pool, data.rows[data.order], n_samples, data.verbose)


def mean_log_likelihood(
    model: LatentModel | WorkerPool[Any],
    rows: np.ndarray,
    n_samples: int | None = None,
    verbose: bool = False,
) -> ImportanceLogLikelihood:
    """Estimate the mean of log p(x) over rows in random order, as `importance_log_likelihood` does.

    Args:
        model: in evaluation mode, or a pool of workers.
        rows: shape (n, *features), float32, as the model observes them.
        n_samples: K; None doubles it until the mean settles.
        verbose: show progress bars in a terminal.
    """
    weights = _Weights(model, rows)
    weights.draw(FIRST_DRAWS if n_samples is None else n_samples, verbose)
    if n_samples is not None:
        mean = Estimate.mean_of(weights.log_p)
        return weights.summarize(mean, None)
    first = weights.log_p
    error = first.std(ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    some, has_settled = weights.first_rows(MAX_DOUBLED_ROWS), False
    while (
        not has_settled and some.n_samples < MAX_DRAWS and some.n_evaluations <= MAX_EVALUATIONS / 2
    ):
        first_half = some.log_p
        second_half = some.draw(some.n_samples, verbose)
        # The move of the mean itself is mostly chance, which can be small while the bias is large.
        # By Jensen's inequality this gain has no negative term, and its expectation is the move's.
        gain = float((some.log_p - (first_half + second_half) / 2).mean())
        has_settled = gain <= max(SETTLED_ERRORS * error, SETTLED_SHARE * abs(first_half.mean()))
    mean = _add_gains(first, some.log_p - first[:MAX_DOUBLED_ROWS])
    return some.summarize(mean, has_settled)


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


class _Weights:
    """Log sums over draws of the importance weights of rows and of their squares."""

    def __init__(self, model: LatentModel | WorkerPool[Any], rows: np.ndarray) -> None:
        self.model, self.rows = model, rows
        self.n_samples = 0
        self.n_weights = np.zeros(len(rows), int)
        self.sums, self.squares = np.full((2, len(rows)), -np.inf)

    def draw(self, n_samples: int, verbose: bool) -> np.ndarray:
        """Add draws for each row, with noise that no earlier draw has used, and return log p(x) of
        each row by the new draws alone."""
        start = f", from draw {self.n_samples} on" if self.n_samples else ""
        purpose = f"importance sampling{start}"
        found = map_rows(self.model, self.rows, n_samples, purpose, _weigh, verbose)
        with np.errstate(invalid="ignore"):  # NaN stays NaN.
            self.sums = np.logaddexp(self.sums, found["sums"])
            self.squares = np.logaddexp(self.squares, found["squares"])
        self.n_samples += n_samples
        self.n_weights = self.n_weights + found["n_weights"]
        return np.asarray(found["sums"] - np.log(found["n_weights"]))

    def first_rows(self, n: int) -> _Weights:
        """Copy the weights of the first n rows."""
        part = _Weights(self.model, self.rows[:n])
        part.sums, part.squares = self.sums[:n], self.squares[:n]
        part.n_samples, part.n_weights = self.n_samples, self.n_weights[:n]
        return part

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the decoder up to now."""
        model = self.model.model if isinstance(self.model, WorkerPool) else self.model
        return int(model.evaluations(self.rows, self.n_samples).sum())

    @property
    def log_p(self) -> np.ndarray:
        """log p(x) of each row, in nats."""
        return np.asarray(self.sums - np.log(self.n_weights))

    def summarize(self, mean: Estimate, has_settled: bool | None) -> ImportanceLogLikelihood:
        """Put a mean beside the number of draws and their effective sample size."""
        effective = float(np.median(np.exp(2 * self.sums - self.squares)))
        return ImportanceLogLikelihood(
            mean.value, mean.standard_error, self.n_samples, effective, has_settled
        )


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
    posterior of another library draws by itself.

    Args:
        model: in evaluation mode, or a pool of workers.
        rows: shape (n, *features), float32, as the model observes them.
        n_samples: K; of each component, for a model that enumerates components.
        verbose: show a progress bar in a terminal.

    Returns:
        Shape (n,), in nats.
    """
    weights = _Weights(model, rows)
    weights.draw(n_samples, verbose)
    return weights.log_p


def importance_log_weights(
    model: LatentModel, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "draws batch"]:
    """Compute log p(x, z) - log q(z|x) in nats at the draws of z that the noise decides; there are
    more draws where components are enumerated."""
    z, log_ratio = model.propose(x, noise)
    return model.log_likelihood(x, z) + log_ratio
