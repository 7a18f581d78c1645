"""Free bits: a KL that costs nothing below a threshold."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.parameters import PositiveFloat
from uncollapse.models import LatentModel
from uncollapse.objectives.base import Loss, Objective


class FreeBits(Objective):
    """-E_q log p(x|z) + sum_d max(lambda, KL_d) (Kingma et al. 2016, equation 15).

    KL_d is the mean over the batch of the KL of unit d.

    Args:
        nats: lambda, the nats that each unit has free.
    """

    name = "free_bits"

    def __init__(self, nats: PositiveFloat = 0.1) -> None:
        super().__init__()
        self.nats = nats

    @torch.no_grad()
    def check(self, model: LatentModel, x: Tensor) -> None:
        """Raise `ParameterError` if the KL does not fall into units."""
        if model.kl_by_unit(model.infer(x)) is None:
            raise ParameterError(
                "objective 'free_bits' expects a KL that is a sum over units, which this prior or "
                "posterior does not have. Use a Gaussian posterior with a VAE, or "
                "inference='enumerate' with a mixture."
            )

    def forward(self, model: LatentModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """Compute the loss."""
        del step
        terms = model(x)
        units: Tensor = model.kl_by_unit(terms.latents)  # type: ignore[assignment]  # see check
        rest = terms.latents.kl - units.sum(-1)  # the KL of enumerated components
        free = model.batch.mean(units).clamp(min=self.nats).sum()
        return Loss(-terms.log_px_z.mean() + free + rest.mean(), terms)
