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
from torch.distributions import Distribution, constraints
from torch.distributions import Exponential as ExponentialDistribution

from uncollapse.families.base import (
    MEAN_MARGIN,
    Columns,
    Family,
    Natural,
    check_support,
    check_unit_interval,
    from_positive,
    independent,
    negative,
    to_positive,
)

# Bisection from [-200, 200]: 400 / 2^60 is below roundoff.
SEARCH_BOUND, N_BISECTIONS = 200.0, 60
N_NEWTON_STEPS = 30
# Below this |eta|, functions of the continuous Bernoulli are evaluated by their series.
SERIES_LIMIT = 0.2


class ContinuousBernoulli(Family):
    """Data in [0, 1] with density exp(eta x - A(eta)), A(eta) = log((exp(eta) - 1) / eta)
    (Loaiza-Ganem & Cunningham 2019)."""

    name = "continuous_bernoulli"

    def forward(self, eta: Natural) -> Distribution:
        return independent(_ContinuousBernoulli(eta))

    def log_partition(self, eta: Natural) -> Columns:
        return _ContinuousBernoulli(eta).log_partition()

    def expectation(self, eta: Natural) -> Natural:
        return _ContinuousBernoulli(eta).mean

    def natural(self, expectation: Natural) -> Natural:
        target = expectation.double().clamp(MEAN_MARGIN, 1 - MEAN_MARGIN)
        low, high = torch.full_like(target, -SEARCH_BOUND), torch.full_like(target, SEARCH_BOUND)
        for _ in range(N_BISECTIONS):
            middle = (low + high) / 2
            below = self.expectation(middle) < target
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

    def forward(self, eta: Natural) -> Distribution:
        return independent(ExponentialDistribution(-eta / self.unit, validate_args=False))

    def sufficient(self, x: Columns) -> Natural:
        return x / self.unit

    def log_partition(self, eta: Natural) -> Columns:
        return -(-eta).log()

    def expectation(self, eta: Natural) -> Natural:
        return -1 / eta

    def natural(self, expectation: Natural) -> Natural:
        return -1 / expectation.clamp(min=MEAN_MARGIN)

    def link(self, u: Natural) -> Natural:
        """Return -log(1 + exp(u))."""
        return -to_positive(u)

    def inverse_link(self, eta: Natural) -> Natural:
        return from_positive(-eta)

    def features(self, x: Columns) -> Float[Tensor, "*batch features"]:
        """Return log(1 + x / unit), because such data have long tails."""
        return (x / self.unit).log1p()

    def check(self, data: np.ndarray) -> None:
        remedy = "shift the data, or use family='gaussian'"
        check_support(self, data, data >= 0, "values >= 0", remedy)

    @torch.no_grad()
    def initialize_from_data(self, data: np.ndarray, noise_share: float = 1.0) -> None:
        self.unit.fill_(float(data.mean(dtype=np.float64)) or 1.0)

    def for_features(self, data_dim: int) -> Family:
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

    def forward(self, eta: Natural) -> Distribution:
        alpha, beta = self.by_column(eta).unbind(-1)
        return independent(BetaDistribution(alpha, beta, validate_args=False))

    def sufficient(self, x: Columns) -> Natural:
        return torch.stack((x.log(), torch.log1p(-x)), -1).flatten(-2)

    def log_partition(self, eta: Natural) -> Columns:
        columns = self.by_column(eta)
        return columns.lgamma().sum(-1) - columns.sum(-1).lgamma()

    def expectation(self, eta: Natural) -> Natural:
        return _beta_expectation(self.by_column(eta)).flatten(-2)

    def natural(self, expectation: Natural) -> Natural:
        eta = _beta_natural(self.by_column(expectation).double())
        # Data that are all the same would give an infinite alpha + beta.
        shrinkage = (1 / MEAN_MARGIN / eta.sum(-1, keepdim=True)).clamp(max=1)
        return (eta * shrinkage).flatten(-2).to(expectation.dtype)

    def link(self, u: Natural) -> Natural:
        """Return log(1 + exp(u))."""
        return to_positive(u)

    def inverse_link(self, eta: Natural) -> Natural:
        return from_positive(eta)

    def check(self, data: np.ndarray) -> None:
        check_support(
            self,
            data,
            (data > 0) & (data < 1),
            "values strictly between 0 and 1, in float32",
            "move them inside, or use family='continuous_bernoulli', which takes 0 and 1",
        )


