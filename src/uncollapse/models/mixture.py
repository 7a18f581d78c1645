"""Mixture VAEs: y uniform over c components, z given y, x given z (W21 example 1, K23 definition
4.2)."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from uncollapse.latent import (
    ComponentPosterior,
    GaussianMixture,
    StandardNormal,
    WithoutComponents,
    draw,
)
from uncollapse.models.base import Latents, Terms, kl_per_unit
from uncollapse.models.vae import VAE


class MixtureVAE(VAE):
    """A VAE with a mixture prior, whose component y is summed out of the prior: q(y, z|x) = q(z|x)
    p(y|z).

    The decoder runs once, however many components there are. With q(z|x) = sum_y q(y|x) q(z|x, y)
    this bound is at least as tight as the enumerated one; a single Gaussian q(z|x) can be looser
    where the posterior has several modes.
    """

    prior: GaussianMixture

    def latents(self, q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """What a q(z|x) says at the draws of z that the noise decides, and of the component, of
        which the prior knows."""
        z, log_q = draw(q, noise)
        log_joint = self.prior.log_joint(z)
        components = (
            log_joint.softmax(-1).flatten(0, -3).mean(0)
            if log_joint.dim() > 2
            else log_joint.softmax(-1)
        )
        return Latents(q, z, log_q - log_joint.logsumexp(-1), components)

    def kl_by_unit(self, latents: Latents) -> Float[Tensor, "batch latent"] | None:
        """None: the mixture ties the units together."""
        del latents
        return None

    def without_components(self) -> VAE:
        """The model before there are components: a standard normal prior, and the same networks."""
        return VAE(StandardNormal(self.latent_dim), self.posterior, self.decoder, self.family)


class EnumeratedMixtureVAE(MixtureVAE):
    """A mixture VAE with q(y, z|x) = q(y|x) q(z|x, y), whose bound sums over y, as in the code of
    both papers.

    The decoder runs c times for each example.
    """

    posterior: ComponentPosterior

    def terms(self, x: Float[Tensor, "batch data"], latents: Latents) -> Terms:
        """The terms of the bound, at a draw of z for each component, in expectation over
        components."""
        log_px_z = self.likelihood(latents.z).log_prob(x.unsqueeze(-2))
        assert latents.components is not None
        return Terms((latents.components * log_px_z).sum(-1), latents)

    def latents(self, q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """What a q(y, z|x) says at a draw of z for each component, all by the same noise."""
        assert isinstance(q, MixtureSameFamily)
        z, log_q = self._draw(q, noise)
        each = kl_per_unit(q.component_distribution, self.prior.components())
        kl_z = log_q - self.prior.log_given_component(z) if each is None else each.sum(-1)
        components = q.mixture_distribution.probs
        return Latents(q, z, (components * kl_z).sum(-1) + component_kl(components), components)

    def evaluations(self, rows: np.ndarray, n_samples: int) -> np.ndarray:
        """A draw for every component, n_samples times."""
        return np.full(len(rows), n_samples * self.prior.n_components)

    def kl_by_unit(self, latents: Latents) -> Float[Tensor, "batch latent"] | None:
        """E_q(y|x) KL(q(z_d|x, y) || p(z_d|y)) in nats for each unit; None for a flow."""
        assert isinstance(latents.q, MixtureSameFamily)
        assert latents.components is not None
        units = kl_per_unit(latents.q.component_distribution, self.prior.components())
        return None if units is None else (latents.components.unsqueeze(-1) * units).sum(-2)

    def propose(
        self, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "draws batch latent"], Float[Tensor, "draws batch"]]:
        """Draws of z by which to weigh p(x|z), as many from each q(z|x, y), so that weights sum
        over y within each example."""
        z, log_q = self._draw(self.posterior(x), noise)
        log_ratio = self.prior.log_given_component(z) - log_q
        return z.movedim(-2, 1).flatten(0, 1), log_ratio.movedim(-1, 1).flatten(0, 1)

    def without_components(self) -> VAE:
        """The model before there are components: a standard normal prior, and the same networks."""
        return VAE(
            StandardNormal(self.latent_dim),
            WithoutComponents(self.posterior),
            self.decoder,
            self.family,
        )

    def _draw(self, q: Distribution, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A draw from each q(z|x, y), all by the same noise, and its log density."""
        assert isinstance(q, MixtureSameFamily)
        return draw(q.component_distribution, noise.unsqueeze(-2))


def component_kl(components: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch"]:
    """KL(q(y|x) || 1/c), in nats."""
    smallest = torch.finfo(
        components.dtype
    ).tiny  # where a probability underflows, its logarithm has no gradient
    return (components * components.clamp(min=smallest).log()).sum(-1) + math.log(
        components.shape[-1]
    )
