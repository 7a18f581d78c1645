"""The experiments of W21 on images and on two-dimensional data: figure 1, section 2.2, tables 1 and
2 (image halves)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from uncollapse.data import Data
from uncollapse.data.synthetic import one_cluster, pinwheel, two_clusters
from uncollapse.experiments import Trial
from uncollapse.experiments.papers.experiment import Experiment, Fit, Models, paper_numbers
from uncollapse.experiments.papers.figures import curves, data_by_component
from uncollapse.experiments.papers.k23 import OUR_DEFAULTS, RIVALS, posterior_for, rivals
from uncollapse.experiments.papers.tables import beside, with_shares
from uncollapse.experiments.presets import AS_PUBLISHED
from uncollapse.experiments.tables import over_seeds

TEN_SEEDS = {"smoke": 1, "small": 3, "paper": 10}
# GMVAE and LIDGMVAE are W21's. IL-LIDMVAE has a positive constant and our defaults: components that
# stay apart, and a warm-up.
MODELS: dict[str, dict[str, Any]] = {
    "GMVAE": {"inverse_lipschitz": None, **AS_PUBLISHED},
    "LIDGMVAE": {"inverse_lipschitz": 0.0, **AS_PUBLISHED},
    "IL-LIDMVAE": {"inverse_lipschitz": 0.5},
}
FLAT_MODELS = MODELS | OUR_DEFAULTS  # for data in two dimensions, which take little time
DEPTH_OF_TABLES = 9
ENCODER_DEPTH = 2  # what deepens is the decoder


def _flat_trial(
    model: str,
    data: dict[str, Any],
    labels: dict[str, Any],
    n_components: int,
    hidden: list[int],
    n_epochs: int,
) -> Trial:
    """A mixture in two dimensions, with as many latent units, which figures show."""
    arguments = {
        "n_components": n_components,
        "latent_dim": 2,
        "hidden": hidden,
        "encoder_hidden": hidden[:ENCODER_DEPTH],
        "max_epochs": n_epochs,
        "learning_rate": 3e-3,
        **FLAT_MODELS[model],
    }
    return Fit(model, "MixtureVAE", arguments, data, labels, keep=True)


PINWHEEL_DEPTHS = (2, DEPTH_OF_TABLES)
PINWHEEL_WIDTH = {"smoke": 8, "small": 64, "paper": 512}


def pinwheel_trial(model: str, depth: int, scale: str) -> Trial:
    """Five arms in two dimensions, with a Gaussian likelihood."""
    smoke = scale == "smoke"
    data = {"name": "pinwheel", "n_per_class": 50 if smoke else 1000}
    return _flat_trial(
        model, data, {"layers": depth}, 5, [PINWHEEL_WIDTH[scale]] * depth, 2 if smoke else 100
    )


def pinwheel_trials(scale: str) -> list[Trial]:
    """Every model, with few layers and with many."""
    return [
        pinwheel_trial(model, depth, scale) for depth in PINWHEEL_DEPTHS for model in FLAT_MODELS
    ]


MEASURES = {
    "accuracy": "majority_accuracy",
    "live components": "live_components",
    "AU": "au",
    "KL of y": "kl_y_nats",
    "KL of z": "kl_z_nats",
    "I(x; y)": "component_information_nats",
    "MI": "mutual_information_nats",
    "cap": "information_cap_nats",
    "NLL": "nll_nats",
}


def pinwheel_table(results: pd.DataFrame) -> pd.DataFrame:
    """The columns of W21 table 2, and accuracy."""
    table = over_seeds(with_shares(results, 2), ["layers", "model"], MEASURES, digits=3)
    return beside(table, paper_numbers("w21-pinwheel"), ["layers", "model"], "W21")


def pinwheel_figure(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """The components that each model sees (figures 1a and 1b)."""
    del results
    points = pinwheel(seed=1).X
    return data_by_component(
        {
            (f"{depth} layers", model): (models(pinwheel_trial(model, depth, scale)), points)
            for depth in PINWHEEL_DEPTHS
            for model in FLAT_MODELS
        }
    )


PINWHEEL = Experiment(
    title="W21 figure 1 a-b and table 2: the pinwheel",
    trials=pinwheel_trials,
    table=pinwheel_table,
    figures={"figure-1ab": pinwheel_figure},
    seeds=TEN_SEEDS,
)

IMAGE_SETTINGS: dict[str, dict[str, Any]] = {
    "fashion-mnist": {"n_components": 10},
    "mnist": {"n_components": 10},
    "omniglot": {"n_components": 8},
}
IMAGE_EPOCHS = {"smoke": 2, "small": 15, "paper": 100}
N_TRAIN = 20_000  # W21's subsample


def image_trial(model: str, data: str, depth: int, scale: str) -> Trial:
    """64 latent units and hidden layers of 512 (W21 appendix C), binarised anew at each step."""
    width = 32 if scale == "smoke" else 512
    is_mixture = model in MODELS
    arguments: dict[str, Any] = {
        **(IMAGE_SETTINGS[data] if is_mixture else {}),
        "latent_dim": 64,
        "hidden": [width] * depth,
        "encoder_hidden": [width] * ENCODER_DEPTH,
        "family": "bernoulli",
        "max_epochs": IMAGE_EPOCHS[scale],
        **(MODELS[model] if is_mixture else rivals("image", scale)[model]),
    }
    if scale == "paper":
        arguments["posterior"] = posterior_for(arguments)
    elif is_mixture:  # ten components enumerated take ten decoders, of nine layers
        arguments["inference"] = "marginal"
    estimator = "MixtureVAE" if is_mixture else "VAE"
    return Fit(
        model,
        estimator,
        arguments,
        {"name": data, **_image_rows(data, scale)},
        {"data": data, "layers": depth},
    )


def _image_rows(data: str, scale: str) -> dict[str, int]:
    if (
        data == "mnist" and scale != "paper"
    ):  # its 10,000 test images are all that can be counted on without a network
        return {"n_held_out": 100, "n_train": 300} if scale == "smoke" else {"n_held_out": 2000}
    return {"n_train": 300, "n_test": 100} if scale == "smoke" else {"n_train": N_TRAIN}


def image_trials(scale: str) -> list[Trial]:
    """Every model on three data sets, with nine layers, and the rivals that have no components."""
    models = (*MODELS, *RIVALS)
    return [
        image_trial(model, data, DEPTH_OF_TABLES, scale)
        for data in IMAGE_SETTINGS
        for model in models
    ]


def image_table(results: pd.DataFrame) -> pd.DataFrame:
    """The columns of W21 tables 1 and 2, and accuracy, with the rivals that the paper lists."""
    table = over_seeds(with_shares(results, 64), ["data", "model"], MEASURES)
    return beside(table, paper_numbers("w21-images"), ["data", "model"], "W21")


IMAGES = Experiment(
    title="W21 tables 1 and 2, image halves: a 9-layer decoder",
    trials=image_trials,
    table=image_table,
    figures={},
    seeds=TEN_SEEDS,
)

DEPTHS = {"smoke": (1, 2), "small": (1, 3, 5, 9), "paper": (1, 2, 3, 4, 5, 6, 7, 8, 9)}


def depth_trials(scale: str) -> list[Trial]:
    """Every model on Fashion-MNIST, layer by layer."""
    return [
        image_trial(model, "fashion-mnist", depth, scale)
        for depth in DEPTHS[scale]
        for model in MODELS
    ]


def depth_table(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and likelihood by depth."""
    return over_seeds(with_shares(results, 64), ["layers", "model"], MEASURES, digits=3)


