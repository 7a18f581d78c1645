"""Free bits: a KL that costs nothing up to a threshold."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import PositiveFloat
from uncollapse._utils.sharding import batch_mean
from uncollapse.models import VAE
from uncollapse.objectives.base import Loss, Objective


class FreeBits(Objective):
    """-E_q log p(x|z) + sum_d max(lambda, KL_d), KL_d the mean over the batch of a unit's KL
    (Kingma et al. 2016, equation 15).

    Args:
        nats: lambda, which each unit has free.
    """

    name = "free_bits"

    def __init__(self, nats: PositiveFloat = 0.1) -> None:
        super().__init__()
        self.nats = nats

    @torch.no_grad()
    def check(self, model: VAE, x: Tensor) -> None:
        """Refuse a model whose KL does not fall into units."""
        if model.kl_by_unit(model.infer(x)) is None:
            raise ParameterError(
                "objective 'free_bits' expects a KL that falls into units, which this prior or "
                "posterior ties together: use a "
                "Gaussian posterior with a VAE, or inference='enumerate' with a mixture."
            )

    def forward(self, model: VAE, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """The loss."""
        del step
        terms = model(x)
        units = model.kl_by_unit(terms.latents)
        assert units is not None
        rest = terms.latents.kl - units.sum(-1)  # of the component, where components are enumerated
        return Loss(
            -terms.log_px_z.mean() + batch_mean(units).clamp(min=self.nats).sum() + rest.mean(),
            terms,
        )
