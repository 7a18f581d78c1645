"""What every family offers, and what families share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from uncollapse._utils.errors import DataError

# Means are pulled this far inside their open domain before they are mapped to natural parameters,
# so that a pixel that is always black starts at a finite logit, and a word that never occurs at a
# finite rate.
MEAN_MARGIN = 1e-2

# Links keep this far from the border of the domain: the inverse and its square are then well inside
# float32.
DOMAIN_MARGIN = 1e-12

negative: constraints.Constraint = constraints.less_than(0.0)  # type: ignore[no-untyped-call]


class Family(nn.Module, ABC):
    """An exponential family in minimal natural parameters, applied to each of d columns of data.

    A column has k natural parameters, which stand together: eta of shape (*batch, t), t = d k, is d
    groups of k. Some families' parameters do not fill R^t; their `link` is a bijection from R^t
    onto the domain (W21 appendix B), so that a decoder's output u can be any vector. A link keeps a
    decoder injective, but no inverse Lipschitz constant.

    ``family(eta)`` returns p(x|eta) as a `torch.distributions.Distribution` over vectors:
    ``log_prob`` is in nats per example.

    Attributes:
        name: what specifications call the family.
        is_random: whether `observe` decides by random draws.
        domain: the natural parameters of a column, as a constraint on the last dimension of
            `by_column`.
        parameters_per_column: k.
    """

    name: ClassVar[str]
    is_random: ClassVar[bool] = False
    domain: ClassVar[constraints.Constraint] = constraints.real
    parameters_per_column: int = 1

    @abstractmethod
    def forward(self, eta: Float[Tensor, "*batch t"]) -> Distribution:
        """p(x|eta), with the d columns as its event."""

    def sufficient(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch t"]:
        """T(x), the sufficient statistic."""
        return x

    @abstractmethod
    def log_partition(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d"]:
        """A(eta), for each column, in nats."""

    @abstractmethod
    def expectation(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """E[T(x) | eta], which is the gradient of the sum of A over columns."""

    @abstractmethod
    def natural(self, expectation: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """The natural parameter at which T(x) has this expectation, pulled inside the domain where
        it lies on its border."""

    def link(self, u: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """A bijection from R^t onto the domain: the identity where the domain is R^t."""
        return u

    def inverse_link(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch t"]:
        """The inverse of `link`."""
        return eta

    @property
    def fills_space(self) -> bool:
        """Whether the domain is R^t, so that a constant of the decoder is one of the natural
        parameters."""
        return self.domain is constraints.real

    def natural_dim(self, data_dim: int) -> int:
        """t = d k, the number of natural parameters of data with d columns."""
        return data_dim * self.parameters_per_column

    def by_column(self, eta: Float[Tensor, "*batch t"]) -> Float[Tensor, "*batch d k"]:
        """The natural parameters of each column, or the statistics."""
        k = self.parameters_per_column
        return eta.reshape(*eta.shape[:-1], eta.shape[-1] // k, k)

    def features(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch features"]:
        """What an encoder sees of x."""
        return x

    def observe(
        self, x: Float[Tensor, "*batch d"], uniform: Float[Tensor, "*batch d"] | None = None
    ) -> Tensor:
        """Data as the likelihood sees them. The identity, except for a family that takes data for
        probabilities.

        Args:
            x: data that passed `check`.
            uniform: draws from U(0, 1) to decide by; from the global generator if not given.
        """
        return x

    def is_observed(self, data: np.ndarray) -> bool:
        """Whether `observe` leaves these data as they are."""
        return True

    def check(self, data: np.ndarray) -> None:
        """Raise `InputError` if some value of data of shape (n, d) lies outside the support."""
        del data  # R^d holds every finite value

    def initialize_from_data(self, data: np.ndarray, noise_share: float = 1.0) -> None:
        """Start the family at values that suit data of shape (n, d).

        Args:
            data: rows.
            noise_share: the share of their variance that is left for the family to explain, where
                the decoder cannot but explain the rest.
        """
        del data, noise_share

    def for_features(self, data_dim: int) -> Family:
        """A family of the same kind and arguments for data of this dimension, as untrained as at
        first."""
        del data_dim
        return copy.deepcopy(self)

    def check_invariants(self) -> bool:
        """Whether what was read from a file is what the arguments say."""
        return True

    @property
    def spec(self) -> str | dict[str, dict[str, Any]]:
        """What `get_family` turns back into this family."""
        return self.name

    def extra_repr(self) -> str:
        return ""


def check_support(
    family: Family, data: np.ndarray, inside: np.ndarray, expected: str, remedy: str
) -> None:
    """Raise `InputError` with the first value that is not inside the support.

    Args:
        family: whose support it is.
        data: shape (n, d).
        inside: which values are inside, the same shape.
        expected: the support in words.
        remedy: what to do.
    """
    if not inside.all():
        row, column = (int(index) for index in np.argwhere(~inside)[0])
        raise DataError(
            f"family {family.name!r} expects {expected}, got {data[row, column]:.7g} in row {row}, "
            f"column {column}: {remedy}."
        )


def check_unit_interval(family: Family, data: np.ndarray) -> None:
    """Raise `InputError` if some value lies outside [0, 1]."""
    low, high = float(data.min()), float(data.max())
    if low < 0 or high > 1:
        raise DataError(
            f"family {family.name!r} expects values in [0, 1], got values from {low:g} to "
            f"{high:g}: "
            "rescale the data (for images, divide by the largest grey level) or use "
            "family='gaussian'."
        )


def to_positive(u: Tensor) -> Tensor:
    """log(1 + exp(u)), and never less than the margin: a bijection from R onto the positive
    numbers."""
    return F.softplus(u, threshold=50).clamp(
        min=DOMAIN_MARGIN
    )  # the default threshold of 20 shows in float64


def from_positive(value: Tensor) -> Tensor:
    """log(exp(value) - 1), the inverse of `to_positive`."""
    return value + torch.log(-torch.expm1(-value))
