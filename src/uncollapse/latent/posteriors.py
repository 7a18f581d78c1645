"""Approximate posteriors q(z|x): modules that map data to a distribution."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
import zuko
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.random import seeded_in_turn
from uncollapse.families import Family
from uncollapse.latent.flows import Couplings, Pushforward
from uncollapse.latent.priors import DiagonalNormal, gaussian, is_diagonal_normal
from uncollapse.networks import Features, PerceptronEncoder


class Posterior(nn.Module, ABC):
    """q(z|x).

    A subclass needs `forward` alone; `draw` says which distributions it may return.
    """

    @abstractmethod
    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """Return q(z|x), with z as its event."""

    def initialize_from_data(self, data: np.ndarray, shrinkage: float = 1.0) -> None:
        """Start at values suited to the data, before training; by default do nothing.

        Args:
            data: rows as the likelihood sees them, shape (n, d).
            shrinkage: factor, at most 1, on the initial means and scales of q(z|x).
        """
        del data, shrinkage


class EncoderPosterior(Posterior):
    """Posterior whose encoder outputs begin with the means and raw scales of a Gaussian.

    Args:
        encoder: any module that maps x to R^k, k >= 2 l. If it has `initialize_from_data(data)`,
            the estimators call that before training. If it has its last layer, an `nn.Linear` with
            a bias, as `head`, the Gaussian can be narrowed then.
        latent_dim: l; k / 2 by default.
    """

    def __init__(self, encoder: nn.Module, latent_dim: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.latent_dim = latent_dim

    def initialize_from_data(self, data: np.ndarray, shrinkage: float = 1.0) -> None:
        """Initialize the encoder from data and narrow the Gaussian, where the encoder allows it."""
        _initialize(self.encoder, data)
        head = linear_head(self.encoder)
        if head is not None:
            n = self.latent_dim or len(head.bias) // 2
            with torch.no_grad():
                head.weight[:n] *= shrinkage
                head.bias[:n] *= shrinkage
                raw_scales = head.bias[n : 2 * n]
                raw_scales.copy_((shrinkage * F.softplus(raw_scales)).expm1().log())


class DiagonalGaussian(EncoderPosterior):
    """q(z|x) = N(mu(x), diag(sigma(x)^2)), with (mu, softplus^-1(sigma)) put out by an encoder.

    Args:
        encoder: any module that maps x to R^(2 l).

    >>> q = DiagonalGaussian(nn.Linear(5, 4))
    >>> q(torch.zeros(3, 5)).mean.shape
    torch.Size([3, 2])
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)

    @classmethod
    def from_perceptron(
        cls,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
    ) -> Self:
        """Build the posterior on a `PerceptronEncoder`."""
        return cls(PerceptronEncoder(data_dim, 2 * latent_dim, hidden, features))

    def forward(self, x: Float[Tensor, "*batch d"]) -> DiagonalNormal:
        return gaussian(self.encoder(x))


class RealNVP(EncoderPosterior):
    """q(z|x) of a Gaussian N(mu(x), diag(sigma(x)^2)) sent through affine couplings that see c(x)
    (Dinh et al. 2016).

    Args:
        encoder: any module that maps x to R^(2 l + context_dim): mu, softplus^-1(sigma) and c.
        latent_dim: l, at least 2.
        context_dim: dimension of c, and width of the couplings' hidden layer.

    Raises:
        ParameterError: if there is only one latent dimension.
    """

    def __init__(self, encoder: nn.Module, latent_dim: int, context_dim: int) -> None:
        super().__init__(encoder, latent_dim)
        self.sizes = [2 * latent_dim, context_dim]
        self.couplings = Couplings(latent_dim, context_dim, context_dim)

    @classmethod
    def from_perceptron(
        cls,
        data_dim: int,
        latent_dim: int,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
    ) -> Self:
        """Build the posterior on a `PerceptronEncoder`, with couplings of its last width."""
        out_dim = 2 * latent_dim + hidden[-1]
        encoder = PerceptronEncoder(data_dim, out_dim, hidden, features)
        return cls(encoder, latent_dim, hidden[-1])

    def forward(self, x: Float[Tensor, "*batch d"]) -> Pushforward:
        raw, context = self.encoder(x).split(self.sizes, dim=-1)
        flow: Pushforward = self.couplings(gaussian(raw), context)
        return flow


