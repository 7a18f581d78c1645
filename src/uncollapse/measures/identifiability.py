"""Whether latents are identifiable, as W21's definition 2 has it: does the likelihood of the data
move with z?"""

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
from uncollapse.adapters import adapt_model, evaluating
from uncollapse.measures.batches import some_rows
from uncollapse.measures.estimate import Estimate
from uncollapse.models import LatentModel, to_device

N_DRAWS, N_ROWS, ROWS_AT_ONCE = 64, 64, 8
# Roundings of log p(x|z) that a constant likelihood may show.
N_ROUNDINGS = 64


@dataclass(frozen=True)
class Identifiability:
    """How far the likelihood of data moves with the latents. True where it moves at all.

    Attributes:
        spread_nats: the deviation of log p(x|z) over z from the prior, mean over the rows.
        resolution_nats: what rounding alone may move it by.
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
            return f"Not identifiable: the likelihood of the data is constant in z, and so p(z|x) = p(z) (it {moves})"
        fixed = (
            self.units.loc[~self.units["identifiable"], "unit"].tolist() if len(self.units) else []
        )
        but = (
            f", but not with unit{'s' * (len(fixed) > 1)} {', '.join(map(str, fixed))}"
            if fixed
            else ""
        )
        return f"Identifiable: the likelihood of the data {moves}{but}"


def is_identifiable(model: Any, X: Any) -> Identifiability:
    """Whether the likelihood of data moves with the latents of a model, in total and unit by unit.

    Latents are non-identifiable at the model's parameters if p(x|z) is the same for every z (W21
    definition 2), and this holds if and only if their exact posterior is the prior (W21 theorem 1),
    whatever posterior an encoder gives. Numbers say more than a yes: a spread of a hundredth of a
    nat is as good as a collapse.

    Args:
        model: whatever `diagnose` takes.
        X: data, as `diagnose` takes them; 64 random rows are looked at, with 64 draws of z from the
            prior.

    Raises:
        InputError: if the data do not suit the model.

    >>> import numpy as np, torch, uncollapse as uc
    >>> from torch.distributions import Normal
    >>> weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # of two units, the second does nothing
    >>> model = uc.from_functions(
    ...     lambda x: (x[:, :2], x[:, :2]), lambda z: z @ weight, likelihood=lambda mean: Normal(mean, 1.0), latent_dim=2
    ... )
    >>> found = uc.is_identifiable(model, np.random.default_rng(0).normal(size=(100, 3)))
    >>> bool(found), found.units["identifiable"].tolist()
    (True, [True, False])
    """
    subject = adapt_model(model)
    rows = some_rows(subject, X, N_ROWS)
    if not len(rows):
        raise DataError("is_identifiable expects at least one row, got none.")
    with evaluating(subject.model), torch.no_grad(), seeded(0):
        x = to_device(subject.model, rows)
        z, other = (subject.model.draw_prior(N_DRAWS) for _ in range(2))
        log_p = _log_likelihood(subject.model, x, z)
        units = (
            _by_unit(subject.model, x, z, other, log_p)
            if subject.model.is_unbounded
            else np.empty(0)
        )
    finite = log_p[log_p.isfinite()].abs()
    resolution = (
        N_ROUNDINGS
        * float(torch.finfo(log_p.dtype).eps)
        * max(1.0, float(finite.mean()) if len(finite) else 1.0)
    )
    table = pd.DataFrame(
        {"unit": np.arange(len(units)), "spread_nats": units, "identifiable": units > resolution}
    )
    spread = (
        log_p.double().std(0).nan_to_num(math.inf).cpu().numpy()
    )  # densities that are 0 for some z tell it from others
    return Identifiability(
        Estimate.mean_of(spread) if np.isfinite(spread).all() else Estimate(math.inf),
        resolution,
        table,
    )


def _log_likelihood(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) of every row at every z, shape (draws, n), in nats."""
    pieces = torch.split(x, ROWS_AT_ONCE)
    return torch.cat(
        [
            model.log_likelihood(piece, z.unsqueeze(1).expand(-1, len(piece), -1))
            for piece in pieces
        ],
        1,
    )


def _by_unit(model: LatentModel, x: Tensor, z: Tensor, other: Tensor, log_p: Tensor) -> np.ndarray:
    """The deviation of log p(x|z) when one unit alone is drawn anew, root mean square over all
    else, shape (latent_dim,)."""
    spreads = np.empty(model.latent_dim)
    for unit in range(model.latent_dim):
        moved = z.clone()
        moved[:, unit] = other[:, unit]
        moves = (_log_likelihood(model, x, moved) - log_p).double().square()
        spreads[unit] = math.sqrt(
            float(torch.where(log_p == -math.inf, 0.0, moves).nan_to_num(math.inf).mean()) / 2
        )
    return spreads
