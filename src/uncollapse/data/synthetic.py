"""Data sets drawn from known distributions, so that the right answers are known."""

import math
from statistics import NormalDist

import numpy as np

from uncollapse._utils.validation import check_count, check_positive, check_seed
from uncollapse.data.arrays import Data

GAUSSIAN_MEANS = np.array([[0.0, 0.0], [10.0, 10.0]])  # K23 section 5.1


def two_gaussians(sigma: float, n_per_class: int = 10_000, seed: int = 0) -> Data:
    """Draw equally many rows of N((0, 0), sigma^2 I) and N((10, 10), sigma^2 I), labeled 0 and 1
    (K23 section 5.1).

    Raises:
        ParameterError: if sigma is not positive, or the count or the seed is out of range.
    """
    check_positive("sigma", sigma)
    check_count("n_per_class", n_per_class)
    check_seed("seed", seed)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], n_per_class))
    X = GAUSSIAN_MEANS[labels] + sigma * rng.standard_normal((len(labels), 2))
    return _data(X, labels, "two-gaussians")


def bayes_accuracy(sigma: float) -> float:
    """Compute the accuracy of the best classifier of `two_gaussians`, Phi(|m1 - m0| / (2 sigma)).

    Raises:
        ParameterError: if sigma is not positive.

    >>> round(bayes_accuracy(7.5), 3)
    0.827
    """
    check_positive("sigma", sigma)
    return NormalDist().cdf(math.dist(*GAUSSIAN_MEANS) / (2 * sigma))


def class_information(sigma: float) -> float:
    """Compute I(x; y) in nats between the points of `two_gaussians` and their classes.

    >>> round(class_information(0.1), 6) == round(math.log(2), 6), round(class_information(7.5), 3)
    (True, 0.311)
    """
    check_positive("sigma", sigma)
    distance = math.dist(*GAUSSIAN_MEANS) / sigma
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    # The log odds of the right class against the other are N(d^2 / 2, d^2).
    surprise = np.logaddexp(0, -(distance**2 / 2 + distance * nodes))
    return float(math.log(2) - (weights * surprise).sum() / weights.sum())


def pinwheel(
    n_per_class: int = 1000,
    radial_scale: float = 0.3,
    tangential_scale: float = 0.05,
    n_classes: int = 5,
    rate: float = 0.25,
    scale: float = 10.0,
    seed: int = 0,
) -> Data:
    """Draw the arms of a pinwheel, labeled 0, 1, ... (Johnson et al. 2016; defaults of W21).

    Arm k of K is a Gaussian around (1, 0), turned by 2 pi k / K + rate exp(radius), where the
    radius is the first coordinate.

    Args:
        n_per_class: number of rows in an arm.
        radial_scale: standard deviation along an arm.
        tangential_scale: standard deviation across an arm.
        n_classes: number of arms.
        rate: bend of an arm, in radians.
        scale: factor of all coordinates.
        seed: of the random numbers.

    Raises:
        ParameterError: if a number is not positive, or a count or the seed is out of range.
    """
    check_positive("radial_scale", radial_scale)
    check_positive("tangential_scale", tangential_scale)
    check_positive("rate", rate)
    check_positive("scale", scale)
    check_count("n_per_class", n_per_class)
    check_count("n_classes", n_classes)
    check_seed("seed", seed)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(n_classes), n_per_class))
    radial = 1 + radial_scale * rng.standard_normal(len(labels))
    tangential = tangential_scale * rng.standard_normal(len(labels))
    angles = 2 * math.pi * labels / n_classes + rate * np.exp(radial)
    points = scale * (radial + 1j * tangential) * np.exp(1j * angles)
    return _data(np.column_stack([points.real, points.imag]), labels, "pinwheel")


def one_cluster(n: int = 5000, seed: int = 0) -> Data:
    """Draw rows of N(0, I) in two dimensions, labeled 0. A mixture of two has nothing to find in
    them (W21 section 2.2).

    Raises:
        ParameterError: if the count or the seed is out of range.
    """
    check_count("n", n)
    check_seed("seed", seed)
    X = np.random.default_rng(seed).standard_normal((n, 2))
    return _data(X, np.zeros(n, dtype=int), "one-cluster")


def two_clusters(n: int = 5000, separation: float = 6.0, seed: int = 0) -> Data:
    """Draw each row from N((c, c), I), labeled 1, or N((-c, -c), I), labeled 0, with equal
    probability, where c is half the separation.

    A mixture of two is right here, unlike for `one_cluster` (W21 section 2.2).

    Raises:
        ParameterError: if the separation is not positive, or the count or the seed is out of range.
    """
    check_count("n", n)
    check_positive("separation", separation)
    check_seed("seed", seed)
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    X = separation * (labels[:, None] - 0.5) + rng.standard_normal((n, 2))
    return _data(X, labels, "two-clusters")


def _data(X: np.ndarray, labels: np.ndarray, name: str) -> Data:
    return Data(X.astype(np.float32), labels, name)