class _ContinuousBernoulli(Distribution):
    """Continuous Bernoulli distribution in its natural parameter.

    torch's own takes probabilities, which saturate beyond |eta| = 16 in float32.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"eta": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, eta: Tensor) -> None:
        self.eta = eta
        super().__init__(eta.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        small, far, near = self._split_near_zero()
        size, square = far.abs(), near.square()
        upper = -1 / torch.expm1(-size) - 1 / size  # the mean at |eta|
        quotient = torch.where(far > 0, upper, 1 - upper)
        series = 0.5 + near / 12 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40)))
        return torch.where(small, series, quotient)

    @property
    def variance(self) -> Tensor:
        small, far, near = self._split_near_zero()
        decay, square = torch.exp(-far.abs()), near.square()
        quotient = 1 / far.square() - decay / (1 - decay).square()
        series = (1 - square / 20 * (1 - square * 5 / 126 * (1 - square * 7 / 200))) / 12
        return torch.where(small, series, quotient)

    def log_partition(self) -> Tensor:
        """Return A(eta), in nats."""
        small, far, near = self._split_near_zero()
        size, square = far.abs(), near.square()
        quotient = F.relu(far) + torch.log(-torch.expm1(-size) / size)
        # eta/2 + log(sinh(u) / u) at u = eta/2, up to the eighth power; the rest is below 1e-15.
        series = near / 2 + square / 24 * (
            1 - square / 120 * (1 - square / 63 * (1 - square * 3 / 160))
        )
        return torch.where(small, series, quotient)

    def _split_near_zero(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return whether |eta| is small, eta with small entries replaced by 1, and eta with the
        others replaced by 0, so that gradients stay finite on both branches."""
        small = self.eta.abs() < SERIES_LIMIT
        far = torch.where(small, torch.ones_like(self.eta), self.eta)
        return small, far, torch.where(small, self.eta, torch.zeros_like(self.eta))

    def entropy(self) -> Tensor:
        return self.log_partition() - self.eta * self.mean

    def log_prob(self, value: Tensor) -> Tensor:
        return self.eta * value - self.log_partition()

    def rsample(
        self, sample_shape: torch.Size | list[int] | tuple[int, ...] = torch.Size()
    ) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand_like(self.eta.expand(shape)))

    def icdf(self, value: Tensor) -> Tensor:
        """Return log(1 + u (exp(eta) - 1)) / eta.

        It is computed at -|eta| and mirrored, so that nothing overflows. At eta = 0 it is u, and
        the first correction is u (1 - u) eta / 2.
        """
        eta, u = torch.broadcast_tensors(self.eta, value)
        small, is_positive = eta.abs() < 1e-3, eta > 0
        size = torch.where(small, torch.full_like(eta, -1.0), -eta.abs())
        tail = torch.log1p(torch.where(is_positive, 1 - u, u) * torch.expm1(size)) / size
        mirrored = torch.where(is_positive, 1 - tail, tail)
        return torch.where(small, u + u * (1 - u) * eta / 2, mirrored).clamp(0, 1)


def _beta_expectation(eta: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Return digamma(eta) - digamma(alpha + beta), the mean of T."""
    return torch.digamma(eta) - torch.digamma(eta.sum(-1, keepdim=True))


def _beta_natural(target: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Invert `_beta_expectation` by Newton's method on the convex A(eta) - eta·target.

    Means of (log x, log(1 - x)) satisfy exp(m1) + exp(m2) < 1, with equality for data that are all
    the same.
    """
    border = math.log1p(-1e-6)
    target = target - (target.logsumexp(-1, keepdim=True) - border).clamp(min=0)
    geometric = target.exp()
    # The start is exact if digamma(eta) = log(eta - 1/2), which holds for large eta.
    eta = 0.5 + geometric / (1 - geometric.sum(-1, keepdim=True)) / 2
    for _ in range(N_NEWTON_STEPS):
        # The Hessian is diag(own) - total 11', whose inverse is in closed form.
        gradient = _beta_expectation(eta) - target
        own, total = torch.polygamma(1, eta), torch.polygamma(1, eta.sum(-1, keepdim=True))
        inner = 1 / total - (1 / own).sum(-1, keepdim=True)
        shared = (gradient / own).sum(-1, keepdim=True) / inner
        step = (gradient + shared) / own
        eta = torch.where(step < eta, eta - step, eta / 10)  # a step across the border is cut short
    return eta
