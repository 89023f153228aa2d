"""Degrees on Boolean inputs: the Walsh spectrum, exact up to 20 inputs, by noise stability above.

On the uniform cube {-1, 1}^d every function is a sum over S of fhat(S) prod_{i in S} x_i, and W_k is the sum over
|S| = k of fhat(S)^2, over all components.  Up to d = 20 all 2^d inputs are run, and nothing is estimated.

Above, a chain x_0, x_1, ... starts on the uniform cube and draws each coordinate anew with probability 1 - r at each
step.  Inputs l steps apart have the correlation r^l in every coordinate, hence

    E f(x_j) f(x_{j+l}) = sum over k of r^(lk) W_k,

and non-negative least squares gives the energies, with intervals over chains.  The mean degree needs no inversion: it is
d E (f(x) - f(x with one random coordinate flipped))^2 / 4 over the variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from termwise.degree.functions import Function, Progress, Target, counted
from termwise.degree.spectrum import GROUPS, DegreeSpectrum
from termwise.degree.tables import grouped, learned_parts, shares_of, with_interval
from termwise.errors import ModelError, UsageError
from termwise.profile import Estimate, check_replicates, estimate, resampled
from termwise.records import Table
from termwise.seeds import stream

EXACT = 20  # inputs
_LARGEST = 2**31  # bytes of outputs that are held at once
_CHAIN, _KEPT = 32, 0.9  # inputs in a chain; the probability r that a coordinate stays
_LAGS = 20


def all_inputs(count: int) -> Tensor:
    """The cube, (2^d, d) of -1 and 1: coordinate i is 1 where bit i of the row number is set."""
    return (torch.arange(2**count)[:, None] >> torch.arange(count) & 1) * 2.0 - 1


def walsh_energies(values: np.ndarray) -> np.ndarray:
    """Energy by order of a function on the cube: values (2^d, D), rows as in `all_inputs`, to (d + 1,).

    By the fast Walsh-Hadamard transform; the energy is summed over the D components.
    """
    count = len(values).bit_length() - 1
    orders = np.bitwise_count(np.arange(len(values)))
    energies = np.zeros(count + 1)
    for column in values.T:
        transformed = column.astype(np.float64)
        for i in range(count):
            halves = transformed.reshape(-1, 2, 2**i)
            low, high = halves[:, 0].copy(), halves[:, 1].copy()
            halves[:, 0], halves[:, 1] = low + high, high - low
        energies += np.bincount(orders, weights=(transformed / len(values)) ** 2, minlength=count + 1)
    return energies


def walsh_spectrum(
    function: Function,
    shape: tuple[int, ...],
    *,
    chains: int,
    replicates: int,
    seed: int,
    target: Target | None = None,
    progress: Progress = None,
) -> DegreeSpectrum:
    """Measure; see `termwise.degree.degrees`."""
    check_replicates(replicates)
    count = int(np.prod(shape))
    if count <= EXACT:
        return _exact(function, shape, count, target, progress)
    if chains < 20:
        raise UsageError(f"degrees: samples={chains}: standard errors need at least 20 chains, and 2000 are usual.")
    return _sampled(function, shape, count, chains, replicates, seed, target, progress)


def _exact(
    function: Function, shape: tuple[int, ...], count: int, target: Target | None, progress: Progress
) -> DegreeSpectrum:
    cube = all_inputs(count).to(function.dtype)
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    done = 0
    for size in counted(2**count, function.batch_size, progress):
        x = cube[done : done + size].reshape(size, *shape)
        outputs.append(function(x))
        if 8 * outputs[0].shape[1] * 2**count > _LARGEST:
            raise UsageError(
                f"degrees: {2**count} outputs of {outputs[0].shape[1]} numbers are more than 2 GiB. Choose fewer with "
                "output=lambda y: y[..., :10]."
            )
        if target is not None:
            targets.append(function.of_target(target, x, outputs[-1]))
        done += size
    y = torch.cat(outputs).numpy()
    energies = walsh_energies(y)
    variance = energies[1:].sum()
    _check_variance(variance, energies[0], function)
    shares = energies / variance
    shares[0] = np.nan
    table: dict[str, Any] = {"lowest": np.arange(count + 1), "highest": np.arange(count + 1)}
    table |= _certain("energy", energies) | _certain("share", shares)
    if target is not None:
        g = torch.cat(targets).numpy()
        own = walsh_energies(g)
        product = (walsh_energies(y + g) - walsh_energies(y - g)) / 4
        table |= _certain("learned", learned_parts(product[:, None], own[:, None])[:, 0])
    mean = float(np.arange(count + 1) @ energies / variance)
    return DegreeSpectrum(
        spectrum=Table(table, dict.fromkeys(("energy", "energy_low", "energy_high"), "output^2")),
        powers=None,
        mean_degree=Estimate(mean, mean, mean),
        variance=float(variance),
        method="walsh",
        inputs=f"all {2**count:,} inputs of the cube, {count} dimensions",
        warnings=(),
        details={"evaluations": function.calls},
    )


def _certain(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values, f"{name}_low": values, f"{name}_high": values}


def _check_variance(variance: float, square: float, function: Function) -> None:
    if not variance > (16 * torch.finfo(function.dtype).eps) ** 2 * square:
        raise ModelError(
            "degrees: the output is the same on all inputs, up to rounding: it has no degrees. Check the weights, and "
            "whether output= names what depends on the input."
        )


def _sampled(
    function: Function,
    shape: tuple[int, ...],
    count: int,
    chains: int,
    replicates: int,
    seed: int,
    target: Target | None,
    progress: Progress,
) -> DegreeSpectrum:
    generator = torch.Generator().manual_seed(stream(seed, 1))
    draws = np.random.Generator(np.random.PCG64(stream(seed, 2)))
    sums: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    weight: Any = 0.0
    shift: Tensor | None = None
    for size in counted(chains, max(1, function.batch_size // (_CHAIN + 1)), progress):
        x = _chains(size, count, generator)
        points = x.flatten(0, 1).reshape(-1, *shape)
        y = function(points)
        values = {"f": y}
        if target is not None:
            g = function.of_target(target, points, y)
            values |= {"g": g, "sum": y + g, "difference": y - g}
        stacked = torch.stack(list(values.values())).unflatten(1, (size, _CHAIN + 1))
        shift = stacked.mean(dim=(1, 2), keepdim=True) if shift is None else shift
        weights = resampled(size, replicates, draws)
        weight = weight + weights.sum(axis=0)
        for name, part in zip(values, stacked - shift, strict=True):
            for key, numbers in _statistics(part).items():
                key = f"{name} {key}"
                sums[key] = sums.get(key, 0.0) + numbers @ weights
                squares[key] = squares.get(key, 0.0) + np.square(numbers).sum(axis=1)
    assert shift is not None
    means = {key: value / weight for key, value in sums.items()}
    shifts = dict(zip(values, shift[:, 0, 0].numpy(), strict=True))
    errors = {key: np.sqrt(np.maximum(squares[key] / chains - means[key][:, 0] ** 2, 0) / chains) for key in squares}
    energies = {name: _inverted(name, means, errors, shifts[name], weight, count) for name in values}
    variance = np.maximum(means["f stability"][0] - _mean_square("f", means, 0 * shifts["f"], weight), 0.0)
    _check_variance(float(variance[0]), float(means["f stability"][0, 0] + (shifts["f"] ** 2).sum()), function)
    groups = grouped(energies["f"])
    table: dict[str, Any] = {"lowest": [low for low, _ in GROUPS], "highest": [high for _, high in GROUPS]}
    table |= with_interval("energy", groups) | with_interval("share", shares_of(groups, variance))
    if target is not None:
        product = (grouped(energies["sum"]) - grouped(energies["difference"])) / 4
        table |= with_interval("learned", learned_parts(product, grouped(energies["g"])))
    return DegreeSpectrum(
        spectrum=Table(table, dict.fromkeys(("energy", "energy_low", "energy_high"), "output^2")),
        powers=None,
        mean_degree=estimate(count * means["f influence"][0] / variance),
        variance=float(variance[0]),
        method="walsh, sampled",
        inputs=f"the uniform cube, {count} dimensions",
        warnings=(),
        details={"chains": chains, "seed": seed, "replicates": replicates, "evaluations": function.calls},
    )


def _chains(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(chains, length + 1, d): a chain, and its first input again with one coordinate flipped."""
    x = torch.empty(size, _CHAIN + 1, count, dtype=torch.float64)
    now = _signs(size, count, generator)
    for step in range(_CHAIN):
        x[:, step] = now
        stays = torch.rand(size, count, generator=generator) < _KEPT
        now = torch.where(stays, now, _signs(size, count, generator))
    x[:, -1] = x[:, 0]
    x[torch.arange(size), -1, torch.randint(count, (size,), generator=generator)] *= -1
    return x


