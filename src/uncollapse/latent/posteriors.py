"""Approximate posteriors q(z|x): modules that map data to a distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
import zuko
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    Transform,
    TransformedDistribution,
)
from torch.quasirandom import SobolEngine

from uncollapse.errors import InputError
from uncollapse.families import Family
from uncollapse.latent.priors import GaussianMixture

# The smallest standard deviation of a unit: far below what any sensible constant needs, far above float32's underflow.
MIN_SCALE = 1e-6
N_COUPLINGS = 2  # K23 table 3, W21 appendix C
N_MOMENT_DRAWS = 64

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
        self.net = zuko.nn.MLP(width, out_dim, list(hidden), activation=nn.SiLU)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch out"]:
        """The perceptron's output."""
        out: Tensor = self.net((self.features(x) - self.shift) / self.unit)
        return out

    @torch.no_grad()
    def adapt(self, mean: Float[Tensor, "features"], deviation: float) -> None:
        """Centre features at `mean` and measure them in units of `deviation`."""
        self.shift.copy_(mean)
        self.unit.fill_(deviation)


class Posterior(nn.Module, ABC):
    """q(z|x).

    Attributes:
        encoder: what looks at the data.
    """

    encoder: Encoder

    @abstractmethod
    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """q(z|x)."""


class DiagonalGaussian(Posterior):
    """q(z|x) = N(mu(x), diag(sigma(x)^2)), with mu and sigma from one multilayer perceptron on features of x.

    Args:
        data_dim: dimension of x.
        latent_dim: dimension of z.
        hidden: widths of the hidden layers.
        features: what the perceptron sees of x, such as the `features` of a family; x itself if not given.
    """

    def __init__(self, data_dim: int, latent_dim: int, hidden: Sequence[int] = (64, 64), features: Features | None = None) -> None:
        super().__init__()
        self.encoder = Encoder(data_dim, 2 * latent_dim, hidden, features)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Independent[Normal]:
        """q(z|x)."""
        return _gaussian(self.encoder(x))