def depth_figure(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """Accuracy and log-likelihood against the number of layers (figures 1c and 1d)."""
    del models, scale
    return curves(
        results.assign(ll=-results["nll_nats"]),
        "layers",
        {"majority_accuracy": "accuracy", "ll": "test log-likelihood, nats"},
        xlabel="hidden layers of the decoder",
    )


DEPTH = Experiment(
    title="W21 figure 1 c-d: Fashion-MNIST as the networks deepen",
    trials=depth_trials,
    table=depth_table,
    figures={"figure-1cd": depth_figure},
    seeds=TEN_SEEDS,
)

CLUSTERS: dict[str, Callable[..., Data]] = {
    "two clusters": two_clusters,
    "one cluster": one_cluster,
}


def cluster_trial(model: str, clusters: str, scale: str) -> Trial:
    """A mixture of two components on data from two clusters, or from one."""
    smoke = scale == "smoke"
    data = {"name": clusters.replace(" ", "-"), "n": 200 if smoke else 5000}
    return _flat_trial(
        model, data, {"clusters": clusters}, 2, [8] if smoke else [64, 64], 2 if smoke else 50
    )


def cluster_trials(scale: str) -> list[Trial]:
    """Every model on both data sets."""
    return [cluster_trial(model, clusters, scale) for clusters in CLUSTERS for model in FLAT_MODELS]


def cluster_table(results: pd.DataFrame) -> pd.DataFrame:
    """What the component tells, where there are clusters and where there are none."""
    measures = {**MEASURES, "floor of I(y; z)": "component_floor_nats"}
    del measures["accuracy"]  # there are no classes to be right about
    return over_seeds(with_shares(results, 2), ["clusters", "model"], measures, digits=3)


def cluster_figure(results: pd.DataFrame, models: Models, scale: str) -> Any:
    """The components that each model sees."""
    del results
    return data_by_component(
        {
            (clusters, model): (
                models(cluster_trial(model, clusters, scale)),
                generate(n=5000, seed=1).X,
            )
            for clusters, generate in CLUSTERS.items()
            for model in FLAT_MODELS
        }
    )


ONE_CLUSTER = Experiment(
    title="W21 section 2.2: two components, on data from two clusters and from one",
    trials=cluster_trials,
    table=cluster_table,
    figures={"components": cluster_figure},
    seeds=TEN_SEEDS,
)
