"""Experiments of W21 on classical models, figures 2 to 4, by NUTS (extra ``mcmc``)."""

import io
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch.distributions import MultivariateNormal, kl_divergence

from uncollapse._utils.files import check_writable, write_bytes
from uncollapse._utils.random import derived_seed
from uncollapse.classical import PPCA, Draws, MixtureWeight
from uncollapse.experiments.environment import environment
from uncollapse.experiments.papers.experiment import Experiment, FigureInput, Table
from uncollapse.experiments.plotting import new_figure
from uncollapse.experiments.trial import EpochCallback, Trial
from uncollapse.measures import is_identifiable

# Draws of each of four chains.
N_DRAWS = {"smoke": 100, "small": 1000, "paper": 1000}
ARRAYS = "arrays.npz"
GREEN, BLUE, ORANGE = "#12936c", "#0f8fc4", "#d55e00"
PRIOR_STYLE: dict[str, Any] = {"color": "black", "lw": 1, "ls": "--", "label": "prior"}
HISTOGRAM: dict[str, Any] = {"bins": 60, "density": True, "alpha": 0.4}


@dataclass(frozen=True)
class Arrays:
    """Named arrays that figures need, saved without pickling."""

    arrays: dict[str, np.ndarray]

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the arrays into a folder."""
        file = Path(path) / ARRAYS
        check_writable(file, overwrite)
        content = io.BytesIO()
        np.savez_compressed(content, **self.arrays)  # type: ignore[arg-type]
        write_bytes(file, content.getvalue())
        return file


# Estimates by name, posterior draws, and arrays for figures.
Sample = tuple[dict[str, float], Draws, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Sampling(Trial):
    """A latent variable whose posterior is sampled.

    Attributes:
        data: everything but the seed that determines model and data.
        n_draws: draws of each chain.
        compute: samples, given the data, the number of draws and a seed.
    """

    model: str
    data: dict[str, Any]
    labels: dict[str, Any]
    n_draws: int
    compute: Callable[[dict[str, Any], int, int], Sample] = field(repr=False)

    def config(self) -> dict[str, Any]:
        return {"model": self.model, "data": self.data, "n_draws": self.n_draws}

    def execute(
        self, seed: int, folder: Path, verbose: bool, on_epoch: EpochCallback | None = None
    ) -> tuple[Any, dict[str, Any]]:
        # Interrupted chains start again, from their seed.
        start = time.perf_counter()
        estimates, draws, arrays = self.compute(self.data, self.n_draws, seed)
        if not draws.are_sound:
            message = f"chains have not mixed and are not reliable: {draws}"
            warnings.warn(message, UserWarning, stacklevel=2)
        estimates |= {
            "r_hat": float(draws.r_hat.max()),
            "effective_sample_size": float(draws.effective_sample_size.min()),
            "divergences": float(draws.n_divergences),
        }
        versions = {name: version(name) for name in ("numpyro", "jax", "arviz")}
        return Arrays(arrays), {
            **self.header(seed),
            "seconds": round(time.perf_counter() - start, 2),
            "constants": None,
            "estimates": {
                name: {"value": value, "standard_error": math.nan}
                for name, value in estimates.items()
            },
            "environment": {**environment("cpu"), **versions},
        }

    def saves_model(self, seed: int) -> bool:
        return seed == 0

    @staticmethod
    def load(path: Path) -> dict[str, np.ndarray]:
        with np.load(path / ARRAYS, allow_pickle=False) as file:
            return dict(file)


SAMPLER_COLUMNS = {"r-hat": "r_hat", "ESS": "effective_sample_size", "divergences": "divergences"}

# Lengths of the columns of the true W, and the true noise.
TRUTHS = {"two dimensions": (1.4, 0.8), "one dimension": (1.4, 0.0)}
TRUE_SIGMA, N_FEATURES, N_LATENTS = 0.3, 5, 2
# Noises of the models in figure 2. A unit collapses where the variance exceeds an eigenvalue of the
# data: one unit at 1, both at 1.5.
SIGMAS = (0.3, 0.7, 1.0, 1.5)
SURFACE = np.linspace(-3, 3, 61)


def true_ppca(truth: str) -> PPCA:
    """Return a PPCA of two latents; with a truth of one dimension, the second has no effect."""
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(N_FEATURES, N_LATENTS)))[0]
    return PPCA(directions * np.array(TRUTHS[truth]), TRUE_SIGMA)


def _sample_ppca(data: dict[str, Any], n_draws: int, seed: int) -> Sample:
    true = true_ppca(data["truth"])
    rows = true.sample(data["n"], derived_seed(seed, "ppca"))
    model = true if data["sigma"] is None else PPCA.fit(rows, N_LATENTS, data["sigma"])
    draws = model.draw_posterior(rows, seed, n_draws)
    exact = model.posterior(torch.as_tensor(rows))
    eye = torch.eye(N_LATENTS, dtype=torch.double)
    kl = kl_divergence(exact, MultivariateNormal(torch.zeros(N_LATENTS, dtype=torch.double), eye))
    distances = (draws.distance_to(norm.cdf), draws.sampling_error, draws.effective_sample_size)
    distance, limit, n_effective = (values.reshape(-1, N_LATENTS) for values in distances)
    pooled, mean = draws.pooled.reshape(-1, len(rows), N_LATENTS), exact.mean.numpy()
    errors = (pooled.mean(0) - mean) / (pooled.std(0) / np.sqrt(n_effective))
    deviation = exact.covariance_matrix[0].diagonal().sqrt().numpy()
    units = is_identifiable(model, rows).units
    estimates = {
        "sigma": model.sigma,
        "kl_nats": float(kl.mean()),
        "mean_error": float(np.sqrt(np.square(errors).mean())),
    }
    for unit in range(N_LATENTS):
        estimates |= {
            f"likelihood_spread_{unit}": float(units["spread_nats"][unit]),
            f"identifiable_{unit}": float(units["identifiable"][unit]),
            f"posterior_deviation_{unit}": float(deviation[unit]),
            f"share_at_prior_{unit}": float((distance[:, unit] < limit[:, unit]).mean()),
        }
    row = int(np.abs(mean[:, 0]).argmax())  # the one that figures show
    arrays = {
        "surface": _likelihood_surface(model, rows[row]),
        "draws": pooled[:, row],
        "mean": mean[row],
        "deviation": deviation,
    }
    return estimates, draws, arrays


def _likelihood_surface(model: PPCA, row: np.ndarray) -> np.ndarray:
    """Return log p(x|z) of a row at a grid of two latents."""
    grid = torch.as_tensor(np.stack(np.meshgrid(SURFACE, SURFACE, indexing="ij"), -1))
    log_p: torch.Tensor = model.likelihood(grid).log_prob(torch.as_tensor(row))
    return np.asarray(log_p.sum(-1))


def ppca_trial(truth: str, sigma: float | None, scale: str) -> Sampling:
    """Return a PPCA of two latents in five dimensions.

    W maximizes the likelihood for the noise, or all parameters are the true ones without a noise.
    """
    data = {"truth": truth, "sigma": sigma, "n": 20 if scale == "smoke" else 500}
    parameters = "the true ones" if sigma is None else f"best W for sigma {sigma:g}"
    labels = {"truth": truth, "parameters": parameters}
    return Sampling("PPCA", data, labels, N_DRAWS[scale], _sample_ppca)


def _ppca_figure(trials: dict[str, Sampling], given: FigureInput) -> Any:
    """Draw likelihood surfaces of one row, and below them its posteriors against the prior."""
    figure, axes = new_figure(2, len(trials), width=3.0, height=2.8)
    for column, (title, trial) in enumerate(trials.items()):
        above, below = axes[:, column]
        above.set_title(title, fontsize=9)
        arrays = given.model(trial)
        if arrays is not None:
            _draw_ppca(above, below, arrays, is_first=column == 0)
    _add_legend(axes[1][0])
    return figure


def _draw_ppca(above: Any, below: Any, arrays: dict[str, np.ndarray], is_first: bool) -> None:
    surface = np.exp(np.maximum(arrays["surface"] - arrays["surface"].max(), -30.0))
    levels = np.linspace(0, 1.0001, 21)
    above.contourf(SURFACE, SURFACE, surface.T, levels=levels, cmap="viridis")
    above.set(xlabel="z1", ylabel="z2" if is_first else "")
    z = np.linspace(-4, 4, 401)
    for unit, color in enumerate((ORANGE, BLUE)):
        exact = norm(arrays["mean"][unit], arrays["deviation"][unit])
        below.hist(arrays["draws"][:, unit], color=color, label=f"z{unit + 1}, NUTS", **HISTOGRAM)
        below.plot(z, exact.pdf(z), color=color, lw=1, label="exact")
    below.plot(z, norm.pdf(z), **PRIOR_STYLE)
    below.set(xlabel="z", ylabel="density" if is_first else "", xlim=(-4, 4))


def _add_legend(axis: Any) -> None:
    """Add a legend unless the axis is empty."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=6)


