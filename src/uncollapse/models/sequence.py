"""Sequential VAEs: the symbols of a sequence follow from one z and from those before (W21 example
2, K23 definition 4.3)."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.sharding import draw_rows
from uncollapse._utils.vocabulary import PAD
from uncollapse.families import Categorical
from uncollapse.latent import CommittedPrior, Posterior, Prior
from uncollapse.maps import Decoder
from uncollapse.models.vae import VAE

State = tuple[Tensor, Tensor]
MIN_TEMPERATURE = 1e-4  # below, nothing changes any more but that parameters overflow


class History(nn.Module):
    """h(x_<i) for every i, by an LSTM that reads the symbols before.

    Args:
        n_symbols: V, of the vocabulary. The symbol V stands before the first.
        embedding_dim: of the vectors that stand for symbols.
        hidden_dim: of h.
        n_layers: of the LSTM.
        latent_dim: dimension of z where the LSTM sees z beside every symbol, as in the plain
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
        self.lstm = nn.LSTM(embedding_dim + latent_dim, hidden_dim, n_layers, batch_first=True)

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
        """h at every place, from the symbol before it and the state that the LSTM was left in; and
        the state it is left in now.

        z is one for all places, or one for each.
        """
        inputs = self.embedding(before)
        if self.sees_latent:
            inputs = torch.cat([inputs, z.expand(-1, before.shape[1], -1)], -1)
        found: tuple[Tensor, State] = self.lstm(inputs, state)
        return found


