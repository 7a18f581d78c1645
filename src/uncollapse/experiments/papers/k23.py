"""The experiments of K23 on toy data and images: figures 1 to 6, tables 2 and 4."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from uncollapse.data import load
from uncollapse.data.synthetic import bayes_accuracy, class_information, two_gaussians
from uncollapse.experiments import Trial
from uncollapse.experiments.papers.experiment import Experiment, Fit, Models, paper_numbers
from uncollapse.experiments.papers.figures import (
    component_samples,
    curves,
    data_by_component,
    reconstructions,
)
from uncollapse.experiments.papers.tables import beside, with_shares
from uncollapse.experiments.presets import AS_PUBLISHED, named
from uncollapse.experiments.tables import over_seeds

# Ours without a constant, and without an injective decoder, so that each can be told from the
# other.
OUR_DEFAULTS: dict[str, dict[str, Any]] = {
    "GMVAE, our defaults": {"inverse_lipschitz": None},
    "L = 0, our defaults": {"inverse_lipschitz": 0.0},
}

SIGMAS = (0.5, 1.0, 2.5, 5.0, 7.5, 10.0)
TOY_MODELS: dict[str, dict[str, Any]] = {
    "GMVAE": {"inverse_lipschitz": None, **AS_PUBLISHED},
    "LIDMVAE": {"inverse_lipschitz": 0.0, **AS_PUBLISHED},
    "IL-LIDMVAE, L = 1": {"inverse_lipschitz": 1.0},
    "IL-LIDMVAE, L = 5": {"inverse_lipschitz": 5.0},
    "IL-LIDMVAE, KL = 3.5": {"target_kl": 3.5},
    **OUR_DEFAULTS,
    "GMVAE, fixed prior": {"inverse_lipschitz": None, "prior": "unit"},
    "LIDMVAE, fixed prior": {"inverse_lipschitz": 0.0, "prior": "unit"},
    "IL-LIDMVAE, fixed prior, L = 5": {"inverse_lipschitz": 5.0, "prior": "unit"},
}
SHOWN_SIGMAS, SHOWN_MODELS = (0.5, 7.5), ("GMVAE", "LIDMVAE", "IL-LIDMVAE, L = 5")


def toy_trial(model: str, sigma: float, scale: str) -> Trial:
    """A mixture of two components in two dimensions, with one map of width 10 (K23 section 5.1,
    table 3)."""
    smoke = scale == "smoke"
    return Fit(
        model,
        "MixtureVAE",
        {
            "n_components": 2,
            "latent_dim": 2,
            "hidden": [10],
            "learning_rate": 1e-2,
            "batch_size": 100,
            "max_epochs": 2 if smoke else 10,
            **TOY_MODELS[model],
        },
        {
            "name": "two-gaussians",
            "sigma": sigma,
            "n_per_class": 200 if smoke else 10_000,
            "n_test": 200 if smoke else 5000,
        },
        {"sigma": sigma},
        keep=model in SHOWN_MODELS and sigma in SHOWN_SIGMAS,
    )


def toy_trials(scale: str) -> list[Trial]:
    """Every model at every noise."""
    sigmas = SHOWN_SIGMAS if scale == "smoke" else SIGMAS
    return [toy_trial(model, sigma, scale) for sigma in sigmas for model in TOY_MODELS]


def toy_table(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy beside the best that is possible, and the divergence."""
    results = results.assign(
        ratio=results["matched_accuracy"] / results["sigma"].map(bayes_accuracy)
    )
    columns = {
        "accuracy": "matched_accuracy",
        "share of the Bayes optimum": "ratio",
        "KL of y": "kl_y_nats",
        "KL": "kl_nats",
        "Fisher divergence": "fisher_divergence",
        "NLL": "nll_nats",
    }
    table = over_seeds(results, ["sigma", "model"], columns, digits=3)
    table.insert(
        2, "Bayes optimum", table["sigma"].map(lambda sigma: f"{bayes_accuracy(sigma):.3f}")
    )
    table.insert(
        3, "true I(x; y)", table["sigma"].map(lambda sigma: f"{class_information(sigma):.3f}")
    )
    return table


