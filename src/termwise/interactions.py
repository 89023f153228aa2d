"""Interactions of residual blocks: the network as a function of which of them are there.

Let f(m) be the output of a network of L blocks in which block i runs if m_i = 1 (see `termwise.causal.lesion`).  With
each block there or not by the toss of a coin, f has the Walsh expansion

    f(m) = sum over S of fhat(S) prod_{i in S} (2 m_i - 1),        W_k = sum over |S| = k of E |fhat(S)|^2,

E being the mean over the samples of the squared length of the output.  W_k is the energy of the interactions of exactly
k blocks; W_0 + ... + W_L = E |f|^2, and all but W_0 is the variance over the choice of blocks.  This is "the subnetwork
of depth k" as a block subset.  It describes the network with half of its blocks gone in the mean, far from the whole:
it is no expansion by frozen paths, and its orders are none of lengths.

The Moebius expansion, anchored where no block runs, adds up to the whole network instead:

    f(m) = sum over S within m of mu(S),        M_k = sum over |S| = k of mu(S),        f(1) = M_0 + ... + M_L.

Up to 16 blocks all 2^L networks are run.  Above, masks m_1 .. m_n are drawn, and the mean over all pairs of

    < f(m_i) - c, f(m_j) - c > K_k( number of blocks in which they differ ),        c the mean of all other f(m),

is an unbiased estimate of W_k for k >= 1, with K_k the Krawtchouk polynomial: given the others, m_i and m_j are
independent, and sum over |S| = k of prod_{S} (2 m_i - 1)(2 m_j - 1) = K_k.  Its error is about E|f|^2 sqrt(2 binom(L,
k)) / n: high orders are out of reach, and are reported in one.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.causal import Joins
from termwise.errors import ModelError, UsageError
from termwise.expand import Output, call, pick_output
from termwise.pinning import pinned
from termwise.records import Record, Table, read_record, write_record

EXACT = 16  # blocks
_KIND = "interactions"
_MASKS = 2048
_LARGEST = 2**31  # bytes of outputs that are held at once


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """The energy of a network's output by the number of blocks that interact; print it, or take its tables.

    Attributes:
        spectrum: a row for each order: the energy W_k, its share of the variance over the choice of blocks (order 0
            has none), and, where masks were sampled, 95 % bootstrap intervals over them.  The last row of a sampled
            spectrum is all that is above, with order missing.  Estimates are unbiased, so they may be negative.
        moebius: a row for each order: the aligned share E<M_k, f(1)> / E<f(1), f(1)>, which sums to 1, the norm
            (E |M_k|^2)^(1/2) against that of f(1), and the error by rounding relative to it; a share whose term is
            lost in rounding (more than 1 %) is missing: run the model in float64.  None where masks were sampled.
        metadata: blocks, masks, whether all were run.
    """

    spectrum: Table
    moebius: Table | None
    metadata: dict[str, Any]

    def __str__(self) -> str:
        """The tables as aligned text."""
        return "\n\n".join(repr(table) for table in (self.spectrum, self.moebius) if table is not None)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as one file."""
        tables = {"spectrum": self.spectrum} | ({} if self.moebius is None else {"moebius": self.moebius})
        return write_record(path, Record(_KIND, self.metadata, tables, {}))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Interactions:
        """Read what `save` wrote.

        Raises:
            RecordError: when it is missing, corrupt, or of another kind.
        """
        record = read_record(path, _KIND)
        return Interactions(record.tables["spectrum"], record.tables.get("moebius"), record.metadata)


