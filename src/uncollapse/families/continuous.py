"""Families of continuous data on an interval or a half-line."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Beta as BetaDistribution
from torch.distributions import Distribution, Independent, constraints
from torch.distributions import Exponential as ExponentialDistribution

from uncollapse.families.base import (
    MEAN_MARGIN,
    Family,
    check_support,
    check_unit_interval,
    from_positive,
    negative,
    to_positive,
)


class ContinuousBernoulli(Family):
    """Data in [0, 1] with density exp(eta x - A(eta)), A(eta) = log((exp(eta) - 1) / eta)
    (Loaiza-Ganem & Cunningham 2019)."""

    name = "continuous_bernoulli"

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(_ContinuousBernoulliDistribution(eta), 1, validate_args=False)

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        return _continuous_bernoulli_log_partition(eta)

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return _continuous_bernoulli_mean(eta)

    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        target = expectation.double().clamp(MEAN_MARGIN, 1 - MEAN_MARGIN)
        low, high = torch.full_like(target, -200.0), torch.full_like(target, 200.0)
        for _ in range(
            60
        ):  # bisection: the mean map is increasing, and 400 / 2^60 is below roundoff
            middle = (low + high) / 2
            below = _continuous_bernoulli_mean(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(expectation.dtype)

    def check(self, data: np.ndarray) -> None:
        check_unit_interval(self, data)


class Exponential(Family):
    """Waiting times and other data >= 0, of any order of magnitude.

    With y = x / unit of rate r, eta = -r < 0, T(x) = y, A(eta) = -log(-eta). The unit is the mean
    of all the data and is not trained; it belongs to the base measure, so that nothing depends on
    the units of the data.
    """

    name = "exponential"
    domain = negative

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(
            ExponentialDistribution(-eta / self.unit, validate_args=False), 1, validate_args=False
        )

    def sufficient(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch t"]:
        return x / self.unit

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        return -(-eta).log()

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return -1 / eta

    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return -1 / expectation.clamp(min=MEAN_MARGIN)

    def link(self, u: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """-log(1 + exp(u))."""
        return -to_positive(u)

    def inverse_link(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return from_positive(-eta)

    def features(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch features"]:
        """log(1 + x / unit): such data have long tails."""
        return (x / self.unit).log1p()

    def check(self, data: np.ndarray) -> None:
        check_support(
            self, data, data >= 0, "values >= 0", "shift the data, or use family='gaussian'"
        )

    def initialize_from_data(self, data: np.ndarray, noise_share: float = 1.0) -> None:
        del noise_share
        with torch.no_grad():
            self.unit.fill_(float(data.mean(dtype=np.float64)) or 1.0)

    def for_features(self, data_dim: int) -> Family:
        del data_dim
        return type(self)()

    def check_invariants(self) -> bool:
        return 0 < float(self.unit) < math.inf


class Beta(Family):
    """Data strictly between 0 and 1, such as proportions.

    eta = (alpha, beta), both above 0; T(x) = (log x, log(1 - x)), base measure 1 / (x (1 - x)),
    A(eta) = log Gamma(alpha) + log Gamma(beta) - log Gamma(alpha + beta).
    """

    name = "beta"
    domain = constraints.positive
    parameters_per_column = 2

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        alpha, beta = self.by_column(eta).unbind(-1)
        return Independent(
            BetaDistribution(alpha, beta, validate_args=False), 1, validate_args=False
        )

    def sufficient(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch t"]:
        return torch.stack((x.log(), torch.log1p(-x)), -1).flatten(-2)

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        columns = self.by_column(eta)
        return columns.lgamma().sum(-1) - columns.sum(-1).lgamma()

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return _beta_expectation(self.by_column(eta)).flatten(-2)

    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        eta = _beta_natural(self.by_column(expectation).double())
        most = 1 / MEAN_MARGIN  # data that are all the same would give an infinite alpha + beta
        return (
            (eta * (most / eta.sum(-1, keepdim=True)).clamp(max=1))
            .flatten(-2)
            .to(expectation.dtype)
        )

    def link(self, u: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """log(1 + exp(u))."""
        return to_positive(u)

    def inverse_link(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return from_positive(eta)

    def check(self, data: np.ndarray) -> None:
        check_support(
            self,
            data,
            (data > 0) & (data < 1),
            "values strictly between 0 and 1, in float32",
            "move them inside, or use family='continuous_bernoulli', which takes 0 and 1",
        )


class _ContinuousBernoulliDistribution(Distribution):
    """In natural parameters throughout: torch's own goes through probabilities, which saturate
    beyond |eta| = 16 in float32."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"eta": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, eta: Tensor) -> None:
        self.eta = eta
        super().__init__(eta.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return _continuous_bernoulli_mean(self.eta)

    @property
    def variance(self) -> Tensor:
        return _continuous_bernoulli_variance(self.eta)

    def entropy(self) -> Tensor:
        return _continuous_bernoulli_log_partition(self.eta) - self.eta * self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        return self.eta * value - _continuous_bernoulli_log_partition(self.eta)

    def rsample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()
    ) -> Tensor:
        return self.icdf(
            torch.rand_like(self.eta.expand(self._extended_shape(torch.Size(sample_shape))))
        )

    def icdf(self, value: Tensor) -> Tensor:
        eta, uniform = torch.broadcast_tensors(self.eta, value)  # type: ignore[no-untyped-call]
        # log(1 + u (exp(eta) - 1)) / eta, computed at -|eta| and mirrored, so that nothing
        # overflows; at eta = 0 it is u, and its first correction is u (1 - u) eta / 2.
        small = eta.abs() < 1e-3
        negative = torch.where(small, torch.full_like(eta, -1.0), -eta.abs())
        tail = (
            torch.log1p(torch.where(eta > 0, 1 - uniform, uniform) * torch.expm1(negative))
            / negative
        )
        mirrored = torch.where(eta > 0, 1 - tail, tail)
        return torch.where(small, uniform + uniform * (1 - uniform) * eta / 2, mirrored).clamp(0, 1)


