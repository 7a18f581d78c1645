"""A number with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, NaN where it has none."""

    value: float
    standard_error: float = math.nan

    @classmethod
    def mean_of(cls, values: np.ndarray) -> Estimate:
        """Return the mean of independent values, with its standard error (NaN for one value)."""
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return Estimate(float(values.mean()), float(error))

    @classmethod
    def share(cls, share: float, n: int) -> Estimate:
        """Return a share of n independent examples, with its binomial error."""
        return Estimate(share, math.sqrt(share * (1 - share) / n))

    def exceeds(self, bound: float, n_errors: float = 3.0) -> bool:
        """Return whether the value is above a bound by more than `n_errors` standard errors."""
        return self.value > bound and not self.value - n_errors * self.standard_error <= bound