def _signs(size: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (size, count), generator=generator).double() * 2 - 1


def _statistics(values: Tensor) -> dict[str, np.ndarray]:
    """Of each chain, (K, chains), from values (chains, length + 1, components)."""
    chain = values[:, :-1]
    stability = [(chain[:, : _CHAIN - lag] * chain[:, lag:]).sum(dim=2).mean(dim=1).numpy() for lag in range(_LAGS)]
    return {
        "stability": np.stack(stability),
        "mean": chain.mean(dim=1).T.numpy(),
        "influence": (values[:, 0] - values[:, -1]).square().sum(dim=1).numpy()[None] / 4,
    }


def _mean_square(name: str, means: dict[str, np.ndarray], shift: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.square(means[f"{name} mean"] + shift[:, None]).sum(axis=0)


def _inverted(
    name: str,
    means: dict[str, np.ndarray],
    errors: dict[str, np.ndarray],
    shift: np.ndarray,
    weight: np.ndarray,
    count: int,
) -> np.ndarray:
    """Energies of degree 0 .. d, (d + 1, replicates)."""
    from scipy.optimize import nnls

    # All of the function's mean is in every row alike.
    rows = means[f"{name} stability"] - _mean_square(name, means, 0 * shift, weight)
    degrees = np.unique(np.concatenate([np.arange(1, 13), np.geomspace(13, max(count, 13), 8).round()])).astype(int)
    degrees = degrees[degrees <= count]
    error = np.maximum(errors[f"{name} stability"], 1e-6 * abs(rows[0, 0]))
    matrix = _KEPT ** np.outer(np.arange(_LAGS), degrees) / error[:, None]
    energies = np.zeros((count + 1, rows.shape[1]))
    for replicate, column in enumerate((rows / error[:, None]).T):
        energies[degrees, replicate] = nnls(matrix, column)[0]
    energies[0] = _mean_square(name, means, shift, weight)
    return energies