class SequenceVAE(VAE):
    r"""p(z) prod_i p(x_i | z, x_<i), with a minimal categorical p(x_i|...) at eta([z; h(x_<i)]), or
    at eta(z) + C h(x_<i).

    A row of data holds the numbers of a sequence's symbols, then the end, V - 1, then -1 up to its
    width. z comes first into the decoder, so that an inverse Lipschitz constant holds in z for
    every history (`InverseLipschitzDecoder`). K23 theorem A.7 and the information floor do not
    carry over to sequences, of which only some coordinates are z, and nothing here claims them.

    Args:
        prior: of z. Under a `CommittedPrior`, z holds one vector for each symbol, by which that
            symbol goes (delta-VAE).
        posterior: maps rows to q(z|x).
        history: maps the symbols before to h.
        decoder: maps [z; h] to V - 1 natural parameters; z alone where there is a `head`.
        family: a categorical of V symbols.
        head: C, which maps h to V - 1 natural parameters that are added to those of the decoder.
            They do not move with z, so that what moves with it moves as much for every history as
            the decoder does. None where the decoder sees h itself.
        word_dropout: the share of symbols before that the history sees as unknown, V - 2, in
            training, so that it cannot do without z (Bowman et al. 2016).
    """

    history: History
    family: Categorical

    def __init__(
        self,
        prior: Prior,
        posterior: Posterior,
        history: History,
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
        """The symbol of what is not in the vocabulary."""
        return self.family.n_categories - 2

    def likelihood(self, z: Float[Tensor, "*batch latent"]) -> Distribution:
        """None: whole sequences are too many for a distribution over them."""
        return self._only_given_history(z)

    def natural(self, z: Float[Tensor, "*batch latent"]) -> Tensor:
        """None: there are natural parameters for each history only."""
        return self._only_given_history(z)

    def _only_given_history(self, z: Tensor) -> NoReturn:
        raise ParameterError(
            "p(x|z) of a sequence follows from its symbols one by one: use log_likelihood, or "
            "generate."
        )

    def log_likelihood(
        self, x: Float[Tensor, "batch length"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x|z) of each row, in nats."""
        sentences = _Sentences(x, self.history.start)
        before = (
            self._with_gaps(sentences.before, x.shape[1])
            if self.training and self.word_dropout
            else sentences.before
        )
        draws = z.reshape(-1, *z.shape[-2:])
        shared = None if self.history.sees_latent else self._read(sentences, before, draws[0])
        each = [self._score(sentences, before, draw, shared) for draw in draws]
        return torch.stack(each).reshape(z.shape[:-1])

    def evaluations(self, rows: np.ndarray, n_samples: int) -> np.ndarray:
        """As many as a row has symbols: draws come one after the other. Where each symbol has a z,
        all draws of it are held."""
        if self.n_places > 1:
            return np.full(len(rows), n_samples * self.n_places)
        found: np.ndarray = (rows >= 0).sum(1)
        return found

    @property
    def n_places(self) -> int:
        """How many vectors z holds: one, or one for each symbol."""
        return self.prior.n_places if isinstance(self.prior, CommittedPrior) else 1

    def _by_place(
        self, z: Float[Tensor, "batch latent"], length: int
    ) -> Float[Tensor, "batch places unit"]:
        """z taken apart: the one vector of every place, or those of the first ones."""
        return z.reshape(len(z), self.n_places, -1)[:, :length]

    def _score(
        self, sentences: _Sentences, before: Tensor, z: Tensor, from_history: Tensor | None
    ) -> Tensor:
        if from_history is None:
            from_history = self._read(sentences, before, z)
        from_latent = sentences.own(self._from_latent(self._by_place(z, before.shape[1])))
        eta = self._natural(from_latent, from_history)
        log_p = self.family(eta).log_prob(sentences.symbols.unsqueeze(-1))
        return z.new_zeros(len(z)).index_add(0, sentences.owner, log_p)

    def _read(self, sentences: _Sentences, before: Tensor, z: Tensor) -> Tensor:
        """What each symbol's history adds to its natural parameters."""
        h, _ = self.history(before, self._by_place(z, before.shape[1]))
        return self._from_history(h[sentences.there])

    def _from_latent(self, z: Tensor) -> Tensor:
        """What z adds to natural parameters; z itself where the decoder sees it beside h."""
        found: Tensor = z if self.head is None else self.decoder(z)
        return found

    def _from_history(self, h: Tensor) -> Tensor:
        """What each symbol adds to its natural parameters; h itself where the decoder sees it
        beside z."""
        found: Tensor = h if self.head is None else self.head(h)
        return found

    def _natural(self, from_latent: Tensor, from_history: Tensor) -> Tensor:
        """Natural parameters of symbols. What is given may be overwritten."""
        if self.head is None:
            return self.family.link(self.decoder(torch.cat([from_latent, from_history], -1)))
        return self.family.link(
            from_latent.add_(from_history)
        )  # in place, as it is as large as a batch gets

    def _with_gaps(self, before: Tensor, width: int) -> Tensor:
        """Symbols, some of them unknown; that there is none before the first stays known. `width`
        is that of all rows."""
        chance = draw_rows(lambda n: torch.rand(n, width, device=before.device), len(before))
        gaps = chance[:, : before.shape[1]] < self.word_dropout
        return torch.where(gaps & (before != self.history.start), self.unknown, before)

    @torch.no_grad()
    def generate(
        self,
        z: Float[Tensor, "batch latent"],
        max_length: int,
        temperature: float = 1.0,
        greedy: bool = False,
    ) -> Float[Tensor, "batch length"]:
        """Sequences given z, symbol by symbol, as rows of width max_length + 1.

        Args:
            z: a latent for each.
            max_length: symbols after which a sequence that has not ended is cut off.
            temperature: natural parameters are divided by it: 1 draws from the model, less goes to
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
    """Rows taken apart: what came before each symbol, and the symbols that are there.

    Attributes:
        before: shape (batch, length), as long as the longest sequence of the batch.
        there: where there are symbols, the same shape.
        owner: of each symbol, the row it is from.
        symbols: one after the other.
    """

    def __init__(self, x: Tensor, start: int) -> None:
        length = int((x >= 0).sum(1).max())
        x = x[:, :length]
        self.there = x >= 0
        self.owner = self.there.nonzero()[:, 0]
        self.symbols = x[self.there]
        first = torch.full((len(x), 1), start, device=x.device)
        self.before = torch.cat([first, x[:, :-1].clamp(min=0).long()], 1)

    def own(self, values: Float[Tensor, "batch places k"]) -> Float[Tensor, "symbols k"]:
        """The value of each symbol, of one for its whole sequence, or of one for each place."""
        return (
            values[:, 0].index_select(0, self.owner) if values.shape[1] == 1 else values[self.there]
        )
