r"""Exponential families p(x|eta) = h(x) exp(T(x)·eta - A(eta)), in minimal natural parameters.

The inverse Lipschitz constant of a decoder is a statement about natural parameters, so that is what every decoder outputs,
and a family turns them into a distribution: ``family(eta)`` is p(x|z). A Gaussian of scale sigma has eta = mean / sigma; were
the scale kept outside the natural parameter, learning it could undo any constraint on the decoder.
"""

from __future__ import annotations

import copy
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent, Normal, constraints

from uncollapse.errors import InputError
from uncollapse.parameters import Count, PositiveFloat, check_parameters

# Means are pulled this far inside their open domain before they are mapped to natural parameters, so that a pixel that is
# always black starts at a finite logit.
MEAN_MARGIN = 1e-2


class Family(nn.Module, ABC):
    """An exponential family whose natural parameters fill R^t, applied to each of t dimensions.

    ``family(eta)`` returns p(x|eta) as a `torch.distributions.Distribution` over vectors: ``log_prob`` is in nats per example.
    """

    name: ClassVar[str]

    @abstractmethod
    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        """p(x|eta), with the last dimension as its event."""

    def sufficient(self, x: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """T(x), the sufficient statistic."""
        return x

    @abstractmethod
    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """A(eta), for each dimension, in nats."""

    @abstractmethod
    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """E[T(x) | eta], which is the gradient of A."""

    @abstractmethod
    def natural(self, mean: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """The natural parameter at which x has this mean, pulled inside the domain where the mean lies on its border."""

    def observe(self, x: Float[Tensor, "*batch t"], uniform: Float[Tensor, "*batch t"] | None = None) -> Tensor:
        """Data as the likelihood sees them. Only families of discrete data differ from the identity.

        Args:
            x: data that passed `check`.
            uniform: draws from U(0, 1) to decide by; from the global generator if not given.
        """
        return x

    def is_observed(self, data: np.ndarray) -> bool:
        """Whether `observe` leaves these data as they are."""
        return True

    def check(self, data: np.ndarray) -> None:
        """Raise `InputError` if some value lies outside the support."""
        del data  # R^t holds every finite value

    def adapt(self, data: np.ndarray) -> None:
        """Start the family at values that suit data of shape (n, t)."""
        del data

    def fresh(self, data_dim: int) -> Family:
        """A family of the same kind and arguments for data of this dimension, as untrained as at first."""
        del data_dim
        return copy.deepcopy(self)

    def is_sound(self) -> bool:
        """Whether what was read from a file is what the arguments say."""
        return True

    @property
    def spec(self) -> str | dict[str, dict[str, Any]]:
        """What `get_family` turns back into this family."""
        return self.name

    def extra_repr(self) -> str:
        return ""


def _outside_unit_interval(family: Family, data: np.ndarray) -> None:
    low, high = float(data.min()), float(data.max())
    if low < 0 or high > 1:
        raise InputError(
            f"family {family.name!r} expects values in [0, 1], got values from {low:g} to {high:g}: "
            "rescale the data (for images, divide by the largest grey level) or use family='gaussian'."
        )


class Bernoulli(Family):
    """Binary data; eta is the logit, A(eta) = log(1 + exp(eta)).

    Values strictly between 0 and 1 are probabilities of a 1: training draws them anew every time it meets them (dynamic
    binarisation, Burda et al. 2016), scoring draws them once.
    """

    name = "bernoulli"

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(BernoulliDistribution(logits=eta, validate_args=False), 1, validate_args=False)

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return F.softplus(eta)

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return torch.sigmoid(eta)

    def natural(self, mean: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return torch.logit(mean, eps=MEAN_MARGIN)

    def observe(self, x: Float[Tensor, "*batch t"], uniform: Float[Tensor, "*batch t"] | None = None) -> Tensor:
        return (torch.rand_like(x) if uniform is None else uniform).lt(x).to(x.dtype)

    def is_observed(self, data: np.ndarray) -> bool:
        return bool(np.isin(data, (0, 1)).all())

    def check(self, data: np.ndarray) -> None:
        _outside_unit_interval(self, data)


class ContinuousBernoulli(Family):
    """Data in [0, 1] with density exp(eta x - A(eta)), A(eta) = log((exp(eta) - 1) / eta) (Loaiza-Ganem & Cunningham 2019)."""

    name = "continuous_bernoulli"

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(_ContinuousBernoulliDistribution(eta), 1, validate_args=False)

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return _continuous_bernoulli_log_partition(eta)

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return _continuous_bernoulli_mean(eta)

    def natural(self, mean: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        target = mean.double().clamp(MEAN_MARGIN, 1 - MEAN_MARGIN)
        low, high = torch.full_like(target, -200.0), torch.full_like(target, 200.0)
        for _ in range(60):  # bisection: the mean map is increasing, and 400 / 2^60 is below roundoff
            middle = (low + high) / 2
            below = _continuous_bernoulli_mean(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(mean.dtype)

    def check(self, data: np.ndarray) -> None:
        _outside_unit_interval(self, data)


class Gaussian(Family):
    """Real data with one scale sigma for all dimensions.

    eta = (mean - c) / sigma, T(x) = (x - c) / sigma, A(eta) = eta^2 / 2. The centre c is that of the data and is not trained; it
    belongs to the base measure, so that neither sigma nor a constant of the decoder depends on where the data lie.

    Args:
        scale: sigma, in the units of the data. None learns it, starting from the root mean square deviation of the data.
        data_dim: t; a family that is only a specification need not know it.

    Raises:
        InputError: if the scale is not positive and finite.
    """

    name = "gaussian"

    centre: Tensor

    def __init__(
        self,
        scale: Annotated[PositiveFloat | None, Field(description="a positive finite number, or None to learn it")] = None,
        data_dim: Count = 1,
    ) -> None:
        super().__init__()
        if scale is not None and (not isinstance(scale, numbers.Real) or isinstance(scale, bool) or not 0 < scale < math.inf):
            raise InputError(f"scale expects a positive finite number, or None to learn it, got {scale!r}.")
        self.fixed_scale = scale if scale is None else float(scale)
        self.register_buffer("centre", torch.zeros(data_dim))
        start = torch.tensor(0.0 if scale is None else math.log(scale), dtype=torch.get_default_dtype())
        if scale is None:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)

    @property
    def scale(self) -> Tensor:
        """sigma, in the units of the data."""
        return self.log_scale.exp()

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(_GaussianDistribution(self.centre + eta * self.scale, self.scale), 1, validate_args=False)

    def sufficient(self, x: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return (x - self.centre) / self.scale

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return eta.square() / 2

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return eta

    def natural(self, mean: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return (mean - self.centre) / self.scale.detach()

    def adapt(self, data: np.ndarray) -> None:
        deviation = float(np.sqrt(data.var(axis=0, dtype=np.float64).mean()))
        with torch.no_grad():
            self.centre.copy_(torch.as_tensor(data.mean(axis=0, dtype=np.float64)))
            if self.fixed_scale is None and deviation > 0:
                self.log_scale.fill_(math.log(deviation))

    def fresh(self, data_dim: int) -> Family:
        return type(self)(self.fixed_scale, data_dim)

    def is_sound(self) -> bool:
        scale = float(self.scale.detach())
        return 0 < scale < math.inf and (self.fixed_scale is None or math.isclose(scale, self.fixed_scale, rel_tol=1e-4))

    @property
    def spec(self) -> str | dict[str, dict[str, Any]]:
        return self.name if self.fixed_scale is None else {self.name: {"scale": self.fixed_scale}}

    def extra_repr(self) -> str:
        return "scale=learned" if self.fixed_scale is None else f"scale={self.fixed_scale:g}"


FAMILIES: dict[str, type[Family]] = {family.name: family for family in (Bernoulli, ContinuousBernoulli, Gaussian)}


def get_family(spec: str | Mapping[str, Mapping[str, Any]] | Family) -> Family:
    """A family from its name, from ``{name: arguments}``, or as it is.

    Raises:
        InputError: if there is no family of that name, or it does not take these arguments.

    >>> get_family({"gaussian": {"scale": 2.0}})
    Gaussian(scale=2)
    """
    if isinstance(spec, Family):
        return spec
    name, arguments = (spec, {}) if isinstance(spec, str) else _single_item(spec)
    if name not in FAMILIES:
        raise InputError(f"family expects one of {', '.join(map(repr, FAMILIES))}, got {name!r}.")
    return FAMILIES[name](**check_parameters(FAMILIES[name], arguments, what=f"argument of family {name!r}"))


def _single_item(spec: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    if len(spec) != 1 or not all(isinstance(arguments, Mapping) for arguments in spec.values()):
        raise InputError(f"family expects a name or one {{name: {{argument: value}}}}, got {spec!r}.")
    return next(iter(spec.items()))


class _GaussianDistribution(Normal):
    """torch's own squares the scale, which leaves float32 for data of size 1e20 or 1e-20."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return -((value - self.loc) / self.scale).square() / 2 - self.scale.log() - math.log(2 * math.pi) / 2


class _ContinuousBernoulliDistribution(Distribution):
    """In natural parameters throughout: torch's own goes through probabilities, which saturate beyond |eta| = 16 in float32."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"eta": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, eta: Tensor) -> None:
        self.eta = eta
        super().__init__(eta.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return _continuous_bernoulli_mean(self.eta)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.eta * value - _continuous_bernoulli_log_partition(self.eta)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()) -> Tensor:  # noqa: B008
        eta = self.eta.expand(self._extended_shape(torch.Size(sample_shape)))
        uniform = torch.rand_like(eta)
        # The inverse distribution function log(1 + u (exp(eta) - 1)) / eta, computed at -|eta| and mirrored, so that
        # nothing overflows; at eta = 0 it is u, and its first correction is u (1 - u) eta / 2.
        small = eta.abs() < 1e-3
        negative = torch.where(small, torch.full_like(eta, -1.0), -eta.abs())
        tail = torch.log1p(uniform * torch.expm1(negative)) / negative
        mirrored = torch.where(eta > 0, 1 - tail, tail)
        return torch.where(small, uniform + uniform * (1 - uniform) * eta / 2, mirrored).clamp(0, 1)


def _away_from_zero(eta: Tensor) -> tuple[Tensor, Tensor]:
    """Where |eta| is too small for the quotient form, and eta with those entries replaced by 1 (gradients stay finite)."""
    small = eta.abs() < 0.2
    return small, torch.where(small, torch.ones_like(eta), eta)


def _continuous_bernoulli_log_partition(eta: Tensor) -> Tensor:
    small, safe = _away_from_zero(eta)
    size = safe.abs()
    quotient = F.relu(safe) + torch.log(-torch.expm1(-size) / size)
    near = torch.where(small, eta, torch.zeros_like(eta))
    square = near.square()
    # eta/2 + log(sinh(u) / u) at u = eta/2, up to the eighth power: what is left out is below 1e-15 here.
    series = near / 2 + square / 24 * (1 - square / 120 * (1 - square / 63 * (1 - square * 3 / 160)))
    return torch.where(small, series, quotient)


def _continuous_bernoulli_mean(eta: Tensor) -> Tensor:
    small, safe = _away_from_zero(eta)
    size = safe.abs()
    upper = -1 / torch.expm1(-size) - 1 / size  # the mean at |eta|; the mean at -eta is one minus it
    quotient = torch.where(safe > 0, upper, 1 - upper)
    near = torch.where(small, eta, torch.zeros_like(eta))
    square = near.square()
    series = 0.5 + near / 12 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40)))
    return torch.where(small, series, quotient)