def toy_figure_1(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Accuracy, what the component tells, and Fisher divergence against the noise."""
    del models, scale
    figure = curves(
        results,
        "sigma",
        {
            "matched_accuracy": "accuracy",
            "kl_y_nats": "KL(q(y|x) || 1/c), nats",
            "fisher_divergence": "relative Fisher divergence F(p(z) || p(z|x))",
        },
        xlabel="sigma, of each class",
        log=("fisher_divergence",),
    )
    sigmas = np.linspace(min(results["sigma"]), max(results["sigma"]), 100)
    for axis, best in zip(figure.axes, (bayes_accuracy, class_information), strict=False):
        axis.plot(sigmas, [best(sigma) for sigma in sigmas], "k:", label="what the classes allow")
    figure.axes[0].legend(fontsize=7)
    return figure


def toy_figure_4(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Where each model sees its components, at two noises (figures 2 and 4)."""
    del results
    shown = {}
    for sigma in SHOWN_SIGMAS:
        points = two_gaussians(sigma, n_per_class=2000, seed=1).X
        for model in SHOWN_MODELS:
            shown[f"sigma = {sigma:g}", model] = (models(toy_trial(model, sigma, scale)), points)
    return data_by_component(shown)


TOY = Experiment(
    title="K23 section 5.1: two Gaussian classes that overlap more and more",
    trials=toy_trials,
    table=toy_table,
    figures={"figure-1": toy_figure_1, "figure-2-and-4": toy_figure_4},
)

LIPSCHITZ = (0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.0)
SHOWN_LIPSCHITZ = (0.0, 1.5, 5.0)
ANNEALED, TARGETED, ORDINARY, PLAIN = "IL-LIDMVAE annealed", "IL-LIDMVAE, KL wanted", "GMVAE", "VAE"
SEPARATED = "IL-LIDMVAE, separated, L = 1.5"
TARGET_KL = {"fashion-mnist": 18.0, "omniglot": 26.0}
SETTINGS: dict[str, dict[str, Any]] = {  # K23 table 3
    "fashion-mnist": {"latent_dim": 64, "hidden": [512, 512]},
    "omniglot": {"latent_dim": 32, "hidden": [200, 200]},
}
N_COMPONENTS = {"fashion-mnist": 10, "omniglot": 8}
EPOCHS = {
    "smoke": {"fashion-mnist": 2, "omniglot": 2},
    "small": {"fashion-mnist": 24, "omniglot": 60},
    "paper": {"fashion-mnist": 100, "omniglot": 500},
}


def image_models(data: str, scale: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Estimators and their arguments, by name. Their prior is full but where components are to be
    kept apart."""
    mixtures: dict[str, dict[str, Any]] = {
        ORDINARY: {"inverse_lipschitz": None},
        **{_grid_name(constant): {"inverse_lipschitz": constant} for constant in LIPSCHITZ},
        SEPARATED: {"inverse_lipschitz": 1.5, "prior": "separated"},
        ANNEALED: {"inverse_lipschitz": 5.0, "annealing": True},
        TARGETED: {"target_kl": TARGET_KL[data]},
    }
    mixtures = {name: {"prior": "full", **given} for name, given in mixtures.items()}
    names = RIVALS | (OTHERS if data == "omniglot" else {})  # whose runs are short
    plain = {name: ("VAE", given) for name, given in rivals("image", scale, names).items()}
    return plain | {name: ("MixtureVAE", given) for name, given in mixtures.items()}


# The VAE and its rivals of W21 table 1, and those that neither paper computes: what tables call
# them, and their presets.
RIVALS = {
    PLAIN: "VAE",
    "SA-VAE": "SA-VAE",
    "Lagging VAE": "Lagging-VAE",
    "beta-VAE (0.2)": "beta-VAE",
}
OTHERS = {
    name: name for name in ("annealed-VAE", "cyclical-VAE", "free-bits-VAE", "IWAE", "LR-VAE")
}
SMOKE_SCHEDULES: dict[str, dict[str, Any]] = {
    "annealed-VAE": {"objective": {"elbo": {"warmup_steps": 1}}},
    "cyclical-VAE": {"objective": {"cyclical": {"n_cycles": 1}}},
}


def rivals(data: str, scale: str, names: Mapping[str, str] = RIVALS) -> dict[str, dict[str, Any]]:
    """Arguments by what tables call a model.

    Args:
        data: the kind, as for `uc.preset`.
        scale: of the experiment.
        names: of presets.
    """
    return {model: _shortened(name, named(name, data)[2], scale) for model, name in names.items()}


def _shortened(name: str, arguments: dict[str, Any], scale: str) -> dict[str, Any]:
    """At smaller scales than the paper's, refinement takes 5 steps, not 20; in a smoke test,
    schedules fit into its few steps."""
    if name == "SA-VAE" and scale != "paper":
        return {
            **arguments,
            "strategy": {
                "semi_amortized": {**arguments["strategy"]["semi_amortized"], "n_steps": 5}
            },
        }
    return {**arguments, **(SMOKE_SCHEDULES.get(name, {}) if scale == "smoke" else {})}


def _grid_name(constant: float) -> str:
    return f"IL-LIDMVAE, L = {constant:g}" if constant else "LIDMVAE, L = 0"


def image_trial(model: str, data: str, scale: str) -> Trial:
    """A model of images, binarised anew at each step."""
    estimator, given = image_models(data, scale)[model]
    n_epochs, posterior = (
        EPOCHS[scale][data],
        posterior_for(given) if scale == "paper" else "gaussian",
    )
    common = {
        "family": "bernoulli",
        "learning_rate": 2e-3,
        "max_epochs": n_epochs,
        "posterior": posterior,
    }
    of_mixtures = (
        {"n_components": N_COMPONENTS[data], "warmup_epochs": max(1, n_epochs // 10)}
        if estimator == "MixtureVAE"
        else {}
    )
    arguments = {**SETTINGS[data], **common, **of_mixtures, **given}
    rows = {"n_train": 500, "n_test": 200} if scale == "smoke" else {}
    keep = data == "fashion-mnist" and model in map(_grid_name, SHOWN_LIPSCHITZ)
    labels = {"data": data, "L": given.get("inverse_lipschitz")}
    return Fit(model, estimator, arguments, {"name": data, **rows}, labels, keep)


def posterior_for(arguments: dict[str, Any]) -> str:
    """The papers' posterior: RealNVP, but where it takes a Gaussian, to refine it or to know its
    units."""
    takes_gaussian = "semi_amortized" in (arguments.get("strategy") or ()) or "free_bits" in (
        arguments.get("objective") or ()
    )
    return "gaussian" if takes_gaussian else "realnvp"


def image_trials(scale: str) -> list[Trial]:
    """Every model on both data sets."""
    return [
        image_trial(model, data, scale) for data in SETTINGS for model in image_models(data, scale)
    ]


def image_table(results: pd.DataFrame) -> pd.DataFrame:
    """The columns of K23 table 4, and accuracies, beside the paper's numbers."""
    results = with_shares(
        results, results["data"].map(lambda data: SETTINGS[data]["latent_dim"])
    ).assign(
        final=[
            math.nan if not constants else math.prod(constants) ** (1 / len(constants))
            for constants in results["constants"]
        ],
    )
    columns = {
        "NLL": "nll_nats",
        "KL": "kl_nats",
        "KL of y": "kl_y_nats",
        "MI": "mutual_information_nats",
        "cap": "information_cap_nats",
        "AU": "au",
        "informative": "iu",
        "Fisher": "fisher_divergence",
        "majority": "majority_accuracy",
        "matched": "matched_accuracy",
        "final L": "final",
    }
    return beside(
        over_seeds(results, ["data", "model"], columns),
        paper_numbers("k23-images"),
        ["data", "model"],
        "K23",
    )


def image_control(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """KL, Fisher divergence and NLL against L."""
    del models, scale
    grid = results[results["model"].isin(list(map(_grid_name, LIPSCHITZ)))]
    least = grid.groupby(["data", "L"])["nll_nats"].mean().groupby("data").min()
    return curves(
        grid.assign(excess=grid["nll_nats"] - grid["data"].map(least)),
        "L",
        {
            "kl_nats": "KL, nats",
            "fisher_divergence": "relative Fisher divergence",
            "excess": "NLL above that of the best L, nats",
        },
        xlabel="L of each map",
        log=("fisher_divergence",),
        by="data",
    )


def _shown(models: Models, scale: str) -> dict[str, Any]:
    return {
        f"L = {constant:g}": models(image_trial(_grid_name(constant), "fashion-mnist", scale))
        for constant in SHOWN_LIPSCHITZ
    }


def image_samples(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Samples of Fashion-MNIST, a row for each component (figures 3 and 6)."""
    del results
    return component_samples(_shown(models, scale), (28, 28))


def image_reconstructions(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Reconstructions of Fashion-MNIST, a row for each class (figure 5)."""
    del results
    test = load("fashion-mnist", "test")
    assert test.labels is not None
    rows = np.array([np.flatnonzero(test.labels == label)[0] for label in np.unique(test.labels)])
    return reconstructions(_shown(models, scale), test.X[rows], (28, 28))


IMAGES = Experiment(
    title="K23 section 5.2, tables 2 and 4: Fashion-MNIST and Omniglot",
    trials=image_trials,
    table=image_table,
    figures={
        "control": image_control,
        "figure-3-and-6": image_samples,
        "figure-5": image_reconstructions,
    },
)
