"""Adapter of pythae (Chadebec et al. 2022), https://github.com/clementchadebec/benchmark_VAE."""

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

# The posterior of these models is the diagonal Gaussian of the encoder, and their reconstruction
# loss is a log-likelihood.
GAUSSIAN = (
    "VAE", "BetaVAE", "DisentangledBetaVAE", "BetaTCVAE", "FactorVAE", "INFOVAE_MMD", "IWAE",
    "MIWAE", "PIWAE", "CIWAE", "VAMP",
)  # fmt: skip
GREY = (
    "pythae's reconstruction loss 'bce' is not a likelihood of grey levels. It is used as it is, "
    "so nats have the meaning that they have in pythae's loss."
)


class GreyBernoulli(Bernoulli):
    """Log-likelihood formula of a Bernoulli, evaluated at any grey levels."""

    support = constraints.unit_interval  # type: ignore[assignment]


class PythaeModel(nn.Module):
    """A pythae model as a `VAEProtocol`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def prior(self) -> Distribution:
        """Return p(z): standard normal, or the mixture of VAMP's pseudo-input posteriors."""
        parameter = next(self.model.parameters())
        if type(self.model).__name__ != "VAMP":
            standard: Distribution = StandardNormal(self.model.latent_dim).to(parameter)()
            return standard
        shape = (self.model.number_components, *self.model.model_config.input_dim)
        inputs = self.model.pseudo_inputs(self.model.idle_input.to(parameter)).reshape(shape)
        components = Independent(self.posterior(inputs), 1, validate_args=False)
        logits = components.mean.new_zeros(len(inputs))
        weights = Categorical(logits=logits, validate_args=False)
        return MixtureSameFamily(weights, components, validate_args=False)

    def posterior(self, x: Tensor) -> Normal:
        found = self.model.encoder(x)
        return Normal(found.embedding, (found.log_covariance / 2).exp(), validate_args=False)

    def likelihood(self, z: Tensor) -> Distribution:
        """Return p(x|z), whose log density is the reconstruction loss."""
        reconstruction = self.model.decoder(z)["reconstruction"]
        if self.model.model_config.reconstruction_loss == "bce":
            return GreyBernoulli(probs=reconstruction.clamp(1e-7, 1 - 1e-7), validate_args=False)
        return Normal(reconstruction, 1.0, validate_args=False)


def adapt(model: Any) -> AdaptedModel:
    """Return a model of pythae in the form that diagnoses read.

    Raises:
        ParameterError: if the posterior is not the encoder's Gaussian, or the loss is no
            likelihood.
    """
    name = type(model).__name__
    if name not in GAUSSIAN:
        raise ParameterError(
            "diagnoses of pythae models expect one whose posterior is the Gaussian of its encoder "
            f"({', '.join(GAUSSIAN)}), got {name}: give an object with prior(), posterior(x) and "
            "likelihood(z) instead."
        )
    notes = (GREY,) if model.model_config.reconstruction_loss == "bce" else ()
    return AdaptedModel(name, ForeignModel(PythaeModel(model)), read_array, notes=notes)
