"""Models of pythae (Chadebec et al. 2022), https://github.com/clementchadebec/benchmark_VAE."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    constraints,
)

from uncollapse._utils.errors import ParameterError
from uncollapse._utils.validation import read_array
from uncollapse.adapters.base import AdaptedModel, ForeignModel
from uncollapse.latent import StandardNormal

# Those whose posterior is the diagonal Gaussian of the encoder, and whose reconstruction loss is a
# log-likelihood.
GAUSSIAN = (
    "VAE", "BetaVAE", "DisentangledBetaVAE", "BetaTCVAE", "FactorVAE", "INFOVAE_MMD", "IWAE", "MIWAE", "PIWAE", "CIWAE", "VAMP",
)  # fmt: skip
GREY = (
    "pythae's reconstruction loss 'bce' is taken as it stands: of grey levels it is no likelihood, "
    "and nats mean what they mean in "
    "pythae's own loss."
)


class GreyBernoulli(Bernoulli):
    """The formula of a Bernoulli's log-likelihood, at any grey levels."""

    support = constraints.unit_interval  # type: ignore[assignment]


class PythaeModel(nn.Module):
    """The triple of a pythae model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def prior(self) -> Distribution:
        """p(z): the standard normal, or the posteriors of VAMP's pseudo-inputs."""
        if type(self.model).__name__ == "VAMP":
            shape = (self.model.number_components, *self.model.model_config.input_dim)
            inputs = self.model.pseudo_inputs(
                self.model.idle_input.to(next(self.model.parameters()))
            ).reshape(shape)
            components = Independent(self.posterior(inputs), 1, validate_args=False)
            weights = Categorical(
                logits=components.mean.new_zeros(len(inputs)), validate_args=False
            )
            return MixtureSameFamily(weights, components, validate_args=False)
        standard: Distribution = StandardNormal(self.model.latent_dim).to(
            next(self.model.parameters())
        )()
        return standard

    def posterior(self, x: Tensor) -> Normal:
        """q(z|x)."""
        found = self.model.encoder(x)
        return Normal(found.embedding, (found.log_covariance / 2).exp(), validate_args=False)

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z), as the reconstruction loss has it."""
        reconstruction = self.model.decoder(z)["reconstruction"]
        if self.model.model_config.reconstruction_loss == "bce":
            return GreyBernoulli(probs=reconstruction.clamp(1e-7, 1 - 1e-7), validate_args=False)
        return Normal(reconstruction, 1.0, validate_args=False)


def is_ours(model: Any) -> bool:
    """Whether it is a model of pythae."""
    return any(kind.__module__.startswith("pythae.models.") for kind in type(model).__mro__)


def adapt_model(model: Any) -> AdaptedModel:
    """The model, ready to be diagnosed.

    Raises:
        InputError: if its posterior is not that of the encoder alone, or its loss is no likelihood.
    """
    name = type(model).__name__
    if name not in GAUSSIAN:
        raise ParameterError(
            f"diagnoses of pythae models expect one whose posterior is the Gaussian of its encoder "
            f"({', '.join(GAUSSIAN)}), got "
            f"{name}: give an object with prior(), posterior(x) and likelihood(z) instead."
        )
    is_grey = model.model_config.reconstruction_loss == "bce"
    return AdaptedModel(
        name, ForeignModel(PythaeModel(model)), read_array, notes=(GREY,) if is_grey else ()
    )
