"""The variational autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints, kl_divergence

from uncollapse.errors import InputError
from uncollapse.families import FAMILIES, Family
from uncollapse.latent import DiagonalGaussian, StandardNormal, reparameterise
from uncollapse.maps import Decoder


@dataclass(frozen=True)
class Terms:
    """What a latent variable model says of a batch. All in nats per example; `samples` stands for the draws of z per example.

    Attributes:
        log_px_z: log p(x|z), shape (*samples, batch).
        log_qz_x: log q(z|x), shape (*samples, batch).
        log_pz: log p(z), shape (*samples, batch).
        kl: KL(q(z|x) || p(z)) for each unit in closed form, shape (batch, latent_dim).
        z: the draws, shape (*samples, batch, latent_dim).
    """

    log_px_z: Float[Tensor, "*samples batch"]
    log_qz_x: Float[Tensor, "*samples batch"]
    log_pz: Float[Tensor, "*samples batch"]
    kl: Float[Tensor, "batch latent"]
    z: Float[Tensor, "*samples batch latent"]


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

    def __init__(self, prior: StandardNormal, posterior: DiagonalGaussian, decoder: Decoder, family: Family) -> None:
        super().__init__()
        _check_constant(decoder, family)
        self.prior = prior
        self.posterior = posterior
        self.decoder = decoder
        self.family = family

    def likelihood(self, z: Float[Tensor, "*batch latent"]) -> Distribution:
        """p(x|z)."""
        distribution: Distribution = self.family(self.natural(z))
        return distribution

    def natural(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch t"]:
        """The natural parameters of p(x|z)."""
        return self.family.link(self.decoder(z))

    def forward(self, x: Float[Tensor, "batch data"], noise: Float[Tensor, "*samples batch latent"] | None = None) -> Terms:
        """The terms of a bound on log p(x), at reparameterised draws of z.

        Args:
            x: data that the family has observed.
            noise: standard normal draws that decide z; one for each example from the global generator if not given.
        """
        q, p = self.posterior(x), self.prior()
        z = reparameterise(q, noise)
        return Terms(self.likelihood(z).log_prob(x), q.log_prob(z), p.log_prob(z), kl_per_unit(q, p), z)


def _check_constant(decoder: Decoder, family: Family) -> None:
    if decoder.constant > 0 and not family.fills_space:
        keep = ", ".join(name for name, kind in FAMILIES.items() if kind.domain is constraints.real)
        raise InputError(
            f"a positive inverse Lipschitz constant expects a family whose natural parameters fill R^t ({keep}), got "
            f"{decoder.constant:g} with family {family.name!r}, whose link would undo it: use inverse_lipschitz=0 (injective, W21) "
            "or None, or one of those families."
        )


def kl_per_unit(q: Independent[Normal], p: Independent[Normal]) -> Float[Tensor, "batch latent"]:
    """KL(q || p) in nats for each unit, for distributions that factorise over units."""
    return kl_divergence(q.base_dist, p.base_dist)
