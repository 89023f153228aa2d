"""From powers on circles to energies by degree.

On a circle x_t through two independent Gaussian points, a function of total Hermite degree k has the correlation
cos(t - s)^k, whose Fourier series gives the power at angular frequency m that energy W_k brings, one-sided:

    c_m = sum over k >= m, k = m mod 2 of A_mk W_k,        A_mk = (2 - [m = 0]) 2^-k binom(k, (k - m) / 2).

With M angles a frequency n shows as the least m among |n + jM|, so rows are *folded*: sums of all that show as m.
The matrix is upper triangular, so powers of all m up to M determine the energies; but the inverse grows, and a function
that is no polynomial has energy at every degree.  Hence non-negative least squares, rows weighted by 1 / standard
error, for W_1 .. W_D and for what lies above D a few *tail columns* sum over k > D of k^-a A_mk, of either parity.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

FAR = 2000  # the degree at which tail columns end
EXPONENTS = (1.25, 1.75, 2.5, 3.5, 5.0)  # of tail columns


def powers_of_degrees(rows: int) -> np.ndarray:
    """A_mk for m below `rows` and k = 0 .. FAR, shape (rows, FAR + 1)."""
    from scipy.special import gammaln

    m, k = np.arange(rows)[:, None], np.arange(FAR + 1)[None, :]
    valid = (k >= m) & ((k - m) % 2 == 0)
    below = np.where(valid, k - m, 0) / 2
    logarithm = gammaln(k + 1) - gammaln(below + 1) - gammaln(below + m + 1) - k * np.log(2.0)
    return np.where(valid, np.where(m == 0, 1.0, 2.0) * np.exp(np.where(valid, logarithm, 0.0)), 0.0)


@functools.lru_cache(maxsize=4)
def _folded(angles: int) -> np.ndarray:
    """What M angles show of all frequencies, (M // 2 + 1, FAR + 1)."""
    shown = np.arange(FAR + 1) % angles
    shown = np.minimum(shown, angles - shown)
    folded = np.zeros((angles // 2 + 1, FAR + 1))
    np.add.at(folded, shown, powers_of_degrees(FAR + 1))
    return folded


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a fit with one cut-off.

    Attributes:
        energies: what a unit of each column means, energy by degree: (FAR + 1, columns).
        powers: what it brings to each row: (rows, columns).
    """

    energies: np.ndarray
    powers: np.ndarray


@functools.lru_cache(maxsize=32)
def columns(rows: int, angles: int, cutoff: int) -> Columns:
    """W_1 .. W_cutoff by themselves, and tails of either parity; each of energy 1."""
    energies = [np.eye(1, FAR + 1, k)[0] for k in range(1, cutoff + 1)]
    degrees = np.arange(FAR + 1, dtype=float)
    for parity in (0, 1):
        for exponent in EXPONENTS:
            above = (degrees > cutoff) & (degrees % 2 == parity)
            tail = np.where(above, np.maximum(degrees, 1.0) ** -exponent, 0.0)
            energies.append(tail / tail.sum())
    stacked = np.stack(energies, axis=1)
    return Columns(stacked, _folded(angles)[:rows] @ stacked)


def invert(powers: np.ndarray, errors: np.ndarray, floor: float, angles: int, cutoff: int) -> np.ndarray:
    """Energies of degree 0 .. FAR from powers of several replicates.

    Args:
        powers: c_m of the function without its mean, so that W_0 is 0: (rows, replicates), replicate 0 being the data.
        errors: the standard error of each row, (rows,).
        floor: powers up to here are rounding, and so is every energy that would show in such a row.
        angles: how many points a circle has.
        cutoff: the highest degree that has a column of its own, below the number of rows.

    Returns:
        (FAR + 1, replicates), not negative.
    """
    from scipy.optimize import nnls

    found = columns(len(powers), angles, cutoff)
    lost = powers[:, 0] <= floor
    # What a tail brings to a row far below it, through folding, is no more than rounding itself.
    kept = ~(found.powers[lost] > 1e-6).any(axis=0)
    rows = ~lost & (errors > 0)
    if not kept.any() or not rows.any():
        return np.zeros((FAR + 1, powers.shape[1]))
    scaled = found.powers[rows][:, kept] / errors[rows, None]
    size = np.linalg.norm(scaled, axis=0)
    used = size > 0
    matrix = scaled[:, used] / size[used]
    right = powers[rows] / errors[rows, None]
    # A longer right side meets the tolerances of the solver no better than a shorter one: each to length 1.
    lengths = np.maximum(np.linalg.norm(right, axis=0), np.finfo(float).tiny)
    solved = np.stack([nnls(matrix, column)[0] for column in (right / lengths).T], axis=1) * lengths
    return found.energies[:, kept][:, used] @ (solved / size[used, None])