class FamilyPosterior(Posterior):
    """q(w|x) = EF(w | eta(x)), of the family that w has under a `Layer`.

    A Gaussian of scale 1 is a narrow choice: `DiagonalGaussian` and `RealNVP` serve as well there.

    Args:
        encoder: any module that maps x to the natural parameters eta.
        family: family of w.
        latent_dim: dimension of w.
    """

    def __init__(self, encoder: nn.Module, family: Family, latent_dim: int) -> None:
        super().__init__()
        self.family = family.for_features(latent_dim)
        self.encoder = encoder

    def initialize_from_data(self, data: np.ndarray, shrinkage: float = 1.0) -> None:
        """Initialize the encoder from data, if it has a method for that."""
        _initialize(self.encoder, data)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        q: Distribution = self.family(self.encoder(x))
        return q


POSTERIORS: dict[str, type[DiagonalGaussian] | type[RealNVP]] = {
    "gaussian": DiagonalGaussian,
    "realnvp": RealNVP,
}


def linear_head(encoder: nn.Module) -> nn.Linear | None:
    """Return the last layer of an encoder that has a linear one as `head`, else None."""
    head = getattr(encoder, "head", None)
    return head if isinstance(head, nn.Linear | zuko.nn.Linear) else None


def _initialize(encoder: nn.Module, data: np.ndarray) -> None:
    """Initialize an encoder from data, if it has a method for that."""
    initialize = getattr(encoder, "initialize_from_data", None)
    if initialize is not None:
        initialize(data)


@runtime_checkable
class DrawnByNoise(Protocol):
    """Distribution that turns standard normal noise into draws itself."""

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the draw determined by standard normal noise, and its log density in nats."""


def draw(q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> tuple[Tensor, Tensor]:
    """Return a draw from q that standard normal noise decides, and log q there in nats.

    The noise enters through `rsample_with_log_prob` where q has it, by location and scale for
    Gaussians, and by the inverse distribution function for other independent columns; these may be
    discrete. From every other distribution z is drawn by its own `rsample`, with torch's generators
    seeded by the noise.

    Raises:
        ParameterError: if q is another distribution without `rsample`, which no gradient would
            reach.
    """
    if isinstance(q, DrawnByNoise):
        return q.rsample_with_log_prob(noise)
    z = _draw(q, noise)
    return z, q.log_prob(z)


def _draw(q: Distribution, noise: Tensor) -> Tensor:
    if is_diagonal_normal(q):
        return q.base_dist.loc + q.base_dist.scale * noise
    if isinstance(q, MultivariateNormal):
        return q.loc + (q.scale_tril @ noise.to(q.loc).unsqueeze(-1)).squeeze(-1)
    if isinstance(q, Independent):
        try:
            # Rounding takes large noise to 0 or 1, where the inverse is infinite.
            eps = torch.finfo(noise.dtype).eps
            quantile: Tensor = q.base_dist.icdf(torch.special.ndtr(noise).clamp(eps, 1 - eps))
            return quantile
        except NotImplementedError:
            pass
    if not q.has_rsample:
        raise ParameterError(
            f"the posterior returns a {type(q).__name__}, which has no rsample, so that its draws "
            "carry no gradient. Return a distribution with rsample, or use ComponentPosterior."
        )
    digest = hashlib.blake2b(noise.detach().cpu().numpy().tobytes(), digest_size=4).digest()
    with seeded_in_turn(int.from_bytes(digest, "little")):
        return q.rsample(noise.shape[: noise.dim() - len(q.batch_shape) - len(q.event_shape)])
