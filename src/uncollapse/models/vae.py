"""The variational autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.random import RowNoise
from uncollapse.families import FAMILIES, Family
from uncollapse.latent import Posterior, Prior
from uncollapse.maps import Decoder
from uncollapse.models.base import LatentModel


class VAE(LatentModel):
    """p(z) p(x|z) with the approximate posterior q(z|x) (Kingma & Welling 2014).

    Args:
        prior: called without arguments, returns p(z) over R^latent_dim.
        posterior: maps x to q(z|x).
        decoder: maps z to natural parameters, before the link of the family.
        family: maps natural parameters to p(x|z).

    Raises:
        InputError: if the decoder has a positive inverse Lipschitz constant and the family's link
            would undo it.
    """

    prior: Prior
    posterior: Posterior

    def __init__(
        self, prior: Prior, posterior: Posterior, decoder: Decoder, family: Family
    ) -> None:
        super().__init__()
        _check_constant(decoder, family)
        self.prior = prior
        self.posterior = posterior.of(self)
        self.decoder = decoder
        self.family = family

    @property
    def latent_dim(self) -> int:
        """Dimension of z."""
        return self.prior.latent_dim

    @property
    def has_density(self) -> bool:
        """Whether z has a density. What is proved by one says nothing of a discrete z."""
        return self.prior.has_density

    def likelihood(self, z: Float[Tensor, "*batch latent"]) -> Distribution:
        """p(x|z)."""
        distribution: Distribution = self.family(self.natural(z))
        return distribution

    def natural(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch t"]:
        """The natural parameters of p(x|z)."""
        return self.family.link(self.decoder(z))

    def log_likelihood(
        self, x: Float[Tensor, "batch data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x|z) of each row, in nats."""
        log_px_z: Tensor = self.likelihood(z).log_prob(x)
        return log_px_z

    def expected(
        self, x: Float[Tensor, "batch data"], z: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch data"]:
        """E[x|z]."""
        del x
        mean: Tensor = self.likelihood(z).mean
        return mean

    def observe(self, rows: np.ndarray) -> np.ndarray:
        """Data as the likelihood sees them, where chance decides by noise that belongs to the
        row."""
        if self.family.is_observed(rows):
            return rows
        uniform = RowNoise(rows, "observe").uniform(rows.shape[1:])
        return self.family.observe(torch.as_tensor(rows), torch.as_tensor(uniform)).numpy()


def _check_constant(decoder: Decoder, family: Family) -> None:
    if decoder.constant > 0 and not family.fills_space:
        keep = ", ".join(name for name, kind in FAMILIES.items() if kind.domain is constraints.real)
        raise ParameterError(
            f"a positive inverse Lipschitz constant expects a family whose natural parameters fill "
            f"R^t ({keep}), got "
            f"{decoder.constant:g} with family {family.name!r}, whose link would undo it: use "
            "inverse_lipschitz=0 (injective, W21) "
            "or None, or one of those families."
        )


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Kernels of recurrent networks whose gradients can be differentiated once more."""
    with torch.backends.cudnn.flags(enabled=False):
        yield
