"""The data of the experiments, and what is measured beside the usual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from uncollapse._utils.correlations import canonical_correlations
from uncollapse._utils.random import derived_seed
from uncollapse.data import Data, load
from uncollapse.data.synthetic import one_cluster, pinwheel, two_clusters, two_gaussians
from uncollapse.data.synthetic_text import TEST_TRUTH, synthetic_text, true_latents
from uncollapse.estimators import Estimator
from uncollapse.experiments import Parts

SYNTHETIC: dict[str, Callable[..., Data]] = {
    "two-gaussians": two_gaussians,
    "pinwheel": pinwheel,
    "one-cluster": one_cluster,
    "two-clusters": two_clusters,
}


def load_parts(data: dict[str, Any], seed: int) -> Parts:
    """The data of a trial.

    Args:
        data: a name, with the arguments of a generator, or with `n_train` and `n_test` rows to be
            taken at random; with `n_held_out` the test data alone are used, and so many of them are
            kept from training; of text, the `part` to train on, and the `max_words` of its
            documents.
        seed: of a generator, or of what is taken.
    """
    arguments = {key: value for key, value in data.items() if key != "name"}
    if data["name"] in SYNTHETIC:
        generate, n_test = SYNTHETIC[data["name"]], arguments.pop("n_test", None)
        train, test = (
            generate(seed=derived_seed(seed, part), **arguments) for part in ("train", "test")
        )
        return Parts(train, _some(test, n_test, seed))
    if "n_held_out" in arguments:
        whole = load(data["name"], "test")
        order = np.random.default_rng(derived_seed(seed, "rows")).permutation(len(whole.X))
        n = arguments["n_held_out"]
        return Parts(whole.take(order[n:][: arguments.get("n_train")]), whole.take(order[:n]))
    parts = [
        _short(load(data["name"], part), data) for part in (arguments.get("part", "train"), "test")
    ]
    train, test = (
        _some(part, arguments.get(n), seed)
        for part, n in zip(parts, ("n_train", "n_test"), strict=True)
    )
    validated = (
        train.is_text and arguments.get("part", "train") == "train"
    )  # upstream has a part for it
    return Parts(train, test, load(data["name"], "validation") if validated else None)


def _short(data: Data, wanted: dict[str, Any]) -> Data:
    """Documents of at most `max_words` words, if that is asked for."""
    if "max_words" not in wanted:
        return data
    return data.take(
        np.flatnonzero([len(document.split()) <= wanted["max_words"] for document in data.X])
    )


def _some(data: Data, n: int | None, seed: int) -> Data:
    if n is None or n >= len(data.X):
        return data
    return data.take(np.random.default_rng(derived_seed(seed, "rows")).permutation(len(data.X))[:n])


def correlation_share(estimator: Estimator, sentences: np.ndarray) -> float:
    """The least share, over the canonical correlations with the true latents, of what the exact
    posterior means reach."""
    order = {sentence: row for row, sentence in enumerate(synthetic_text("test").X)}
    latents = true_latents("test")[[order[sentence] for sentence in sentences]]
    reached = canonical_correlations(estimator.transform(sentences), latents)
    return float((reached / np.array(TEST_TRUTH.correlations)).min())
