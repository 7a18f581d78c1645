"""The weight of a mixture of two Gaussians as a global latent variable, which collapses where they
are one (W21 appendix A.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from scipy.stats import beta, norm

from uncollapse.classical import nuts
from uncollapse.classical.nuts import Draws, sample

# Places of alpha at which the exact posterior is computed, twice: everywhere, and where it has been
# found.
N_PLACES = 401
# Nats below its highest density at which the posterior ends.
DEPTH = 40.0


@dataclass(frozen=True)
class MixtureWeight:
    """alpha ~ Beta(5, 5), x ~ alpha N(m1, s1^2) + (1 - alpha) N(m2, s2^2), one alpha for all data.

    Attributes:
        means: m1, m2.
        scales: s1, s2.
        concentration: of the Beta distribution, 5 twice.
    """

    means: tuple[float, float]
    scales: tuple[float, float] = (1.0, 1.0)
    concentration: float = 5.0

    def log_densities(self, x: np.ndarray) -> np.ndarray:
        """Of x under each component, in nats, shape (2, n)."""
        return np.stack(
            [
                norm(mean, scale).logpdf(x)
                for mean, scale in zip(self.means, self.scales, strict=True)
            ]
        )

    def log_likelihood(self, x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """log p(x|alpha) of all data together, in nats, at each alpha."""
        first, second = self.log_densities(x)
        return np.array(
            [
                np.logaddexp(np.log(a) + first, np.log1p(-a) + second).sum()
                for a in np.atleast_1d(alpha)
            ]
        )

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The exact posterior, by quadrature: places of alpha at equal distances, and their
        probabilities."""
        everywhere = expit(np.linspace(-8, 8, N_PLACES))
        log_p = self._log_joint(x, everywhere)
        inside = np.flatnonzero(log_p > log_p.max() - DEPTH)
        low, high = max(inside[0] - 1, 0), min(inside[-1] + 1, N_PLACES - 1)
        alpha = np.linspace(everywhere[low], everywhere[high], N_PLACES)
        return alpha, softmax(self._log_joint(x, alpha))

    def _log_joint(self, x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        return np.asarray(self.log_likelihood(x, alpha) + self.prior().logpdf(alpha))

    def prior(self) -> Any:
        """Beta(5, 5)."""
        return beta(self.concentration, self.concentration)

    def draw_posterior(self, x: np.ndarray, seed: int = 0, n_draws: int = 1000) -> Draws:
        """Draws of alpha by NUTS."""
        numpyro = nuts.numpyro()
        import jax.numpy as jnp

        dist = numpyro.distributions

        def model(log_densities: np.ndarray) -> None:
            alpha = numpyro.sample("alpha", dist.Beta(self.concentration, self.concentration))
            first, second = log_densities
            numpyro.factor(
                "x", jnp.logaddexp(jnp.log(alpha) + first, jnp.log1p(-alpha) + second).sum()
            )

        return sample(model, "alpha", self.log_densities(x), seed=seed, n_draws=n_draws)
