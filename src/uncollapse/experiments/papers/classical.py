"""The experiments of W21 on classical models: figures 2, 3 and 4, by Markov chain Monte Carlo
(extra ``mcmc``)."""

from __future__ import annotations

import io
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from uncollapse._utils.files import check_writable, write_bytes
from uncollapse._utils.random import derived_seed
from uncollapse.classical import PPCA, Draws, MixtureWeight
from uncollapse.experiments import Kept, Trial
from uncollapse.experiments.environment import environment
from uncollapse.experiments.papers.experiment import Experiment, Models
from uncollapse.experiments.plotting import new_figure
from uncollapse.experiments.tables import over_seeds
from uncollapse.experiments.trial import Watch
from uncollapse.measures import is_identifiable

N_DRAWS = {"smoke": 100, "small": 1000, "paper": 1000}  # of each of four chains
ARRAYS = "arrays.npz"


@dataclass(frozen=True)
class Arrays:
    """Named arrays that figures need, kept in a file that can hold nothing else."""

    arrays: dict[str, np.ndarray]

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write them into a folder."""
        file = Path(path) / ARRAYS
        check_writable(file, overwrite)
        content = io.BytesIO()
        np.savez_compressed(content, **self.arrays)  # type: ignore[arg-type]
        write_bytes(file, content.getvalue())
        return file


@dataclass(frozen=True)
class Sampling(Trial):
    """A latent variable whose posterior is drawn from.

    Attributes:
        model: what tables call it.
        data: all that decides over model and data but the seed.
        labels: what tables group by.
        n_draws: of each chain.
        compute: does it, given the data, the number of draws and a seed: estimates, draws and
            arrays for figures.
        keep: whether figures need the draws of the first seed.
    """

    model: str
    data: dict[str, Any]
    labels: dict[str, Any]
    n_draws: int
    compute: Callable[
        [dict[str, Any], int, int], tuple[dict[str, float], Draws, dict[str, np.ndarray]]
    ] = field(repr=False)
    keep: bool = True

    def config(self) -> dict[str, Any]:
        """All that decides over the result, but the seed, as JSON has it."""
        config: dict[str, Any] = json.loads(
            json.dumps({"model": self.model, "data": self.data, "n_draws": self.n_draws})
        )
        return config

    def execute(
        self, seed: int, folder: Path, verbose: bool, watch: Watch | None = None
    ) -> tuple[Kept, dict[str, Any]]:
        """Draw, and measure. Chains that were interrupted begin anew, from their seed."""
        del folder, verbose, watch
        start = time.perf_counter()
        found, draws, arrays = self.compute(self.data, self.n_draws, seed)
        if not draws.are_sound:
            warnings.warn(
                f"chains have not mixed, and say little: {draws}", UserWarning, stacklevel=2
            )
        sampler = {
            "r_hat": float(draws.r_hat.max()),
            "effective_sample_size": float(draws.effective_sample_size.min()),
            "divergences": float(draws.n_divergences),
        }
        row = {
            **self.identity(seed),
            "seconds": round(time.perf_counter() - start, 2),
            "constants": None,
            "estimates": {
                name: {"value": value, "standard_error": math.nan}
                for name, value in {**found, **sampler}.items()
            },
            "environment": {
                **environment("cpu"),
                **{name: version(name) for name in ("numpyro", "jax", "arviz")},
            },
        }
        return Arrays(arrays), row

    def keeps(self, seed: int) -> bool:
        """Whether figures need the draws."""
        return self.keep and seed == 0

    @staticmethod
    def load(path: Path) -> dict[str, np.ndarray]:
        """The arrays that were kept."""
        with np.load(path / ARRAYS, allow_pickle=False) as file:
            return dict(file)


SAMPLER_COLUMNS = {"r-hat": "r_hat", "ESS": "effective_sample_size", "divergences": "divergences"}

# The lengths of the true W's columns, and the true noise, by the dimensions of the truth.
TRUTHS = {"two dimensions": (1.4, 0.8), "one dimension": (1.4, 0.0)}
TRUE_SIGMA, N_FEATURES, N_LATENTS = 0.3, 5, 2
# What the model believes of the noise in figure 2. A unit collapses where its variance exceeds an
# eigenvalue: at 1 one, then both.
SIGMAS = (0.3, 0.7, 1.0, 1.5)
SURFACE = np.linspace(-3, 3, 61)


def true_ppca(truth: str) -> PPCA:
    """A PPCA of one or two dimensions; of one, the second latent does nothing."""
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(N_FEATURES, N_LATENTS)))[0]
    return PPCA(directions * np.array(TRUTHS[truth]), TRUE_SIGMA)


def _sample_ppca(
    data: dict[str, Any], n_draws: int, seed: int
) -> tuple[dict[str, float], Draws, dict[str, np.ndarray]]:
    true = true_ppca(data["truth"])
    rows = true.sample(data["n"], derived_seed(seed, "ppca"))
    model = true if data["sigma"] is None else PPCA.fit(rows, N_LATENTS, data["sigma"])
    draws = model.draw_posterior(rows, seed, n_draws)
    exact = model.posterior(torch.as_tensor(rows))
    kl = torch.distributions.kl_divergence(exact, _standard_normal(model.latent_dim))
    distance, limit = (
        draws.distance_to(norm.cdf).reshape(-1, N_LATENTS),
        draws.sampling_error.reshape(-1, N_LATENTS),
    )
    pooled = draws.pooled.reshape(-1, len(rows), N_LATENTS)
    errors = (pooled.mean(0) - exact.mean.numpy()) / (
        pooled.std(0) / np.sqrt(draws.effective_sample_size.reshape(-1, N_LATENTS))
    )
    units = is_identifiable(model, rows).units
    found = {
        "sigma": model.sigma,
        "kl_nats": float(kl.mean()),
        "mean_error": float(np.sqrt(np.square(errors).mean())),
    }
    for unit in range(N_LATENTS):
        found |= {
            f"likelihood_spread_{unit}": float(units["spread_nats"][unit]),
            f"identifiable_{unit}": float(units["identifiable"][unit]),
            f"posterior_deviation_{unit}": float(exact.covariance_matrix[0, unit, unit].sqrt()),
            f"share_at_prior_{unit}": float((distance[:, unit] < limit[:, unit]).mean()),
        }
    some = int(np.abs(exact.mean.numpy()[:, 0]).argmax())  # a row that has something to say
    grid = torch.as_tensor(np.stack(np.meshgrid(SURFACE, SURFACE, indexing="ij"), -1))
    log_p: torch.Tensor = model.likelihood(grid).log_prob(torch.as_tensor(rows[some]))  # type: ignore[no-untyped-call]
    mean, deviation = exact.mean.numpy()[some], exact.covariance_matrix[0].diagonal().sqrt().numpy()
    return (
        found,
        draws,
        {
            "surface": log_p.sum(-1).numpy(),
            "draws": pooled[:, some],
            "mean": mean,
            "deviation": deviation,
        },
    )


def _standard_normal(latent_dim: int) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(
        torch.zeros(latent_dim, dtype=torch.double), torch.eye(latent_dim, dtype=torch.double)
    )


def ppca_trial(truth: str, sigma: float | None, scale: str) -> Sampling:
    """PPCA of two latents in five dimensions, at the W of maximum likelihood for a noise, or at the
    true parameters."""
    data = {"truth": truth, "sigma": sigma, "n": 20 if scale == "smoke" else 500}
    labels = {
        "truth": truth,
        "parameters": "the true ones" if sigma is None else f"best W for sigma {sigma:g}",
    }
    return Sampling("PPCA", data, labels, N_DRAWS[scale], _sample_ppca)


def ppca_trials(scale: str) -> list[Trial]:
    """Rising noise (figure 2), and one or two true dimensions (figure 3)."""
    return [
        *(ppca_trial("two dimensions", sigma, scale) for sigma in SIGMAS),
        *(ppca_trial(truth, None, scale) for truth in ("one dimension", "two dimensions")),
    ]


def ppca_table(results: pd.DataFrame) -> pd.DataFrame:
    """What moves the likelihood, and what the posterior does."""
    of_units = {
        "likelihood moves by, nats": "likelihood_spread",
        "posterior deviation": "posterior_deviation",
        "posteriors at the prior": "share_at_prior",
    }
    columns = {
        f"{label}, z{unit + 1}": f"{name}_{unit}"
        for label, name in of_units.items()
        for unit in range(N_LATENTS)
    }
    columns |= {
        "sigma": "sigma",
        "KL, nats": "kl_nats",
        "error of means / MCSE": "mean_error",
        **SAMPLER_COLUMNS,
    }
    return over_seeds(results, ["truth", "parameters"], columns, digits=3)


def _ppca_figure(trials: dict[str, Sampling], models: Models) -> Any:
    """Likelihood surfaces of one row above, and its posteriors of both latents against the prior
    below."""
    figure, axes = new_figure(2, len(trials), width=3.0, height=2.8)
    places = np.linspace(-4, 4, 401)
    for column, (title, trial) in enumerate(trials.items()):
        above, below = axes[0][column], axes[1][column]
        above.set_title(title, fontsize=9)
        kept = models(trial)
        if kept is None:
            continue
        surface = np.exp(np.maximum(kept["surface"] - kept["surface"].max(), -30.0))
        above.contourf(
            SURFACE, SURFACE, surface.T, levels=np.linspace(0, 1.0001, 21), cmap="viridis"
        )
        above.set(xlabel="z1", ylabel="z2" if column == 0 else "")
        for unit, colour in enumerate(("#d55e00", "#0f8fc4")):
            below.hist(
                kept["draws"][:, unit],
                bins=60,
                density=True,
                alpha=0.4,
                color=colour,
                label=f"z{unit + 1}, NUTS",
            )
            below.plot(
                places,
                norm(kept["mean"][unit], kept["deviation"][unit]).pdf(places),
                color=colour,
                lw=1,
                label="exact",
            )
        below.plot(places, norm.pdf(places), color="black", lw=1, ls="--", label="prior")
        below.set(xlabel="z", ylabel="density" if column == 0 else "", xlim=(-4, 4))
    axes[1][0].legend(fontsize=6)
    return figure


def ppca_figure_2(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Noise that rises until all is collapsed."""
    del results
    return _ppca_figure(
        {f"sigma = {sigma:g}": ppca_trial("two dimensions", sigma, scale) for sigma in SIGMAS},
        models,
    )