def ppca_figure_2(given: FigureInput) -> Any:
    """Draw rising noises, until both units collapse."""
    trials = {
        f"sigma = {sigma:g}": ppca_trial("two dimensions", sigma, given.scale) for sigma in SIGMAS
    }
    return _ppca_figure(trials, given)


def ppca_figure_3(given: FigureInput) -> Any:
    """Draw two latents for data of one dimension and of two."""
    truths = ("one dimension", "two dimensions")
    trials = {f"truth: {truth}": ppca_trial(truth, None, given.scale) for truth in truths}
    return _ppca_figure(trials, given)


PPCA_COLUMNS = {
    f"{label}, z{unit + 1}": f"{name}_{unit}"
    for label, name in (
        ("likelihood moves by, nats", "likelihood_spread"),
        ("posterior deviation", "posterior_deviation"),
        ("posteriors at the prior", "share_at_prior"),
    )
    for unit in range(N_LATENTS)
} | {"sigma": "sigma", "KL, nats": "kl_nats", "error of means / MCSE": "mean_error"}
PPCA_EXPERIMENT = Experiment(
    title="W21 section 4.2, figures 2 and 3: probabilistic PCA by NUTS",
    # Rising noises are for figure 2, and true parameters for figure 3.
    trials=lambda scale: [
        *(ppca_trial("two dimensions", sigma, scale) for sigma in SIGMAS),
        *(ppca_trial(truth, None, scale) for truth in ("one dimension", "two dimensions")),
    ],
    table=Table(("truth", "parameters"), {**PPCA_COLUMNS, **SAMPLER_COLUMNS}, digits=3),
    figures={"figure-2": ppca_figure_2, "figure-3": ppca_figure_3},
)

