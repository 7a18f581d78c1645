"""Experiments of K23 on toy data and images: figures 1 to 6, tables 2 and 4."""

from typing import Any

import numpy as np
import pandas as pd

from uncollapse.data import load
from uncollapse.data.synthetic import bayes_accuracy, class_information, two_gaussians
from uncollapse.experiments.papers.experiment import (
    OTHER_RIVALS,
    OUR_DEFAULTS,
    RIVALS,
    Experiment,
    FigureInput,
    Fit,
    Table,
    columns,
    paper_posterior,
    rivals,
)
from uncollapse.experiments.papers.figures import (
    component_samples,
    curves,
    data_by_component,
    reconstructions,
)
from uncollapse.experiments.presets import AS_PUBLISHED
from uncollapse.experiments.tables import over_seeds
from uncollapse.experiments.trial import Trial

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
    """Return a mixture of two components in two dimensions, with one map of width 10.

    These are the settings of K23 section 5.1 and table 3.
    """
    n_epochs, n_per_class, n_test = (2, 200, 200) if scale == "smoke" else (10, 10_000, 5000)
    arguments = {
        "n_components": 2,
        "latent_dim": 2,
        "hidden": [10],
        "learning_rate": 1e-2,
        "batch_size": 100,
        "max_epochs": n_epochs,
        **TOY_MODELS[model],
    }
    data = {"name": "two-gaussians", "sigma": sigma, "n_per_class": n_per_class, "n_test": n_test}
    keep = model in SHOWN_MODELS and sigma in SHOWN_SIGMAS
    return Fit(model, "MixtureVAE", arguments, data, {"sigma": sigma}, keep)


