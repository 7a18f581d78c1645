"""Tests of the noise of rows, and of derived seeds."""

from collections import Counter

import numpy as np
import torch
from scipy.stats import kstest

from uncollapse._utils.random import (
    DuplicateCounter,
    RowNoise,
    derived_seed,
    drawing_from,
    one_pass,
)

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
    seeds = {
        derived_seed(seed, purpose, index)
        for seed in range(20)
        for purpose in "abc"
        for index in range(20)
    }
    assert len(seeds) == 20 * 3 * 20
    assert max(seeds) < 2**32


def test_duplicates_are_counted_over_all_earlier_calls():
    chance, counter, seen = np.random.default_rng(0), DuplicateCounter(), Counter()
    for _ in range(50):
        keys = chance.integers(0, 200, size=chance.integers(1, 40)).astype(np.uint64) + np.uint64(
            2**64 - 200
        )
        expected = []
        for key in keys.tolist():
            expected.append(seen[key])
            seen[key] += 1
        assert counter.count(keys).tolist() == expected


def test_rows_that_come_in_pieces_have_the_noise_that_they_would_have_at_once():
    rows = np.random.default_rng(0).integers(0, 3, size=(100, 3)).astype(np.float32)
    at_once = RowNoise(rows, "z").normal((2,))
    with one_pass():
        pieces = [RowNoise(rows[start : start + 7], "z").normal((2,)) for start in range(0, 100, 7)]
        others = RowNoise(rows, "observe").normal((2,))
    assert np.array_equal(np.concatenate(pieces), at_once)
    assert np.array_equal(others, RowNoise(rows, "observe").normal((2,)))
    assert np.array_equal(RowNoise(rows, "z").normal((2,)), at_once)


def test_what_an_iterator_draws_and_what_others_draw_do_not_touch():
    def items():
        while True:
            yield float(torch.rand(()))

    torch.manual_seed(3)
    expected = torch.rand(6).tolist()
    torch.manual_seed(0)
    mine = torch.rand(6).tolist()
    torch.manual_seed(0)
    found = [
        (float(torch.rand(())), item)
        for item, _ in zip(drawing_from(3, items()), range(6), strict=False)
    ]
    assert [item for _, item in found] == expected
    assert [other for other, _ in found] == mine
