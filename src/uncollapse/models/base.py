"""What objectives and diagnoses know of a model: its prior, its posterior, and its likelihood of
data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, kl_divergence

from uncollapse._utils.sharding import draw_rows
from uncollapse.latent import GaussianChain, draw


@dataclass(frozen=True)
class Latents:
    """What the posterior says of a batch, in nats per example; `samples` stands for the draws of z
    per example.

    Attributes:
        q: q(z|x).
        z: the draws, shape (*samples, batch, latent_dim); (*samples, batch, c, latent_dim) where
            the posterior enumerates c components.
        kl: KL(q(z|x) || p(z)), with the component y if the prior has several, shape (*samples,
            batch) or (batch,): in closed form where there is one, else at the draws.
        components: q(y|x), shape (batch, c); None without components.
        log_q: log q(z|x) at draws that are not reparameterised, for the score function, shape
            (samples, batch); else None.
    """

    q: Distribution
    z: Tensor
    kl: Float[Tensor, "*samples batch"]
    components: Float[Tensor, "batch c"] | None = None
    log_q: Float[Tensor, "samples batch"] | None = None


@dataclass(frozen=True)
class Terms:
    """The terms of a bound on log p(x), in nats per example.

    Attributes:
        log_px_z: log p(x|z), in expectation over y where the posterior enumerates components, shape
            (*samples, batch).
        latents: what the posterior says.
    """

    log_px_z: Float[Tensor, "*samples batch"]
    latents: Latents

    @property
    def elbo(self) -> Float[Tensor, "*samples batch"]:
        """The evidence lower bound."""
        return self.log_px_z - self.latents.kl


class LatentModel(nn.Module, ABC):
    """p(z) p(x|z) with an approximate posterior q(z|x), of whatever origin.

    Attributes:
        prior: called without arguments, returns p(z), one distribution over R^latent_dim.
        posterior: maps data to q(z|x), of batch shape (batch,).
    """

    prior: Callable[[], Distribution]
    posterior: Callable[[Tensor], Distribution]

    @property
    @abstractmethod
    def latent_dim(self) -> int:
        """Dimension of z."""

    @property
    def n_places(self) -> int:
        """How many z of latent_dim / n_places units each a row has, as where each symbol of a
        sequence has one."""
        return 1

    @property
    def has_density(self) -> bool:
        """Whether z has a density. What is proved by one says nothing of a discrete z."""
        return True

    @property
    def is_unbounded(self) -> bool:
        """Whether z has a density that is positive everywhere, so that z can be moved by its
        gradient."""
        return self.has_density

    @property
    def placement(self) -> Tensor:
        """A tensor of the type and on the device that the model computes with."""
        return next(self.parameters())

    @abstractmethod
    def log_likelihood(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x|z) of each row, in nats."""

    @abstractmethod
    def expected(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, "batch *means"]:
        """E[x|z]; where a model conditions on covariates, with those that the rows x hold."""

    def observe(self, rows: np.ndarray) -> np.ndarray:
        """Data as the likelihood sees them, where chance decides by noise that belongs to the
        row."""
        return rows

    def evaluations(self, rows: np.ndarray, n_samples: int) -> np.ndarray:
        """How many evaluations of the decoder are held in memory for so many draws for each row,
        shape (n,)."""
        return np.full(len(rows), n_samples)

    def forward(
        self,
        x: Float[Tensor, "batch data"],
        noise: Float[Tensor, "*samples batch latent"] | None = None,
    ) -> Terms:
        """The terms of a bound on log p(x), at draws of z.

        Args:
            x: data that the family has observed.
            noise: standard normal draws that decide z; one for each example from the global
                generator if not given.
        """
        return self.terms(x, self.infer(x, noise))

    def terms(self, x: Float[Tensor, "batch data"], latents: Latents) -> Terms:
        """The terms of the bound, given what a posterior says of x."""
        return Terms(self.log_likelihood(x, latents.z), latents)

    def infer(
        self,
        x: Float[Tensor, "batch data"],
        noise: Float[Tensor, "*samples batch latent"] | None = None,
    ) -> Latents:
        """What the posterior says of x, without the decoder. The arguments are those of
        `forward`."""
        return self.latents(self.posterior(x), self.noise(x) if noise is None else noise)

    def latents(self, q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """What a q(z|x) says, of whatever origin, at the draws of z that the noise decides."""
        z, log_q = draw(q, noise)
        units = self._kl_per_unit(q)
        return Latents(q, z, log_q - self.prior().log_prob(z) if units is None else units.sum(-1))

    def kl_by_unit(self, latents: Latents) -> Float[Tensor, "batch latent"] | None:
        """KL(q(z|x) || p(z)) in nats for each unit; None where it does not fall into units, as for
        a flow."""
        return self._kl_per_unit(latents.q)

    def _kl_per_unit(self, q: Distribution) -> Float[Tensor, "batch latent"] | None:
        return kl_per_unit(q, self.prior())

    def draw_prior(self, n: int) -> Float[Tensor, "n latent"]:
        """Draws of z from the prior by the global generator, of the type and on the device that the
        decoder takes."""
        z: Tensor = self.prior().sample(torch.Size([n])).to(self.placement)
        return z

    def propose(
        self, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "draws batch latent"], Float[Tensor, "draws batch"]]:
        """Draws of z by which to weigh p(x|z): p(x) = E[p(x|z) exp(log ratio)].

        Returns:
            The draws, and log p(z) / q(z|x) at them, in nats.
        """
        z, log_q = draw(self.posterior(x), noise)
        return z, self.prior().log_prob(z) - log_q

    def noise(self, x: Float[Tensor, "batch data"]) -> Float[Tensor, "*samples batch latent"]:
        """Standard normal draws from the global generator, as many as training takes for each
        example."""
        return draw_rows(
            lambda n: torch.randn(n, self.latent_dim, device=x.device, dtype=x.dtype), len(x)
        )


def kl_per_unit(q: Distribution, p: Distribution) -> Float[Tensor, "*batch latent"] | None:
    """KL(q || p) in nats for each unit, for chains, and distributions that factorise over units and
    have one in closed form."""
    if isinstance(q, GaussianChain) and isinstance(p, GaussianChain):
        return q.kl_per_unit(p)
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    try:
        return kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None


def gradient(
    value: Float[Tensor, "*batch"], z: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch latent"]:
    """The gradient of the sum of values in z; 0 where they do not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
    return torch.zeros_like(z) if found is None else found


def to_device(model: LatentModel, array: np.ndarray) -> Tensor:
    """The array as a tensor of the model's type, on its device."""
    return torch.as_tensor(np.ascontiguousarray(array)).to(model.placement)