def _beta_expectation(eta: Tensor) -> Tensor:
    """The mean map, on shape (*batch, 2)."""
    return torch.digamma(eta) - torch.digamma(eta.sum(-1, keepdim=True))


def _beta_natural(target: Tensor) -> Tensor:
    """The inverse of the mean map on shape (*batch, 2), by Newton's method on the convex A(eta) -
    eta·target.

    Means of (log x, log(1 - x)) satisfy exp(m1) + exp(m2) < 1, with equality for data that are all
    the same.
    """
    border = math.log1p(-1e-6)
    target = target - (target.logsumexp(-1, keepdim=True) - border).clamp(min=0)
    geometric = target.exp()
    eta = (
        0.5 + geometric / (1 - geometric.sum(-1, keepdim=True)) / 2
    )  # exact were digamma(eta) = log(eta - 1/2), as for large eta
    for _ in range(30):
        # The Hessian is diag(own) - total 11', whose inverse is in closed form.
        gradient = _beta_expectation(eta) - target
        own, total = torch.polygamma(1, eta), torch.polygamma(1, eta.sum(-1, keepdim=True))
        shared = (gradient / own).sum(-1, keepdim=True) / (
            1 / total - (1 / own).sum(-1, keepdim=True)
        )
        step = (gradient + shared) / own
        eta = torch.where(step < eta, eta - step, eta / 10)  # a step across the border is cut short
    return eta


def _away_from_zero(eta: Tensor) -> tuple[Tensor, Tensor]:
    """Where |eta| is too small for the quotient form, and eta with those entries replaced by 1
    (gradients stay finite)."""
    small = eta.abs() < 0.2
    return small, torch.where(small, torch.ones_like(eta), eta)


def _continuous_bernoulli_log_partition(eta: Tensor) -> Tensor:
    small, safe = _away_from_zero(eta)
    size = safe.abs()
    quotient = F.relu(safe) + torch.log(-torch.expm1(-size) / size)
    near = torch.where(small, eta, torch.zeros_like(eta))
    square = near.square()
    # eta/2 + log(sinh(u) / u) at u = eta/2, up to the eighth power: what is left out is below 1e-15
    # here.
    series = near / 2 + square / 24 * (
        1 - square / 120 * (1 - square / 63 * (1 - square * 3 / 160))
    )
    return torch.where(small, series, quotient)


def _continuous_bernoulli_mean(eta: Tensor) -> Tensor:
    small, safe = _away_from_zero(eta)
    size = safe.abs()
    upper = (
        -1 / torch.expm1(-size) - 1 / size
    )  # the mean at |eta|; the mean at -eta is one minus it
    quotient = torch.where(safe > 0, upper, 1 - upper)
    near = torch.where(small, eta, torch.zeros_like(eta))
    square = near.square()
    series = 0.5 + near / 12 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40)))
    return torch.where(small, series, quotient)


def _continuous_bernoulli_variance(eta: Tensor) -> Tensor:
    small, safe = _away_from_zero(eta)
    decay = torch.exp(-safe.abs())
    quotient = 1 / safe.square() - decay / (1 - decay).square()
    square = torch.where(small, eta, torch.zeros_like(eta)).square()
    series = (1 - square / 20 * (1 - square * 5 / 126 * (1 - square * 7 / 200))) / 12
    return torch.where(small, series, quotient)
