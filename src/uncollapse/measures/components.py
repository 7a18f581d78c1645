"""Measures of the components y of a mixture, and how much latents tell about labels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

from uncollapse.latent import CategoricalLayer, GaussianMixture
from uncollapse.measures.estimate import Estimate
from uncollapse.measures.evaluation import evaluate

# A component is live if it is the most probable one for at least LIVE_SHARE / c of the rows.
LIVE_SHARE = 0.1
# Components that carry less information about x than this are dead.
DEAD_COMPONENT_NATS = 0.01
# Rows and folds of the cross-validation of a linear probe.
MAX_ROWS, N_FOLDS = 5000, 5


@dataclass(frozen=True)
class ComponentMeasures:
    """Information that the components of a mixture carry.

    Attributes:
        kl_y: KL(q(y|x) || 1/c), in nats.
        kl_z: the rest of the KL, of z given y, in nats.
        information: I(x; y) under q, in nats.
        floor: a lower bound on I(y; z) under the prior, by the distances of its components, in
            nats; None where it is unknown.
        n_live: the number of live components; 0 if I(x; y) is 0.
    """

    kl_y: Estimate
    kl_z: Estimate
    information: Estimate
    floor: Estimate | None
    n_live: Estimate


def component_measures(model: Any, X: Any = None) -> ComponentMeasures | None:
    """Measure the components of a mixture; None for a model without components."""
    with evaluate(model, X) as data:
        components, kl_y = data.posteriors.components, data.posteriors.kl_y
        if components is None or kl_y is None:
            return None
        kl_y = kl_y.astype(np.float64)
        density = component_information_density(kl_y, components)
        is_alive = density.mean() >= DEAD_COMPONENT_NATS
        prior, floor = data.model.prior, None
        if isinstance(prior, GaussianMixture | CategoricalLayer):
            floor = Estimate(prior.component_information_bound())
        return ComponentMeasures(
            kl_y=Estimate.mean_of(kl_y),
            kl_z=Estimate.mean_of(data.posteriors.kl - kl_y),
            information=Estimate.mean_of(density),
            floor=floor,
            n_live=Estimate(float(live_components(components).sum() if is_alive else 0)),
        )


@dataclass(frozen=True)
class ClusteringAccuracy:
    """Agreement of components with labels, by `majority_accuracy` and `matched_accuracy`."""

    majority: Estimate
    matched: Estimate


def clustering_accuracy(model: Any, X: Any = None, labels: Any = None) -> ClusteringAccuracy | None:
    """Compare the most probable component of each row with its label.

    It is None for a model without components, or without labels that are classes.
    """
    with evaluate(model, X, labels) as data:
        components, classes = data.posteriors.components, data.classes
        if components is None or classes is None:
            return None
        clusters, n = components.argmax(1), len(classes)
        return ClusteringAccuracy(
            Estimate.share(majority_accuracy(classes, clusters), n),
            Estimate.share(matched_accuracy(classes, clusters), n),
        )


def linear_probe(model: Any, X: Any = None, labels: Any = None) -> Estimate | None:
    """Estimate the accuracy of a logistic regression from posterior means to labels, on held-out
    folds of 5,000 random rows.

    The inputs are means without posterior noise. They may reveal labels from little information;
    the mutual information says how much there is.

    The error is binomial. Classes with a single row are left out; the accuracy is None without two
    classes.
    """
    with evaluate(model, X, labels) as data:
        if data.classes is None:
            return None
        posteriors, some = data.posteriors, data.order[:MAX_ROWS]
        # A unit is divided by its total deviation, of means and of posteriors around them. Then the
        # penalty treats scales alike, and a collapsed unit stays small.
        deviation = np.sqrt(posteriors.means.var(0) + posteriors.variances.mean(0))
        return probe_accuracy(posteriors.means[some] / deviation, data.classes[some])


def probe_accuracy(features: np.ndarray, labels: np.ndarray) -> Estimate | None:
    """Cross-validate a logistic regression from features, shape (n, d), to labels, shape (n,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    classes, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = counts[which] > 1
    if len(classes[counts > 1]) < 2:
        return None
    features, which = features[kept], which[kept]
    n_folds = min(N_FOLDS, int(counts[counts > 1].min()))
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 500 iterations are enough here.
        guesses = cross_val_predict(LogisticRegression(max_iter=500), features, which, cv=folds)
    return Estimate.share(float((guesses == which).mean()), len(which))


def component_information_density(kl_y: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Compute the terms of I(x; y) = E KL(q(y|x) || 1/c) - KL(q(y) || 1/c) under q, in nats, shape
    (n,), from KL(q(y|x) || 1/c), shape (n,), and q(y|x), shape (n, c)."""
    shares = components.mean(0, dtype=np.float64)
    seen = shares > 0
    return np.asarray(kl_y - components[:, seen] @ np.log(len(shares) * shares[seen]))


def live_components(components: np.ndarray) -> np.ndarray:
    """Return which components are the most probable one of at least a tenth of 1/c of the rows,
    shape (c,), from q(y|x), shape (n, c)."""
    n, c = components.shape
    counts = np.bincount(components.argmax(1), minlength=c)
    return np.asarray(counts * c >= LIVE_SHARE * n)


def majority_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Compute the share of rows with the most frequent label of their cluster (W21's accuracy).

    Splitting clusters cannot lower it, so compare only models with as many clusters.

    >>> majority_accuracy(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    0.75
    """
    return float(contingency_matrix(labels, clusters).max(0).sum() / len(labels))


def matched_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Compute the share of rows with the label of their cluster under the best one-to-one matching
    of clusters with labels (Hungarian algorithm).

    >>> matched_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]))
    0.5
    """
    table = contingency_matrix(labels, clusters)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))
