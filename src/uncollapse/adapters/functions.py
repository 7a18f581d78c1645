"""Models that are a pair of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.validation import check_count
from uncollapse.adapters.base import ForeignModel
from uncollapse.latent import StandardNormal


class Functions(nn.Module):
    """An encoder, a decoder and a prior, as functions."""

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        decoder: Callable[[Tensor], Any],
        likelihood: Callable[[Any], Distribution] | None,
        prior: Distribution,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.to_likelihood, self.p = encoder, decoder, likelihood, prior

    def prior(self) -> Distribution:
        """p(z)."""
        return self.p

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x)."""
        found = self.encoder(x)
        if isinstance(found, Distribution):
            return found
        if not (
            isinstance(found, tuple | list)
            and len(found) == 2
            and all(isinstance(part, Tensor) for part in found)
        ):
            raise ParameterError(
                f"encoder(x) expects a distribution, or a mean and the logarithm of a variance, "
                f"got {type(found).__name__}."
            )
        mean, log_variance = found
        return Normal(mean, (log_variance / 2).exp())

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z)."""
        found = self.decoder(z)
        if self.to_likelihood is not None:
            return self.to_likelihood(found)
        if not isinstance(found, Distribution):
            raise ParameterError(
                f"decoder(z) expects a distribution, got {type(found).__name__}: give likelihood=, "
                "which makes one of it, for "
                "example lambda mean: Normal(mean, 1.0)."
            )
        return found


def from_functions(
    encoder: Callable[[Tensor], Any],
    decoder: Callable[[Tensor], Any],
    *,
    latent_dim: int | None = None,
    likelihood: Callable[[Any], Distribution] | None = None,
    prior: Distribution | None = None,
) -> ForeignModel:
    """A model to `diagnose`, from a plain pair of functions or modules.

    Modules that are given are looked at in evaluation; what functions use besides must be in
    evaluation already, and compute in single precision on the CPU, or in the precision and on the
    device of `prior`.

    Args:
        encoder: maps a batch of data to q(z|x): a distribution of PyTorch, or the mean and the
            logarithm of the variance of a diagonal Gaussian, both of shape (batch, latent_dim).
        decoder: maps z, shape (batch, latent_dim), to p(x|z), a distribution of PyTorch, or to what
            `likelihood` makes one of.
        latent_dim: dimension of z, for a standard normal prior.
        likelihood: makes p(x|z) of what the decoder says: ``lambda logits:
            Bernoulli(logits=logits)``, for example.
        prior: p(z), where it is not the standard normal.

    Raises:
        InputError: if there is neither a prior nor a dimension for one.

    >>> import torch
    >>> weight = torch.tensor([[2.0, 0.0, 0.0]])
    >>> model = from_functions(
    ...     encoder=lambda x: (0.4 * x[:, :1], torch.full((len(x), 1), -1.609)),  # the exact posterior, of variance 1/5
    ...     decoder=lambda z: z @ weight,
    ...     likelihood=lambda mean: Normal(mean, 1.0),
    ...     latent_dim=1,
    ... )
    >>> import uncollapse as uc
    >>> uc.diagnose(model, model.likelihood(torch.randn(500, 1)).sample()).verdict
    'healthy'
    """
    if prior is None:
        if latent_dim is None:
            raise ParameterError(
                "from_functions expects latent_dim, for a standard normal prior, or a prior: give "
                "one of them."
            )
        check_count("latent_dim", latent_dim)
        probe = next(
            (
                p
                for part in (encoder, decoder)
                if isinstance(part, nn.Module)
                for p in part.parameters()
            ),
            torch.zeros(()),
        )
        prior = StandardNormal(latent_dim).to(probe)()
    return ForeignModel(Functions(encoder, decoder, likelihood, prior))
