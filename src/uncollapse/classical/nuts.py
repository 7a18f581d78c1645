"""Posterior draws by NumPyro's No-U-Turn sampler, with ArviZ's convergence diagnostics.

Needs the extra ``mcmc``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import kstest

from uncollapse._utils.errors import InputError

# Chains have mixed if r-hat is below this (Vehtari et al. 2021).
MAX_R_HAT = 1.01
# The Kolmogorov distance between n draws and their own distribution exceeds this over sqrt(n) with
# a probability of 1%.
KOLMOGOROV_99 = 1.628


@dataclass(frozen=True)
class Draws:
    """Posterior draws of latent variables.

    Attributes:
        values: shape (chains, draws, n_latents).
        r_hat: of each latent, shape (n_latents,).
        effective_sample_size: minimum of bulk and tail size of each latent, shape (n_latents,).
        n_divergences: number of divergent transitions.
    """

    values: np.ndarray
    r_hat: np.ndarray
    effective_sample_size: np.ndarray
    n_divergences: int

    @property
    def are_sound(self) -> bool:
        """Whether all chains have mixed and no transition diverged."""
        return self.n_divergences == 0 and bool((self.r_hat < MAX_R_HAT).all())

    @property
    def pooled(self) -> np.ndarray:
        """Draws of all chains, shape (chains * draws, n_latents)."""
        return np.asarray(self.values.reshape(-1, self.values.shape[-1]))

    def distance_to(self, cdf: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the Kolmogorov distance of each latent to a distribution, shape (n_latents,)."""
        return np.array([kstest(column, cdf).statistic for column in self.pooled.T])

    @property
    def sampling_error(self) -> np.ndarray:
        """99% quantile of the distance of each latent's draws to their own distribution."""
        return np.asarray(KOLMOGOROV_99 / np.sqrt(self.effective_sample_size))

    def __repr__(self) -> str:
        chains, draws, n_latents = self.values.shape
        return (
            f"Draws({chains} chains of {draws:,}, {n_latents} latents, r-hat <= "
            f"{self.r_hat.max():.4f}, effective sample size >= "
            f"{self.effective_sample_size.min():,.0f}, {self.n_divergences} divergences)"
        )


def import_numpyro() -> Any:
    """Import NumPyro, or raise `InputError` if it or ArviZ is not installed."""
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
    """Draw a latent variable from its posterior.

    Args:
        model: function of NumPyro.
        latent: name of the latent's sample site, of any shape.
        arguments: of the model, as NumPy arrays.
        n_draws: per chain, after the warm-up.
        n_warmup: warm-up draws per chain.
        n_chains: number of chains, run one after the other.
        seed: of all chains.

    Raises:
        InputError: if NumPyro or ArviZ is not installed.
    """
    import_numpyro()
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
