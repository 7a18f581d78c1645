"""The variational autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, kl_divergence

from uncollapse.errors import InputError
from uncollapse.families import FAMILIES, Family
from uncollapse.latent import GaussianChain, Posterior, Prior, draw
from uncollapse.maps import Decoder


@dataclass(frozen=True)
class Latents:
    """What the posterior says of a batch, in nats per example; `samples` stands for the draws of z per example.

    Attributes:
        q: q(z|x).
        z: the draws, shape (*samples, batch, latent_dim); (*samples, batch, c, latent_dim) where the posterior enumerates c
            components.
        kl: KL(q(z|x) || p(z)), with the component y if the prior has several, shape (*samples, batch) or (batch,): in closed form
            where there is one, else at the draws.
        components: q(y|x), shape (batch, c); None without components.
        log_q: log q(z|x) at draws that are not reparameterised, for the score function, shape (samples, batch); else None.
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
        log_px_z: log p(x|z), in expectation over y where the posterior enumerates components, shape (*samples, batch).
        latents: what the posterior says.
    """

    log_px_z: Float[Tensor, "*samples batch"]
    latents: Latents

    @property
    def elbo(self) -> Float[Tensor, "*samples batch"]:
        """The evidence lower bound."""
        return self.log_px_z - self.latents.kl


class VAE(nn.Module):
    """p(z) p(x|z) with the approximate posterior q(z|x) (Kingma & Welling 2014).

    Args:
        prior: called without arguments, returns p(z) over R^latent_dim.
        posterior: maps x to q(z|x).
        decoder: maps z to natural parameters, before the link of the family.
        family: maps natural parameters to p(x|z).

    Raises:
        InputError: if the decoder has a positive inverse Lipschitz constant and the family's link would undo it.
    """

    def __init__(self, prior: Prior, posterior: Posterior, decoder: Decoder, family: Family) -> None:
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

    def likelihood(self, z: Float[Tensor, "*batch latent"]) -> Distribution:
        """p(x|z)."""
        distribution: Distribution = self.family(self.natural(z))
        return distribution

    def natural(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch t"]:
        """The natural parameters of p(x|z)."""
        return self.family.link(self.decoder(z))

    def forward(self, x: Float[Tensor, "batch data"], noise: Float[Tensor, "*samples batch latent"] | None = None) -> Terms:
        """The terms of a bound on log p(x), at draws of z.

        Args:
            x: data that the family has observed.
            noise: standard normal draws that decide z; one for each example from the global generator if not given.
        """
        return self.terms(x, self.infer(x, noise))

    def terms(self, x: Float[Tensor, "batch data"], latents: Latents) -> Terms:
        """The terms of the bound, given what a posterior says of x."""
        return Terms(self.log_likelihood(x, latents.z), latents)

    def log_likelihood(
        self, x: Float[Tensor, "batch data"], z: Float[Tensor, "*samples batch latent"]
    ) -> Float[Tensor, "*samples batch"]:
        """log p(x|z) of each row, in nats."""
        log_px_z: Tensor = self.likelihood(z).log_prob(x)
        return log_px_z

    def evaluations(self, rows: np.ndarray, n_samples: int) -> np.ndarray:
        """How many evaluations of the decoder are held in memory for so many draws for each row, shape (n,)."""
        return np.full(len(rows), n_samples)

    def infer(self, x: Float[Tensor, "batch data"], noise: Float[Tensor, "*samples batch latent"] | None = None) -> Latents:
        """What the posterior says of x, without the decoder. The arguments are those of `forward`."""
        return self.latents(self.posterior(x), self.noise(x) if noise is None else noise)

    def latents(self, q: Distribution, noise: Float[Tensor, "*samples batch latent"]) -> Latents:
        """What a q(z|x) says, of whatever origin, at the draws of z that the noise decides."""
        p = self.prior()
        z, log_q = draw(q, noise)
        units = kl_per_unit(q, p)
        return Latents(q, z, log_q - p.log_prob(z) if units is None else units.sum(-1))

    def kl_by_unit(self, latents: Latents) -> Float[Tensor, "batch latent"] | None:
        """KL(q(z|x) || p(z)) in nats for each unit; None where it does not fall into units, as for a flow."""
        return kl_per_unit(latents.q, self.prior())

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
        """Standard normal draws from the global generator, as many as training takes for each example."""
        return torch.randn(len(x), self.latent_dim, device=x.device, dtype=x.dtype)


def _check_constant(decoder: Decoder, family: Family) -> None:
    if decoder.constant > 0 and not family.fills_space:
        keep = ", ".join(name for name, kind in FAMILIES.items() if kind.domain is constraints.real)
        raise InputError(
            f"a positive inverse Lipschitz constant expects a family whose natural parameters fill R^t ({keep}), got "
            f"{decoder.constant:g} with family {family.name!r}, whose link would undo it: use inverse_lipschitz=0 (injective, W21) "
            "or None, or one of those families."
        )


def kl_per_unit(q: Distribution, p: Distribution) -> Float[Tensor, "*batch latent"] | None:
    """KL(q || p) in nats for each unit, for Gaussians that factorise over units, and chains; None for other distributions."""
    if isinstance(q, GaussianChain) and isinstance(p, GaussianChain):
        return q.kl_per_unit(p)
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    return kl_divergence(q.base_dist, p.base_dist)


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Kernels of recurrent networks whose gradients can be differentiated once more."""
    with torch.backends.cudnn.flags(enabled=False):
        yield
