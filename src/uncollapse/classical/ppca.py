"""Probabilistic principal component analysis.

Its latents collapse if the noise is large, or if there are too many of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from uncollapse._utils.errors import DataError
from uncollapse._utils.validation import check_count, check_positive
from uncollapse.classical.nuts import Draws, import_numpyro, sample


@dataclass(frozen=True)
class PPCA:
    """z ~ N(0, I_l), x ~ N(W z, sigma^2 I_d).

    See Tipping & Bishop (1999), and W21 section 4.2 and appendix A.1. `diagnose` and
    `is_identifiable` accept it.

    Attributes:
        weight: W, shape (d, l).
        sigma: standard deviation of the noise.
    """

    weight: np.ndarray
    sigma: float

    @classmethod
    def fit(cls, X: np.ndarray, latent_dim: int, sigma: float | None = None) -> PPCA:
        """Fit W by maximum likelihood, in closed form.

        Column i of W is the i-th principal direction, scaled by sqrt(eigenvalue_i - sigma^2). The
        unit collapses, with a column of zeros, if the eigenvalue is not above sigma^2.

        Args:
            X: centered data, shape (n, d).
            latent_dim: l, below d.
            sigma: known noise; fitted by maximum likelihood if None.

        Raises:
            InputError: if an argument cannot be used.
        """
        check_count("latent_dim", latent_dim)
        if X.ndim != 2 or latent_dim >= X.shape[1]:
            raise DataError(
                f"PPCA expects rows of more than latent_dim={latent_dim} columns, got shape "
                f"{X.shape}."
            )
        if sigma is not None:
            check_positive("sigma", sigma)
        eigenvalues, directions = np.linalg.eigh(X.T @ X / len(X))
        eigenvalues, directions = eigenvalues[::-1], directions[:, ::-1]
        found = math.sqrt(eigenvalues[latent_dim:].mean()) if sigma is None else sigma
        lengths = np.sqrt(np.maximum(eigenvalues[:latent_dim] - found**2, 0.0))
        return cls(directions[:, :latent_dim] * lengths, found)

    @property
    def latent_dim(self) -> int:
        """Number of latent units, l."""
        return int(self.weight.shape[1])

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Draw x, shape (n, d)."""
        generator = np.random.default_rng(seed)
        z = generator.normal(size=(n, self.latent_dim))
        noise = generator.normal(size=(n, len(self.weight)))
        return np.asarray(z @ self.weight.T + self.sigma * noise)

    def prior(self) -> Normal:
        """Return p(z)."""
        return Normal(torch.zeros(self.latent_dim, dtype=torch.double), 1.0)

    def likelihood(self, z: Tensor) -> Normal:
        """Return p(x|z)."""
        return Normal(z.double() @ torch.as_tensor(self.weight).T, self.sigma)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """Return p(z|x), in closed form."""
        weight = torch.as_tensor(self.weight)
        identity = torch.eye(self.latent_dim, dtype=torch.double)
        covariance = torch.linalg.inv(identity + weight.T @ weight / self.sigma**2)
        return MultivariateNormal(x.double() @ weight @ covariance / self.sigma**2, covariance)

    def marginal(self) -> MultivariateNormal:
        """Return p(x), in closed form."""
        weight = torch.as_tensor(self.weight)
        noise = self.sigma**2 * torch.eye(len(weight), dtype=torch.double)
        return MultivariateNormal(weight.new_zeros(len(weight)), weight @ weight.T + noise)

    def draw_posterior(self, X: np.ndarray, seed: int = 0, n_draws: int = 1000) -> Draws:
        """Draw z of all rows by NUTS; the latents of a row are side by side."""
        numpyro = import_numpyro()
        dist = numpyro.distributions

        def model(rows: np.ndarray) -> None:
            prior = dist.Normal(0.0, 1.0).expand([len(rows), self.latent_dim])
            z = numpyro.sample("z", prior.to_event(2))
            numpyro.sample("x", dist.Normal(z @ self.weight.T, self.sigma).to_event(2), obs=rows)

        return sample(model, "z", X, seed=seed, n_draws=n_draws)
