"""Models made of a pair of functions."""

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
    """Encoder, decoder and prior as a `VAEProtocol`."""

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
        return self.p

    def posterior(self, x: Tensor) -> Distribution:
        found = self.encoder(x)
        if isinstance(found, Distribution):
            return found
        match found:
            case [Tensor() as mean, Tensor() as log_variance]:
                return Normal(mean, (log_variance / 2).exp())
        raise ParameterError(
            "encoder(x) expects a distribution, or a mean and the logarithm of a variance, got "
            f"{type(found).__name__}."
        )

    def likelihood(self, z: Tensor) -> Distribution:
        found = self.decoder(z)
        if self.to_likelihood is not None:
            return self.to_likelihood(found)
        if not isinstance(found, Distribution):
            raise ParameterError(
                f"decoder(z) expects a distribution, got {type(found).__name__}: give likelihood= "
                "to convert it, for example lambda mean: Normal(mean, 1.0)."
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
    """Make a model for `diagnose` from an encoder and a decoder.

    Given modules are put into evaluation mode during a diagnosis; modules that a function uses must
    be in evaluation mode already. Computations are in single precision on the CPU, or in the
    precision and on the device of `prior`.

    Args:
        encoder: maps a batch of data to q(z|x): a distribution of PyTorch, or mean and log variance
            of a diagonal Gaussian, both of shape (batch, latent_dim).
        decoder: maps z, shape (batch, latent_dim), to p(x|z), a distribution of PyTorch, or to the
            input of `likelihood`.
        latent_dim: dimension of z, for a standard normal prior.
        likelihood: converts the output of the decoder to p(x|z), for example
            ``lambda logits: Bernoulli(logits=logits)``.
        prior: p(z); standard normal by default.

    Raises:
        ParameterError: if neither `latent_dim` nor `prior` is given.

    >>> import torch
    >>> weight = torch.tensor([[2.0, 0.0, 0.0]])
    >>> model = from_functions(
    ...     # The exact posterior has variance 1/5.
    ...     encoder=lambda x: (0.4 * x[:, :1], torch.full((len(x), 1), -1.609)),
    ...     decoder=lambda z: z @ weight,
    ...     likelihood=lambda mean: Normal(mean, 1.0),
    ...     latent_dim=1,
    ... )
    >>> import uncollapse as uc
    >>> uc.diagnose(model, model.likelihood(torch.randn(200, 1)).sample(), thorough=False).verdict
    'healthy'
    """
    if prior is None:
        if latent_dim is None:
            raise ParameterError(
                "from_functions expects latent_dim, for a standard normal prior, or a prior. Give "
                "one of them."
            )
        check_count("latent_dim", latent_dim)
        modules = [part for part in (encoder, decoder) if isinstance(part, nn.Module)]
        parameters = (parameter for module in modules for parameter in module.parameters())
        prior = StandardNormal(latent_dim).to(next(parameters, torch.zeros(())))()
    return ForeignModel(Functions(encoder, decoder, likelihood, prior))
