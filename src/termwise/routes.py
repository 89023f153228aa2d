"""Routes: the paths of a residual network told apart by *which* of its blocks they pass.

A network of L residual blocks is a sum over 2^L paths, one for each subset of blocks that it passes: the unravelled
view of A. Veit, M. Wilber, S. Belongie, *Residual Networks Behave Like Ensembles of Relatively Shallow Networks*, 2016
(arXiv 1605.06431), section 3, made exact by holding the gates at the values of the real forward pass.

`termwise.expand` gives block i a factor eps; here it has one of its own, eps_i = eps^(2^i).  Every subset S then has a
power of its own, sum of 2^i over i in S, since no path passes a block twice; and the coefficient of that power is the
sum over the paths through exactly the blocks of S.  So all of them come out of one run, closure included.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from termwise.errors import UsageError
from termwise.expand import Output, locate
from termwise.profile import profile
from termwise.records import Table
from termwise.steps import BLOCKS

MOST = 8
"""Blocks: there are 2^8 routes then, each a row of every intermediate value."""

_SHARES = [f"{name}_share{end}" for name in ("norm", "aligned", "margin") for end in ("", "_low", "_high")]


@dataclasses.dataclass(frozen=True, eq=False)
class Routes:
    """The output of a network by the blocks that its paths pass; print it for a table.

    Attributes:
        table: a row for each subset of blocks that some path passes: `through`, their numbers, counted from 0 in the
            order of the program as `termwise.causal.lesion` takes them, with spaces between; `length`, how many they
            are; `paths`, how many paths pass exactly these; and the shares of `termwise.profile` with their intervals.
            The last rows are what is born of constants and of frozen values (`origin`), without a route.
        blocks: the names of the blocks, in that order.
        closure: the worst relative error of the sum of all parts over the batches.
    """

    table: Table
    blocks: tuple[str, ...]
    closure: float

    def __str__(self) -> str:
        """The table as aligned text."""
        return repr(self.table)


def routes(
    model: Any,
    probe: tuple[Tensor, Tensor],
    *,
    output: Output = None,
    batch_size: int = 32,
    replicates: int = 200,
    seed: int = 0,
) -> Routes:
    """The shares of all routes through the residual blocks of a network.

    Args:
        model: an nn.Module or callable; run in evaluation mode and left as found.
        probe: (inputs, targets), tensors of equal length, as for a `termwise.Recorder`.
        output: which tensor of the model's result, as in `termwise.expand`.
        batch_size: samples that are expanded at once; a power of two, or the next one is taken.
        replicates: of the bootstrap over samples.
        seed: of the bootstrap.

    Raises:
        UsageError: when there are no blocks, or more than 8.
        DataError, ModelError, RuleError: see `termwise.profile`.
    """
    located = locate(BLOCKS, model, probe[0][:1], output=output)
    blocks = tuple(block.name for block in located.blocks or ())
    if not 0 < len(blocks) <= MOST:
        raise UsageError(
            f"routes: {len(blocks)} residual blocks; 1 to {MOST} can be told apart. termwise.profile(model, data, "
            "unit='blocks') tells paths apart by how many blocks they pass."
        )
    found = profile(
        model,
        probe,
        unit=dataclasses.replace(located, apart=True),
        output=output,
        batch_size=batch_size,
        chunk=1 << max(batch_size - 1, 0).bit_length(),
        replicates=replicates,
        seed=seed,
    )
    rows = [_row(row) for row in found.share.rows()]
    terms = sorted((row for row in rows if row["origin"] == "input"), key=lambda row: (row["length"], row.pop("at")))
    rest = [row for row in rows if row["origin"] != "input"]
    names = ["origin", "through", "length", "paths", *_SHARES]
    return Routes(Table({name: [row[name] for row in (*terms, *rest)] for name in names}), blocks, found.closure)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A part of the profile, its depth read as bits."""
    shares = {name: row[name] for name in ("origin", "paths", *_SHARES)}
    if row["origin"] != "input":
        return {**shares, "through": None, "length": None}
    passed = [i for i in range(row["depth"].bit_length()) if row["depth"] >> i & 1]
    return {**shares, "through": " ".join(map(str, passed)), "length": len(passed), "at": passed}
