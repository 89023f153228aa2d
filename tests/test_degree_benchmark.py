"""The rival of the circles must be worth comparing: correlated pairs find what is there, in the mean."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from benchmarks.degree import by_pairs, exactness_row


def test_correlated_pairs_find_the_degrees_of_a_polynomial() -> None:
    def function(x: Tensor) -> Tensor:
        return x[:, 0] + 2 * x[:, 1] * x[:, 2]

    found = np.mean([by_pairs(function, 5, 100_000, seed) for seed in range(8)], axis=0)
    np.testing.assert_allclose(found[1], 1, atol=0.25)
    np.testing.assert_allclose(found[2], 4, atol=0.5)
    assert found[3:].sum() < 0.5


def test_the_row_of_exactness_is_met() -> None:
    assert exactness_row().verdict == "met"
