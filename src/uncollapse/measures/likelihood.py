"""The marginal likelihood, by importance weighting (Burda et al. 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse.measures.estimate import Estimate
from uncollapse.measures.row_map import RowMap, map_rows
from uncollapse.models import LatentModel

PURPOSE = "importance sampling"
# Where the number of draws is not given, it is doubled on some rows until a doubling is expected to
# raise their mean by less than a tenth of the standard error over all rows, or by less than a
# ten-thousandth of the mean. The bias of K draws falls about as 1/K, so what remains is as small.
FIRST_DRAWS, MAX_DRAWS = 64, 4096
MAX_DOUBLED_ROWS, MAX_EVALUATIONS = 128, 2**20
SETTLED_ERRORS, SETTLED_SHARE = 0.1, 1e-4


@dataclass(frozen=True)
class Likelihood:
    """What importance weights say of log p(x), in nats.

    Attributes:
        mean: of log p(x) over the rows.
        n_samples: K, of the last doubling.
        effective_sample_size: of the K weights of a row, median over the rows.
        has_settled: whether the last doubling raised the mean by less than matters; None where K
            was given.
    """

    mean: Estimate
    n_samples: int
    effective_sample_size: float
    has_settled: bool | None


def marginal_likelihood(
    model: LatentModel,
    rows: np.ndarray,
    n_samples: int | None = None,
    verbose: bool = False,
    work: RowMap | None = None,
) -> Likelihood:
    """The mean of log p(x) over rows, with as many draws as it takes.

    The estimate of each row rises to log p(x) with K. 64 draws for every row, and for 128 of them
    as many more as it takes until a doubling hardly matters; what these gain is added to the mean
    of all.

    Args:
        model: in evaluation, on any device.
        rows: shape (n, *features), float32, as the model observes them, in random order.
        n_samples: K, the same for every row; None doubles it until the mean settles, up to 4,096,
            or up to a million evaluations of the decoder, of which a document takes one for each
            symbol.
        verbose: show progress bars where there is a terminal.
        work: by whom the rows are looked at.
    """
    weights = _Weights(model, rows, work)
    weights.draw(FIRST_DRAWS if n_samples is None else n_samples, verbose)
    if n_samples is not None:
        return Likelihood(
            Estimate.mean_of(weights.log_p), n_samples, weights.effective_sample_size, None
        )
    first = weights.log_p
    error = first.std(ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    some, has_settled = weights.of(slice(MAX_DOUBLED_ROWS)), False
    while (
        not has_settled and some.n_samples < MAX_DRAWS and some.n_evaluations <= MAX_EVALUATIONS / 2
    ):
        first_half = some.log_p
        second_half = some.draw(some.n_samples, verbose)
        # The move of the mean itself is mostly chance, which can be small while the bias is large.
        # By Jensen's inequality this gain has no negative term, and its expectation is the move's.
        gain = float((some.log_p - (first_half + second_half) / 2).mean())
        has_settled = gain <= max(SETTLED_ERRORS * error, SETTLED_SHARE * abs(first_half.mean()))
    mean = _corrected_mean(first, some.log_p - first[:MAX_DOUBLED_ROWS])
    return Likelihood(mean, some.n_samples, some.effective_sample_size, has_settled)


def _corrected_mean(values: np.ndarray, gains: np.ndarray) -> Estimate:
    """The mean of values, and that of what the first of them gain. The first gain what they gain
    together with their values."""
    n, m = len(values), len(gains)
    if n < 2:
        return Estimate(float(values.mean() + gains.mean()))
    covariance = np.cov(values[:m], gains) if m > 1 else np.zeros((2, 2))
    variance = values.var(ddof=1) / n + covariance[1, 1] / m + 2 * covariance[0, 1] / n
    return Estimate(float(values.mean() + gains.mean()), math.sqrt(max(0.0, variance)))


class _Weights:
    """Sums of the importance weights of rows, and of their squares, as logarithms, to which more
    draws can be added."""

    def __init__(self, model: LatentModel, rows: np.ndarray, work: RowMap | None = None) -> None:
        self.model, self.rows, self.work = model, rows, work
        self.n_samples = 0
        self.n_weights, self.sums, self.squares = (
            np.zeros(len(rows), int),
            *np.full((2, len(rows)), -np.inf),
        )

    def draw(self, n_samples: int, verbose: bool) -> np.ndarray:
        """Take more draws for each row, by noise that no earlier draw has used, and return
        log p(x) of each row by the new draws alone."""
        purpose = PURPOSE if self.n_samples == 0 else f"{PURPOSE}, from draw {self.n_samples} on"
        found = map_rows(self.model, self.rows, n_samples, purpose, _weigh, verbose, self.work)
        with np.errstate(invalid="ignore"):  # what is no number stays none
            self.sums = np.logaddexp(self.sums, found["sums"])
            self.squares = np.logaddexp(self.squares, found["squares"])
        self.n_samples, self.n_weights = (
            self.n_samples + n_samples,
            self.n_weights + found["n_weights"],
        )
        return np.asarray(found["sums"] - np.log(found["n_weights"]))

    def of(self, rows: slice) -> _Weights:
        """The same of some rows only."""
        part = _Weights(self.model, self.rows[rows], self.work)
        part.sums, part.squares, part.n_weights = (
            self.sums[rows],
            self.squares[rows],
            self.n_weights[rows],
        )
        part.n_samples = self.n_samples
        return part

    @property
    def n_evaluations(self) -> int:
        """Of the decoder, up to now."""
        return int(self.model.evaluations(self.rows, self.n_samples).sum())

    @property
    def log_p(self) -> np.ndarray:
        """log p(x) of each row, in nats."""
        return np.asarray(self.sums - np.log(self.n_weights))

    @property
    def effective_sample_size(self) -> float:
        """Median over the rows."""
        return float(np.median(np.exp(2 * self.sums - self.squares)))


@torch.inference_mode()
def _weigh(
    model: LatentModel, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> dict[str, Tensor]:
    log_weights = importance_log_weights(model, x, noise).double()
    n_weights = torch.full((len(x),), len(log_weights))
    return {
        "sums": log_weights.logsumexp(0),
        "squares": (2 * log_weights).logsumexp(0),
        "n_weights": n_weights,
    }


def importance_log_likelihood(
    model: LatentModel,
    rows: np.ndarray,
    n_samples: int = 64,
    verbose: bool = False,
    work: RowMap | None = None,
) -> np.ndarray:
    """log p(x) of each row, estimated by log (1/K) sum_k p(x, z_k) / q(z_k|x) at K draws from the
    posterior.

    A lower bound in expectation, which rises to log p(x) with K. The draws belong to the row, so
    that its value does not depend on the other rows, but where a posterior of another library draws
    by itself.

    Args:
        model: in evaluation, on any device.
        rows: shape (n, *features), float32, as the model observes them.
        n_samples: K; for a model that enumerates components, of each of them.
        verbose: show a progress bar where there is a terminal.
        work: by whom the rows are looked at.

    Returns:
        Shape (n,), in nats.
    """
    weights = _Weights(model, rows, work)
    weights.draw(n_samples, verbose)
    return weights.log_p


def importance_log_weights(
    model: LatentModel, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "draws batch"]:
    """log p(x, z) - log q(z|x) at the draws of z that the noise decides, in nats; more draws where
    components are enumerated."""
    z, log_ratio = model.propose(x, noise)
    return model.log_likelihood(x, z) + log_ratio
