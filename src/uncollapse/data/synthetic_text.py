"""Sentences drawn from a known sequential VAE, so that the right answers can be computed.

W21 section 4.1 draws its synthetic text "from a classical two-layer sequential VAE with a
five-dimensional latent". This is one such model, with a fixed seed: 1,000 words, 10 in a sentence.
A word depends on the latents and on the words before it, so that a model can be tempted to explain
a sentence by its history alone. Latents and history drive separate directions of the hidden layer.

The model is small on purpose. After n sentences, a model of the right form with p free parameters
still lies about p / (2n) nats above the truth: 0.25 for the 8,000 parameters of this one, and 2
with layers of width 32.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from uncollapse._utils.errors import ParameterError
from uncollapse.data.arrays import Data

LATENT_DIM = 5
N_WORDS = 1000
LENGTH = 10  # words in a sentence
SIZES = {"train": 16_000, "validation": 2_000, "test": 2_000}
SEED = 2021

HISTORY_DIM = 1
BLOCK = 2000  # rows of logits that are held in memory at a time


@dataclass(frozen=True)
class SyntheticLanguage:
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

    def next_history(self, history: np.ndarray, word: np.ndarray) -> np.ndarray:
        """Return the histories after one more word, shape (n, k)."""
        return np.asarray(np.tanh(history @ self.recurrence.T + self.embedding[word]))

    def hidden(self, history: np.ndarray, latents: np.ndarray) -> np.ndarray:
        """Return the hidden layer, shape (n, s, m), of histories (n, k) and latents (n, s, d)."""
        drive = history @ self.from_history.T + self.hidden_bias
        return np.asarray(np.tanh(latents @ self.from_latents.T + drive[:, None]))

    def weights(self, hidden: np.ndarray) -> np.ndarray:
        """Return exp(logits), shape (..., v), which are finite as the hidden layer is bounded."""
        exponentials: np.ndarray = hidden @ self.output.T
        exponentials += self.output_bias
        np.exp(exponentials, out=exponentials)
        return exponentials

    def draw(self, latents: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Draw indices of words, shape (n, length), at latents (n, d) by uniforms (n, length)."""
        words = np.zeros(uniforms.shape, dtype=np.int64)
        for start in range(0, len(latents), BLOCK):
            rows = slice(start, start + BLOCK)
            history = np.zeros((len(latents[rows]), len(self.recurrence)))
            for i in range(uniforms.shape[1]):
                hidden = self.hidden(history, latents[rows, None])[:, 0]
                cumulated = self.weights(hidden).cumsum(axis=1)
                below = cumulated <= uniforms[rows, i, None] * cumulated[:, -1:]
                words[rows, i] = below.sum(axis=1)
                history = self.next_history(history, words[rows, i])
        return words


class Truth(NamedTuple):
    """Best possible results on some sentences, in nats.

    Attributes:
        nll_nats: mean of -log p(x), for whole sentences.
        information_nats: I(x; z), the mean of log p(x|z) - log p(x) at the true latents.
        kl_nats: mean of KL(p(z|x) || p(z)), a less noisy estimate of I(x; z).
        correlations: canonical correlations of the exact posterior means with the true latents,
            largest first.
    """

    nll_nats: float
    information_nats: float
    kl_nats: float
    correlations: tuple[float, ...]


# By importance sampling with 4,000 draws for each of the 2,000 test sentences
# (tests/exact_text.py). Standard errors are 0.13 for the NLL, 0.04 for the information and 0.02 for
# the KL.
TEST_TRUTH = Truth(
    nll_nats=60.7785,
    information_nats=3.6280,
    kl_nats=3.5826,
    correlations=(0.8871, 0.8848, 0.8755, 0.8634, 0.8518),
)


def synthetic_model() -> SyntheticLanguage:
    """Return the model that draws "synthetic-text"."""
    rng = np.random.default_rng(SEED)

    def gaussian(scale: float, *shape: int) -> np.ndarray:
        return scale * rng.standard_normal(shape)

    hidden_dim = LATENT_DIM + HISTORY_DIM
    directions, triangle = np.linalg.qr(rng.standard_normal((hidden_dim, hidden_dim)))
    directions *= np.sign(np.diagonal(triangle))  # The signs differ between LAPACK libraries.
    return SyntheticLanguage(
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
    """Return the latents of the sentences of `synthetic_text`, shape (n, 5)."""
    return _latents(split)[1]


def _latents(split: str) -> tuple[np.random.Generator, np.ndarray]:
    """Return the generator of a split, and the latents, its first draws."""
    if split not in SIZES:
        raise ParameterError(f"split expects one of {', '.join(SIZES)}, got {split!r}.")
    rng = np.random.default_rng([SEED, list(SIZES).index(split)])
    return rng, rng.standard_normal((SIZES[split], LATENT_DIM))
