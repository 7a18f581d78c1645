"""What components say, on tables small enough to count by hand."""

import math

import numpy as np
import pytest
import torch

from uncollapse.measures.components import (
    component_information_density,
    live_components,
    majority_accuracy,
    matched_accuracy,
)
from uncollapse.models import component_kl


@pytest.mark.parametrize(
    ("labels", "clusters", "majority", "matched"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0, 1.0),
        ([0, 0, 0, 0], [0, 1, 2, 3], 1.0, 0.25),
        ([0, 1, 2, 3], [0, 0, 0, 0], 0.25, 0.25),
        ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1], 5 / 6, 5 / 6),
        # Both clusters hold mostly "a"; only one of them can have it.
        (["a", "a", "b", "a", "a", "a", "b"], [0, 0, 0, 1, 1, 1, 1], 5 / 7, 4 / 7),
        # A greedy match would give cluster 0 its 3 and leave cluster 1 with 0.
        ([0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1], 5 / 7, 4 / 7),
    ],
)
def test_accuracies_can_be_counted(labels, clusters, majority, matched):
    assert majority_accuracy(np.array(labels), np.array(clusters)) == pytest.approx(majority)
    assert matched_accuracy(np.array(labels), np.array(clusters)) == pytest.approx(matched)


def test_splitting_clusters_never_lowers_the_majority_accuracy_and_can_lower_the_matched_one():
    generator = np.random.default_rng(0)
    labels, clusters = generator.integers(0, 3, 300), generator.integers(0, 3, 300)
    halves = 2 * clusters + generator.integers(0, 2, 300)
    assert majority_accuracy(labels, halves) >= majority_accuracy(labels, clusters)
    assert (
        matched_accuracy(labels, 2 * labels + generator.integers(0, 2, 300))
        < 1
        == matched_accuracy(labels, labels)
    )


def test_a_component_lives_on_a_tenth_of_an_equal_share():
    certain = np.eye(4)[np.repeat([1, 2, 3], [24, 26, 950])]
    assert live_components(certain).tolist() == [False, False, True, True]
    # Whoever is never the most probable does not live, however the shares add up.
    assert live_components(np.tile([0.3, 0.24, 0.23, 0.23], (10, 1))).tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_the_information_of_certain_components_and_its_error_are_those_of_their_entropy():
    certain = np.eye(3)[np.repeat([0, 1], [50, 450])]
    density = component_information_density(np.full(500, math.log(3)), certain)
    assert density.mean() == pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9))
    assert density.std() == pytest.approx(0.3 * math.log(9))
    alike = np.tile([0.2, 0.3, 0.5], (7, 1))
    assert np.allclose(
        component_information_density(component_kl(torch.as_tensor(alike)).numpy(), alike), 0
    )


def test_the_kl_of_components_that_are_certain_and_of_a_noisy_channel():
    assert np.allclose(component_kl(torch.eye(4)), math.log(4))
    assert np.allclose(component_kl(torch.full((3, 5), 0.2)), 0, atol=1e-6)
    noisy = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.double)
    assert component_kl(noisy).mean() == pytest.approx(
        math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)
    )
