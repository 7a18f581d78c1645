"""Families of discrete data: binary, categories and counts."""

from __future__ import annotations

import math
import numbers
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution, Independent
from torch.distributions import NegativeBinomial as NegativeBinomialDistribution
from torch.distributions import Poisson as PoissonDistribution

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import NotBool, PositiveFloat
from uncollapse.families.base import (
    MEAN_MARGIN,
    Family,
    check_support,
    check_unit_interval,
    from_positive,
    negative,
    to_positive,
)

Shape = torch.Size | list[int] | tuple[int, ...]


class Bernoulli(Family):
    """Binary data; eta is the logit, A(eta) = log(1 + exp(eta)).

    Values strictly between 0 and 1 are probabilities of a 1: training draws them anew every time it
    meets them (dynamic binarisation, Burda et al. 2016), scoring draws them once.
    """

    name = "bernoulli"
    is_random = True

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(
            _BernoulliDistribution(logits=eta, validate_args=False), 1, validate_args=False
        )

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        return F.softplus(eta)

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return torch.sigmoid(eta)

    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return torch.logit(expectation, eps=MEAN_MARGIN)

    def observe(
        self, x: Float[Tensor, "*batch d"], uniform: Float[Tensor, "*batch d"] | None = None
    ) -> Tensor:
        if uniform is None:
            uniform = torch.rand_like(x)
        return uniform.lt(x).to(x.dtype)

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
        InputError: if V is not an integer of at least 2.
    """

    name = "categorical"

    def __init__(
        self,
        n_categories: Annotated[
            int,
            NotBool,
            Field(ge=2, lt=2**24, description="a number of categories from 2 to 2^24 - 1"),
        ],
    ) -> None:
        super().__init__()
        # Beyond 2^24, float32 cannot tell codes apart.
        if (
            not isinstance(n_categories, numbers.Integral)
            or isinstance(n_categories, bool)
            or not 2 <= n_categories < 2**24
        ):
            raise ParameterError(
                f"n_categories expects a number of categories from 2 to 2^24 - 1, got "
                f"{n_categories!r}."
            )
        self.n_categories: int = int(n_categories)
        self.parameters_per_column = self.n_categories - 1

    def _logits(self, eta: Tensor) -> Tensor:
        """Logits of all V categories, shape (*batch, d, V)."""
        return F.pad(self.by_column(eta), (0, 1))

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(_CategoricalDistribution(self._logits(eta)), 1, validate_args=False)

    def sufficient(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch t"]:
        return (
            x.unsqueeze(-1)
            .eq(torch.arange(self.n_categories - 1, device=x.device))
            .to(x.dtype)
            .flatten(-2)
        )

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        return self._logits(eta).logsumexp(-1)

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return self._logits(eta).softmax(-1)[..., :-1].flatten(-2)

    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        shares = self.by_column(expectation)
        least = MEAN_MARGIN / self.n_categories
        last = (1 - shares.sum(-1, keepdim=True)).clamp(min=least)
        return (shares.clamp(min=least).log() - last.log()).flatten(-2)

    def features(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch features"]:
        """T(x): codes are names, and their order says nothing."""
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
    def spec(self) -> str | dict[str, dict[str, Any]]:
        return {self.name: {"n_categories": self.n_categories}}

    def extra_repr(self) -> str:
        return f"n_categories={self.n_categories}"


class _Counts(Family):
    """Whole numbers >= 0."""

    def features(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch features"]:
        """log(1 + x): counts differ by orders of magnitude."""
        return x.log1p()

    def check(self, data: np.ndarray) -> None:
        check_support(
            self,
            data,
            (data >= 0) & (data == np.floor(data)),
            "whole numbers >= 0",
            "give counts, or use family='gaussian'",
        )


class Poisson(_Counts):
    """Counts; eta is the log of the rate, A(eta) = exp(eta), which float32 holds up to eta = 80."""

    name = "poisson"

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        return Independent(_PoissonDistribution(eta), 1, validate_args=False)

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        return eta.exp()

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return eta.exp()

    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return expectation.clamp(min=MEAN_MARGIN).log()


class NegativeBinomial(_Counts):
    """Counts of more than a Poisson's variance: mean m, variance m + m^2 / r.

    p(x) = Gamma(x + r) / (x! Gamma(r)) p^x (1 - p)^r with eta = log p < 0, A(eta) = -r log(1 -
    exp(eta)), m = r p / (1 - p). For non-integer r too. torch's logits are log p - log(1 - p),
    which is the inverse of the link: eta = -log(1 + exp(-u)).

    Args:
        dispersion: r > 0; as it grows, the family approaches the Poisson's. It is not trained.

    Raises:
        InputError: if r is not positive and finite.
    """

    name = "negative_binomial"
    domain = negative

    def __init__(self, dispersion: PositiveFloat) -> None:
        super().__init__()
        if (
            not isinstance(dispersion, numbers.Real)
            or isinstance(dispersion, bool)
            or not 0 < dispersion < math.inf
        ):
            raise ParameterError(
                f"dispersion expects a positive finite number, got {dispersion!r}."
            )
        self.dispersion: float = float(dispersion)

    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        distribution = NegativeBinomialDistribution(
            self.dispersion, logits=self.inverse_link(eta), validate_args=False
        )
        return Independent(distribution, 1, validate_args=False)

    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        return -self.dispersion * torch.log(-torch.expm1(eta))

    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return -self.dispersion * eta.exp() / torch.expm1(eta)

    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return -torch.log1p(self.dispersion / expectation.clamp(min=MEAN_MARGIN))

    def link(self, u: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """log sigmoid(u)."""
        return -to_positive(-u)

    def inverse_link(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        return -from_positive(-eta)

    @property
    def spec(self) -> str | dict[str, dict[str, Any]]:
        return {self.name: {"dispersion": self.dispersion}}

    def extra_repr(self) -> str:
        return f"dispersion={self.dispersion:g}"


class _BernoulliDistribution(BernoulliDistribution):
    """torch's own cannot be drawn by the inverse of its distribution function."""

    def icdf(self, value: Tensor) -> Tensor:
        """The least x with P(X <= x) >= value."""
        x: Tensor = value.gt(torch.sigmoid(-self.logits)).to(self.logits.dtype)
        return x


