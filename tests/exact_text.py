"""Exact inference for the model of "synthetic-text", by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np

from uncollapse._utils.correlations import canonical_correlations
from uncollapse.data.synthetic_text import (
    BLOCK,
    N_WORDS,
    SEED,
    SyntheticLanguage,
    synthetic_model,
)

# The search for the mode of a posterior starts at the best of N_STARTS draws and takes N_STEPS.
N_STARTS, N_STEPS = 32, 15
# Importance samples come from a t distribution with DEGREES degrees of freedom, and a tenth of them
# from the prior, so that no weight exceeds ten times a draw's likelihood.
DEGREES = 4
PRIOR_SHARE = 0.1


class ExactModel(SyntheticLanguage):
    """The model with its likelihood and the derivatives of that."""

    @property
    def latent_dim(self) -> int:
        """Number of latents of a sentence."""
        return int(self.from_latents.shape[1])

    def log_likelihood(self, words: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Compute log p(x|z) in nats, shape (n, s), of words (n, length) at latents (n, s, d)."""
        total = np.zeros(latents.shape[:2])
        for rows in _blocks(len(words), latents.shape[1]):
            for i, history in enumerate(self.histories(words[rows])):
                hidden = self.hidden(history, latents[rows])
                word = words[rows, i]
                chosen = np.einsum("nsm,nm->ns", hidden, self.output[word])
                chosen += self.output_bias[word, None]
                total[rows] += chosen - np.log(self.weights(hidden).sum(axis=-1))
        return total

    def score(self, words: np.ndarray, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the gradient of log p(x|z) in z, shape (n, d), and its Fisher information, shape
        (n, d, d), at latents (n, d)."""
        gradient = np.zeros(latents.shape)
        information = np.zeros((*latents.shape, self.latent_dim))
        for rows in _blocks(len(words), 4 * self.latent_dim):
            for i, history in enumerate(self.histories(words[rows])):
                hidden = self.hidden(history, latents[rows, None])[:, 0]
                hidden_slopes = (1 - hidden**2)[:, :, None] * self.from_latents
                slopes = self.output @ hidden_slopes  # of the logits, shape (n, v, d)
                weights = self.weights(hidden)
                weights /= weights.sum(axis=1, keepdims=True)
                slopes -= np.einsum("nv,nvd->nd", weights, slopes)[:, None]
                gradient[rows] += slopes[np.arange(len(slopes)), words[rows, i]]
                information[rows] += np.swapaxes(slopes, 1, 2) @ (slopes * weights[:, :, None])
        return gradient, information

    def histories(self, words: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the history before each word, shape (n, k)."""
        history = np.zeros((len(words), len(self.recurrence)))
        for word in words.T:
            yield history
            history = self.next_history(history, word)


@dataclass(frozen=True)
class ExactPosterior:
    """Properties of each sentence under the true model, by importance sampling.

    Attributes:
        log_likelihood_nats: log p(x), shape (n,).
        standard_errors_nats: Monte Carlo standard errors of log p(x), shape (n,).
        means: E[z|x], shape (n, d).
        kl_nats: KL(p(z|x) || p(z)), shape (n,); its mean over sentences is I(x; z).
        effective_sample_sizes: effective numbers of draws, shape (n,).
    """

    log_likelihood_nats: np.ndarray
    standard_errors_nats: np.ndarray
    means: np.ndarray
    kl_nats: np.ndarray
    effective_sample_sizes: np.ndarray


@dataclass(frozen=True)
class Truth:
    """Best possible results on some sentences, with standard errors over sentences."""

    nll_nats: float
    nll_standard_error: float
    information_nats: float
    information_standard_error: float
    kl_nats: float
    kl_standard_error: float
    correlations: tuple[float, ...]


def true_model() -> ExactModel:
    """Return the model that draws "synthetic-text"."""
    return ExactModel(**vars(synthetic_model()))


def exact_posterior(sentences: np.ndarray, n_draws: int = 500) -> ExactPosterior:
    """Compute log p(x), E[z|x] and KL(p(z|x) || p(z)) of sentences of `synthetic_text`.

    The random numbers depend on the sentence alone, so that an estimate is the same in every order
    and subset. 500 draws take 0.02 s a sentence on one core.
    """
    return infer(true_model(), read_words(sentences), n_draws)


def truth(sentences: np.ndarray, latents: np.ndarray, n_draws: int = 500) -> Truth:
    """Compute likelihood, information and canonical correlations of the true model."""
    posterior = exact_posterior(sentences, n_draws)
    given = true_model().log_likelihood(read_words(sentences), latents[:, None])[:, 0]
    return Truth(
        *_mean(-posterior.log_likelihood_nats),
        *_mean(given - posterior.log_likelihood_nats),
        *_mean(posterior.kl_nats),
        tuple(canonical_correlations(posterior.means, latents).tolist()),
    )


def read_words(sentences: np.ndarray) -> np.ndarray:
    """Return the indices of the words, shape (n, 10)."""
    number = {f"w{word}": word for word in range(N_WORDS)}
    return np.array([[number[word] for word in sentence.split()] for sentence in sentences])


def infer(model: ExactModel, words: np.ndarray, n_draws: int) -> ExactPosterior:
    """Compute properties of words (n, length) by importance sampling.

    The proposal is a mixture of the prior and a t distribution around the mode, with the Fisher
    information as its curvature. Weights are by the density of the whole mixture (Veach & Guibas
    1995).
    """
    parts = [
        astuple(_infer(model, words[rows], n_draws))
        for rows in _blocks(len(words), math.ceil(n_draws / 100))
    ]
    return ExactPosterior(*map(np.concatenate, zip(*parts, strict=True)))


def _infer(model: ExactModel, words: np.ndarray, n_draws: int) -> ExactPosterior:
    noise = _Noise(words, model.latent_dim, n_draws)
    mode, root = _laplace(model, words, noise.starts)
    latents, log_proposal = noise.around(mode, root)
    given = model.log_likelihood(words, latents)
    log_weights = given + _log_normal(latents) - log_proposal
    highest = log_weights.max(axis=1, keepdims=True)
    weights = np.exp(log_weights - highest)
    log_likelihood = highest[:, 0] + np.log(weights.mean(axis=1))
    weights /= weights.sum(axis=1, keepdims=True)
    sizes = 1 / (weights**2).sum(axis=1)
    return ExactPosterior(
        log_likelihood,
        np.sqrt((n_draws / sizes - 1) / (n_draws - 1)),
        np.einsum("ns,nsd->nd", weights, latents),
        (weights * given).sum(axis=1) - log_likelihood,
        sizes,
    )


class _Noise:
    """Random numbers for each row of words, which depend on its words alone."""

    def __init__(self, words: np.ndarray, latent_dim: int, n_draws: int) -> None:
        self.n_prior = round(PRIOR_SHARE * n_draws)
        generators = [np.random.default_rng([SEED, *row]) for row in words.tolist()]
        starts, draws = (N_STARTS, latent_dim), (n_draws, latent_dim)
        self.starts = np.stack([rng.standard_normal(starts) for rng in generators])
        self._normal = np.stack([rng.standard_normal(draws) for rng in generators])
        self._chi = np.stack([rng.chisquare(DEGREES, n_draws) for rng in generators])

    def around(self, mode: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return draws of the proposal, shape (n, s, d), and its log density, shape (n, s)."""
        spread = self._normal * np.sqrt(DEGREES / self._chi)[:, :, None]
        latents = mode[:, None] + spread @ np.swapaxes(root, 1, 2)
        latents[:, : self.n_prior] = self._normal[:, : self.n_prior]
        share = self.n_prior / latents.shape[1]
        log_t = _log_student(latents - mode[:, None], root)
        return latents, np.logaddexp(
            math.log(share) + _log_normal(latents), math.log1p(-share) + log_t
        )


def _laplace(
    model: ExactModel, words: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the modes of the posteriors, shape (n, d), and roots of their inverse curvatures, shape
    (n, d, d), by Fisher scoring from the best of the starts.

    A step that does not lead upwards is not taken, and the next one is half as long.
    """

    def height(latents: np.ndarray) -> np.ndarray:
        joint: np.ndarray = model.log_likelihood(words, latents) + _log_normal(latents)
        return joint

    heights = height(starts)
    everyone = np.arange(len(words))
    best = heights.argmax(axis=1)
    mode, top = starts[everyone, best], heights[everyone, best]
    length = np.ones(len(words))
    for _ in range(N_STEPS):
        gradient, information = model.score(words, mode)
        step = np.linalg.solve(
            information + np.eye(model.latent_dim), (gradient - mode)[:, :, None]
        )[:, :, 0]
        reached = mode + length[:, None] * step
        new = height(reached[:, None])[:, 0]
        better = new > top
        mode, top = np.where(better[:, None], reached, mode), np.where(better, new, top)
        length = np.where(better, 1, length / 2)
    precision = np.eye(model.latent_dim) + model.score(words, mode)[1]
    return mode, np.linalg.cholesky(np.linalg.inv(precision))


def _log_normal(latents: np.ndarray) -> np.ndarray:
    """Return the log density of N(0, I), shape (n, s)."""
    constant = latents.shape[-1] * math.log(2 * math.pi)
    density: np.ndarray = -0.5 * (latents**2).sum(axis=-1) - 0.5 * constant
    return density


def _log_student(offsets: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Return the log density of the t distribution with scale root root^T, shape (n, s)."""
    dim = offsets.shape[-1]
    whitened = np.linalg.solve(root, np.swapaxes(offsets, 1, 2))
    log_scale = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
    constant = (
        math.lgamma((DEGREES + dim) / 2)
        - math.lgamma(DEGREES / 2)
        - 0.5 * dim * math.log(DEGREES * math.pi)
    )
    tails = 0.5 * (DEGREES + dim) * np.log1p((whitened**2).sum(axis=1) / DEGREES)
    density: np.ndarray = constant - log_scale[:, None] - tails
    return density


def _blocks(n: int, each: int = 1) -> Iterator[slice]:
    """Yield slices of n rows, short enough that `each` values of a row fit into `BLOCK`."""
    size = max(1, BLOCK // each)
    return (slice(start, start + size) for start in range(0, n, size))


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
