"""The Walsh spectrum of a function of up to 20 Boolean inputs, exact.

On the uniform cube {-1, 1}^d every function is a sum over S of fhat(S) prod_{i in S} x_i, and W_k is the sum over
|S| = k of fhat(S)^2, over all components.  All 2^d inputs are run, and nothing is estimated.  Above 20 inputs circles
on the cube take its place (`termwise.degree.cube`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from termwise.degree.functions import ConstantOutputError, Function, Progress, Target, counted
from termwise.degree.spectrum import DegreeSpectrum
from termwise.degree.tables import learned_parts, target_shares
from termwise.errors import UsageError
from termwise.interactions import walsh_energies
from termwise.profile import Estimate
from termwise.records import Table

EXACT = 20  # inputs
_LARGEST = 2**31  # bytes of outputs that are held at once


def all_inputs(count: int) -> Tensor:
    """The cube, (2^d, d) of -1 and 1: coordinate i is 1 where bit i of the row number is set."""
    return (torch.arange(2**count)[:, None] >> torch.arange(count) & 1) * 2.0 - 1


def walsh_spectrum(
    function: Function, shape: tuple[int, ...], target: Target | None = None, progress: Progress = None
) -> DegreeSpectrum:
    """Measure; see `termwise.degree.degrees`."""
    count = math.prod(shape)
    if count > EXACT:
        raise UsageError(f"degrees: 2^{count} inputs cannot all be run; up to 2^{EXACT} can.")
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
        table["target_share"] = target_shares(own)
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
    if not variance > (16 * torch.finfo(function.precision).eps) ** 2 * square:
        raise ConstantOutputError