# Means of the two clusters, and the weight of the first.
CLUSTERS = {"apart": (-10.0, 10.0), "overlapping": (-0.5, 0.5), "one": (-1.0, -1.0)}
TRUE_WEIGHT = 0.15
N_POINTS = {"smoke": (1000,), "small": (10_000, 100_000), "paper": (10_000, 100_000)}
ALPHAS = np.linspace(0.005, 0.995, 199)


def gmm_data(clusters: str, n: int, seed: int) -> np.ndarray:
    """Return points of two clusters, or of one."""
    generator = np.random.default_rng(derived_seed(seed, "gmm"))
    is_second = generator.random(n) >= TRUE_WEIGHT
    means = np.array(CLUSTERS[clusters])[is_second.astype(int)]
    return np.asarray(means + generator.normal(size=n))


def _sample_gmm(data: dict[str, Any], n_draws: int, seed: int) -> Sample:
    x = gmm_data(data["clusters"], data["n"], seed)
    model = MixtureWeight(CLUSTERS[data["clusters"]])
    draws = model.draw_posterior(x, seed, n_draws)
    alpha, probability = model.posterior(x)
    mean = float(alpha @ probability)
    deviation = math.sqrt(float(np.square(alpha - mean) @ probability))
    surface = model.log_likelihood(x, ALPHAS)
    limit = float(draws.sampling_error[0])
    distance = float(draws.distance_to(model.prior().cdf)[0])
    standard_error = deviation / math.sqrt(float(draws.effective_sample_size[0]))
    estimates = {
        "likelihood_spread": _prior_deviation(surface, model),
        "exact_mean": mean,
        "exact_deviation": deviation,
        "mean_error": abs(float(draws.pooled.mean()) - mean) / standard_error,
        "drawn_deviation": float(draws.pooled.std()),
        "prior_deviation": float(model.prior().std()),
        "distance": distance,
        "sampling_error": limit,
        "at_prior": float(distance < limit),
    }
    arrays = {
        "surface": surface,
        "draws": draws.pooled[:, 0],
        "alpha": alpha,
        "probability": probability,
    }
    return estimates, draws, arrays


