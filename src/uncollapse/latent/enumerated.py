"""The posterior of a mixture that enumerates components, q(y|x) q(z|x, y)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily

from uncollapse.latent.components import GaussianMixture
from uncollapse.latent.flows import Couplings, Pushforward
from uncollapse.latent.posteriors import EncoderPosterior, Posterior, linear_head
from uncollapse.latent.priors import DiagonalNormal, gaussian, mixture
from uncollapse.networks import Features, PerceptronEncoder


class ComponentPosterior(EncoderPosterior):
    """q(y|x) q(z|x, y) for a mixture prior, as a mixture of c diagonal Gaussians.

    It extends a Gaussian q(z|x) without y: q(z|x, y) shifts and scales it by learned amounts, and
    q(y|x) weighs the components as its mean does under the prior, times learned weights. If the
    encoder has its last layer as `head`, all that is learned beyond the Gaussian starts at zero, so
    that training can begin with the Gaussian alone.

    Args:
        encoder: any module that maps x to R^k, k = 2 l + context_dim + c + 2 l c: the Gaussian, the
            context of a flow, log weights of the components, and their changes of the Gaussian.
        prior: prior of z, with c components.
        context_dim: dimension of the context that the couplings see, and of their hidden layer, if
            each q(z|x, y) is to be sent through couplings as in `RealNVP`; 0 for Gaussians.
    """

    def __init__(self, encoder: nn.Module, prior: GaussianMixture, context_dim: int = 0) -> None:
        super().__init__(encoder, prior.latent_dim)
        self.n_components = prior.n_components
        self.log_joint = prior.log_joint  # the prior itself would become a part of the posterior
        self.sizes = _encoder_sizes(prior, context_dim)
        self.couplings = None
        if context_dim:
            seen_dim = context_dim + prior.n_components
            self.couplings = Couplings(prior.latent_dim, seen_dim, context_dim)
        head = linear_head(encoder)
        if head is not None:
            with torch.no_grad():
                for parameter in head.parameters():
                    parameter[sum(self.sizes[:2]) :] = 0

    @classmethod
    def from_perceptron(
        cls,
        data_dim: int,
        prior: GaussianMixture,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
        flow: bool = False,
    ) -> Self:
        """Build the posterior on a `PerceptronEncoder`, with couplings of its last width."""
        context_dim = hidden[-1] if flow else 0
        out_dim = sum(_encoder_sizes(prior, context_dim))
        return cls(PerceptronEncoder(data_dim, out_dim, hidden, features), prior, context_dim)

    def forward(self, x: Float[Tensor, "*batch d"]) -> MixtureSameFamily:
        """Return q(z|x), with q(y|x) as mixture and q(z|x, y) as component distribution."""
        raw, context, logits, changes = self.encoder(x).split(self.sizes, dim=-1)
        logits = logits + self.log_joint(gaussian(raw).mean)
        bases = gaussian(raw.unsqueeze(-2) + changes.unflatten(-1, (self.n_components, -1)))
        codes = torch.eye(self.n_components, device=x.device, dtype=raw.dtype)
        return mixture(logits, self._through(bases, context.unsqueeze(-2), codes))

    def without_components(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """Return q(z|x) as it is without components."""
        raw, context, _, _ = self.encoder(x).split(self.sizes, dim=-1)
        return self._through(gaussian(raw), context, raw.new_zeros(self.n_components))

    def _through(self, base: DiagonalNormal, context: Tensor, code: Tensor) -> Distribution:
        """Send a Gaussian through the couplings, which see a context and a one-hot component."""
        if self.couplings is None:
            return base
        shape = torch.broadcast_shapes(context.shape[:-1], code.shape[:-1])
        seen = torch.cat([context.expand(*shape, -1), code.expand(*shape, -1)], dim=-1)
        flow: Pushforward = self.couplings(base, seen)
        return flow


class WithoutComponents(Posterior):
    """The q(z|x) that a `ComponentPosterior` begins with, on the same parameters."""

    def __init__(self, whole: ComponentPosterior) -> None:
        super().__init__()
        self.whole = whole

    def initialize_from_data(self, data: np.ndarray, shrinkage: float = 1.0) -> None:
        self.whole.initialize_from_data(data, shrinkage)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        return self.whole.without_components(x)


def _encoder_sizes(prior: GaussianMixture, context_dim: int) -> list[int]:
    """Split of the encoder's outputs."""
    latent_dim, n_components = prior.latent_dim, prior.n_components
    return [2 * latent_dim, context_dim, n_components, 2 * latent_dim * n_components]
