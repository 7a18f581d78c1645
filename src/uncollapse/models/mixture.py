"""Mixture VAEs: component y, then z given y, then x given z (W21 example 1, K23 definition 4.2)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from uncollapse.latent import (
    ComponentPosterior,
    GaussianMixture,
    StandardNormal,
    WithoutComponents,
    draw,
)
from uncollapse.models.base import Latents, Terms, kl_per_unit
from uncollapse.models.composed import RowModel
from uncollapse.models.vae import VAEModel


class MixtureModel(RowModel):
    """A model with a mixture prior, y uniform over c components and z Gaussian given y."""

    prior: GaussianMixture

    @abstractmethod
    def without_components(self) -> VAEModel:
        """Return the same networks with a standard normal prior, to train before the mixture."""


class MarginalMixtureModel(MixtureModel):
    """A mixture VAE whose component y is summed out of the prior: q(y, z|x) = q(z|x) p(y|z).

    The decoder runs once, however many components there are. With q(z|x) = sum_y q(y|x) q(z|x, y)
    this bound is at least as tight as the enumerated one; a single Gaussian q(z|x) can be looser
    where the posterior has several modes.
    """

    def latents(self, q: Any, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """Draw z from any q(z|x) by the given noise; q(y|x) is p(y|z) in expectation over draws."""
        z, log_q = draw(q, noise)
        log_joint = self.prior.log_joint(z)
        components = log_joint.softmax(-1)
        if components.dim() > 2:
            components = components.flatten(0, -3).mean(0)
        return Latents(q, z, log_q - log_joint.logsumexp(-1), components)

    def kl_per_unit(self, latents: Latents) -> None:
        """Return None: under a mixture prior the units depend on each other."""
        del latents

    def without_components(self) -> VAEModel:
        """Return the same networks with a standard normal prior."""
        return VAEModel(StandardNormal(self.latent_dim), self.posterior, self.decoder, self.family)


class EnumeratedMixtureModel(MixtureModel):
    """A mixture VAE with q(y, z|x) = q(y|x) q(z|x, y), whose bound sums over y.

    Both papers' code does this. The decoder runs c times for each example.
    """

    posterior: ComponentPosterior

    def latents(self, q: Any, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """Draw z from each q(z|x, y), all by the same noise."""
        z, log_q = draw(q.component_distribution, noise.unsqueeze(-2))
        units = kl_per_unit(q.component_distribution, self.prior.components())
        kl_z = log_q - self.prior.log_given_component(z) if units is None else units.sum(-1)
        components = q.mixture_distribution.probs
        return Latents(q, z, (components * kl_z).sum(-1) + component_kl(components), components)

    def terms(self, x: Float[Tensor, "batch data"], latents: Latents) -> Terms:
        """Compute the terms of the bound, in expectation over components."""
        log_px_z = self.likelihood(latents.z).log_prob(x.unsqueeze(-2))
        components: Tensor = latents.q.mixture_distribution.probs  # type: ignore[attr-defined]
        return Terms((components * log_px_z).sum(-1), latents)

    def kl_per_unit(self, latents: Latents) -> Float[Tensor, "batch latent"] | None:
        """Return E_q(y|x) KL(q(z_d|x, y) || p(z_d|y)) in nats for each unit; None for a flow."""
        q: Any = latents.q
        units = kl_per_unit(q.component_distribution, self.prior.components())
        return (
            None if units is None else (q.mixture_distribution.probs.unsqueeze(-1) * units).sum(-2)
        )

    def propose(
        self, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "draws batch latent"], Float[Tensor, "draws batch"]]:
        """Draw z for importance weighting, as many from each q(z|x, y).

        Weights then sum over y within each example.

        Returns:
            The draws, and log p(z|y) / q(z|x, y) at them, in nats.
        """
        z, log_q = draw(self.posterior(x).component_distribution, noise.unsqueeze(-2))
        log_ratio = self.prior.log_given_component(z) - log_q
        return z.movedim(-2, 1).flatten(0, 1), log_ratio.movedim(-1, 1).flatten(0, 1)

    def evaluations_in_memory(self, rows: np.ndarray, n_samples: int) -> np.ndarray:
        """Return how many decoder evaluations n_samples draws for every component hold."""
        return np.full(len(rows), n_samples * self.prior.n_components)

    def without_components(self) -> VAEModel:
        """Return the same networks with a standard normal prior, and one q(z|x)."""
        posterior = WithoutComponents(self.posterior)
        return VAEModel(StandardNormal(self.latent_dim), posterior, self.decoder, self.family)


def component_kl(components: Float[Tensor, "*batch c"]) -> Float[Tensor, "*batch"]:
    """Return KL(q(y|x) || 1/c), in nats."""
    # Where a probability underflows, its logarithm would have no gradient.
    log_probability = components.clamp(min=torch.finfo(components.dtype).tiny).log()
    return (components * log_probability).sum(-1) + math.log(components.shape[-1])
