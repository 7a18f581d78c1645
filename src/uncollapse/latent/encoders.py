"""What looks at the data: the networks of approximate posteriors, and Gaussians from what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from uncollapse.autocast import Perceptron, exact_linear

# The smallest standard deviation of a unit: far below what any sensible constant needs, far above float32's underflow.
MIN_SCALE = 1e-6

Features = Callable[[Tensor], Tensor]


class Encoder(nn.Module):
    """A multilayer perceptron on features of x, centred and divided by one number so that training is free of the data's units.

    Args:
        data_dim: dimension of x.
        out_dim: dimension of the output.
        hidden: widths of the hidden layers.
        features: what the perceptron sees of x, such as the `features` of a family; x itself if not given.
    """

    shift: Tensor
    unit: Tensor

    def __init__(self, data_dim: int, out_dim: int, hidden: Sequence[int], features: Features | None = None) -> None:
        super().__init__()
        self.features = features or _themselves
        width = self.features(torch.zeros(1, data_dim)).shape[-1]
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("unit", torch.ones(()))
        self.net = Perceptron(width, out_dim, list(hidden), activation=nn.SiLU)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """The perceptron's output."""
        out: Tensor = self.net((self.features(x) - self.shift) / self.unit)
        return out

    @torch.no_grad()
    def adapt(self, mean: Float[Tensor, "features"], deviation: float) -> None:
        """Centre features at `mean` and measure them in units of `deviation`."""
        self.shift.copy_(mean)
        self.unit.fill_(deviation)

    @torch.no_grad()
    def narrow(self, latent_dim: int, factor: float) -> None:
        """Multiply the means and scales that `gaussian` makes of the first outputs by a factor, before training."""
        head = self.net[-1]
        head.weight[:latent_dim] *= factor
        head.bias[:latent_dim] *= factor
        raw_scales = head.bias[latent_dim : 2 * latent_dim]
        raw_scales.copy_((factor * F.softplus(raw_scales)).expm1().log())


class SequenceEncoder(nn.Module):
    """An LSTM that reads sequences, and a linear map of its last state, or of the mean of its states.

    Args:
        n_symbols: V, of the vocabulary; symbols are numbers from 0 on, and rows are filled up with negative ones.
        out_dim: dimension of the output.
        embedding_dim: of the vectors that stand for symbols.
        hidden_dim: of the LSTM.
        n_layers: of the LSTM.
        pooled: whether the mean is read (Long et al. 2019). Every symbol is then as near to the output as the last one.
    """

    def __init__(
        self, n_symbols: int, out_dim: int, embedding_dim: int, hidden_dim: int, n_layers: int, pooled: bool = False
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.embedding = nn.Embedding(n_symbols, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, n_layers, batch_first=True)
        self.head = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Float[Tensor, "batch length"]) -> Float[Tensor, "batch out"]:
        """What is read off the states at the symbols of each row."""
        lengths = (x >= 0).sum(1)
        symbols = x[:, : int(lengths.max())].clamp(min=0).long()
        packed = pack_padded_sequence(self.embedding(symbols), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, (last, _) = self.lstm(packed)
        if self.pooled:
            padded, _ = pad_packed_sequence(states, batch_first=True)  # with zeros
            return exact_linear(self.head, padded.sum(1) / lengths[:, None])
        return exact_linear(self.head, last[-1])


class BackwardEncoder(nn.Module):
    """An LSTM that reads sequences from their ends, and a linear map of its state at every symbol.

    Args:
        n_symbols: V, of the vocabulary; symbols are numbers from 0 on, and rows are filled up with negative ones.
        out_dim: dimension of the output.
        embedding_dim: of the vectors that stand for symbols.
        hidden_dim: of the LSTM.
        n_layers: of the LSTM.
    """

    def __init__(self, n_symbols: int, out_dim: int, embedding_dim: int, hidden_dim: int, n_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, n_layers, batch_first=True)
        self.head = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Float[Tensor, "batch length"]) -> Float[Tensor, "batch longest out"]:
        """What is read off at each symbol from it and those after it; 0 where a row has ended."""
        lengths = (x >= 0).sum(1)
        there = x[:, : int(lengths.max())] >= 0
        last = lengths.unsqueeze(1) - 1
        mirrored = torch.where(there, last - torch.arange(there.shape[1], device=x.device), 0)  # is its own inverse
        symbols = x.gather(1, mirrored).clamp(min=0).long()
        states, _ = self.lstm(self.embedding(symbols))  # what fills a row up comes last, and changes nothing
        found = exact_linear(self.head, states.gather(1, mirrored.unsqueeze(-1).expand_as(states)))
        return found * there.unsqueeze(-1)


def gaussian(raw: Float[Tensor, "*batch two_l"]) -> Independent[Normal]:
    """A diagonal Gaussian from its means and its scales before softplus, which raw holds one after the other."""
    mean, raw_scale = raw.chunk(2, dim=-1)
    return Independent(Normal(mean, F.softplus(raw_scale) + MIN_SCALE, validate_args=False), 1, validate_args=False)


def shifted(normal: Normal, noise: Tensor) -> Tensor:
    """The draw from a Gaussian that standard normal noise decides."""
    return normal.loc + normal.scale * noise


def _themselves(x: Tensor) -> Tensor:
    return x
