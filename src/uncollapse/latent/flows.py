"""Flows for posteriors: Gaussians sent through affine couplings (Dinh et al. 2016)."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
import zuko
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal, Transform, TransformedDistribution
from torch.quasirandom import SobolEngine

from uncollapse._utils.errors import ParameterError
from uncollapse.latent.priors import DiagonalNormal
from uncollapse.networks import Perceptron

N_COUPLINGS = 2  # K23 table 3, W21 appendix C
N_MOMENT_DRAWS = 64


class Couplings(nn.Module):
    """Two affine couplings with a permutation between them, so that every dimension is transformed.

    They begin as the identity.

    Args:
        latent_dim: dimension of z.
        context_dim: dimension of the context that the couplings see beside z.
        width: width of their hidden layer.

    Raises:
        ParameterError: if there is only one dimension, which has no halves.
    """

    def __init__(self, latent_dim: int, context_dim: int, width: int) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ParameterError(
                f"posterior 'realnvp' expects latent_dim >= 2, got {latent_dim}. Use posterior "
                "'gaussian'."
            )
        self.layers = nn.ModuleList(
            _coupling(latent_dim, context_dim, width) for _ in range(N_COUPLINGS)
        )

    def forward(
        self, base: DiagonalNormal, context: Float[Tensor, "*batch context"]
    ) -> Pushforward:
        """Return the distribution of a draw from the base, sent through the couplings."""
        # A coupling transforms the even places. A shift by one moves the odd ones there.
        order = torch.arange(base.event_shape[0], device=context.device).roll(1)
        transforms: list[Transform] = []
        for layer in self.layers:
            transforms += [layer(F.relu(context)), zuko.transforms.PermutationTransform(order)]
        return Pushforward(base, transforms)


def _coupling(latent_dim: int, context_dim: int, width: int) -> zuko.flows.GeneralCouplingTransform:
    keeps = [place % 2 == 1 for place in range(latent_dim)]
    with torch.device("cpu"):  # zuko counts the mask, even on the meta device
        coupling = zuko.flows.GeneralCouplingTransform(latent_dim, mask=keeps, hidden_features=[1])
    n_kept = sum(keeps)
    coupling.hyper = Perceptron(
        n_kept + context_dim, (latent_dim - n_kept) * coupling.total, [width]
    )
    nn.init.zeros_(coupling.hyper[-1].weight)
    nn.init.zeros_(coupling.hyper[-1].bias)
    return coupling


class Pushforward(TransformedDistribution):
    """A Gaussian sent through a flow.

    Its moments are those of 64 fixed draws, so that they depend on x alone.
    """

    def __init__(self, base: DiagonalNormal, transforms: list[Transform]) -> None:
        super().__init__(base, transforms, validate_args=False)
        self.normal: Normal = base.base_dist

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = self.normal.loc + self.normal.scale * noise
        log_density = self.base_dist.log_prob(z)
        for transform in self.transforms:
            z, log_change = transform.call_and_ladj(z)  # type: ignore[attr-defined]  # zuko's own
            log_density = log_density - log_change
        return z, log_density

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z) in nats, for z that broadcast with the batch."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        # Couplings do not broadcast.
        log_density: Tensor = super().log_prob(value.expand(*shape, -1))
        return log_density

    @cached_property
    def _draws(self) -> Tensor:
        half = SobolEngine(self.event_shape[0], scramble=True, seed=0).draw(N_MOMENT_DRAWS // 2)
        noise = torch.erfinv((2 * half - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
        noise = torch.cat([noise, -noise]).to(self.normal.loc)
        noise = noise.reshape(-1, *(1 for _ in self.batch_shape), *self.event_shape).expand(
            -1, *self.batch_shape, -1
        )
        return self.rsample_with_log_prob(noise)[0]

    @property
    def mean(self) -> Tensor:
        return self._draws.mean(0)

    @property
    def variance(self) -> Tensor:
        return self._draws.var(0)
