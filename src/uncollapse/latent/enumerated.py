"""The posterior of a mixture that enumerates components, q(y|x) q(z|x, y)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from uncollapse.latent.components import GaussianMixture
from uncollapse.latent.flows import Couplings, Pushforward
from uncollapse.latent.gaussian import gaussian
from uncollapse.latent.posteriors import Posterior
from uncollapse.networks import Encoder, Features


class ComponentPosterior(Posterior):
    """q(y|x) q(z|x, y) for a mixture prior, as a mixture of c diagonal Gaussians.

    Around a Gaussian q(z|x) without y: q(z|x, y) shifts and scales it by what is learned for y, and
    q(y|x) weighs the components as that Gaussian's mean does under the prior, times what is
    learned. All that is learned beyond the Gaussian begins as nothing, so that training can begin
    with the Gaussian alone.

    Args:
        data_dim: dimension of x.
        prior: of z, with c components.
        hidden: widths of the hidden layers.
        features: as for `DiagonalGaussian`.
        flow: send every q(z|x, y) through couplings, as `RealNVP` does.
    """

    def __init__(
        self,
        data_dim: int,
        prior: GaussianMixture,
        hidden: Sequence[int] = (64, 64),
        features: Features | None = None,
        flow: bool = False,
    ) -> None:
        super().__init__()
        latent_dim, n_components = prior.latent_dim, prior.n_components
        self.n_components = n_components
        self.log_joint = prior.log_joint  # the prior itself would become a part of the posterior
        context = hidden[-1] if flow else 0
        self.sizes = [2 * latent_dim, context, n_components, 2 * latent_dim * n_components]
        self.encoder = Encoder(data_dim, sum(self.sizes), hidden, features)
        self.couplings = Couplings(latent_dim, context + n_components, context) if flow else None
        with torch.no_grad():
            for parameter in self.encoder.net[-1].parameters():
                parameter[sum(self.sizes[:2]) :] = 0

    def forward(self, x: Float[Tensor, "*batch d"]) -> MixtureSameFamily:
        """q(z|x), whose mixture distribution is q(y|x) and whose component distributions are q(z|x,
        y)."""
        raw, context, logits, changes = self.encoder(x).split(self.sizes, dim=-1)
        logits = logits + self.log_joint(gaussian(raw).mean)
        each = gaussian(raw.unsqueeze(-2) + changes.unflatten(-1, (self.n_components, -1)))
        which = torch.eye(self.n_components, device=x.device, dtype=raw.dtype)
        components = self._through(each, context.unsqueeze(-2), which)
        return MixtureSameFamily(
            Categorical(logits=logits, validate_args=False), components, validate_args=False
        )

    def without_components(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """q(z|x) before there are components."""
        raw, context, _, _ = self.encoder(x).split(self.sizes, dim=-1)
        return self._through(gaussian(raw), context, raw.new_zeros(self.n_components))

    def _through(self, base: Independent[Normal], context: Tensor, which: Tensor) -> Distribution:
        if self.couplings is None:
            return base
        shape = torch.broadcast_shapes(context.shape[:-1], which.shape[:-1])  # type: ignore[no-untyped-call]
        seen = torch.cat([context.expand(*shape, -1), which.expand(*shape, -1)], dim=-1)
        flow: Pushforward = self.couplings(base, seen)
        return flow


class WithoutComponents(Posterior):
    """The q(z|x) that a `ComponentPosterior` begins with, by the same parameters."""

    def __init__(self, whole: ComponentPosterior) -> None:
        super().__init__()
        self.encoder = whole.encoder
        self.whole = whole

    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """q(z|x)."""
        return self.whole.without_components(x)
