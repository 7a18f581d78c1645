"""Long short-term memories that read sequences of symbols."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from uncollapse._utils.autocast import exact_linear


class SequenceEncoder(nn.Module):
    """An LSTM that reads sequences, and a linear map of its last state, or of the mean of its
    states.

    Args:
        n_symbols: V, of the vocabulary; symbols are numbers from 0 on, and rows are filled up with
            negative ones.
        out_dim: dimension of the output.
        embedding_dim: of the vectors that stand for symbols.
        hidden_dim: of the LSTM.
        n_layers: of the LSTM.
        pooled: whether the mean is read (Long et al. 2019). Every symbol is then as near to the
            output as the last one.
    """

    def __init__(
        self,
        n_symbols: int,
        out_dim: int,
        embedding_dim: int,
        hidden_dim: int,
        n_layers: int,
        pooled: bool = False,
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
        packed = pack_padded_sequence(
            self.embedding(symbols), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.lstm(packed)
        if self.pooled:
            padded, _ = pad_packed_sequence(states, batch_first=True)  # with zeros
            return exact_linear(self.head, padded.sum(1) / lengths[:, None])
        return exact_linear(self.head, last[-1])


class BackwardEncoder(nn.Module):
    """An LSTM that reads sequences from their ends, and a linear map of its state at every symbol.

    Args:
        n_symbols: V, of the vocabulary; symbols are numbers from 0 on, and rows are filled up with
            negative ones.
        out_dim: dimension of the output.
        embedding_dim: of the vectors that stand for symbols.
        hidden_dim: of the LSTM.
        n_layers: of the LSTM.
    """

    def __init__(
        self, n_symbols: int, out_dim: int, embedding_dim: int, hidden_dim: int, n_layers: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, n_layers, batch_first=True)
        self.head = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Float[Tensor, "batch length"]) -> Float[Tensor, "batch longest out"]:
        """What is read off at each symbol from it and those after it; 0 where a row has ended."""
        lengths = (x >= 0).sum(1)
        there = x[:, : int(lengths.max())] >= 0
        last = lengths.unsqueeze(1) - 1
        mirrored = torch.where(
            there, last - torch.arange(there.shape[1], device=x.device), 0
        )  # is its own inverse
        symbols = x.gather(1, mirrored).clamp(min=0).long()
        states, _ = self.lstm(
            self.embedding(symbols)
        )  # what fills a row up comes last, and changes nothing
        found = exact_linear(self.head, states.gather(1, mirrored.unsqueeze(-1).expand_as(states)))
        return found * there.unsqueeze(-1)