def ppca_figure_3(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Two latents for data of one dimension and of two."""
    del results
    return _ppca_figure(
        {
            f"truth: {truth}": ppca_trial(truth, None, scale)
            for truth in ("one dimension", "two dimensions")
        },
        models,
    )


CLASSICAL_PPCA = Experiment(
    title="W21 section 4.2, figures 2 and 3: probabilistic PCA by NUTS",
    trials=ppca_trials,
    table=ppca_table,
    figures={"figure-2": ppca_figure_2, "figure-3": ppca_figure_3},
)

# The means of the two clusters; the weight of the first is 0.15 in all.
CLUSTERS = {"apart": (-10.0, 10.0), "overlapping": (-0.5, 0.5), "one": (-1.0, -1.0)}
TRUE_WEIGHT = 0.15
N_POINTS = {"smoke": (1000,), "small": (10_000, 100_000), "paper": (10_000, 100_000)}
ALPHAS = np.linspace(0.005, 0.995, 199)


def gmm_data(clusters: str, n: int, seed: int) -> np.ndarray:
    """Points of two clusters, or of one."""
    generator = np.random.default_rng(derived_seed(seed, "gmm"))
    means = np.array(CLUSTERS[clusters])
    return np.asarray(
        means[(generator.random(n) >= TRUE_WEIGHT).astype(int)] + generator.normal(size=n)
    )


def _sample_gmm(
    data: dict[str, Any], n_draws: int, seed: int
) -> tuple[dict[str, float], Draws, dict[str, np.ndarray]]:
    x, model = (
        gmm_data(data["clusters"], data["n"], seed),
        MixtureWeight(CLUSTERS[data["clusters"]]),
    )
    draws = model.draw_posterior(x, seed, n_draws)
    alpha, probability = model.posterior(x)
    mean = float(alpha @ probability)
    deviation = math.sqrt(float(np.square(alpha - mean) @ probability))
    surface = model.log_likelihood(x, ALPHAS)
    limit = float(draws.sampling_error[0])
    distance = float(draws.distance_to(model.prior().cdf)[0])
    found = {
        "likelihood_spread": _spread(surface, _weights(model)),
        "exact_mean": mean,
        "exact_deviation": deviation,
        "mean_error": abs(float(draws.pooled.mean()) - mean)
        / (deviation / math.sqrt(float(draws.effective_sample_size[0]))),
        "drawn_deviation": float(draws.pooled.std()),
        "prior_deviation": float(model.prior().std()),
        "distance": distance,
        "sampling_error": limit,
        "at_prior": float(distance < limit),
    }
    return (
        found,
        draws,
        {
            "surface": surface,
            "draws": draws.pooled[:, 0],
            "alpha": alpha,
            "probability": probability,
        },
    )


def _weights(model: MixtureWeight) -> np.ndarray:
    """The prior's at the alphas of the surface."""
    density = model.prior().pdf(ALPHAS)
    return np.asarray(density / density.sum())


def _spread(log_p: np.ndarray, weights: np.ndarray) -> float:
    """The deviation under the prior, which is 0 where the likelihood is constant."""
    return math.sqrt(float(np.square(log_p - log_p @ weights) @ weights))


def gmm_trial(clusters: str, n: int, scale: str) -> Sampling:
    """The weight of two Gaussians at their true means and scales."""
    return Sampling(
        "mixture weight",
        {"clusters": clusters, "n": n},
        {"clusters": clusters, "n": n},
        N_DRAWS[scale],
        _sample_gmm,
    )


def gmm_trials(scale: str) -> list[Trial]:
    """Three data sets, at both sizes."""
    return [gmm_trial(clusters, n, scale) for n in N_POINTS[scale] for clusters in CLUSTERS]


def gmm_table(results: pd.DataFrame) -> pd.DataFrame:
    """What moves the likelihood, and where the posterior is."""
    columns = {
        "likelihood moves by, nats": "likelihood_spread",
        "posterior mean": "exact_mean",
        "posterior deviation": "exact_deviation",
        "of the draws": "drawn_deviation",
        "prior deviation": "prior_deviation",
        "distance to the prior": "distance",
        "sampling error": "sampling_error",
        "at the prior": "at_prior",
        "error of mean / MCSE": "mean_error",
        **SAMPLER_COLUMNS,
    }
    return over_seeds(results, ["clusters", "n"], columns, digits=4)


def gmm_figure(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Likelihood in alpha above, and posteriors against the prior below (figure 4), at each
    size."""
    del results
    sizes = N_POINTS[scale]
    figure, axes = new_figure(2, len(sizes), width=4.5, height=2.8)
    for column, n in enumerate(sizes):
        above, below = axes[0][column], axes[1][column]
        above.set_title(f"{n:,} points", fontsize=9)
        for clusters, colour in zip(CLUSTERS, ("#12936c", "#0f8fc4", "#d55e00"), strict=True):
            kept = models(gmm_trial(clusters, n, scale))
            if kept is None:
                continue
            above.plot(
                ALPHAS,
                (kept["surface"] - kept["surface"].max()) / n,
                color=colour,
                label=f"clusters: {clusters}",
            )
            below.hist(
                kept["draws"],
                bins=60,
                density=True,
                alpha=0.4,
                color=colour,
                label=f"clusters: {clusters}, NUTS",
            )
            below.plot(
                kept["alpha"], kept["probability"] / np.diff(kept["alpha"][:2]), color=colour, lw=1
            )
        below.plot(
            ALPHAS,
            MixtureWeight(CLUSTERS["one"]).prior().pdf(ALPHAS),
            color="black",
            lw=1,
            ls="--",
            label="prior",
        )
        above.set(xlabel="alpha", ylabel="log-likelihood / n, less its maximum")
        above.set_yscale("symlog", linthresh=1e-3)
        below.set(xlabel="alpha", ylabel="density", xlim=(0, 1), yscale="log", ylim=(0.05, 1000))
    axes[0][0].legend(fontsize=6)
    axes[1][0].legend(fontsize=6)
    return figure


CLASSICAL_GMM = Experiment(
    title="W21 appendix A.2, figure 4: the weight of a Gaussian mixture by NUTS",
    trials=gmm_trials,
    table=gmm_table,
    figures={"figure-4": gmm_figure},
)
