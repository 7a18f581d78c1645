"""What the components of a mixture say: how many live, how much they tell, and how well they agree
with labels."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

# A component lives if it is the most probable one of at least this share of what would be its equal
# share of the data.
LIVE_SHARE = 0.1


def component_information_density(kl_y: np.ndarray, components: np.ndarray) -> np.ndarray:
    """What each row adds to I(x; y) = E KL(q(y|x) || 1/c) - KL(q(y) || 1/c) under q, in nats.

    Args:
        kl_y: KL(q(y|x) || 1/c), shape (n,).
        components: q(y|x), shape (n, c).

    Returns:
        Shape (n,), float64.
    """
    shares = components.mean(0, dtype=np.float64)
    seen = shares > 0
    return np.asarray(kl_y - components[:, seen] @ np.log(len(shares) * shares[seen]))


def live_components(components: np.ndarray) -> np.ndarray:
    """Which components are the most probable one of at least a tenth of an equal share of the data.

    Args:
        components: q(y|x), shape (n, c).

    Returns:
        Booleans, shape (c,).
    """
    n, c = components.shape
    counts = np.bincount(components.argmax(1), minlength=c)
    return np.asarray(counts * c >= LIVE_SHARE * n)


def majority_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """The share of rows whose label is the most frequent one of their cluster (W21's accuracy).

    It cannot fall when clusters are split: compare numbers with as many clusters.

    >>> majority_accuracy(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    0.75
    """
    return float(contingency_matrix(labels, clusters).max(0).sum() / len(labels))


def matched_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """The share of rows whose label is that of their cluster when each cluster gets another label,
    as well as can be (Hungarian).

    >>> matched_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]))
    0.5
    """
    table = contingency_matrix(labels, clusters)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))
