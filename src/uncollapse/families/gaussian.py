"""Gaussian families: one scale for all columns, or a free mean and variance for each."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints

from uncollapse._utils.parameters import Count, PositiveFloat, check_parameters
from uncollapse.families.base import (
    MEAN_MARGIN,
    Columns,
    Family,
    Natural,
    from_positive,
    independent,
    negative,
    to_positive,
)

# Rows held in float64 at once.
SQUARED_ROWS_AT_ONCE = 1000


class Gaussian(Family):
    """Real data with one scale sigma for all columns.

    eta = (mean - c) / sigma, T(x) = (x - c) / sigma, A(eta) = eta^2 / 2. The center c is that of
    the data and is not trained. It belongs to the base measure, so that neither sigma nor a
    constant of the decoder depends on the location of the data.

    Args:
        scale: sigma, in the units of the data. None learns it, starting from the root mean square
            deviation of the data.
        data_dim: d; unimportant for a family that is only a specification.

    Raises:
        ParameterError: if the scale is not positive and finite.
    """

    name = "gaussian"

    centre: Tensor

    def __init__(
        self,
        scale: Annotated[
            PositiveFloat | None, Field(description="a positive finite number, or None to learn it")
        ] = None,
        data_dim: Count = 1,
    ) -> None:
        super().__init__()
        self.fixed_scale: float | None = None
        # The spelling of the name is that of saved runs.
        self.register_buffer("centre", torch.zeros(data_dim))
        if scale is None:
            self.log_scale = nn.Parameter(torch.tensor(0.0))
        else:
            self.fixed_scale = scale = check_parameters(Gaussian, {"scale": scale})["scale"]
            log_scale = torch.tensor(math.log(scale), dtype=torch.get_default_dtype())
            self.register_buffer("log_scale", log_scale)

    @property
    def scale(self) -> Tensor:
        """sigma, in the units of the data."""
        return self.log_scale.exp()

    def forward(self, eta: Natural) -> Distribution:
        return independent(_Normal(self.centre + eta * self.scale, self.scale))

    def sufficient(self, x: Columns) -> Natural:
        return (x - self.centre) / self.scale

    def log_partition(self, eta: Natural) -> Columns:
        return eta.square() / 2

    def expectation(self, eta: Natural) -> Natural:
        return eta

    def natural(self, expectation: Natural) -> Natural:
        return expectation

    @torch.no_grad()
    def initialize_from_data(self, data: np.ndarray, noise_share: float = 1.0) -> None:
        deviation = _deviation(data) * math.sqrt(noise_share)
        self.centre.copy_(torch.as_tensor(data.mean(axis=0, dtype=np.float64)))
        if self.fixed_scale is None and deviation > 0:
            self.log_scale.fill_(math.log(deviation))

    def for_features(self, data_dim: int) -> Family:
        return type(self)(self.fixed_scale, data_dim)

    def check_invariants(self) -> bool:
        scale = float(self.scale.detach())
        return 0 < scale < math.inf and (
            self.fixed_scale is None or math.isclose(scale, self.fixed_scale, rel_tol=1e-4)
        )

    @property
    def arguments(self) -> dict[str, Any]:
        return {} if self.fixed_scale is None else {"scale": self.fixed_scale}

    def extra_repr(self) -> str:
        return super().extra_repr() or "scale=learned"


class HeteroscedasticGaussian(Family):
    """Real data with a free mean and variance in each column.

    With y = (x - c) / unit of mean m and standard deviation s, eta = (m / s^2, -1 / (2 s^2)) with
    the second below 0, T(x) = (y, y^2), A(eta) = m^2 / (2 s^2) + log s. The center c and the one
    unit of all columns, their root mean square deviation, are those of the data and are not
    trained. They belong to the base measure, so that nothing depends on the location and the units
    of the data. As with every free variance, the likelihood has no upper bound if a column repeats
    a value exactly.

    Args:
        data_dim: d; unimportant for a family that is only a specification.
    """

    name = "heteroscedastic_gaussian"
    domain = constraints.stack([constraints.real, negative], dim=-1)
    parameters_per_column = 2

    centre: Tensor
    unit: Tensor

    def __init__(self, data_dim: Count = 1) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(data_dim))
        self.register_buffer("unit", torch.ones(()))

    def _moments(self, eta: Natural) -> tuple[Columns, Columns]:
        """Mean and variance of y."""
        first, second = self.by_column(eta).unbind(-1)
        variance = -0.5 / second
        return first * variance, variance

    def forward(self, eta: Natural) -> Distribution:
        mean, variance = self._moments(eta)
        return independent(_Normal(self.centre + self.unit * mean, self.unit * variance.sqrt()))

    def sufficient(self, x: Columns) -> Natural:
        y = (x - self.centre) / self.unit
        return _pairs(y, y.square())

    def log_partition(self, eta: Natural) -> Columns:
        mean, variance = self._moments(eta)
        return (mean.square() / variance + variance.log()) / 2

    def expectation(self, eta: Natural) -> Natural:
        mean, variance = self._moments(eta)
        return _pairs(mean, mean.square() + variance)

    def natural(self, expectation: Natural) -> Natural:
        mean, square = self.by_column(expectation).unbind(-1)
        variance = (square - mean.square()).clamp(min=MEAN_MARGIN)
        return _pairs(mean / variance, -0.5 / variance)

    def link(self, u: Natural) -> Natural:
        """Return (u1, -log(1 + exp(u2))) for each column."""
        first, second = self.by_column(u).unbind(-1)
        return _pairs(first, -to_positive(second))

    def inverse_link(self, eta: Natural) -> Natural:
        first, second = self.by_column(eta).unbind(-1)
        return _pairs(first, from_positive(-second))

    @torch.no_grad()
    def initialize_from_data(self, data: np.ndarray, noise_share: float = 1.0) -> None:
        self.centre.copy_(torch.as_tensor(data.mean(axis=0, dtype=np.float64)))
        self.unit.fill_(_deviation(data) or 1.0)

    def for_features(self, data_dim: int) -> Family:
        return type(self)(data_dim)

    def check_invariants(self) -> bool:
        return 0 < float(self.unit) < math.inf


def _pairs(first: Columns, second: Columns) -> Natural:
    """Return two parameters of each column, side by side."""
    return torch.stack((first, second), -1).flatten(-2)


def _deviation(data: np.ndarray) -> float:
    """Return the root mean square deviation of all columns from their means.

    `np.var` would copy all data in float64.
    """
    mean = data.mean(axis=0, dtype=np.float64)
    total = 0.0
    for start in range(0, len(data), SQUARED_ROWS_AT_ONCE):
        total += float(np.square(data[start : start + SQUARED_ROWS_AT_ONCE] - mean).sum())
    return math.sqrt(total / data.size)


class _Normal(Normal):
    """Normal distribution without torch's squared scale, which over- or underflows in float32."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        error = (value - self.loc) / self.scale
        return -error.square() / 2 - self.scale.log() - math.log(2 * math.pi) / 2