def _prior_deviation(log_p: np.ndarray, model: MixtureWeight) -> float:
    """Return the deviation of the log-likelihood at `ALPHAS` under the prior."""
    density = model.prior().pdf(ALPHAS)
    weights = np.asarray(density / density.sum())
    return math.sqrt(float(np.square(log_p - log_p @ weights) @ weights))


def gmm_trial(clusters: str, n: int, scale: str) -> Sampling:
    """Return the weight of two Gaussians with their true means and scales."""
    data = {"clusters": clusters, "n": n}
    return Sampling("mixture weight", data, dict(data), N_DRAWS[scale], _sample_gmm)


def gmm_figure(given: FigureInput) -> Any:
    """Draw likelihoods in alpha, and below them posteriors against the prior (figure 4)."""
    sizes = N_POINTS[given.scale]
    figure, axes = new_figure(2, len(sizes), width=4.5, height=2.8)
    prior = MixtureWeight(CLUSTERS["one"]).prior()
    for column, n in enumerate(sizes):
        above, below = axes[:, column]
        above.set_title(f"{n:,} points", fontsize=9)
        for clusters, color in zip(CLUSTERS, (GREEN, BLUE, ORANGE), strict=True):
            arrays = given.model(gmm_trial(clusters, n, given.scale))
            if arrays is not None:
                _draw_gmm(above, below, arrays, n, {"color": color}, f"clusters: {clusters}")
        below.plot(ALPHAS, prior.pdf(ALPHAS), **PRIOR_STYLE)
        above.set(xlabel="alpha", ylabel="log-likelihood / n, less its maximum")
        above.set_yscale("symlog", linthresh=1e-3)
        below.set(xlabel="alpha", ylabel="density", xlim=(0, 1), yscale="log", ylim=(0.05, 1000))
    for axis in axes[:, 0]:
        _add_legend(axis)
    return figure


def _draw_gmm(
    above: Any, below: Any, arrays: dict[str, np.ndarray], n: int, style: dict[str, str], label: str
) -> None:
    above.plot(ALPHAS, (arrays["surface"] - arrays["surface"].max()) / n, label=label, **style)
    below.hist(arrays["draws"], label=f"{label}, NUTS", **HISTOGRAM, **style)
    density = arrays["probability"] / np.diff(arrays["alpha"][:2])
    below.plot(arrays["alpha"], density, lw=1, **style)


GMM_COLUMNS = {
    "likelihood moves by, nats": "likelihood_spread",
    "posterior mean": "exact_mean",
    "posterior deviation": "exact_deviation",
    "of the draws": "drawn_deviation",
    "prior deviation": "prior_deviation",
    "distance to the prior": "distance",
    "sampling error": "sampling_error",
    "at the prior": "at_prior",
    "error of mean / MCSE": "mean_error",
}
GMM_EXPERIMENT = Experiment(
    title="W21 appendix A.2, figure 4: the weight of a Gaussian mixture by NUTS",
    trials=lambda scale: [
        gmm_trial(clusters, n, scale) for n in N_POINTS[scale] for clusters in CLUSTERS
    ],
    table=Table(("clusters", "n"), {**GMM_COLUMNS, **SAMPLER_COLUMNS}, digits=4),
    figures={"figure-4": gmm_figure},
)
