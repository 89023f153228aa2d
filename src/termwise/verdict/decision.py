"""What several seeds decide: intervals, p-values, and what is left of them where five claims are judged at once.

Everything rests on one number a seed.  Probe samples, circles and draws are nested within it: more of them make the
number of a seed less noisy, and never count as further evidence.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

SEEDS = 5  # from which on anything is decided
LEVEL = 0.05  # two-sided

Numbers = Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Expected:
    """What is expected of a number: that it lies between two bounds, both included.

    Attributes:
        words: how it is printed.
    """

    words: str
    low: float = -math.inf
    high: float = math.inf

    def verdict(self, values: Numbers) -> str:
        """Whether it holds, fails, or is undecided, of one number a seed: the rule of every verdict there is.

        It holds (fails) where the whole 95 % t-interval lies within (on one side outside of) the bounds, and is
        undecided with fewer than 5 seeds, or where a seed gave no finite number.
        """
        low, high = interval(values)
        if len(values) < SEEDS or math.isnan(low):
            return "undecided"
        if self.low <= low and high <= self.high:
            return "holds"
        return "fails" if high < self.low or low > self.high else "undecided"


# Bounds are included: a number that is exactly 0 in all seeds is neither above nor below.
ABOVE = Expected("above 0", low=math.ulp(0.0))
BELOW = Expected("below 0", high=-math.ulp(0.0))


def interval(values: Numbers) -> tuple[float, float]:
    """The 95 % t-interval over seeds; NaN where a number is missing."""
    array = np.asarray(values, dtype=float)
    return t_interval(array) if np.isfinite(array).all() else (math.nan, math.nan)


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % t-interval of the mean; NaN where there is but one value."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def p_value(values: Numbers) -> float | None:
    """Student's t of the mean against 0, two-sided: at most 0.05 where the interval leaves 0 out.

    None where fewer than 5 seeds, or a missing number, leave nothing to decide by.  Numbers that are all the same have
    no scatter to judge them by: 1 where they are 0, else 0.
    """
    array = np.asarray(values, dtype=float)
    if len(array) < SEEDS or not np.isfinite(array).all():
        return None
    mean, error = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array))
    if not error:
        return 0.0 if mean else 1.0
    return float(2 * stats.t.sf(abs(mean) / error, len(array) - 1))


def tau(one: Numbers, other: Numbers) -> float:
    """Kendall's tau_b of two lists; NaN where one of them is all alike, or has a number that is not known."""
    found: Any = stats.kendalltau(one, other, variant="b")
    return float(found.statistic)


def holm(p: Sequence[float | None]) -> list[float]:
    """p-values after Holm's correction (Scandinavian Journal of Statistics 6, 1979), in the order given.

    Of m values the i-th smallest is multiplied by m - i + 1, and is at least as large as those before it; at most 1.
    One that is not known counts as 1, so that a claim that was not tested makes the others no easier to hold.
    """
    known = [1.0 if value is None else value for value in p]
    corrected, largest = [1.0] * len(known), 0.0
    for i, place in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        largest = max(largest, min((len(known) - i) * known[place], 1.0))
        corrected[place] = largest
    return corrected
