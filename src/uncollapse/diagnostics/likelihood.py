"""The marginal likelihood, by importance weighting (Burda et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse.diagnostics.estimate import Estimate
from uncollapse.models import LatentModel, to_device
from uncollapse.noise import RowNoise
from uncollapse.progress import progress_bar

# Decoder evaluations in one go; more would not be faster, and would only take memory.
EVALUATIONS_AT_ONCE = 4096
PURPOSE = "importance sampling"
# Where the number of draws is not given: it is doubled on some rows until their mean moves by less than a tenth of the standard
# error over all of them, or by less than a ten-thousandth of itself.
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
        has_settled: whether a last doubling moved the mean by less than matters; None where K was given.
    """

    mean: Estimate
    n_samples: int
    effective_sample_size: float
    has_settled: bool | None


def marginal_likelihood(model: LatentModel, rows: np.ndarray, n_samples: int | None = None, verbose: bool = False) -> Likelihood:
    """The mean of log p(x) over rows, with as many draws as it takes.

    The estimate of each row rises to log p(x) with K. 64 draws for every row, and for 128 of them as many more as it takes until
    a doubling hardly matters; what these gain is added to the mean of all.

    Args:
        model: in evaluation, on any device.
        rows: shape (n, *features), float32, as the model observes them, in random order.
        n_samples: K, the same for every row; None doubles it until the mean settles, up to 4,096, or up to a million evaluations
            of the decoder, of which a document takes one for each symbol.
        verbose: show progress bars where there is a terminal.
    """
    weights = _Weights(model, rows)
    weights.draw(FIRST_DRAWS if n_samples is None else n_samples, verbose)
    if n_samples is not None:
        return Likelihood(Estimate.mean_of(weights.log_p), n_samples, weights.effective_sample_size, None)
    first = weights.log_p
    error = first.std(ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    some, has_settled = weights.of(slice(MAX_DOUBLED_ROWS)), False
    while not has_settled and some.n_samples < MAX_DRAWS and some.n_evaluations <= MAX_EVALUATIONS / 2:
        before = some.log_p.mean()
        some.draw(some.n_samples, verbose)
        moved = abs(some.log_p.mean() - before)
        has_settled = moved <= max(SETTLED_ERRORS * error, SETTLED_SHARE * abs(before))
    mean = _corrected_mean(first, some.log_p - first[:MAX_DOUBLED_ROWS])
    return Likelihood(mean, some.n_samples, some.effective_sample_size, has_settled)


def _corrected_mean(values: np.ndarray, gains: np.ndarray) -> Estimate:
    """The mean of values, and that of what the first of them gain. The first gain what they gain together with their values."""
    n, m = len(values), len(gains)
    if n < 2:
        return Estimate(float(values.mean() + gains.mean()))
    covariance = np.cov(values[:m], gains) if m > 1 else np.zeros((2, 2))
    variance = values.var(ddof=1) / n + covariance[1, 1] / m + 2 * covariance[0, 1] / n
    return Estimate(float(values.mean() + gains.mean()), math.sqrt(max(0.0, variance)))


class _Weights:
    """Sums of the importance weights of rows, and of their squares, as logarithms, to which more draws can be added."""

    def __init__(self, model: LatentModel, rows: np.ndarray) -> None:
        self.model, self.rows = model, rows
        self.n_samples = self.n_weights = 0
        self.sums, self.squares = np.full((2, len(rows)), -np.inf)

    @torch.inference_mode()
    def draw(self, n_samples: int, verbose: bool) -> None:
        """Take so many more draws for each row, by noise that no draw before has used."""
        sums, squares, n_weights = [], [], 0
        purpose = PURPOSE if self.n_samples == 0 else f"{PURPOSE}, from draw {self.n_samples} on"
        for x, noise in noisy_batches(self.model, self.rows, n_samples, purpose, verbose):
            log_weights = importance_log_weights(self.model, x, noise).double()
            n_weights = len(log_weights)
            sums.append(log_weights.logsumexp(0).cpu().numpy())
            squares.append((2 * log_weights).logsumexp(0).cpu().numpy())
        with np.errstate(invalid="ignore"):  # what is no number stays none
            self.sums = np.logaddexp(self.sums, np.concatenate(sums))
            self.squares = np.logaddexp(self.squares, np.concatenate(squares))
        self.n_samples, self.n_weights = self.n_samples + n_samples, self.n_weights + n_weights

    def of(self, rows: slice) -> _Weights:
        """The same of some rows only."""
        part = _Weights(self.model, self.rows[rows])
        part.sums, part.squares = self.sums[rows], self.squares[rows]
        part.n_samples, part.n_weights = self.n_samples, self.n_weights
        return part

    @property
    def n_evaluations(self) -> int:
        """Of the decoder, up to now."""
        return int(self.model.evaluations(self.rows, self.n_samples).sum())

    @property
    def log_p(self) -> np.ndarray:
        """log p(x) of each row, in nats."""
        return np.asarray(self.sums - math.log(self.n_weights))

    @property
    def effective_sample_size(self) -> float:
        """Median over the rows."""
        return float(np.median(np.exp(2 * self.sums - self.squares)))


def importance_log_likelihood(model: LatentModel, rows: np.ndarray, n_samples: int = 64, verbose: bool = False) -> np.ndarray:
    """log p(x) of each row, estimated by log (1/K) sum_k p(x, z_k) / q(z_k|x) at K draws from the posterior.

    A lower bound in expectation, which rises to log p(x) with K. The draws belong to the row, so that its value does not depend on
    the other rows, but where a posterior of another library draws by itself.

    Args:
        model: in evaluation, on any device.
        rows: shape (n, *features), float32, as the model observes them.
        n_samples: K; for a model that enumerates components, of each of them.
        verbose: show a progress bar where there is a terminal.

    Returns:
        Shape (n,), in nats.
    """
    weights = _Weights(model, rows)
    weights.draw(n_samples, verbose)
    return weights.log_p


def noisy_batches(
    model: LatentModel, rows: np.ndarray, n_samples: int, purpose: str, verbose: bool
) -> Iterator[tuple[Float[Tensor, "batch data"], Float[Tensor, "samples batch latent"]]]:
    """Rows with standard normal noise that belongs to each of them, in batches that a decoder can take at once.

    Args:
        model: whose type and device the tensors get.
        rows: shape (n, *features).
        n_samples: draws for each row.
        purpose: what the noise is for, and the label of the progress bar.
        verbose: show a progress bar where there is a terminal.
    """
    noise, shape = RowNoise(rows, purpose), (n_samples, model.latent_dim)
    batches = _batches(model.evaluations(rows, n_samples))
    with progress_bar(purpose, len(batches), verbose) as advance:
        for batch in batches:
            yield to_device(model, rows[batch]), to_device(model, noise.normal(shape, batch).swapaxes(0, 1))
            advance("")


def _batches(costs: np.ndarray) -> list[slice]:
    """Slices of rows whose costs do not exceed what can be done at once, but for single rows."""
    batches, start, total = [], 0, 0
    for row, cost in enumerate(costs):
        if row > start and total + cost > EVALUATIONS_AT_ONCE:
            batches.append(slice(start, row))
            start, total = row, 0
        total += cost
    return [*batches, slice(start, len(costs))]


def importance_log_weights(
    model: LatentModel, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "draws batch"]:
    """log p(x, z) - log q(z|x) at the draws of z that the noise decides, in nats; more draws where components are enumerated."""
    z, log_ratio = model.propose(x, noise)
    return model.log_likelihood(x, z) + log_ratio
