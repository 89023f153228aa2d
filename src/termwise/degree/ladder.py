"""Degrees on real data: how much of a network's output polynomials of each degree explain.

Inputs are whitened on their first p principal components, and ridge regression on all monomials of these up to degree D
is fitted to the *network's outputs*, the ridge chosen on validation data for each D.  R^2_D, on data that took part in
neither, is what polynomials of degree D explain; its increments are the shares.  Beside them:

- the noise floor, R^2_D where the outputs are dealt out among the inputs at random;
- the ceiling, R^2 of a Gaussian kernel on the same components: what is above the ladder but below the ceiling is of
  higher degree, and what is above the ceiling lies outside these components (or needs more data).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from termwise.degree.functions import ConstantOutputError, Function, gathered
from termwise.degree.spectrum import LADDER, DegreeSpectrum
from termwise.degree.tables import with_interval
from termwise.errors import DataError, UsageError
from termwise.profile import check_replicates, resampled
from termwise.records import Table
from termwise.seeds import stream

POINTS = 20_000  # real inputs, at most
_FIT, _CHOOSE = 0.7, 0.15  # of the inputs: to fit polynomials to, and to choose ridges on; the rest is held out
_NEEDED = 1.2  # points of the fit for each monomial
_RIDGES = np.logspace(-9, 4, 27)  # of the mean square of all features
_KERNEL = 2000  # points of the fit of the ceiling, at most
_WIDTHS = (0.03, 0.1, 0.3, 1.0)  # gamma times p of the Gaussian kernels
_SHUFFLES = 5


def ladder_spectrum(
    function: Function, data: Any, *, points: int, components: int, highest: int, replicates: int, seed: int
) -> DegreeSpectrum:
    """Measure; see `termwise.degree.degrees`."""
    check_replicates(replicates)
    if components < 1 or highest < 1 or not 1 <= points <= POINTS:
        raise UsageError(
            f"degrees: samples={points}, components={components}, highest={highest}: expected at most {POINTS:,} "
            "samples, and at least 1 of each."
        )
    inputs, _ = gathered(data, points, function.batch_size)
    n, d = len(inputs), math.prod(inputs.shape[1:])
    components = min(components, d)
    check_enough(n, components, highest)
    raw = function(inputs).numpy()
    draws = np.random.Generator(np.random.PCG64(stream(seed, 1)))
    fit, choose, held = _dealt(n, draws)
    whitened = _whitened(inputs.flatten(1).double().numpy(), fit, components)
    outputs = raw - raw[fit].mean(axis=0)
    square = np.square(outputs[held]).sum(axis=1)
    if not square.sum() > (16 * torch.finfo(function.precision).eps) ** 2 * np.square(raw[held]).sum():
        raise ConstantOutputError
    weights = resampled(len(held), replicates, np.random.Generator(np.random.PCG64(stream(seed, 2))))
    shuffles = [draws.permutation(n) for _ in range(_SHUFFLES)]
    reached, floors, ridges = [], [], []
    for degree in range(1, highest + 1):
        rows = _Regression(monomials(whitened, degree), fit, choose, held)
        residual, ridge = rows.residual(outputs)
        reached.append(1 - (residual @ weights) / (square @ weights))
        floors.append(max(_shuffled(rows, outputs[order], held) for order in shuffles))
        ridges.append(ridge)
    return _result(np.stack(reached), floors, ridges, _ceiling(whitened, outputs, fit, choose, held), function, {
        "samples": n,
        "fitted": len(fit),
        "held_out": len(held),
        "components": components,
        "dimensions": d,
        "seed": seed,
        "variance": float(square.mean()),
    })  # fmt: skip


def check_enough(n: int, components: int, highest: int) -> None:
    """Refuse more monomials than the points of the fit can carry.

    Raises:
        DataError: saying how many samples would do, and what these samples would do for.
    """
    monomials = math.comb(components + highest, highest)
    if int(_FIT * n) >= _NEEDED * monomials:
        return
    needed = math.ceil(math.ceil(_NEEDED * monomials) / _FIT)
    fewer = max((p for p in range(components) if _NEEDED * math.comb(p + highest, highest) <= int(_FIT * n)), default=0)
    lower = max((k for k in range(highest) if _NEEDED * math.comb(components + k, k) <= int(_FIT * n)), default=0)
    ways = [f"give {needed:,} samples"]
    ways += [f"components={fewer}"] if fewer else []
    ways += [f"highest={lower}"] if lower else []
    raise DataError(
        f"degrees: {n:,} samples are too few for polynomials of degree {highest} in {components} components, which "
        f"have {monomials:,} monomials: {' or '.join(ways)}."
    )


def _dealt(n: int, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = draws.permutation(n)
    first, second = int(_FIT * n), int((_FIT + _CHOOSE) * n)
    return order[:first], order[first:second], order[second:]


def _whitened(flat: np.ndarray, fit: np.ndarray, components: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    if not np.ptp(flat[fit], axis=0).any():
        raise DataError("degrees: all samples are the same, so there is no distribution to take degrees on.")
    pca = PCA(components, whiten=True, svd_solver="full").fit(flat[fit])
    rank = int((pca.explained_variance_ > 1e-10 * pca.explained_variance_[0]).sum())
    if rank < components:
        raise DataError(f"degrees: the inputs vary in {rank} directions only: give components={rank}.")
    return pca.transform(flat)


def monomials(x: np.ndarray, degree: int) -> np.ndarray:
    """All of degree 1 .. D, weighted so that products of rows, and 1, are the kernel (1 + <x, x'> / p)^D.

    Equal weights would let the many monomials of high degree take part in fitting noise.
    """
    from scipy.special import gammaln
    from sklearn.preprocessing import PolynomialFeatures

    features = PolynomialFeatures(degree, include_bias=False)
    found = features.fit_transform(x)
    powers = features.powers_
    own = powers.sum(axis=1)
    ways = gammaln(degree + 1) - gammaln(degree - own + 1) - gammaln(powers + 1).sum(axis=1)
    return found * np.exp((ways - own * np.log(x.shape[1])) / 2)


class _Regression:
    """Ridge regression on given features, for several outputs and ridges."""

    def __init__(self, features: np.ndarray, fit: np.ndarray, choose: np.ndarray, held: np.ndarray) -> None:
        features = features - features[fit].mean(axis=0)
        self._fit, self._choose, self._held = fit, choose, held
        values, vectors = np.linalg.eigh(features[fit].T @ features[fit] / len(fit))
        self._values = np.maximum(values, 0.0)
        self._scale = self._values.sum()
        self._rotated = features @ vectors

    def residual(self, outputs: np.ndarray) -> tuple[np.ndarray, float]:
        """Squared errors on the held-out data, with the ridge that does best on the other data; and that ridge."""
        mean = outputs[self._fit].mean(axis=0)
        right = self._rotated[self._fit].T @ (outputs[self._fit] - mean) / len(self._fit)

        def errors(ridge: float, rows: np.ndarray) -> np.ndarray:
            predicted = self._rotated[rows] @ (right / (self._values + ridge * self._scale)[:, None]) + mean
            return np.square(outputs[rows] - predicted).sum(axis=1)

        best = min(_RIDGES, key=lambda ridge: errors(ridge, self._choose).sum())
        return errors(best, self._held), float(best)


def _shuffled(rows: _Regression, outputs: np.ndarray, held: np.ndarray) -> float:
    residual, _ = rows.residual(outputs)
    return 1 - residual.sum() / np.square(outputs[held]).sum()


def _ceiling(x: np.ndarray, outputs: np.ndarray, fit: np.ndarray, choose: np.ndarray, held: np.ndarray) -> float:
    """R^2 of kernel ridge regression with the Gaussian kernel that does best on the data to choose on."""
    best, found = math.inf, 0.0
    for error, reached in _kernels(x, outputs, fit[:_KERNEL], choose, held):
        if error < best:
            best, found = error, reached
    return found


def _kernels(
    x: np.ndarray, outputs: np.ndarray, fit: np.ndarray, choose: np.ndarray, held: np.ndarray
) -> Iterator[tuple[float, float]]:
    from sklearn.metrics.pairwise import rbf_kernel

    square = np.square(outputs[held]).sum()
    for width in _WIDTHS:
        gamma = width / x.shape[1]
        values, vectors = np.linalg.eigh(rbf_kernel(x[fit], gamma=gamma))
        right = vectors.T @ outputs[fit]
        near, far = (rbf_kernel(x[rows], x[fit], gamma=gamma) @ vectors for rows in (choose, held))
        for ridge in _RIDGES[_RIDGES <= 10]:
            weights = right / (np.maximum(values, 0.0) + ridge)[:, None]
            error = np.square(outputs[choose] - near @ weights).sum()
            yield float(error), float(1 - np.square(outputs[held] - far @ weights).sum() / square)


def _result(
    reached: np.ndarray,
    floors: list[float],
    ridges: list[float],
    ceiling: float,
    function: Function,
    details: dict[str, Any],
) -> DegreeSpectrum:
    shares = np.diff(reached, axis=0, prepend=0.0)
    degrees = np.arange(1, len(reached) + 1)
    table: dict[str, Any] = {"lowest": degrees, "highest": degrees}
    table |= with_interval("share", shares) | with_interval("r2", reached)
    table |= {"floor": np.array(floors), "ridge": np.array(ridges)}
    warnings = []
    falls = [int(k) for k, share in zip(degrees, shares[:, 0], strict=True) if share < -0.01]
    if falls:
        warnings.append(
            f"too few samples: with degree {', '.join(map(str, falls))} the fit is worse on held-out data, so what is "
            "of that degree does not show. Give more samples, or fewer components."
        )
    edge = [int(k) for k, ridge in zip(degrees, ridges, strict=True) if ridge == _RIDGES[-1]]
    if edge:
        warnings.append(f"noise: the best fit of degree {', '.join(map(str, edge))} is none at all.")
    if ceiling < reached[-1, 0] - 0.01:
        warnings.append(
            f"ceiling: the Gaussian kernel explains {ceiling:.1%}, less than polynomials do; it says nothing here."
        )
    return DegreeSpectrum(
        spectrum=Table(table),
        powers=None,
        mean_degree=None,
        variance=details.pop("variance"),
        method=LADDER,
        inputs=f"{details['samples']:,} real inputs, {details['components']} components of {details['dimensions']}",
        warnings=tuple(warnings),
        details={**details, "ceiling": ceiling, "evaluations": function.calls},
    )
