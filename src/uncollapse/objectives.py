"""What training minimises: functions (model, x, step) -> Loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from uncollapse.models import VAE, Terms


class Loss(NamedTuple):
    """The number to minimise, in nats per example, and the terms it was made of."""

    value: Float[Tensor, ""]
    terms: Terms


Objective = Callable[[VAE, Tensor, int], Loss]


def elbo(model: VAE, x: Float[Tensor, "batch data"], step: int) -> Loss:
    """The negative evidence lower bound, -E_q log p(x|z) + KL(q(z|x) || p(z)) (Kingma & Welling 2014), at one draw of z."""
    del step
    terms = model(x)
    return Loss(-terms.elbo.mean(), terms)
