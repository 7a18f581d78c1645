"""One z for each symbol of a sequence: the prior and posterior of the delta-VAE (Razavi et al.
2019)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from uncollapse._utils.errors import ParameterError
from uncollapse.latent.posteriors import EncoderPosterior
from uncollapse.latent.priors import MIN_SCALE, Prior


class GaussianChain(Distribution):
    """Gaussian chain z_t = a_t z_(t-1) + b_t + c_t e_t, t = 1 ... n, z_0 = 0, e standard normal.

    Its event is one vector of all z_t.

    Args:
        gains: a, shape (*batch, n, l), or broadcastable to it.
        offsets: b, shape (*batch, n, l).
        scales: c, the same shape.
    """

    has_rsample = True

    def __init__(self, gains: Tensor, offsets: Tensor, scales: Tensor) -> None:
        self.gains, self.offsets, self.scales = gains, offsets, scales
        batch, places = offsets.shape[:-2], offsets.shape[-2:]
        super().__init__(batch, torch.Size([places.numel()]), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.offsets.dtype, device=self.offsets.device)
        return self.rsample_with_log_prob(noise)[0]

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = _follow(self.gains, self.offsets + self.scales * self._by_place(noise)).flatten(-2)
        return z, self.log_prob(z)

    def log_prob(self, value: Tensor) -> Tensor:
        z = self._by_place(value)
        error = (z - self.gains * _before(z) - self.offsets) / self.scales
        surprisal = 0.5 * error.square() + self.scales.log() + 0.5 * math.log(2 * math.pi)
        return -surprisal.sum((-2, -1))

    @property
    def mean(self) -> Tensor:
        return self._means().flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self._variances().flatten(-2)

    def entropy(self) -> Tensor:
        each: Tensor = self.scales.log() + 0.5 * math.log(2 * math.pi * math.e)
        return each.sum((-2, -1))

    def kl_per_unit(self, other: GaussianChain) -> Float[Tensor, "*batch n_l"]:
        """Return the KL(self || other) of each unit of each z_t given z_(t-1), in nats."""
        gap = self.gains - other.gains
        moved = gap * _before(self._means()) + self.offsets - other.offsets
        square = moved.square() + gap.square() * _before(self._variances())
        ratio = (self.scales / other.scales).square()
        return 0.5 * (square / other.scales.square() + ratio - 1 - ratio.log()).flatten(-2)

    def towards(self, other: GaussianChain, share: float) -> GaussianChain:
        """Return the chain with steps self(z_t|z_(t-1))^share other(z_t|z_(t-1))^(1 - share)."""
        own, others = share / self.scales.square(), (1 - share) / other.scales.square()
        weight = own / (own + others)
        gains, offsets = (
            weight * mine + (1 - weight) * its
            for mine, its in ((self.gains, other.gains), (self.offsets, other.offsets))
        )
        return GaussianChain(gains, offsets, (own + others).rsqrt())

    def _by_place(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:-1], *self.offsets.shape[-2:])

    def _means(self) -> Tensor:
        return _follow(self.gains, self.offsets)

    def _variances(self) -> Tensor:
        return _follow(self.gains.square(), self.scales.square())


def _follow(gains: Tensor, steps: Tensor) -> Tensor:
    """Return z_t = a_t z_(t-1) + s_t for all t, from z_0 = 0."""
    gains, found = gains.expand(steps.shape), [steps[..., 0, :]]
    for place in range(1, steps.shape[-2]):
        found.append(gains[..., place, :] * found[-1] + steps[..., place, :])
    return torch.stack(found, -2)


def _before(z: Tensor) -> Tensor:
    """Return z_(t-1) for all t."""
    return F.pad(z[..., :-1, :], (0, 0, 1, 0))


class CommittedPrior(Prior):
    """z_1 ~ N(0, I), z_t ~ N(a z_(t-1), (1 - a^2) I): each z_t is standard normal, but they depend
    on each other.

    No posterior with independent z_t can match it. The KL of such a posterior of n symbols is at
    least

        committed(n) = (l/2) ((n - 2) log(1 + a^2) - log(1 - a^2)) for n >= 2,

    that is (l/2) log(1 + a^2) nats for each further symbol, the committed rate (Razavi et al. 2019,
    section 3.1).

    Args:
        n_places: largest number of symbols.
        unit_dim: l, the dimension of each z_t.
        rate: committed rate, in nats.

    Raises:
        ParameterError: if the rate is not between 0 and (l/2) log 2.
    """

    gain: Tensor

    def __init__(self, n_places: int, unit_dim: int, rate: float) -> None:
        super().__init__()
        limit = unit_dim / 2 * math.log(2)
        if not 0 < rate < limit:
            raise ParameterError(
                f"committed_rate expects a number of nats between 0 and (latent_dim / 2) log 2 = "
                f"{limit:.3g}, got {rate:g}. Use less, or more latent units."
            )
        self.n_places, self.unit_dim = n_places, unit_dim
        self.latent_dim = n_places * unit_dim
        self.register_buffer("gain", torch.tensor(math.sqrt(math.expm1(2 * rate / unit_dim))))

    def forward(self) -> GaussianChain:
        scales = self.gain.new_ones(self.n_places, self.unit_dim)
        scales[1:] = (1 - self.gain.square()).sqrt()
        return GaussianChain(self.gain.expand(self.n_places, 1), torch.zeros_like(scales), scales)

    def committed(self, n: int) -> float:
        """Return the least KL, in nats, of a posterior of n symbols with independent z_t."""
        square = float(self.gain) ** 2
        if n < 2:
            return 0.0
        return self.unit_dim / 2 * ((n - 2) * math.log1p(square) - math.log1p(-square))

    def entropy_bound(self) -> float:
        return float(self().entropy())

    def check_invariants(self) -> bool:
        """Return whether the gain lies between 0 and 1."""
        return bool((self.gain > 0) & (self.gain < 1))


class ChainPosterior(EncoderPosterior):
    """q(z|x) of a sequence: independent Gaussians at its symbols, and the prior after its end.

    Args:
        encoder: any module that maps rows of symbols, shape (batch, length), to the Gaussians of
            their symbols, shape (batch, longest, 2 l), such as a `BackwardLSTMEncoder`.
        prior: prior of z.
    """

    def __init__(self, encoder: nn.Module, prior: CommittedPrior) -> None:
        super().__init__(encoder, prior.unit_dim)
        self.prior = prior.forward  # the prior itself would become a part of the posterior

    def forward(self, x: Float[Tensor, "batch length"]) -> GaussianChain:
        p = self.prior()
        mean, raw_scale = self.encoder(x).chunk(2, -1)
        n_places = p.offsets.shape[-2]
        is_symbol = (x[:, :n_places] >= 0).unsqueeze(-1)
        padding = (0, 0, 0, n_places - mean.shape[1])
        offsets = F.pad(mean, padding)
        scales = F.pad(F.softplus(raw_scale) + MIN_SCALE, padding, value=1.0)
        return GaussianChain(
            torch.where(is_symbol, 0, p.gains),
            torch.where(is_symbol, offsets, 0),
            torch.where(is_symbol, scales, p.scales),
        )
