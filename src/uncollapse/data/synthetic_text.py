"""Sentences drawn from a known sequential VAE, so that the right answers can be computed.

W21 section 4.1 draws its synthetic text "from a classical two-layer sequential VAE with a
five-dimensional latent". This is one such model, with a fixed seed: 1,000 words, 10 in a sentence.
A word depends on the latents and on the words before it, so that a model can be tempted to explain
a sentence by its history alone. Latents and history drive separate directions of the hidden layer.

The model is small on purpose. After n sentences, a model of the right form with p free parameters
still lies about p / (2n) nats above the truth: 0.25 for the 8,000 parameters of this one, and 2
with layers of width 32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np

from uncollapse._utils.correlations import canonical_correlations
from uncollapse._utils.errors import DataError, ParameterError
from uncollapse._utils.validation import check_count
from uncollapse.data.arrays import Data

LATENT_DIM = 5
N_WORDS = 1000
LENGTH = 10  # words in a sentence
SIZES = {"train": 16_000, "validation": 2_000, "test": 2_000}
SEED = 2021

HISTORY_DIM = 1
# The search for the mode of a posterior starts at the best of N_STARTS draws and takes N_STEPS.
N_STARTS, N_STEPS = 32, 15
# Importance samples come from a t distribution with DEGREES degrees of freedom, and a tenth of them
# from the prior, so that no weight exceeds ten times a draw's likelihood.
DEGREES = 4
PRIOR_SHARE = 0.1
BLOCK = 2000  # rows of logits that are held in memory at a time


@dataclass(frozen=True)
class SequenceModel:
    """Likelihood p(x|z) of sentences, word by word: softmax(C tanh(B z + H h_i + b) + c).

    The prior is z ~ N(0, I). The history h_1 = 0, h_{i+1} = tanh(A h_i + E[x_i]) does not see z.

    Attributes:
        recurrence: A, shape (k, k).
        embedding: E, shape (v, k).
        from_latents: B, shape (m, d).
        from_history: H, shape (m, k).
        hidden_bias: b, shape (m,).
        output: C, shape (v, m).
        output_bias: c, shape (v,).
    """

    recurrence: np.ndarray
    embedding: np.ndarray
    from_latents: np.ndarray
    from_history: np.ndarray
    hidden_bias: np.ndarray
    output: np.ndarray
    output_bias: np.ndarray

    @property
    def latent_dim(self) -> int:
        """Number of latents of a sentence."""
        return int(self.from_latents.shape[1])

    def next_history(self, history: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Return the histories after one more word, shape (n, k)."""
        following: np.ndarray = np.tanh(history @ self.recurrence.T + self.embedding[word])
        return following

    def hidden(self, history: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Return the hidden layer, shape (n, s, m), of histories (n, k) and latents (n, s, d)."""
        drive = history @ self.from_history.T + self.hidden_bias
        layer: np.ndarray = np.tanh(latents @ self.from_latents.T + drive[:, None])
        return layer

    def weights(self, hidden: np.ndarray) -> np.ndarray:
        """Return exp(logits), shape (..., v), which are finite as the hidden layer is bounded."""
        exponentials: np.ndarray = hidden @ self.output.T
        exponentials += self.output_bias
        np.exp(exponentials, out=exponentials)
        return exponentials

    def draw(self, latents: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Draw indices of words, shape (n, length), at latents (n, d) by uniforms (n, length)."""
        words = np.zeros(uniforms.shape, dtype=np.int64)
        for rows in _blocks(len(latents)):
            history = np.zeros((len(latents[rows]), len(self.recurrence)))
            for i in range(uniforms.shape[1]):
                hidden = self.hidden(history, latents[rows, None])[:, 0]
                cumulated = self.weights(hidden).cumsum(axis=1)
                below = cumulated <= uniforms[rows, i, None] * cumulated[:, -1:]
                words[rows, i] = below.sum(axis=1)
                history = self.next_history(history, words[rows, i])
        return words

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
    """Best possible results on some sentences. Standard errors are over sentences.

    Attributes:
        nll_nats: mean of -log p(x), for whole sentences.
        nll_standard_error: its standard error.
        information_nats: I(x; z), the mean of log p(x|z) - log p(x) at the true latents.
        information_standard_error: its standard error.
        kl_nats: mean of KL(p(z|x) || p(z)), a less noisy estimate of I(x; z).
        kl_standard_error: its standard error.
        correlations: canonical correlations of the exact posterior means with the true latents,
            largest first.
    """

    nll_nats: float
    nll_standard_error: float
    information_nats: float
    information_standard_error: float
    kl_nats: float
    kl_standard_error: float
    correlations: tuple[float, ...]


# `truth` of all 2,000 test sentences with 4,000 draws each (four minutes on one core). Monte Carlo
# contributes 0.0002 nats to the error of the mean NLL; 500 draws give the same to 0.001.
TEST_TRUTH = Truth(
    nll_nats=60.7785,
    nll_standard_error=0.1287,
    information_nats=3.6280,
    information_standard_error=0.0418,
    kl_nats=3.5826,
    kl_standard_error=0.0239,
    correlations=(0.8871, 0.8848, 0.8755, 0.8634, 0.8518),
)


def synthetic_model() -> SequenceModel:
    """Return the model that draws "synthetic-text"."""
    rng = np.random.default_rng(SEED)

    def gaussian(scale: float, *shape: int) -> np.ndarray:
        return scale * rng.standard_normal(shape)

    hidden_dim = LATENT_DIM + HISTORY_DIM
    directions, triangle = np.linalg.qr(rng.standard_normal((hidden_dim, hidden_dim)))
    directions *= np.sign(np.diagonal(triangle))  # The signs differ between LAPACK libraries.
    return SequenceModel(
        recurrence=0.5 * np.eye(HISTORY_DIM),
        embedding=gaussian(0.7, N_WORDS, HISTORY_DIM),
        from_latents=0.25 * directions[:, :LATENT_DIM],
        from_history=0.6 * directions[:, LATENT_DIM:],
        hidden_bias=gaussian(0.05, hidden_dim),
        output=gaussian(2.5, N_WORDS, hidden_dim),
        output_bias=gaussian(0.4, N_WORDS),
    )


def synthetic_text(split: str = "train") -> Data:
    """Return the sentences of a split, ten of the words w0 to w999 each, the same on every machine.

    Raises:
        ParameterError: if the split is not train, validation or test.
    """
    rng, latents = _latents(split)
    words = synthetic_model().draw(latents, rng.random((len(latents), LENGTH)))
    sentences = np.array([" ".join(f"w{word}" for word in row) for row in words], dtype=object)
    return Data(sentences, name="synthetic-text", defaults={"latent_dim": LATENT_DIM})


def true_latents(split: str = "train") -> np.ndarray:
    """Return the latents of the sentences of `synthetic_text`, shape (n, 5).

    Raises:
        ParameterError: if the split is not train, validation or test.
    """
    return _latents(split)[1]


def exact_posterior(sentences: np.ndarray, n_draws: int = 500) -> ExactPosterior:
    """Compute log p(x), E[z|x] and KL(p(z|x) || p(z)) under the model of "synthetic-text".

    The random numbers depend on the sentence alone, so that an estimate is the same in every order
    and subset. 500 draws take 0.02 s a sentence on one core.

    Args:
        sentences: sentences as of `synthetic_text`, shape (n,).
        n_draws: number of draws of the latents for each sentence.

    Raises:
        DataError: if a sentence is not ten of the words.
        ParameterError: if there are fewer than 100 draws.
    """
    check_count("n_draws", n_draws, at_least=100)
    return infer(synthetic_model(), read_words(sentences), n_draws)


def truth(sentences: np.ndarray, latents: np.ndarray, n_draws: int = 500) -> Truth:
    """Compute likelihood, information and canonical correlations of the true model.

    Args:
        sentences: sentences as of `synthetic_text`, shape (n,).
        latents: their latents as of `true_latents`, shape (n, 5).
        n_draws: number of draws of the latents for each sentence.

    Raises:
        DataError: if there are fewer than 2 sentences, one is not ten of the words, or the shape of
            the latents is another.
        ParameterError: if there are fewer than 100 draws.
    """
    if len(sentences) < 2 or latents.shape != (len(sentences), LATENT_DIM):
        raise DataError(
            f"the truth expects at least 2 sentences with {LATENT_DIM} latents each, got "
            f"{len(sentences)} sentences and latents of shape {latents.shape}."
        )
    posterior = exact_posterior(sentences, n_draws)
    given = synthetic_model().log_likelihood(read_words(sentences), latents[:, None])[:, 0]
    return Truth(
        *_mean(-posterior.log_likelihood_nats),
        *_mean(given - posterior.log_likelihood_nats),
        *_mean(posterior.kl_nats),
        tuple(canonical_correlations(posterior.means, latents).tolist()),
    )


def read_words(sentences: np.ndarray) -> np.ndarray:
    """Return the indices of the words, shape (n, 10).

    Raises:
        DataError: if there is no sentence, or one is not ten of the words w0 to w999.
    """
    if len(sentences) == 0:
        raise DataError("sentences of synthetic-text expect at least one, got none.")
    number = {f"w{word}": word for word in range(N_WORDS)}
    rows = []
    for sentence in sentences:
        row = [number.get(word) for word in str(sentence).split()]
        if len(row) != LENGTH or None in row:
            raise DataError(
                f"sentences of synthetic-text expect {LENGTH} of the words w0 to w{N_WORDS - 1}, "
                f"got '{sentence}'."
            )
        rows.append(row)
    return np.array(rows)


def infer(model: SequenceModel, words: np.ndarray, n_draws: int) -> ExactPosterior:
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


def _infer(model: SequenceModel, words: np.ndarray, n_draws: int) -> ExactPosterior:
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
    model: SequenceModel, words: np.ndarray, starts: np.ndarray
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


def _latents(split: str) -> tuple[np.random.Generator, np.ndarray]:
    """Return the generator of a split, and the latents, its first draws."""
    if split not in SIZES:
        raise ParameterError(f"split expects one of {', '.join(SIZES)}, got {split!r}.")
    rng = np.random.default_rng([SEED, list(SIZES).index(split)])
    return rng, rng.standard_normal((SIZES[split], LATENT_DIM))


def _blocks(n: int, each: int = 1) -> Iterator[slice]:
    """Yield slices of n rows, short enough that `each` values of a row fit into `BLOCK`."""
    size = max(1, BLOCK // each)
    return (slice(start, start + size) for start in range(0, n, size))


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
