"""The interface of families, and helpers that families share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

from uncollapse._utils.errors import DataError

# Means are pulled this far inside their open domain before they become natural parameters: a pixel
# that is always black then starts at a finite logit, a word that never occurs at a finite rate.
MEAN_MARGIN = 1e-2

# Links keep this far from the border of the domain, where the inverse and its square are still far
# from the limits of float32.
DOMAIN_MARGIN = 1e-12

Columns = Float[Tensor, "*batch d"]
Natural = Float[Tensor, "*batch t"]

negative: constraints.Constraint = constraints.less_than(0.0)


class Family(nn.Module, ABC):
    """Exponential family p(x|eta) in minimal natural parameters, for each of d columns of data.

    A column has k natural parameters, which stand together: eta of shape (*batch, t), t = d k, is d
    groups of k. If they do not fill R^k, `link` is a bijection from R^t onto the domain (W21
    appendix B), so that a decoder's output u can be any vector. A link keeps a decoder injective,
    but no inverse Lipschitz constant.

    ``family(eta)`` returns p(x|eta) as a `torch.distributions.Distribution` over vectors:
    ``log_prob`` is in nats per example.

    Attributes:
        name: name of the family in specifications.
        domain: domain of a column's natural parameters, as a constraint on the last dimension of
            `by_column`.
        parameters_per_column: k.
        is_random: whether `observe` decides by random draws.
    """

    name: ClassVar[str]
    domain: ClassVar[constraints.Constraint] = constraints.real
    parameters_per_column: int = 1
    is_random: ClassVar[bool] = False

    @abstractmethod
    def forward(self, eta: Natural) -> Distribution:
        """Return p(x|eta), with the d columns as its event."""

    def sufficient(self, x: Columns) -> Natural:
        """Return T(x), the sufficient statistic."""
        return x

    @abstractmethod
    def log_partition(self, eta: Natural) -> Columns:
        """Return A(eta) of each column, in nats."""

    @abstractmethod
    def expectation(self, eta: Natural) -> Natural:
        """Return E[T(x) | eta], the gradient of the sum of A over columns."""

    @abstractmethod
    def natural(self, expectation: Natural) -> Natural:
        """Return the eta at which T(x) has this expectation, which is pulled inside the domain if
        it lies on its border."""

    def link(self, u: Natural) -> Natural:
        """Map R^t onto the domain, one to one; by default the identity."""
        return u

    def inverse_link(self, eta: Natural) -> Natural:
        """Return the u with link(u) = eta."""
        return eta

    @property
    def fills_space(self) -> bool:
        """Whether the domain is R^t, so that a decoder's constant is one of the natural
        parameters."""
        return self.domain is constraints.real

    def natural_dim(self, data_dim: int) -> int:
        """Return t = d k, the number of natural parameters of data with d columns."""
        return data_dim * self.parameters_per_column

    def by_column(self, eta: Natural) -> Float[Tensor, "*batch d k"]:
        """Return natural parameters, or statistics, grouped by column."""
        k = self.parameters_per_column
        return eta.reshape(*eta.shape[:-1], eta.shape[-1] // k, k)

    def features(self, x: Columns) -> Float[Tensor, "*batch features"]:
        """Return the features of x that an encoder sees; by default x."""
        return x

    def observe(self, x: Columns, noise: Columns | None = None) -> Columns:
        """Return data as the likelihood sees them; by default x.

        Args:
            x: data that passed `check`.
            noise: draws from U(0, 1), used if `is_random`; from the global generator if
                not given.
        """
        return x

    def is_observed(self, data: np.ndarray) -> bool:
        """Return whether `observe` leaves these data unchanged."""
        return True

    def check(self, data: np.ndarray) -> None:
        """Raise `DataError` if a value of data of shape (n, d) lies outside the support."""
        del data  # R^d holds every finite value

    def initialize_from_data(self, data: np.ndarray, noise_share: float = 1.0) -> None:
        """Start at values suited to data of shape (n, d), before training.

        `noise_share` is the share of their variance that is left to the family, if the decoder is
        bound to explain the rest.
        """
        del data, noise_share

    def for_features(self, data_dim: int) -> Family:
        """Return an untrained family with the same arguments, for d = `data_dim` columns."""
        del data_dim
        return copy.deepcopy(self)

    def check_invariants(self) -> bool:
        """Return whether tensors read from a file agree with the arguments."""
        return True

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments from which the class makes this family, unless they are the defaults."""
        return {}

    @property
    def spec(self) -> str | dict[str, dict[str, Any]]:
        """Specification from which `get_family` makes this family."""
        return {self.name: self.arguments} if self.arguments else self.name

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value:.9g}" for name, value in self.arguments.items())


def independent(columns: Distribution) -> Distribution:
    """Return the joint distribution of independent columns."""
    return Independent(columns, 1, validate_args=False)


def check_support(
    family: Family, data: np.ndarray, inside: np.ndarray, expected: str, remedy: str
) -> None:
    """Raise `DataError` at the first value of data, shape (n, d), that is not `inside`."""
    if not inside.all():
        row, column = (int(index) for index in np.argwhere(~inside)[0])
        raise DataError(
            f"family {family.name!r} expects {expected}, got {data[row, column]:.7g} in row {row}, "
            f"column {column}: {remedy}."
        )


def check_unit_interval(family: Family, data: np.ndarray) -> None:
    """Raise `DataError` if a value lies outside [0, 1]."""
    low, high = float(data.min()), float(data.max())
    if low < 0 or high > 1:
        raise DataError(
            f"family {family.name!r} expects values in [0, 1], got values from {low:g} to "
            f"{high:g}: rescale the data (for images, divide by the largest grey level) or use "
            "family='gaussian'."
        )


def to_positive(u: Tensor) -> Tensor:
    """Return log(1 + exp(u)), at least the margin: a bijection from R onto the positive numbers."""
    # The default threshold of 20 shows in float64.
    return F.softplus(u, threshold=50).clamp(min=DOMAIN_MARGIN)


def from_positive(value: Tensor) -> Tensor:
    """Return log(exp(value) - 1), the inverse of `to_positive`."""
    return value + torch.log(-torch.expm1(-value))
