"""Clusters of posterior means, for mixtures to begin at."""

from __future__ import annotations

import warnings

import numpy as np

N_NEIGHBOURS = 15


def find_clusters(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Spectral clustering (Ng, Jordan & Weiss 2002) on the graph of nearest neighbours; k-means
    where there are few points.

    Posterior means lie along curved sets rather than around centres: neighbours find them, where
    distances to centres do not.

    Args:
        points: shape (n, l).
        n_clusters: how many to find.
        seed: of the starts.

    Returns:
        The cluster of each point, shape (n,).
    """
    from sklearn.cluster import KMeans

    if len(points) > max(2 * N_NEIGHBOURS, 4 * n_clusters):
        points = _embedded(points, n_clusters, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")  # equal rows
        labels = KMeans(min(n_clusters, len(points)), n_init=10, random_state=seed).fit_predict(
            points
        )
    return np.asarray(labels)


def _embedded(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    from sklearn.manifold import spectral_embedding
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(points, N_NEIGHBOURS)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Graph is not fully connected"
        )  # clusters that are far apart are no trouble
        places = spectral_embedding(
            (graph + graph.T) / 2, n_components=n_clusters, drop_first=False, random_state=seed
        )
    return np.asarray(places / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12))
