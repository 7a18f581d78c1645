"""LSTMs that read sequences of symbols."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from uncollapse._utils.autocast import LSTM, exact_linear


class _SymbolLSTM(nn.Module):
    """Embedding, LSTM and linear head."""

    def __init__(
        self,
        n_symbols: int,
        out_dim: int,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        n_layers: int = 1,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_symbols, embedding_dim)
        self.lstm = LSTM(embedding_dim, hidden_dim, n_layers, batch_first=True)
        self.head = nn.Linear(hidden_dim, out_dim)


class LSTMEncoder(_SymbolLSTM):
    """LSTM over a sequence, and a linear map of its last state or of the mean of its states.

    Args:
        n_symbols: V. Symbols are the numbers 0 ... V - 1; rows are padded with negative numbers.
        out_dim: dimension of the output.
        embedding_dim: dimension of a symbol's vector.
        hidden_dim: size of the LSTM's state.
        n_layers: number of LSTM layers.
        pooled: whether to read the mean of the states, to which every symbol is equally near
            (Long et al. 2019).
    """

    def __init__(
        self,
        n_symbols: int,
        out_dim: int,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        n_layers: int = 1,
        pooled: bool = False,
    ) -> None:
        super().__init__(n_symbols, out_dim, embedding_dim, hidden_dim, n_layers)
        self.pooled = pooled

    def forward(self, x: Float[Tensor, "batch length"]) -> Float[Tensor, "batch out"]:
        """Return one output for each row."""
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


class BackwardLSTMEncoder(_SymbolLSTM):
    """LSTM that reads a sequence from its end, and a linear map of its state at every symbol.

    The arguments are those of `LSTMEncoder`, without `pooled`.
    """

    def forward(self, x: Float[Tensor, "batch length"]) -> Float[Tensor, "batch longest out"]:
        """Return one output for each symbol, from it and later symbols; 0 at padding."""
        lengths = (x >= 0).sum(1)
        is_symbol = x[:, : int(lengths.max())] >= 0
        last = lengths.unsqueeze(1) - 1
        # Mirroring a row twice gives the row. Padding is read last, where it changes no symbol.
        mirror = torch.where(is_symbol, last - torch.arange(is_symbol.shape[1], device=x.device), 0)
        states, _ = self.lstm(self.embedding(x.gather(1, mirror).clamp(min=0).long()))
        out = exact_linear(self.head, states.gather(1, mirror.unsqueeze(-1).expand_as(states)))
        return out * is_symbol.unsqueeze(-1)
