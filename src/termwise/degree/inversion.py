"""From powers on circles to energies by degree.

On a circle whose points s and t have the correlation rho(t - s) in every direction, a function of degree k has the
correlation rho(t - s)^k.  So the powers c_m at angular frequency m, one-sided, are mixtures of the energies W_k:

    c_m = sum over k of A_mk W_k,        A_mk the Fourier coefficients of rho^k, one-sided.

For Gaussian inputs rho = cos, and A_mk = (2 - [m = 0]) 2^-k binom(k, (k - m) / 2) for k >= m, k = m mod 2, else 0:
upper triangular.  For the cube rho falls and rises linearly between 1 and -1.  Either way parities stay apart.  Taken
at the M angles that there are, the coefficients contain what these cannot tell from lower frequencies.

Powers determine energies; but the inverse grows, and a function
that is no polynomial has energy at every degree.  Hence non-negative least squares, rows weighted by 1 / standard
error, for W_1 .. W_D and for what lies above D a few *tail columns* sum over k > D of k^-a A_mk, of either parity.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

SHOWN = 1e-6  # of an energy that is not zero, what a row must have of it to tell that it is
FAR = 2000  # the degree at which tail columns end
EXPONENTS = (1.25, 1.75, 2.5, 3.5, 5.0)  # of tail columns


def correlation(angles: int, *, cube: bool) -> np.ndarray:
    """rho at M equal angles: of the circle of two Gaussians, or of the turning cube."""
    steps = np.arange(angles)
    return 1 - 4 * np.minimum(steps, angles - steps) / angles if cube else np.cos(2 * np.pi * steps / angles)


@functools.lru_cache(maxsize=8)
def powers_of_degrees(angles: int, *, cube: bool) -> np.ndarray:
    """A_mk for m = 0 .. M // 2 and k = 0 .. FAR, shape (M // 2 + 1, FAR + 1)."""
    correlations = correlation(angles, cube=cube)[:, None] ** np.arange(FAR + 1)
    found = np.fft.rfft(correlations, axis=0).real / angles
    found[1 : (angles + 1) // 2] *= 2
    return np.where(found > 1e-14, found, 0.0)  # what is left is rounding


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
def columns(angles: int, cutoff: int, *, cube: bool, highest: int) -> Columns:
    """W_1 .. W_cutoff by themselves, and tails of either parity up to the highest degree that there is."""
    energies = [np.eye(1, FAR + 1, k)[0] for k in range(1, min(cutoff, highest) + 1)]
    degrees = np.arange(FAR + 1, dtype=float)
    for parity in (0, 1):
        above = (degrees > cutoff) & (degrees <= highest) & (degrees % 2 == parity)
        for exponent in EXPONENTS if above.any() else ():
            tail = np.where(above, np.maximum(degrees, 1.0) ** -exponent, 0.0)
            energies.append(tail / tail.sum())
    stacked = np.stack(energies, axis=1)
    return Columns(stacked, powers_of_degrees(angles, cube=cube) @ stacked)


def invert(powers: np.ndarray, errors: np.ndarray, floor: float, found: Columns) -> np.ndarray:
    """Energies of degree 0 .. FAR from powers of several replicates.

    Args:
        powers: c_m of the function without its mean, so that W_0 is 0: (rows, replicates), replicate 0 being the data.
        errors: the standard error of each row, (rows,).
        floor: powers up to here are rounding, and so is every energy that would show in such a row.
        found: the columns.

    Returns:
        (FAR + 1, replicates), not negative.
    """
    from scipy.optimize import nnls

    mixed = found.powers[: len(powers)]
    lost = powers[:, 0] <= floor
    kept = ~(mixed[lost] > SHOWN).any(axis=0)
    rows = ~lost & (errors > 0)
    if not kept.any() or not rows.any():
        return np.zeros((FAR + 1, powers.shape[1]))
    scaled = mixed[rows][:, kept] / errors[rows, None]
    size = np.linalg.norm(scaled, axis=0)
    used = size > 0
    matrix = scaled[:, used] / size[used]
    right = powers[rows] / errors[rows, None]
    # A longer right side meets the tolerances of the solver no better than a shorter one: each to length 1.
    lengths = np.maximum(np.linalg.norm(right, axis=0), np.finfo(float).tiny)
    solved = np.stack([nnls(matrix, column)[0] for column in (right / lengths).T], axis=1) * lengths
    return found.energies[:, kept][:, used] @ (solved / size[used, None])
