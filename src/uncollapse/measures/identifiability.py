"""Identifiability of latents (W21 definition 2): does the likelihood of the data depend on z?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from uncollapse._utils.errors import DataError
from uncollapse._utils.random import seeded
from uncollapse.adapters import adapt_model
from uncollapse.measures.batches import some_rows
from uncollapse.measures.estimate import Estimate
from uncollapse.models import LatentModel, evaluating, to_device

N_DRAWS, N_ROWS, DIFFERENTIATED_ROWS_AT_ONCE = 64, 64, 8
# Rounding errors of log p(x|z) that a constant likelihood may show.
N_ROUNDINGS = 64


@dataclass(frozen=True)
class Identifiability:
    """How much the likelihood of data varies with the latents; true if it varies at all.

    Attributes:
        spread_nats: standard deviation of log p(x|z) over z from the prior, mean over the rows.
        resolution_nats: the largest spread that rounding alone can cause.
        units: a row for each unit: ``unit``, ``spread_nats`` when this unit alone is drawn anew
            from the prior, and ``identifiable``; empty where units cannot be moved one by one, as
            discrete ones.
    """

    spread_nats: Estimate
    resolution_nats: float
    units: pd.DataFrame

    def __bool__(self) -> bool:
        return self.spread_nats.value > self.resolution_nats

    def __repr__(self) -> str:
        moves = f"moves by {self.spread_nats.value:.3g} nats with z from the prior"
        if not self:
            return (
                "Not identifiable: the likelihood of the data is constant in z, and so p(z|x) = "
                f"p(z) (it {moves})"
            )
        fixed = [] if self.units.empty else self.units["unit"][~self.units["identifiable"]].tolist()
        names = ", ".join(map(str, fixed))
        but = f", but not with unit{'s' * (len(fixed) > 1)} {names}" if fixed else ""
        return f"Identifiable: the likelihood of the data {moves}{but}"


def is_identifiable(model: Any, X: Any) -> Identifiability:
    """Test whether the likelihood of data depends on the latents, in total and unit by unit.

    Latents are non-identifiable at the model's parameters if p(x|z) is the same for every z (W21
    definition 2). This holds if and only if their exact posterior is the prior (W21 theorem 1),
    whatever the encoder says. A spread of a hundredth of a nat is as good as a collapse.

    Args:
        model: any model that `uncollapse.diagnose` accepts.
        X: data, as `uncollapse.diagnose` takes them; 64 random rows are taken, with 64 draws of z
            from the prior.

    Raises:
        InputError: if the data do not suit the model.

    >>> import numpy as np, torch, uncollapse as uc
    >>> from torch.distributions import Normal
    >>> weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # The second unit does nothing.
    >>> model = uc.from_functions(
    ...     lambda x: (x[:, :2], x[:, :2]),
    ...     lambda z: z @ weight,
    ...     likelihood=lambda mean: Normal(mean, 1.0),
    ...     latent_dim=2,
    ... )
    >>> found = uc.is_identifiable(model, np.random.default_rng(0).normal(size=(100, 3)))
    >>> bool(found), found.units["identifiable"].tolist()
    (True, [True, False])
    """
    adapted = adapt_model(model)
    own = adapted.model
    rows = some_rows(adapted, X, N_ROWS)
    if not len(rows):
        raise DataError("is_identifiable expects at least one row, got none.")
    with evaluating(own), torch.no_grad(), seeded(0):
        x = to_device(own, rows)
        z, other = own.draw_prior(N_DRAWS), own.draw_prior(N_DRAWS)
        log_p = _log_likelihood(own, x, z)
        spreads = _unit_spreads(own, x, z, other, log_p) if own.is_unbounded else np.empty(0)
    finite = log_p[log_p.isfinite()].abs()
    size = max(1.0, float(finite.mean()) if len(finite) else 1.0)
    resolution = N_ROUNDINGS * float(torch.finfo(log_p.dtype).eps) * size
    units = pd.DataFrame(
        {
            "unit": np.arange(len(spreads)),
            "spread_nats": spreads,
            "identifiable": spreads > resolution,
        }
    )
    # A density of 0 at some z tells it from the others: its spread is infinite.
    spread = log_p.double().std(0).nan_to_num(math.inf).cpu().numpy()
    mean = Estimate.mean_of(spread) if np.isfinite(spread).all() else Estimate(math.inf)
    return Identifiability(mean, resolution, units)


def _log_likelihood(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """Compute log p(x|z) of every row at every z, shape (draws, n), in nats."""
    found = [
        model.log_likelihood(rows, z.unsqueeze(1).expand(-1, len(rows), -1))
        for rows in torch.split(x, DIFFERENTIATED_ROWS_AT_ONCE)
    ]
    return torch.cat(found, 1)


def _unit_spreads(
    model: LatentModel, x: Tensor, z: Tensor, other: Tensor, log_p: Tensor
) -> np.ndarray:
    """Compute the deviation of log p(x|z) when one unit alone is drawn anew, root mean square over
    rows and draws, shape (latent_dim,)."""
    spreads = np.empty(model.latent_dim)
    for unit in range(model.latent_dim):
        moved = z.clone()
        moved[:, unit] = other[:, unit]
        squares = (_log_likelihood(model, x, moved) - log_p).double().square()
        squares = torch.where(log_p == -math.inf, 0.0, squares).nan_to_num(math.inf)
        spreads[unit] = math.sqrt(float(squares.mean()) / 2)
    return spreads
