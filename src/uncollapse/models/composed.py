"""Models composed of a prior, a posterior, a decoder and a family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.random import RowNoise
from uncollapse.families import FAMILIES, Family
from uncollapse.latent import Prior
from uncollapse.maps import Decoder, NetworkDecoder
from uncollapse.models.base import LatentModel


@runtime_checkable
class ModelBound(Protocol):
    """A posterior that depends on the model, such as one that is refined by the model's ELBO."""

    def bind(self, model: LatentModel) -> Any:
        """Return the posterior for a model."""


class ComposedModel(LatentModel):
    """A model composed of a prior, a posterior, a decoder and a family.

    Args:
        prior: called without arguments, returns p(z) over R^latent_dim.
        posterior: maps x to q(z|x).
        decoder: maps z to natural parameters, before the link of the family: a `Decoder`, or any
            module, which then promises nothing.
        family: maps natural parameters to p(x|z).

    Raises:
        InputError: if the decoder has a positive inverse Lipschitz constant that the link of the
            family would undo.
    """

    prior: Prior

    def __init__(self, prior: Prior, posterior: Any, decoder: nn.Module, family: Family) -> None:
        super().__init__()
        self.prior = prior
        self.posterior = posterior.bind(self) if isinstance(posterior, ModelBound) else posterior
        self.decoder = decoder if isinstance(decoder, Decoder) else NetworkDecoder(decoder)
        self.family = family
        check_constant(self.decoder, family)

    @property
    def latent_dim(self) -> int:
        """Dimension of z."""
        return self.prior.latent_dim

    @property
    def has_density(self) -> bool:
        """Whether z has a density, which theorems about gradients in z need."""
        return self.prior.has_density

    def observe(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as the family observes them; random draws depend on the row alone."""
        if self.family.is_observed(rows):
            return rows
        uniform = RowNoise(rows, "observe").uniform(rows.shape[1:])
        return self.family.observe(torch.as_tensor(rows), torch.as_tensor(uniform)).numpy()

    def observe_anew(self, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch data"]:
        """Return rows as the family observes them in a training step; random decisions are new."""
        return self.family.observe(x, self.batch_context.uniform(x)) if self.family.is_random else x


class RowModel(ComposedModel):
    """A model whose likelihood is one distribution over a row: `likelihood(z)` is p(x|z)."""

    def likelihood(self, z: Float[Tensor, "*batch latent"]) -> Distribution:
        """Return p(x|z)."""
        distribution: Distribution = self.family(self.natural(z))
        return distribution

    def natural(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch t"]:
        """Return the natural parameters of p(x|z)."""
        return self.family.link(self.decoder(z))

    def log_likelihood(
        self, x: Float[Tensor, "batch data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """Return log p(x|z) of each row, in nats."""
        log_px_z: Tensor = self.likelihood(z).log_prob(x)
        return log_px_z

    def expected(
        self, x: Float[Tensor, "batch data"], z: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch data"]:
        """Return E[x|z]."""
        del x
        mean: Tensor = self.likelihood(z).mean
        return mean


def check_constant(decoder: Decoder, family: Family) -> None:
    """Raise `InputError` if the family has a link and the decoder a positive constant."""
    if decoder.constant > 0 and not family.fills_space:
        keep = ", ".join(name for name, kind in FAMILIES.items() if kind.domain is constraints.real)
        raise ParameterError(
            f"family {family.name!r} has a link, which would undo the decoder's inverse Lipschitz "
            f"constant of {decoder.constant:g}. Use inverse_lipschitz=0 (injective, W21) or None, "
            f"or a family that keeps constants ({keep})."
        )


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Use kernels of recurrent networks whose gradients can be differentiated once more."""
    with torch.backends.cudnn.flags(enabled=False):
        yield