def interactions(
    model: nn.Module,
    x: Any,
    *,
    masks: int | None = None,
    orders: int = 4,
    output: Output = None,
    replicates: int = 200,
    seed: int = 0,
) -> Interactions:
    """The energy of the output by the order of the interactions of residual blocks.

    Args:
        model: an nn.Module that is called as model(x); run in evaluation mode, with batch-norm statistics as they are,
            and left as found.
        x: one batch of inputs, in any form that `termwise.expand` takes; outputs (N, C) are centred over the classes.
        masks: how many networks are drawn and run; None runs all of up to 16 blocks, and 2048 of more.
        orders: of a sampled spectrum: the highest order that is estimated by itself.
        output: which tensor of the model's result, as in `termwise.expand`.
        replicates: of the bootstrap over masks.
        seed: of masks and bootstrap.

    Raises:
        UsageError: when the model has no residual block, or the numbers make no spectrum.
        ModelError: see `termwise.causal.lesion`; when an output without some blocks is not finite.
        DataError, RuleError: see `termwise.expand`.
    """
    joins = Joins(model, x, output=output)
    count = len(joins.blocks)
    if not count:
        raise UsageError("interactions: the model has no residual blocks, so there is no choice among them.")
    if not orders >= 1 or (masks is not None and masks < 4) or replicates < 20:
        raise UsageError(f"interactions: masks={masks}, orders={orders}, replicates={replicates}: too few.")
    exact = masks is None and count <= EXACT
    rng = np.random.default_rng(seed)
    chosen = all_masks(count) if exact else rng.random((masks or _MASKS, count)) < 0.5
    values, samples, eps = _outputs(model, x, joins, chosen, output)
    metadata = {
        "blocks": [block.name for block in joins.blocks],
        "masks": len(chosen),
        "exact": exact,
        "samples": samples,
        "seed": seed,
    }
    units = {"energy": "output^2", "energy_low": "output^2", "energy_high": "output^2"}
    if exact:
        energy = walsh_energies(values) / samples
        variance = energy[1:].sum()
        shares = [math.nan, *(energy[1:] / variance if variance else np.full(count, math.nan))]
        spectrum = Table({"order": range(count + 1), "energy": energy, "share": np.array(shares)}, units)
        return Interactions(spectrum, _moebius(values, eps), metadata)
    spectrum = Table(_sampled(chosen, values / math.sqrt(samples), min(orders, count), replicates, rng), units)
    return Interactions(spectrum, None, metadata)


def all_masks(count: int) -> np.ndarray:
    """All choices of `count` blocks, (2^count, count) booleans: block i runs where bit i of the row number is set."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)


def walsh_energies(values: np.ndarray) -> np.ndarray:
    """Energy by order of a function on the cube: values (2^d, D), row by row as the bits count, to (d + 1,).

    By the fast Walsh-Hadamard transform, one component after another; their energies are summed.
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


def moebius_sums(values: np.ndarray) -> np.ndarray:
    """M_k = sum over |S| = k of mu(S), by order: values (2^L, D), rows as in `all_masks`, to (L + 1, D).

    mu(S) = sum over m within S of (-1)^(|S| - |m|) f(m), and a mask of j blocks is within binom(L - j, k - j) sets of
    k, so M_k = sum_j (-1)^(k - j) binom(L - j, k - j) F_j, F_j the sum of f over the masks of j blocks.
    """
    count = len(values).bit_length() - 1
    size = all_masks(count).sum(axis=1)
    sums = np.stack([values[size == j].sum(axis=0, dtype=np.float64) for j in range(count + 1)])
    return _signed(count) @ sums


def _signed(count: int) -> np.ndarray:
    return np.array(
        [
            [(-1.0) ** (k - j) * math.comb(count - j, k - j) if j <= k else 0.0 for j in range(count + 1)]
            for k in range(count + 1)
        ]
    )


def _moebius(values: np.ndarray, eps: float) -> Table:
    count = len(values).bit_length() - 1
    terms, whole = moebius_sums(values), values[-1].astype(np.float64)
    total = float(whole @ whole)
    norms = np.sqrt((terms**2).sum(axis=1))
    # Each output is off by eps of its length, independently; binom(L, j) of them enter with the same factor.
    noise = eps * math.sqrt(float((values.astype(np.float64) ** 2).sum(axis=1).mean()))
    factors = np.sqrt([sum(math.comb(count, j) * row[j] ** 2 for j in range(count + 1)) for row in _signed(count)])
    rounding = np.divide(noise * factors, norms, out=np.zeros_like(norms), where=norms > 0)
    shares = np.where(rounding < 0.01, terms @ whole / total, math.nan)
    return Table({"order": range(count + 1), "share": shares, "norm": norms / math.sqrt(total), "rounding": rounding})


