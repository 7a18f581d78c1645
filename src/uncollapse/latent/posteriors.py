"""Approximate posteriors q(z|x): modules that map data to a distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from uncollapse.families import Family
from uncollapse.latent.flows import Couplings, Pushforward
from uncollapse.latent.gaussian import gaussian, shifted
from uncollapse.networks import BackwardEncoder, Encoder, Features, SequenceEncoder


@runtime_checkable
class WithLogDensity(Protocol):
    """A distribution that draws by its own way."""

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The draw that standard normal noise decides, and its log density in nats."""


class Posterior(nn.Module, ABC):
    """q(z|x).

    Attributes:
        encoder: what looks at the data.
    """

    encoder: Encoder | SequenceEncoder | BackwardEncoder

    @abstractmethod
    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """q(z|x)."""


class DiagonalGaussian(Posterior):
    """q(z|x) = N(mu(x), diag(sigma(x)^2)), with mu and sigma from one multilayer perceptron on
    features of x.

    Args:
        data_dim: dimension of x.
        latent_dim: dimension of z.
        hidden: widths of the hidden layers.
        features: what the perceptron sees of x, such as the `features` of a family; x itself if not
            given.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(data_dim, 2 * latent_dim, hidden, features)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Independent[Normal]:
        """q(z|x)."""
        return gaussian(self.encoder(x))


class FamilyPosterior(Posterior):
    """q(w|x) = EF(w | eta(x)), of the family that w has under a `Layer`, with eta from one
    multilayer perceptron on features of x.

    A Gaussian of scale 1 is a narrow choice: there, `DiagonalGaussian` and `RealNVP` serve as well.

    Args:
        data_dim: dimension of x.
        latent_dim: dimension of w.
        family: of w.
        hidden: widths of the hidden layers.
        features: as for `DiagonalGaussian`.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        family: Family,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.family = family.for_features(latent_dim)
        self.encoder = Encoder(data_dim, family.natural_dim(latent_dim), hidden, features)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """q(w|x)."""
        q: Distribution = self.family(self.encoder(x))
        return q


class RealNVP(Posterior):
    """q(z|x) of a Gaussian N(mu(x), diag(sigma(x)^2)) sent through affine couplings that see x as
    well (Dinh et al. 2016).

    Args:
        data_dim: dimension of x.
        latent_dim: dimension of z, at least 2.
        hidden: widths of the hidden layers of the perceptron on x, and, the last of them, of the
            couplings.
        features: as for `DiagonalGaussian`.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
    ) -> None:
        super().__init__()
        self.sizes = [2 * latent_dim, hidden[-1]]
        self.encoder = Encoder(data_dim, sum(self.sizes), hidden, features)
        self.couplings = Couplings(latent_dim, hidden[-1], hidden[-1])

    def forward(self, x: Float[Tensor, "*batch d"]) -> Pushforward:
        """q(z|x)."""
        raw, context = self.encoder(x).split(self.sizes, dim=-1)
        flow: Pushforward = self.couplings(gaussian(raw), context)
        return flow


class LSTMPosterior(Posterior):
    """q(z|x) = N(mu(x), diag(sigma(x)^2)) of a sequence x, with mu and sigma from the states of an
    LSTM that reads it.

    Args:
        n_symbols: V, of the vocabulary; symbols are numbers from 0 on, and rows are filled up with
            negative ones.
        latent_dim: dimension of z.
        embedding_dim: of the vectors that stand for symbols.
        hidden_dim: of the LSTM.
        n_layers: of the LSTM.
        pooled: whether they follow from the mean of the states instead of the last one.
    """

    def __init__(
        self,
        n_symbols: int,
        latent_dim: int,
        embedding_dim: int = 128,
        hidden_dim: int = 256,
        n_layers: int = 1,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = SequenceEncoder(
            n_symbols, 2 * latent_dim, embedding_dim, hidden_dim, n_layers, pooled
        )

    def forward(self, x: Float[Tensor, "batch length"]) -> Independent[Normal]:
        """q(z|x)."""
        return gaussian(self.encoder(x))


def draw(q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> tuple[Tensor, Tensor]:
    """A draw from q that standard normal noise decides, and log q there, in nats; differentiable in
    q where it has an rsample."""
    if isinstance(q, WithLogDensity):
        return q.rsample_with_log_prob(noise)
    assert isinstance(q, Independent)
    z = (
        shifted(q.base_dist, noise)
        if isinstance(q.base_dist, Normal)
        else q.base_dist.icdf(torch.special.ndtr(noise))
    )
    return z, q.log_prob(z)  # type: ignore[no-untyped-call]


POSTERIORS: dict[str, type[DiagonalGaussian] | type[RealNVP]] = {
    "gaussian": DiagonalGaussian,
    "realnvp": RealNVP,
}
