"""Families of discrete data: binary, categories and counts."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution
from torch.distributions import NegativeBinomial as NegativeBinomialDistribution
from torch.distributions import Poisson as PoissonDistribution

from uncollapse._utils.parameters import NotBool, PositiveFloat, check_parameters
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

MAX_CATEGORIES = 2**24  # beyond, float32 cannot tell codes apart

Shape = torch.Size | list[int] | tuple[int, ...]


class Bernoulli(Family):
    """Binary data; eta is the logit, A(eta) = log(1 + exp(eta)).

    Values strictly between 0 and 1 are probabilities of a 1. Training draws them anew every time it
    meets them (dynamic binarization, Burda et al. 2016); scoring draws them once.
    """

    name = "bernoulli"
    is_random = True

    def forward(self, eta: Natural) -> Distribution:
        return independent(_Bernoulli(logits=eta, validate_args=False))

    def log_partition(self, eta: Natural) -> Columns:
        return F.softplus(eta)

    def expectation(self, eta: Natural) -> Natural:
        return torch.sigmoid(eta)

    def natural(self, expectation: Natural) -> Natural:
        return torch.logit(expectation, eps=MEAN_MARGIN)

    def observe(self, x: Columns, noise: Columns | None = None) -> Columns:
        """Return 1 where the noise is below x, else 0."""
        if noise is None:
            noise = torch.rand_like(x)
        return noise.lt(x).to(x.dtype)

    def is_observed(self, data: np.ndarray) -> bool:
        return bool(np.isin(data, (0, 1)).all())

    def check(self, data: np.ndarray) -> None:
        check_unit_interval(self, data)


class Categorical(Family):
    """Categories 0, 1, ..., V - 1, one in each column.

    eta_v = log p_v - log p_{V-1} for v < V - 1: log-odds against the last category. T is the
    one-hot code without the last entry, A(eta) = log(1 + sum_v exp(eta_v)). V parameters would not
    be minimal: a constant added to all of them changes nothing, so that an injective decoder could
    collapse.

    The mean of a code has no meaning; the `mean` of the distribution is the most probable code.

    Args:
        n_categories: V.

    Raises:
        ParameterError: if V is not an integer of at least 2.
    """

    name = "categorical"

    def __init__(
        self,
        n_categories: Annotated[
            int,
            NotBool,
            Field(ge=2, lt=MAX_CATEGORIES, description="a number of categories from 2 to 2^24 - 1"),
        ],
    ) -> None:
        super().__init__()
        checked = check_parameters(Categorical, {"n_categories": n_categories})
        self.n_categories: int = checked["n_categories"]
        self.parameters_per_column = self.n_categories - 1

    def _logits(self, eta: Natural) -> Float[Tensor, "*batch d V"]:
        """Return the logits of all V categories."""
        return F.pad(self.by_column(eta), (0, 1))

    def forward(self, eta: Natural) -> Distribution:
        return independent(_Categorical(self._logits(eta)))

    def sufficient(self, x: Columns) -> Natural:
        codes = torch.arange(self.n_categories - 1, device=x.device)
        return x.unsqueeze(-1).eq(codes).to(x.dtype).flatten(-2)

    def log_partition(self, eta: Natural) -> Columns:
        return self._logits(eta).logsumexp(-1)

    def expectation(self, eta: Natural) -> Natural:
        return self._logits(eta).softmax(-1)[..., :-1].flatten(-2)

    def natural(self, expectation: Natural) -> Natural:
        shares = self.by_column(expectation)
        least = MEAN_MARGIN / self.n_categories
        last = (1 - shares.sum(-1, keepdim=True)).clamp(min=least)
        return (shares.clamp(min=least).log() - last.log()).flatten(-2)

    def features(self, x: Columns) -> Float[Tensor, "*batch features"]:
        """Return T(x), because the order of codes has no meaning."""
        return self.sufficient(x)

    def check(self, data: np.ndarray) -> None:
        check_support(
            self,
            data,
            (data >= 0) & (data < self.n_categories) & (data == np.floor(data)),
            f"whole numbers from 0 to {self.n_categories - 1}",
            "number the categories from 0, and set n_categories to how many there are",
        )

    @property
    def arguments(self) -> dict[str, Any]:
        return {"n_categories": self.n_categories}


class _Counts(Family):
    """Whole numbers >= 0."""

    def features(self, x: Columns) -> Float[Tensor, "*batch features"]:
        """Return log(1 + x), because counts differ by orders of magnitude."""
        return x.log1p()

    def check(self, data: np.ndarray) -> None:
        is_count = (data >= 0) & (data == np.floor(data))
        remedy = "give counts, or use family='gaussian'"
        check_support(self, data, is_count, "whole numbers >= 0", remedy)


class Poisson(_Counts):
    """Counts; eta is the log of the rate, A(eta) = exp(eta), which float32 holds up to eta = 80."""

    name = "poisson"

    def forward(self, eta: Natural) -> Distribution:
        return independent(_Poisson(eta))

    def log_partition(self, eta: Natural) -> Columns:
        return eta.exp()

    def expectation(self, eta: Natural) -> Natural:
        return eta.exp()

    def natural(self, expectation: Natural) -> Natural:
        return expectation.clamp(min=MEAN_MARGIN).log()


class NegativeBinomial(_Counts):
    """Counts with more variance than a Poisson's: mean m, variance m + m^2 / r.

    p(x) = Gamma(x + r) / (x! Gamma(r)) p^x (1 - p)^r with eta = log p < 0, A(eta) = -r log(1 -
    exp(eta)), m = r p / (1 - p). r need not be an integer. torch's logits are log p - log(1 - p),
    the inverse of the link: eta = -log(1 + exp(-u)).

    Args:
        dispersion: r > 0, not trained; as it grows, the family approaches the Poisson's.

    Raises:
        ParameterError: if r is not positive and finite.
    """

    name = "negative_binomial"
    domain = negative

    def __init__(self, dispersion: PositiveFloat) -> None:
        super().__init__()
        checked = check_parameters(NegativeBinomial, {"dispersion": dispersion})
        self.dispersion: float = checked["dispersion"]

    def forward(self, eta: Natural) -> Distribution:
        logits = self.inverse_link(eta)
        return independent(
            NegativeBinomialDistribution(self.dispersion, logits=logits, validate_args=False)
        )

    def log_partition(self, eta: Natural) -> Columns:
        return -self.dispersion * torch.log(-torch.expm1(eta))

    def expectation(self, eta: Natural) -> Natural:
        return -self.dispersion * eta.exp() / torch.expm1(eta)

    def natural(self, expectation: Natural) -> Natural:
        return -torch.log1p(self.dispersion / expectation.clamp(min=MEAN_MARGIN))

    def link(self, u: Natural) -> Natural:
        """Return log sigmoid(u)."""
        return -to_positive(-u)

    def inverse_link(self, eta: Natural) -> Natural:
        return -from_positive(-eta)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"dispersion": self.dispersion}


class _Bernoulli(BernoulliDistribution):
    """Bernoulli distribution with an inverse distribution function."""

    def icdf(self, value: Tensor) -> Tensor:
        """Return the least x with P(X <= x) >= value."""
        x: Tensor = value.gt(torch.sigmoid(-self.logits)).to(self.logits.dtype)
        return x


class _Categorical(CategoricalDistribution):
    """Categorical distribution with a mean, and with draws of the parameters' type.

    torch's own also takes twice as long to normalize.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = self._param = logits.log_softmax(-1)
        self._num_events = logits.shape[-1]
        Distribution.__init__(self, logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> _Categorical:
        return _Categorical(self.logits.expand(*batch_shape, -1))

    @property
    def mean(self) -> Tensor:
        return self.logits.argmax(-1).to(self.logits.dtype)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        codes: Tensor = super().sample(torch.Size(sample_shape))
        return codes.to(self.logits.dtype)


class _Poisson(PoissonDistribution):
    """Poisson distribution in its natural parameter.

    torch's own takes the log of the rate, which is 0 in float32 below eta = -104.
    """

    def __init__(self, eta: Tensor) -> None:
        self.eta = eta
        super().__init__(eta.exp(), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> _Poisson:
        return _Poisson(self.eta.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.eta - self.rate - torch.lgamma(value + 1)

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """Return the least x with P(X <= x) >= value, by bisection."""
        rate, value = torch.broadcast_tensors(self.rate, value)
        below, above = torch.full_like(rate, -1.0), (rate + 10 * rate.sqrt() + 30).ceil()
        for _ in range(2 + int(above.nan_to_num(0, 0).max().clamp(min=1).log2())):
            middle = ((below + above) / 2).floor()
            reached = torch.special.gammaincc(middle + 1, rate) >= value  # P(X <= middle)
            below, above = torch.where(reached, below, middle), torch.where(reached, middle, above)
        least: Tensor = above.clamp(min=0)
        return least