def krawtchouk(count: int, order: int) -> np.ndarray:
    """K_k(d) for d = 0 .. L: the sum over |S| = k of the products of signs over S of which d are negative."""
    return np.array(
        [
            sum((-1) ** j * math.comb(d, j) * math.comb(count - d, order - j) for j in range(order + 1))
            for d in range(count + 1)
        ],
        dtype=np.float64,
    )


def pair_kernels(masks: np.ndarray, values: np.ndarray, orders: int) -> tuple[np.ndarray, np.ndarray]:
    """What the means over pairs of masks are taken of: masks (n, L) and values (n, D) to (orders + 1, n, n) and (n, n).

    The first are for W_0 .. W_orders, the second is for W_1 + ... + W_L: the variance.  Diagonals are zero.
    """
    n, count = masks.shape
    signs = 2.0 * masks - 1
    distance = np.rint((count - signs @ signs.T) / 2).astype(int)
    gram = values @ values.T
    own, rows, everything = np.diag(gram), gram.sum(axis=1), gram.sum()
    # <f_i - c, f_j - c>, with c the mean of the others, which depends on neither.
    left = (rows - own)[:, None] - gram
    right = (rows - own)[None, :] - gram
    between = everything + own[:, None] + own[None, :] + 2 * gram - 2 * rows[:, None] - 2 * rows[None, :]
    centred = gram - (left + right) / (n - 2) + between / (n - 2) ** 2
    kernels = np.stack([gram, *(centred * krawtchouk(count, k)[distance] for k in range(1, orders + 1))])
    variance = (own[:, None] + own[None, :]) / 2 - gram
    for kernel in (*kernels, variance):
        np.fill_diagonal(kernel, 0.0)
    return kernels, variance


def _sampled(
    masks: np.ndarray, values: np.ndarray, orders: int, replicates: int, rng: np.random.Generator
) -> dict[str, Any]:
    kernels, variance = pair_kernels(masks, values, orders)
    n = len(masks)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=replicates)])
    pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)  # of different masks

    def means(kernel: np.ndarray) -> np.ndarray:
        return ((weights @ kernel) * weights).sum(axis=1) / pairs

    energy = np.stack([means(kernel) for kernel in kernels])
    whole = means(variance)
    names: list[int | None] = [*range(orders + 1)]
    if orders < masks.shape[1]:
        energy = np.vstack([energy, whole - energy[1:].sum(axis=0)])
        names.append(None)
    share = energy / np.where(whole > 0, whole, math.nan)
    share[0] = math.nan
    with np.errstate(invalid="ignore"):
        bounds = {
            f"{name}_{side}": np.quantile(rows[:, 1:], q, axis=1)
            for name, rows in (("energy", energy), ("share", share))
            for side, q in (("low", 0.025), ("high", 0.975))
        }
    columns = {"order": names, "energy": energy[:, 0], "share": share[:, 0]} | bounds
    order = ("order", "energy", "energy_low", "energy_high", "share", "share_low", "share_high")
    return {name: columns[name] for name in order}


def _outputs(
    model: nn.Module, x: Any, joins: Joins, masks: np.ndarray, output: Output
) -> tuple[np.ndarray, int, float]:
    """The outputs under all masks (n, D), the number of samples, and the precision that they were computed in."""
    values = np.empty((0, 0))
    samples, eps = 1, 0.0
    with pinned(model):
        for i, mask in enumerate(masks):
            with joins.without(np.flatnonzero(~mask).tolist()):
                y = pick_output(call(model, x), output)
            if not bool(torch.isfinite(y).all()):
                gone = np.flatnonzero(~mask).tolist()
                raise ModelError(f"interactions: without the blocks {gone} the output is not finite.")
            if not i:
                samples, eps = len(y) if y.dim() else 1, torch.finfo(y.dtype).eps
                if 8 * y.numel() * len(masks) > _LARGEST:
                    raise UsageError(
                        f"interactions: {len(masks)} outputs of {y.numel()} numbers are more than 2 GiB. Give fewer "
                        "samples, fewer masks, or a smaller part of the output (output=lambda y: y[..., :10])."
                    )
                values = np.empty((len(masks), y.numel()))
            values[i] = _centred(y.double()).flatten().cpu().numpy()
    return values, samples, eps


def _centred(y: Tensor) -> Tensor:
    return y - y.mean(dim=1, keepdim=True) if y.dim() == 2 and y.shape[1] > 1 else y
