"""Weight of a mixture of two Gaussians as a global latent variable (W21 appendix A.2).

Its posterior collapses if both Gaussians are the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from scipy.stats import beta, norm

from uncollapse.classical.nuts import Draws, import_numpyro, sample

# Quadrature has this many points, on a grid over (0, 1) and then on one over the posterior's mass.
N_POINTS = 401
# Densities this many nats below the maximum count as 0.
MAX_NATS_BELOW = 40.0


@dataclass(frozen=True)
class MixtureWeight:
    """alpha ~ Beta(5, 5), x ~ alpha N(m1, s1^2) + (1 - alpha) N(m2, s2^2), one alpha for all data.

    Attributes:
        means: m1, m2.
        scales: s1, s2.
        concentration: both parameters of the Beta distribution.
    """

    means: tuple[float, float]
    scales: tuple[float, float] = (1.0, 1.0)
    concentration: float = 5.0

    def log_densities(self, x: np.ndarray) -> np.ndarray:
        """Return log densities of x under each component, in nats, shape (2, n)."""
        return np.stack(
            [norm(*each).logpdf(x) for each in zip(self.means, self.scales, strict=True)]
        )

    def log_likelihood(self, x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """Return log p(x|alpha), summed over the data, in nats, at each alpha."""
        alpha, (first, second) = np.atleast_1d(alpha), self.log_densities(x)
        weights = zip(np.log(alpha), np.log1p(-alpha), strict=True)
        return np.array([np.logaddexp(a + first, b + second).sum() for a, b in weights])

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact posterior: equally spaced points of alpha, and their probabilities."""
        grid = expit(np.linspace(-8, 8, N_POINTS))
        log_p = self._log_joint(x, grid)
        inside = np.flatnonzero(log_p > log_p.max() - MAX_NATS_BELOW)
        low, high = max(inside[0] - 1, 0), min(inside[-1] + 1, N_POINTS - 1)
        alpha = np.linspace(grid[low], grid[high], N_POINTS)
        return alpha, softmax(self._log_joint(x, alpha))

    def _log_joint(self, x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        return np.asarray(self.log_likelihood(x, alpha) + self.prior().logpdf(alpha))

    def prior(self) -> Any:
        """Return p(alpha)."""
        return beta(self.concentration, self.concentration)

    def draw_posterior(self, x: np.ndarray, seed: int = 0, n_draws: int = 1000) -> Draws:
        """Draw alpha from its posterior by NUTS."""
        numpyro = import_numpyro()
        import jax.numpy as jnp

        dist = numpyro.distributions

        def model(log_densities: np.ndarray) -> None:
            alpha = numpyro.sample("alpha", dist.Beta(self.concentration, self.concentration))
            first, second = log_densities
            numpyro.factor(
                "x", jnp.logaddexp(jnp.log(alpha) + first, jnp.log1p(-alpha) + second).sum()
            )

        return sample(model, "alpha", self.log_densities(x), seed=seed, n_draws=n_draws)
