"""Clusters of posterior means, from which mixtures start."""

from __future__ import annotations

import warnings

import numpy as np

N_NEIGHBORS = 15


def find_clusters(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Find clusters by spectral clustering (Ng, Jordan & Weiss 2002) on the graph of nearest
    neighbors, or by k-means where points are few.

    Posterior means lie along curved sets, which distances to centers do not separate.

    Args:
        points: shape (n, l).
        n_clusters: number of clusters.
        seed: seed of the starts.

    Returns:
        The cluster of each point, shape (n,).
    """
    from sklearn.cluster import KMeans

    if len(points) > max(2 * N_NEIGHBORS, 4 * n_clusters):
        points = _spectral_embedding(points, n_clusters, seed)
    k_means = KMeans(min(n_clusters, len(points)), n_init=10, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")  # equal rows
        return np.asarray(k_means.fit_predict(points))


def _spectral_embedding(points: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    from sklearn.manifold import spectral_embedding
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(points, N_NEIGHBORS)
    with warnings.catch_warnings():
        # Distant clusters are no problem here.
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        places = spectral_embedding(
            (graph + graph.T) / 2, n_components=n_clusters, drop_first=False, random_state=seed
        )
    return np.asarray(places / np.maximum(np.linalg.norm(places, axis=1, keepdims=True), 1e-12))
