"""The interface of latent variable models: prior, posterior and likelihood, and what follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, kl_divergence

from uncollapse.latent import GaussianChain, draw
from uncollapse.models.batch_context import BatchContext


@dataclass(frozen=True)
class Latents:
    """Draws of z from the posterior of a batch, and their KL, in nats per example.

    `samples` stands for the draws of z per example.

    Attributes:
        q: q(z|x).
        z: the draws, shape (*samples, batch, latent_dim); (*samples, batch, c, latent_dim) where
            the posterior enumerates c components.
        kl: KL(q(z|x) || p(z)), including the component y of a mixture, shape (*samples, batch) or
            (batch,): in closed form where there is one, else at the draws.
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
        latents: the draws of z and their KL.
    """

    log_px_z: Float[Tensor, "*samples batch"]
    latents: Latents

    @property
    def elbo(self) -> Float[Tensor, "*samples batch"]:
        """The evidence lower bound, log p(x|z) - KL."""
        return self.log_px_z - self.latents.kl


class LatentModel(nn.Module, ABC):
    """A prior p(z), a likelihood p(x|z) and an approximate posterior q(z|x).

    A subclass defines `prior`, `posterior`, `latent_dim` and `log_likelihood`; everything else has
    a default.

    Attributes:
        prior: returns p(z), one distribution over R^latent_dim.
        posterior: maps data to q(z|x), of batch shape (batch,).
        batch_context: source of random numbers in training. With several processes, the loop
            replaces it by one that draws for the whole batch.
    """

    prior: Callable[[], Distribution]
    posterior: Callable[[Tensor], Distribution]
    batch_context = BatchContext()

    @property
    @abstractmethod
    def latent_dim(self) -> int:
        """Dimension of z."""

    @abstractmethod
    def log_likelihood(
        self, x: Float[Tensor, "batch *data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """Return log p(x|z) of each row, in nats."""

    @property
    def n_places(self) -> int:
        """Number of z per row, each of latent_dim / n_places units: 1 but for sequences."""
        return 1

    @property
    def has_density(self) -> bool:
        """Whether z has a density, which theorems about gradients in z need."""
        return True

    @property
    def is_unbounded(self) -> bool:
        """Whether z has a positive density everywhere, so that gradient steps can move it."""
        return self.has_density

    def in_support(self, z: Float[Tensor, "batch latent"]) -> Bool[Tensor, " batch"]:
        """Return which z lie in the support of p(z); all do where p(z) does not tell it."""
        support = support_of(self.prior())
        if support is None:
            return torch.ones(len(z), dtype=torch.bool, device=z.device)
        # A distribution over vectors may declare the support of their units.
        inside: Tensor = support.check(z).reshape(len(z), -1).all(1)
        return inside

    @property
    def placement(self) -> Tensor:
        """A tensor of the type and on the device that the model computes with."""
        return next(self.parameters())

    def forward(
        self,
        x: Float[Tensor, "batch data"],
        noise: Float[Tensor, "*samples batch latent"] | None = None,
    ) -> Terms:
        """Compute the terms of a bound on log p(x), at draws of z.

        Args:
            x: data as the likelihood sees them (see `observe`).
            noise: standard normal draws that decide z; as many as training takes if not given.
        """
        return self.terms(x, self.infer(x, noise))

    def infer(
        self,
        x: Float[Tensor, "batch data"],
        noise: Float[Tensor, "*samples batch latent"] | None = None,
    ) -> Latents:
        """Draw z from the posterior, without the decoder; arguments as for `forward`."""
        return self.latents(self.posterior(x), self.noise(x) if noise is None else noise)

    def latents(self, q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """Draw z from any q(z|x) by the given noise."""
        z, log_q = draw(q, noise)
        units = kl_per_unit(q, self.prior())
        return Latents(q, z, log_q - self.prior().log_prob(z) if units is None else units.sum(-1))

    def terms(self, x: Float[Tensor, "batch data"], latents: Latents) -> Terms:
        """Compute the terms of the bound at given draws of z."""
        return Terms(self.log_likelihood(x, latents.z), latents)

    def noise(self, x: Float[Tensor, "batch data"]) -> Float[Tensor, "*samples batch latent"]:
        """Draw standard normal noise, as much as training takes for each example."""
        return self.batch_context.normal(x, self.latent_dim)

    def kl_per_unit(self, latents: Latents) -> Float[Tensor, "batch latent"] | None:
        """Return KL(q(z|x) || p(z)) in nats by unit; None where units depend on each other."""
        return kl_per_unit(latents.q, self.prior())

    def propose(
        self, x: Float[Tensor, "batch data"], noise: Float[Tensor, "samples batch latent"]
    ) -> tuple[Float[Tensor, "draws batch latent"], Float[Tensor, "draws batch"]]:
        """Draw z for importance weighting: p(x) = E[p(x|z) exp(log ratio)].

        Returns:
            The draws, and log p(z) / q(z|x) at them, in nats.
        """
        z, log_q = draw(self.posterior(x), noise)
        return z, self.prior().log_prob(z) - log_q

    def draw_prior(self, n: int) -> Float[Tensor, "n latent"]:
        """Draw z from the prior by the global generator, on the device of the decoder."""
        z: Tensor = self.prior().sample(torch.Size([n])).to(self.placement)
        return z

    def observe(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as the likelihood sees them; random draws depend on the row alone."""
        return rows

    def observe_anew(self, x: Float[Tensor, "batch data"]) -> Float[Tensor, "batch data"]:
        """Return rows as the likelihood sees them in a training step; random decisions are new."""
        return x

    def evaluations_in_memory(self, rows: np.ndarray, n_samples: int) -> np.ndarray:
        """Return how many decoder outputs are in memory at once, for n_samples draws of z of each
        row, shape (n,)."""
        return np.full(len(rows), n_samples)


def kl_per_unit(q: Distribution, p: Distribution) -> Float[Tensor, "*batch latent"] | None:
    """Return KL(q || p) in nats by unit where both factorize in closed form, else None."""
    if isinstance(q, GaussianChain) and isinstance(p, GaussianChain):
        return q.kl_per_unit(p)
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    try:
        return kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None


def support_of(distribution: Distribution) -> Any:
    """Return the support of a distribution, or None if it does not tell it."""
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    return None if support is None or constraints.is_dependent(support) else support


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode, and restore their modes afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def gradient(
    value: Float[Tensor, "*batch"], z: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch latent"]:
    """Return the gradient of the sum of values in z; 0 where they do not depend on z."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    (found,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
    return torch.zeros_like(z) if found is None else found


def to_device(model: LatentModel, array: np.ndarray) -> Tensor:
    """Return a copy of the array as a tensor of the model's type, on its device.

    Memory of torch's own is aligned, so that equal rows give equal results to the last bit.
    """
    return torch.as_tensor(np.ascontiguousarray(array)).to(model.placement, copy=True)
