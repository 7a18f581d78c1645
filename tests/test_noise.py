"""Noise that belongs to rows, and seeds that do not meet."""

import numpy as np
from scipy.stats import kstest

from uncollapse.noise import RowNoise, derived_seed

ROWS = np.arange(4000.0).reshape(2000, 2)


def test_noise_follows_its_distribution():
    assert kstest(RowNoise(ROWS, "z").normal((5,)).ravel(), "norm").pvalue > 1e-3
    assert kstest(RowNoise(ROWS, "z").uniform((5,)).ravel(), "uniform").pvalue > 1e-3


def test_purposes_and_equal_rows_have_streams_of_their_own():
    noise = [RowNoise(ROWS, purpose).normal((1,)).ravel() for purpose in ("a", "b")]
    noise.append(RowNoise(np.zeros((2000, 2)), "a").normal((1,)).ravel())
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.1
    assert np.abs(np.corrcoef(noise[2][1:], noise[2][:-1])[0, 1]) < 0.1


def test_a_part_of_the_rows_has_its_part_of_the_noise():
    noise = RowNoise(ROWS, "z")
    assert np.array_equal(noise.normal((3,), slice(10, 20)), noise.normal((3,))[10:20])


def test_derived_seeds_do_not_meet():
    seeds = {derived_seed(seed, purpose, index) for seed in range(20) for purpose in "abc" for index in range(20)}
    assert len(seeds) == 20 * 3 * 20
    assert max(seeds) < 2**32
