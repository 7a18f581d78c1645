"""Experiments of W21 on images and two-dimensional data: figure 1, section 2.2, tables 1 and 2."""

from collections.abc import Callable
from typing import Any

from uncollapse.data import Data
from uncollapse.data.synthetic import one_cluster, pinwheel, two_clusters
from uncollapse.experiments.papers.experiment import (
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
from uncollapse.experiments.papers.figures import curves, data_by_component
from uncollapse.experiments.presets import AS_PUBLISHED
from uncollapse.experiments.trial import Trial

TEN_SEEDS = {"smoke": 1, "small": 3, "paper": 10}
# GMVAE and LIDGMVAE are W21's. IL-LIDMVAE has a positive constant and our defaults: separated
# components, and a warm-up.
MODELS: dict[str, dict[str, Any]] = {
    "GMVAE": {"inverse_lipschitz": None, **AS_PUBLISHED},
    "LIDGMVAE": {"inverse_lipschitz": 0.0, **AS_PUBLISHED},
    "IL-LIDMVAE": {"inverse_lipschitz": 0.5},
}
# Ablations take little time on data in two dimensions.
FLAT_MODELS = MODELS | OUR_DEFAULTS
DEPTH_OF_TABLES = 9
# Only decoders deepen.
ENCODER_DEPTH = 2
INFORMATION = columns("live components", "AU", "KL of y", "KL of z", "I(x; y)", "MI", "cap", "NLL")
MEASURES = {"accuracy": "majority_accuracy", **INFORMATION}


def _flat_trial(
    model: str, data: dict[str, Any], labels: dict[str, Any], hidden: list[int], **given: int
) -> Trial:
    """Return a mixture in two dimensions with two latent units, which figures show."""
    arguments = {
        "latent_dim": 2,
        "hidden": hidden,
        "encoder_hidden": hidden[:ENCODER_DEPTH],
        "learning_rate": 3e-3,
        **given,
        **FLAT_MODELS[model],
    }
    return Fit(model, "MixtureVAE", arguments, data, labels, keep=True)


PINWHEEL_DEPTHS = (2, DEPTH_OF_TABLES)
PINWHEEL_WIDTH = {"smoke": 8, "small": 64, "paper": 512}


def pinwheel_trial(model: str, depth: int, scale: str) -> Trial:
    """Return a mixture of five components on five arms, with a Gaussian likelihood."""
    n_per_class, max_epochs = (50, 2) if scale == "smoke" else (1000, 100)
    data = {"name": "pinwheel", "n_per_class": n_per_class}
    hidden = [PINWHEEL_WIDTH[scale]] * depth
    labels = {"layers": depth}
    return _flat_trial(model, data, labels, hidden, n_components=5, max_epochs=max_epochs)


def pinwheel_figure(given: FigureInput) -> Any:
    """Draw the components that each model predicts (figures 1a and 1b)."""
    shown, points = {}, pinwheel(seed=1).X
    for depth in PINWHEEL_DEPTHS:
        for model in FLAT_MODELS:
            fitted = given.model(pinwheel_trial(model, depth, given.scale))
            shown[f"{depth} layers", model] = (fitted, points)
    return data_by_component(shown)


PINWHEEL = Experiment(
    title="W21 figure 1 a-b and table 2: the pinwheel",
    trials=lambda scale: [
        pinwheel_trial(model, depth, scale) for depth in PINWHEEL_DEPTHS for model in FLAT_MODELS
    ],
    table=Table(("layers", "model"), MEASURES, published="w21-pinwheel", digits=3),
    figures={"figure-1ab": pinwheel_figure},
    seeds=TEN_SEEDS,
)

N_COMPONENTS = {"fashion-mnist": 10, "mnist": 10, "omniglot": 8}
IMAGE_EPOCHS = {"smoke": 2, "small": 15, "paper": 100}
# W21 train on a subsample.
N_TRAIN = 20_000


def image_trial(model: str, data: str, depth: int, scale: str) -> Trial:
    """Return a model with 64 latent units and hidden layers of 512 (W21 appendix C).

    Images are binarized anew at each step.
    """
    width = 32 if scale == "smoke" else 512
    is_mixture = model in MODELS
    arguments: dict[str, Any] = {
        "latent_dim": 64,
        "hidden": [width] * depth,
        "encoder_hidden": [width] * ENCODER_DEPTH,
        "family": "bernoulli",
        "max_epochs": IMAGE_EPOCHS[scale],
        **(MODELS[model] if is_mixture else rivals("image", scale)[model]),
    }
    if is_mixture:
        arguments["n_components"] = N_COMPONENTS[data]
    if scale == "paper":
        arguments["posterior"] = paper_posterior(arguments)
    elif is_mixture:
        # The enumerated bound evaluates ten decoders of nine layers at each step.
        arguments["inference"] = "marginal"
    labels = {"data": data, "layers": depth}
    source = {"name": data, **_image_rows(data, scale)}
    return Fit(model, "MixtureVAE" if is_mixture else "VAE", arguments, source, labels)


def _image_rows(data: str, scale: str) -> dict[str, int]:
    if data == "mnist" and scale != "paper":
        # Only the 10,000 test images of MNIST are sure to be available without a network.
        return {"n_held_out": 100, "n_train": 300} if scale == "smoke" else {"n_held_out": 2000}
    return {"n_train": 300, "n_test": 100} if scale == "smoke" else {"n_train": N_TRAIN}


IMAGES = Experiment(
    title="W21 tables 1 and 2, image halves: a 9-layer decoder",
    trials=lambda scale: [
        image_trial(model, data, DEPTH_OF_TABLES, scale)
        for data in N_COMPONENTS
        for model in (*MODELS, *RIVALS)
    ],
    table=Table(("data", "model"), MEASURES, published="w21-images"),
    seeds=TEN_SEEDS,
)

DEPTHS = {"smoke": (1, 2), "small": (1, 3, 5, 9), "paper": (1, 2, 3, 4, 5, 6, 7, 8, 9)}


def depth_figure(given: FigureInput) -> Any:
    """Draw accuracy and log-likelihood against the number of layers (figures 1c and 1d)."""
    results = given.results.assign(ll=-given.results["nll_nats"])
    ys = {"majority_accuracy": "accuracy", "ll": "test log-likelihood, nats"}
    return curves(results, "layers", ys, xlabel="hidden layers of the decoder")


DEPTH = Experiment(
    title="W21 figure 1 c-d: Fashion-MNIST as the networks deepen",
    trials=lambda scale: [
        image_trial(model, "fashion-mnist", depth, scale)
        for depth in DEPTHS[scale]
        for model in MODELS
    ],
    table=Table(("layers", "model"), MEASURES, digits=3),
    figures={"figure-1cd": depth_figure},
    seeds=TEN_SEEDS,
)

CLUSTERS: dict[str, Callable[..., Data]] = {
    "two clusters": two_clusters,
    "one cluster": one_cluster,
}


def cluster_trial(model: str, clusters: str, scale: str) -> Trial:
    """Return a mixture of two components on data from two clusters, or from one."""
    n, hidden, max_epochs = (200, [8], 2) if scale == "smoke" else (5000, [64, 64], 50)
    data = {"name": clusters.replace(" ", "-"), "n": n}
    labels = {"clusters": clusters}
    return _flat_trial(model, data, labels, hidden, n_components=2, max_epochs=max_epochs)


def cluster_figure(given: FigureInput) -> Any:
    """Draw the components that each model predicts."""
    shown = {}
    for clusters, generate in CLUSTERS.items():
        points = generate(n=5000, seed=1).X
        for model in FLAT_MODELS:
            fitted = given.model(cluster_trial(model, clusters, given.scale))
            shown[clusters, model] = (fitted, points)
    return data_by_component(shown)


ONE_CLUSTER = Experiment(
    title="W21 section 2.2: two components, on data from two clusters and from one",
    trials=lambda scale: [
        cluster_trial(model, clusters, scale) for clusters in CLUSTERS for model in FLAT_MODELS
    ],
    # Accuracy is left out because the data have no classes.
    table=Table(
        by=("clusters", "model"),
        columns={**INFORMATION, "floor of I(y; z)": "component_floor_nats"},
        digits=3,
    ),
    figures={"components": cluster_figure},
    seeds=TEN_SEEDS,
)
