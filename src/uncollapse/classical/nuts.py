"""Draws from posteriors by the No-U-Turn sampler of NumPyro, and whether they can be trusted, by
ArviZ (extra ``mcmc``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kstest

from uncollapse._utils.errors import InputError

# Chains that have mixed have an r-hat below this (Vehtari et al. 2021).
MAX_R_HAT = 1.01
# Of Kolmogorov's distance between n draws and their distribution: what it exceeds once in a hundred
# times, over sqrt(n).
KOLMOGOROV = 1.628


@dataclass(frozen=True)
class Draws:
    """Draws of latent variables from their posterior.

    Attributes:
        values: shape (chains, draws, n_latents).
        r_hat: of each latent, shape (n_latents,).
        effective_sample_size: the lower of the bulk's and the tails', the same shape.
        n_divergences: transitions of the sampler that went wrong.
    """

    values: np.ndarray
    r_hat: np.ndarray
    effective_sample_size: np.ndarray
    n_divergences: int

    @property
    def are_sound(self) -> bool:
        """Whether all chains agree with each other, and no transition diverged."""
        return self.n_divergences == 0 and bool((self.r_hat < MAX_R_HAT).all())

    @property
    def pooled(self) -> np.ndarray:
        """Of all chains, shape (chains * draws, n_latents)."""
        return np.asarray(self.values.reshape(-1, self.values.shape[-1]))

    def distance_to(self, cdf: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Kolmogorov's distance of each latent's draws to a distribution, such as its prior, shape
        (n_latents,)."""
        return np.array([kstest(column, cdf).statistic for column in self.pooled.T])

    @property
    def sampling_error(self) -> np.ndarray:
        """What this distance to their own distribution exceeds once in a hundred times, by the
        effective sample sizes."""
        return np.asarray(KOLMOGOROV / np.sqrt(self.effective_sample_size))

    def __repr__(self) -> str:
        chains, draws, n_latents = self.values.shape
        return (
            f"Draws({chains} chains of {draws:,}, {n_latents} latents, r-hat <= "
            f"{self.r_hat.max():.4f}, effective sample size >= "
            f"{self.effective_sample_size.min():,.0f}, {self.n_divergences} divergences)"
        )


def numpyro() -> Any:
    """NumPyro, with what judges its draws.

    Raises:
        InputError: if one of them is not installed.
    """
    try:
        import arviz  # noqa: F401
        import numpyro
        import numpyro.infer
    except ImportError:
        raise InputError(
            "Markov chain Monte Carlo expects NumPyro and ArviZ: pip install 'uncollapse[mcmc]'."
        ) from None
    return numpyro


def sample(
    model: Callable[..., None],
    latent: str,
    *arguments: Any,
    n_draws: int = 1000,
    n_warmup: int = 500,
    n_chains: int = 4,
    seed: int = 0,
) -> Draws:
    """Draw from the posterior of a model's latent variable.

    Args:
        model: of NumPyro, a function of the arguments.
        latent: the name of its site, of any shape.
        arguments: of the model, as NumPy arrays.
        n_draws: of each chain, after the warm-up.
        n_warmup: draws in which the sampler adapts.
        n_chains: one after the other.
        seed: of all chains.

    Raises:
        InputError: if NumPyro or ArviZ are not installed.
    """
    numpyro()
    import arviz
    import jax
    from numpyro.infer import MCMC, NUTS

    with jax.enable_x64(True):
        sampler = MCMC(
            NUTS(model, target_accept_prob=0.9),
            num_warmup=n_warmup,
            num_samples=n_draws,
            num_chains=n_chains,
            chain_method="sequential",
            progress_bar=False,
        )
        sampler.run(jax.random.PRNGKey(seed), *arguments, extra_fields=("diverging",))
        values = np.asarray(sampler.get_samples(group_by_chain=True)[latent], float).reshape(
            n_chains, n_draws, -1
        )
        n_divergences = int(np.asarray(sampler.get_extra_fields()["diverging"]).sum())
    data = arviz.convert_to_dataset({"latent": values})
    sizes = [
        np.atleast_1d(arviz.ess(data, method=method)["latent"].to_numpy())
        for method in ("bulk", "tail")
    ]
    r_hat = np.atleast_1d(arviz.rhat(data)["latent"].to_numpy())
    return Draws(values, r_hat, np.minimum(*sizes), n_divergences)