def toy_table(results: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies beside the best that is possible, and divergences."""
    best = results["sigma"].map(bayes_accuracy)
    results = results.assign(ratio=results["matched_accuracy"] / best)
    shown = {
        "accuracy": "matched_accuracy",
        "share of the Bayes optimum": "ratio",
        **columns("KL of y", "KL"),
        "Fisher divergence": "fisher_divergence",
        **columns("NLL"),
    }
    table = over_seeds(results, ["sigma", "model"], shown, digits=3)
    truths = {"Bayes optimum": bayes_accuracy, "true I(x; y)": class_information}
    for index, (name, truth) in enumerate(truths.items(), start=2):
        table.insert(index, name, [f"{truth(sigma):.3f}" for sigma in table["sigma"]])
    return table


def toy_figure_1(given: FigureInput) -> Any:
    """Draw accuracy, information of the component, and Fisher divergence against the noise."""
    results = given.results
    ys = {
        "matched_accuracy": "accuracy",
        "kl_y_nats": "KL(q(y|x) || 1/c), nats",
        "fisher_divergence": "relative Fisher divergence F(p(z) || p(z|x))",
    }
    log = ("fisher_divergence",)
    figure = curves(results, "sigma", ys, xlabel="sigma, of each class", log=log)
    sigmas = np.linspace(min(results["sigma"]), max(results["sigma"]), 100)
    for axis, truth in zip(figure.axes, (bayes_accuracy, class_information), strict=False):
        axis.plot(sigmas, [truth(sigma) for sigma in sigmas], "k:", label="limit of the classes")
    figure.axes[0].legend(fontsize=7)
    return figure


def toy_figure_4(given: FigureInput) -> Any:
    """Draw the components that each model predicts, at two noises (figures 2 and 4)."""
    shown = {}
    for sigma in SHOWN_SIGMAS:
        points = two_gaussians(sigma, n_per_class=2000, seed=1).X
        for model in SHOWN_MODELS:
            fitted = given.model(toy_trial(model, sigma, given.scale))
            shown[f"sigma = {sigma:g}", model] = (fitted, points)
    return data_by_component(shown)


TOY = Experiment(
    title="K23 section 5.1: two Gaussian classes that overlap more and more",
    trials=lambda scale: [
        toy_trial(model, sigma, scale)
        for sigma in (SHOWN_SIGMAS if scale == "smoke" else SIGMAS)
        for model in TOY_MODELS
    ],
    table=toy_table,
    figures={"figure-1": toy_figure_1, "figure-2-and-4": toy_figure_4},
)

LIPSCHITZ = (0.0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.0)
SHOWN_LIPSCHITZ = (0.0, 1.5, 5.0)
ANNEALED, TARGETED, ORDINARY = "IL-LIDMVAE annealed", "IL-LIDMVAE, KL wanted", "GMVAE"
SEPARATED = "IL-LIDMVAE, separated, L = 1.5"
TARGET_KL = {"fashion-mnist": 18.0, "omniglot": 26.0}
# K23 table 3.
SETTINGS: dict[str, dict[str, Any]] = {
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
    """Return estimators and their arguments by the names of the models.

    Mixtures have a prior with full covariances, except the one with separated components.
    """
    mixtures: dict[str, dict[str, Any]] = {
        ORDINARY: {"inverse_lipschitz": None},
        **{_name(constant): {"inverse_lipschitz": constant} for constant in LIPSCHITZ},
        SEPARATED: {"inverse_lipschitz": 1.5, "prior": "separated"},
        ANNEALED: {"inverse_lipschitz": 5.0, "annealing": True},
        TARGETED: {"target_kl": TARGET_KL[data]},
    }
    # Runs on Omniglot are short enough for further rivals.
    names = RIVALS | (OTHER_RIVALS if data == "omniglot" else {})
    plain = {name: ("VAE", given) for name, given in rivals("image", scale, names).items()}
    return plain | {
        name: ("MixtureVAE", {"prior": "full", **given}) for name, given in mixtures.items()
    }


def _name(constant: float) -> str:
    return f"IL-LIDMVAE, L = {constant:g}" if constant else "LIDMVAE, L = 0"


def image_trial(model: str, data: str, scale: str) -> Trial:
    """Return a model of images, which are binarized anew at each step."""
    estimator, given = image_models(data, scale)[model]
    n_epochs = EPOCHS[scale][data]
    arguments = {
        **SETTINGS[data],
        "family": "bernoulli",
        "learning_rate": 2e-3,
        "max_epochs": n_epochs,
        "posterior": paper_posterior(given) if scale == "paper" else "gaussian",
    }
    if estimator == "MixtureVAE":
        arguments["n_components"] = N_COMPONENTS[data]
        arguments["warmup_epochs"] = max(1, n_epochs // 10)
    rows = {"n_train": 500, "n_test": 200} if scale == "smoke" else {}
    keep = data == "fashion-mnist" and model in map(_name, SHOWN_LIPSCHITZ)
    labels = {"data": data, "L": given.get("inverse_lipschitz")}
    return Fit(model, estimator, {**arguments, **given}, {"name": data, **rows}, labels, keep)


def image_control(given: FigureInput) -> Any:
    """Draw KL, Fisher divergence and NLL against L."""
    grid = given.results[given.results["model"].isin(list(map(_name, LIPSCHITZ)))]
    lowest = grid.groupby(["data", "L"])["nll_nats"].mean().groupby("data").min()
    grid = grid.assign(excess=grid["nll_nats"] - grid["data"].map(lowest))
    ys = {
        "kl_nats": "KL, nats",
        "fisher_divergence": "relative Fisher divergence",
        "excess": "NLL above that of the best L, nats",
    }
    return curves(grid, "L", ys, xlabel="L of each map", log=("fisher_divergence",), by="data")


def _shown_models(given: FigureInput) -> dict[str, Any]:
    trials = {
        f"L = {constant:g}": image_trial(_name(constant), "fashion-mnist", given.scale)
        for constant in SHOWN_LIPSCHITZ
    }
    return {name: given.model(trial) for name, trial in trials.items()}


def image_samples(given: FigureInput) -> Any:
    """Draw samples of Fashion-MNIST, a row for each component (figures 3 and 6)."""
    return component_samples(_shown_models(given), (28, 28))


def image_reconstructions(given: FigureInput) -> Any:
    """Draw reconstructions of Fashion-MNIST, a row for each class (figure 5)."""
    test = load("fashion-mnist", "test")
    _, first = np.unique(np.asarray(test.labels), return_index=True)
    return reconstructions(_shown_models(given), test.X[first], (28, 28))


IMAGES = Experiment(
    title="K23 section 5.2, tables 2 and 4: Fashion-MNIST and Omniglot",
    trials=lambda scale: [
        image_trial(model, data, scale) for data in SETTINGS for model in image_models(data, scale)
    ],
    table=Table(
        by=("data", "model"),
        columns=columns(
            "NLL",
            "KL",
            "KL of y",
            "MI",
            "cap",
            "AU",
            "informative",
            "Fisher",
            "majority",
            "matched",
            "final L",
        ),
        published="k23-images",
    ),
    figures={
        "control": image_control,
        "figure-3-and-6": image_samples,
        "figure-5": image_reconstructions,
    },
)
