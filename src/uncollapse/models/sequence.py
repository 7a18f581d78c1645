"""Sequential VAEs: symbols follow from one z and those before (W21 example 2, K23 def. 4.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from uncollapse._utils.autocast import LSTM
from uncollapse._utils.vocabulary import PAD
from uncollapse.families import Categorical
from uncollapse.latent import CommittedPrior, Prior
from uncollapse.maps import Decoder
from uncollapse.models.composed import ComposedModel

State = tuple[Tensor, Tensor]
MIN_TEMPERATURE = 1e-4  # below, probabilities are 0 and 1 already, and parameters would overflow


class HistoryLSTM(nn.Module):
    """An LSTM that reads the symbols before each place of a sequence: h(x_<i).

    Args:
        n_symbols: V, size of the vocabulary. The symbol V stands before the first.
        embedding_dim: dimension of the vectors that stand for symbols.
        hidden_dim: dimension of h.
        n_layers: layers of the LSTM.
        latent_dim: dimension of z where the LSTM reads z beside every symbol, as in the ordinary
            sequential VAE; 0 where it does not.
    """

    def __init__(
        self,
        n_symbols: int,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        n_layers: int = 1,
        latent_dim: int = 0,
    ) -> None:
        super().__init__()
        self.start = n_symbols
        self.latent_dim = latent_dim
        self.embedding = nn.Embedding(n_symbols + 1, embedding_dim)
        self.lstm = LSTM(embedding_dim + latent_dim, hidden_dim, n_layers, batch_first=True)

    @property
    def sees_latent(self) -> bool:
        """Whether h depends on z."""
        return self.latent_dim > 0

    def forward(
        self,
        before: Int[Tensor, "batch length"],
        z: Float[Tensor, "batch places latent"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch length hidden"], State]:
        """Return h at every place, and the LSTM's state at the end.

        Args:
            before: the symbol before each place.
            z: one vector for all places, or one for each.
            state: the state that the LSTM begins in; zeros if not given.
        """
        inputs = self.embedding(before)
        if self.sees_latent:
            inputs = torch.cat([inputs, z.expand(-1, before.shape[1], -1)], -1)
        found: tuple[Tensor, State] = self.lstm(inputs, state)
        return found


class SequenceModel(ComposedModel):
    r"""p(z) prod_i p(x_i | z, x_<i), with p(x_i|...) a minimal categorical.

    Its natural parameters are eta([z; h(x_<i)]), or eta(z) + C h(x_<i) where there is a `head`.

    A row of data holds the numbers of a sequence's symbols, then the end, V - 1, then -1 up to its
    width. z comes first into the decoder, so that an inverse Lipschitz constant holds in z for
    every history (`InverseLipschitzDecoder`). K23 theorem A.7 and the information floor do not
    carry over to sequences and are not claimed for them.

    Args:
        prior: of z. Under a `CommittedPrior`, z holds one vector for each symbol (delta-VAE).
        posterior: maps rows to q(z|x).
        history: maps the symbols before to h.
        decoder: maps [z; h] to V - 1 natural parameters; z alone where there is a `head`.
        family: a categorical of V symbols.
        head: C, maps h to V - 1 natural parameters that are added to the decoder's, so that the
            decoder's constant holds for every history. None where the decoder sees h itself.
        word_dropout: share of preceding symbols that the history sees as unknown, V - 2, in
            training (Bowman et al. 2016).
    """

    family: Categorical

    def __init__(
        self,
        prior: Prior,
        posterior: Any,
        history: HistoryLSTM,
        decoder: Decoder,
        family: Categorical,
        head: nn.Linear | None = None,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__(prior, posterior, decoder, family)
        self.head = head
        self.history = history
        self.word_dropout = word_dropout

    @property
    def end(self) -> int:
        """The symbol that ends a sequence."""
        return self.family.n_categories - 1

    @property
    def unknown(self) -> int:
        """The symbol that stands for everything outside the vocabulary."""
        return self.family.n_categories - 2

    @property
    def n_places(self) -> int:
        """Number of vectors that z holds: one, or one for each symbol."""
        return self.prior.n_places if isinstance(self.prior, CommittedPrior) else 1

    def log_likelihood(
        self, x: Float[Tensor, "batch length"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """Return log p(x|z) of each row, in nats."""
        sentences = _Sentences(x, self.history.start)
        if self.training and self.word_dropout:
            sentences.before = self._drop_words(sentences.before, x)
        draws = z.reshape(-1, *z.shape[-2:])
        shared = None if self.history.sees_latent else self._read(sentences, draws[0])
        each = [self._score(sentences, draw, shared) for draw in draws]
        return torch.stack(each).reshape(z.shape[:-1])

    def evaluations_in_memory(self, rows: np.ndarray, n_samples: int) -> np.ndarray:
        """Return how many decoder evaluations are held in memory, shape (n,).

        With one z per row, draws are decoded in turn; a row holds one evaluation per symbol; with
        a z per symbol, all draws are held at once.
        """
        if self.n_places > 1:
            return np.full(len(rows), n_samples * self.n_places)
        n_symbols: np.ndarray = (rows >= 0).sum(1)
        return n_symbols

    def _by_place(
        self, z: Float[Tensor, "batch latent"], length: int
    ) -> Float[Tensor, "batch places unit"]:
        """Split z into the one vector of all places, or those of the first `length` places."""
        return z.reshape(len(z), self.n_places, -1)[:, :length]

    def _score(self, sentences: _Sentences, z: Tensor, from_history: Tensor | None) -> Tensor:
        if from_history is None:
            from_history = self._read(sentences, z)
        by_place = self._by_place(z, sentences.before.shape[1])
        from_latent = sentences.by_symbol(self._from_latent(by_place))
        eta = self._natural(from_latent, from_history)
        log_p = self.family(eta).log_prob(sentences.symbols.unsqueeze(-1))
        return z.new_zeros(len(z)).index_add(0, sentences.owner, log_p)

    def _read(self, sentences: _Sentences, z: Tensor) -> Tensor:
        """Return each symbol's history, as `_natural` takes it."""
        h, _ = self.history(sentences.before, self._by_place(z, sentences.before.shape[1]))
        return self._from_history(h[sentences.there])

    def _from_latent(self, z: Tensor) -> Tensor:
        """Return what z adds to natural parameters; z itself where the decoder sees [z; h]."""
        found: Tensor = z if self.head is None else self.decoder(z)
        return found

    def _from_history(self, h: Tensor) -> Tensor:
        """Return what h adds to natural parameters; h itself where the decoder sees [z; h]."""
        found: Tensor = h if self.head is None else self.head(h)
        return found

    def _natural(self, from_latent: Tensor, from_history: Tensor) -> Tensor:
        """Return natural parameters of symbols. The arguments may be overwritten."""
        if self.head is None:
            return self.family.link(self.decoder(torch.cat([from_latent, from_history], -1)))
        # In place, as nothing else in a batch is as large.
        return self.family.link(from_latent.add_(from_history))

    def _drop_words(self, before: Tensor, x: Tensor) -> Tensor:
        """Replace a share of the symbols before by the unknown one, but for the start."""
        dropped = self.batch_context.uniform(x)[:, : before.shape[1]] < self.word_dropout
        return torch.where(dropped & (before != self.history.start), self.unknown, before)

    @torch.no_grad()
    def generate(
        self,
        z: Float[Tensor, "batch latent"],
        max_length: int,
        temperature: float = 1.0,
        greedy: bool = False,
    ) -> Float[Tensor, "batch length"]:
        """Generate sequences given z, symbol by symbol, as rows of width max_length + 1.

        Args:
            z: one latent for each sequence.
            max_length: symbols after which a sequence that has not ended is cut off.
            temperature: natural parameters are divided by it; 1 draws from the model, less prefers
                the more probable symbols.
            greedy: take the most probable symbol each time.
        """
        rows = z.new_full((len(z), max_length + 1), PAD)
        symbols = torch.full((len(z), 1), self.history.start, device=z.device)
        state, going = None, torch.ones(len(z), dtype=torch.bool, device=z.device)
        codes = self._by_place(z, max_length + 1)
        from_latent = self._from_latent(codes)
        for place in range(max_length + 1):
            own = min(place, codes.shape[1] - 1)
            h, state = self.history(symbols, codes[:, own : own + 1], state)
            eta = self._natural(from_latent[:, own].clone(), self._from_history(h[:, 0]))
            p = self.family(eta / max(temperature, MIN_TEMPERATURE))
            symbols = (p.mean if greedy else p.sample()).long()
            if place == max_length:
                symbols.fill_(self.end)
            rows[going, place] = symbols[going, 0].to(rows)
            going = going & (symbols[:, 0] != self.end)
            if not going.any():
                break
        return rows


class _Sentences:
    """Rows split into symbols.

    Attributes:
        before: the symbol before each place, shape (batch, length of the longest sequence).
        there: which places hold symbols, the same shape.
        owner: the row of each symbol.
        symbols: all symbols, one after the other.
    """

    def __init__(self, x: Tensor, start: int) -> None:
        length = int((x >= 0).sum(1).max())
        x = x[:, :length]
        self.there = x >= 0
        self.owner = self.there.nonzero()[:, 0]
        self.symbols = x[self.there]
        first = torch.full((len(x), 1), start, device=x.device)
        self.before = torch.cat([first, x[:, :-1].clamp(min=0).long()], 1)

    def by_symbol(self, values: Float[Tensor, "batch places k"]) -> Float[Tensor, "symbols k"]:
        """Return the value of each symbol, of one for its whole sequence or one for each place."""
        if values.shape[1] == 1:
            return values[:, 0].index_select(0, self.owner)
        return values[self.there]
