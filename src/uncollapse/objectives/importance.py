"""The importance-weighted bound."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse._utils.parameters import Count
from uncollapse.models import LatentModel, Terms
from uncollapse.objectives.base import Loss, Objective


class ImportanceWeighted(Objective):
    """-log (1/K) sum_k p(x, z_k) / q(z_k|x), which approaches -log p(x) (Burda et al. 2016, eq. 8).

    Args:
        n_samples: K.
    """

    name = "importance_weighted"

    def __init__(self, n_samples: Count = 8) -> None:
        super().__init__()
        self.n_samples = n_samples

    def forward(self, model: LatentModel, x: Float[Tensor, "batch data"], step: int) -> Loss:
        """Compute the loss; its terms are those of the evidence lower bound at the same draws."""
        del step
        noise = model.batch.normal(x, model.latent_dim, self.n_samples)
        z, log_ratio = model.propose(x, noise)
        log_px_z = model.log_likelihood(x, z)
        bound = (log_px_z + log_ratio).logsumexp(0) - math.log(len(z))
        with torch.no_grad():
            terms = Terms(log_px_z.mean(0), model.infer(x, noise))
        return Loss(-bound.mean(), terms)