class FamilyPosterior(Posterior):
    """q(w|x) = EF(w | eta(x)), of the family that w has under a `Layer`, with eta from one multilayer perceptron on features of x.

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
        self.family = family.fresh(latent_dim)
        self.encoder = Encoder(data_dim, family.natural_dim(latent_dim), hidden, features)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """q(w|x)."""
        q: Distribution = self.family(self.encoder(x))
        return q


class RealNVP(Posterior):
    """q(z|x) of a Gaussian N(mu(x), diag(sigma(x)^2)) sent through affine couplings that see x as well (Dinh et al. 2016).

    Args:
        data_dim: dimension of x.
        latent_dim: dimension of z, at least 2.
        hidden: widths of the hidden layers of the perceptron on x, and, the last of them, of the couplings.
        features: as for `DiagonalGaussian`.
    """

    def __init__(self, data_dim: int, latent_dim: int, hidden: Sequence[int] = (64, 64), features: Features | None = None) -> None:
        super().__init__()
        self.sizes = [2 * latent_dim, hidden[-1]]
        self.encoder = Encoder(data_dim, sum(self.sizes), hidden, features)
        self.couplings = Couplings(latent_dim, hidden[-1], hidden[-1])

    def forward(self, x: Float[Tensor, "*batch d"]) -> Pushforward:
        """q(z|x)."""
        raw, context = self.encoder(x).split(self.sizes, dim=-1)
        flow: Pushforward = self.couplings(_gaussian(raw), context)
        return flow


class Couplings(nn.Module):
    """Two affine couplings, which begin as the identity, with a permutation between them, so that every dimension is transformed.

    Args:
        latent_dim: dimension of z.
        context_dim: dimension of what the couplings see beside z.
        width: of their hidden layer.

    Raises:
        InputError: if there is one dimension only, which has no halves.
    """

    def __init__(self, latent_dim: int, context_dim: int, width: int) -> None:
        super().__init__()
        if latent_dim < 2:
            raise InputError(f"posterior 'realnvp' expects latent_dim >= 2, got {latent_dim}: use posterior 'gaussian'.")
        self.layers = nn.ModuleList(_coupling(latent_dim, context_dim, width) for _ in range(N_COUPLINGS))

    def forward(self, base: Independent[Normal], context: Float[Tensor, "*batch context"]) -> Pushforward:
        """The base sent through the couplings."""
        # A coupling transforms the even places. A step to the right fills them with what has stood at odd ones.
        order = torch.arange(base.event_shape[0], device=context.device).roll(1)
        transforms: list[Transform] = []
        for layer in self.layers:
            transforms += [layer(F.relu(context)), zuko.transforms.PermutationTransform(order)]
        return Pushforward(base, transforms)


def _coupling(latent_dim: int, context_dim: int, width: int) -> zuko.flows.GeneralCouplingTransform:
    keeps = [place % 2 == 1 for place in range(latent_dim)]
    with torch.device("cpu"):  # zuko counts the mask, also where a model is built without memory
        coupling = zuko.flows.GeneralCouplingTransform(latent_dim, mask=keeps, hidden_features=[1])
    n_kept = sum(keeps)
    coupling.hyper = zuko.nn.MLP(n_kept + context_dim, (latent_dim - n_kept) * coupling.total, [width])
    nn.init.zeros_(coupling.hyper[-1].weight)
    nn.init.zeros_(coupling.hyper[-1].bias)
    return coupling


class Pushforward(TransformedDistribution):
    """A Gaussian sent through a flow. Its moments are those of 64 fixed draws, so that they are a function of x alone."""

    def __init__(self, base: Independent[Normal], transforms: list[Transform]) -> None:
        super().__init__(base, transforms, validate_args=False)
        self.normal: Normal = base.base_dist

    def rsample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The draw that standard normal noise decides, and its log density in nats, in one pass."""
        z = _shifted(self.normal, noise)
        log_density = self.base_dist.log_prob(z)
        for transform in self.transforms:
            z, log_change = transform.call_and_ladj(z)  # type: ignore[attr-defined]  # zuko's own
            log_density = log_density - log_change
        return z, log_density

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z), in nats, for z that broadcast with the batch."""
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)  # type: ignore[no-untyped-call]
        log_density: Tensor = super().log_prob(value.expand(*shape, -1))  # type: ignore[no-untyped-call]  # couplings do not broadcast
        return log_density

    @cached_property
    def _draws(self) -> Tensor:
        half = SobolEngine(self.event_shape[0], scramble=True, seed=0).draw(N_MOMENT_DRAWS // 2)  # type: ignore[no-untyped-call]
        noise = torch.erfinv((2 * half - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
        noise = torch.cat([noise, -noise]).to(self.normal.loc)
        noise = noise.reshape(-1, *(1 for _ in self.batch_shape), *self.event_shape).expand(-1, *self.batch_shape, -1)
        return self.rsample_with_log_prob(noise)[0]

    @property
    def mean(self) -> Tensor:
        """E[z]."""
        return self._draws.mean(0)

    @property
    def variance(self) -> Tensor:
        """Var[z]."""
        return self._draws.var(0)


class ComponentPosterior(Posterior):
    """q(y|x) q(z|x, y) for a mixture prior, as a mixture of c diagonal Gaussians.

    Around a Gaussian q(z|x) without y: q(z|x, y) shifts and scales it by what is learned for y, and q(y|x) weighs the components
    as that Gaussian's mean does under the prior, times what is learned. All that is learned beyond the Gaussian begins as nothing,
    so that training can begin with the Gaussian alone.

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
        """q(z|x), whose mixture distribution is q(y|x) and whose component distributions are q(z|x, y)."""
        raw, context, logits, changes = self.encoder(x).split(self.sizes, dim=-1)
        logits = logits + self.log_joint(_gaussian(raw).mean)
        each = _gaussian(raw.unsqueeze(-2) + changes.unflatten(-1, (self.n_components, -1)))
        which = torch.eye(self.n_components, device=x.device, dtype=raw.dtype)
        components = self._through(each, context.unsqueeze(-2), which)
        return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)

    def without_components(self, x: Float[Tensor, "*batch d"]) -> Distribution:
        """q(z|x) before there are components."""
        raw, context, _, _ = self.encoder(x).split(self.sizes, dim=-1)
        return self._through(_gaussian(raw), context, raw.new_zeros(self.n_components))

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


def draw(q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> tuple[Tensor, Tensor]:
    """A draw from q that standard normal noise decides, and log q there, in nats; differentiable in q where it has an rsample."""
    if isinstance(q, Pushforward):
        return q.rsample_with_log_prob(noise)
    assert isinstance(q, Independent)
    z = _shifted(q.base_dist, noise) if isinstance(q.base_dist, Normal) else q.base_dist.icdf(torch.special.ndtr(noise))
    return z, q.log_prob(z)  # type: ignore[no-untyped-call]


def _shifted(normal: Normal, noise: Tensor) -> Tensor:
    return normal.loc + normal.scale * noise


def _gaussian(raw: Tensor) -> Independent[Normal]:
    mean, raw_scale = raw.chunk(2, dim=-1)
    return Independent(Normal(mean, F.softplus(raw_scale) + MIN_SCALE, validate_args=False), 1, validate_args=False)


def _themselves(x: Tensor) -> Tensor:
    return x


POSTERIORS: dict[str, type[DiagonalGaussian] | type[RealNVP]] = {"gaussian": DiagonalGaussian, "realnvp": RealNVP}