class _CategoricalDistribution(CategoricalDistribution):
    """torch's own has no mean, its draws are integers where data are floats, and it takes twice as
    long to normalise."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = self._param = logits.log_softmax(-1)
        self._num_events = logits.shape[-1]
        Distribution.__init__(self, logits.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> _CategoricalDistribution:
        return _CategoricalDistribution(self.logits.expand(*batch_shape, -1))

    @property
    def mean(self) -> Tensor:
        return self.logits.argmax(-1).to(self.logits.dtype)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        codes: Tensor = super().sample(torch.Size(sample_shape))  # type: ignore[no-untyped-call]
        return codes.to(self.logits.dtype)


class _PoissonDistribution(PoissonDistribution):
    """In the natural parameter: torch's own takes the log of the rate, which is 0 in float32 below
    eta = -104."""

    def __init__(self, eta: Tensor) -> None:
        self.eta = eta
        super().__init__(eta.exp(), validate_args=False)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> _PoissonDistribution:
        return _PoissonDistribution(self.eta.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.eta - self.rate - torch.lgamma(value + 1)

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """The least x with P(X <= x) >= value, by bisection."""
        rate, value = torch.broadcast_tensors(self.rate, value)  # type: ignore[no-untyped-call]
        below, above = torch.full_like(rate, -1.0), (rate + 10 * rate.sqrt() + 30).ceil()
        for _ in range(2 + int(above.nan_to_num(0, 0).max().clamp(min=1).log2())):
            middle = ((below + above) / 2).floor()
            reached = torch.special.gammaincc(middle + 1, rate) >= value  # P(X <= middle)
            below, above = torch.where(reached, below, middle), torch.where(reached, middle, above)
        least: Tensor = above.clamp(min=0)
        return least
