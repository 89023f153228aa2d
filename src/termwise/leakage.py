"""Gate leakage: the short paths of the expansion beside the network that really has no others.

The terms of at most one block are sums over short paths, but their gates stand as in the whole network, which the long
paths helped to set.  How much of what the short terms can do do they owe to that?  The control is the *parallel
network*, which is really evaluated: every block sees the shortcut's stream alone.  With z_l what the network without
any block computes up to the join of block l, and f_l the branch,

    b_l = f_l(z_l),        output = the network in which every join is given b_l in place of what its branch brings.

So the contributions b_l are collected in one run without any block, and joined in a second one, in which they go on to
the output through whatever is on the shortcut (projections, norms, the ReLU behind an addition), together with each
other and with the stream.  After the last block that is the head, applied to the sum.  In particular:

  - a projection or norm on a shortcut sees the stream with the contributions that joined before it;
  - at a concatenation the contribution takes the channels of its branch, and where a branch looks at the channels of
    others it sees zeros there: it sees what the shortcut carries, and nothing that another block computed;
  - of a block inside of a block only the outer one contributes, as computed without the inner one: whatever passes the
    inner one has passed two.

Where every operator is linear the two agree, constants included, if these are cut by depth as well; what parts them is
the leakage of the gates.  Batch-norm statistics are those of the whole network in both.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.batches import batches
from termwise.causal import Joins
from termwise.deletion import example_of, per_sample, to_home
from termwise.errors import UsageError
from termwise.expand import Output, call, expand, locate, pick_output
from termwise.pinning import pinned
from termwise.records import Record, Table, read_record, write_record
from termwise.steps import BLOCKS

_KIND = "leakage"
WHOLE = "whole"
FROZEN = "frozen paths, all constants"
FROZEN_THROUGHOUT = "frozen paths, constants cut too"
EVALUATED = "really evaluated"


@dataclasses.dataclass(frozen=True, eq=False)
class Leakage:
    """The short paths with their gates held, beside the network that has only these; print it, or take its tables.

    Attributes:
        scores: accuracy and loss of the whole network, and for at most 0 and 1 blocks those of the frozen paths (with
            all constants, and with constants cut at the same depth) and of the network that was really evaluated, with
            95 % normal intervals over samples.
        gaps: for at most 0 and 1 blocks, frozen paths (constants cut too) minus the network really evaluated, with 95 %
            normal intervals of the paired differences: what the gates brought along.
        metadata: blocks and samples.
    """

    scores: Table
    gaps: Table
    metadata: dict[str, Any]

    def __str__(self) -> str:
        """Both tables as aligned text."""
        return f"{self.scores!r}\n\nfrozen minus really evaluated:\n{self.gaps!r}"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as one file."""
        return write_record(path, Record(_KIND, self.metadata, {"scores": self.scores, "gaps": self.gaps}, {}))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Leakage:
        """Read what `save` wrote.

        Raises:
            RecordError: when it is missing, corrupt, or of another kind.
        """
        record = read_record(path, _KIND)
        return Leakage(record.tables["scores"], record.tables["gaps"], record.metadata)


def parallel(model: nn.Module, x: Any, *, output: Output = None) -> Tensor:
    """The output of the parallel network: every block sees the shortcut's stream alone.

    Args:
        model: an nn.Module that is called as model(x); run in evaluation mode and left as found.
        x: its input, as in `termwise.expand`.
        output: which tensor of the model's result, as in `termwise.expand`.

    Raises:
        UsageError: when the model has no residual block.
        ModelError, DataError, RuleError: see `termwise.causal.lesion`.
    """
    joins = Joins(model, x, output=output)
    _require_blocks(joins)
    with pinned(model):
        return _parallel(model, joins, x, output)


def leakage(model: nn.Module, data: Any, *, output: Output = None, batch_size: int = 32) -> Leakage:
    """Accuracy and loss of the paths of at most one block, with frozen gates and really evaluated.

    Args:
        model: an nn.Module that is called as model(x); run in evaluation mode and left as found.
        data: inputs with class numbers, in any form that `termwise.profile` takes.
        output: which tensor of the model's result, as in `termwise.expand`.
        batch_size: samples at once, where `data` comes as tensors.

    Raises:
        UsageError: when the model has no residual block.
        DataError: when the data are empty or have no class numbers.
        ModelError, RuleError: see `termwise.expand` and `termwise.causal.lesion`.
    """
    joins: Joins | None = None
    unit = BLOCKS
    measured: dict[tuple[str, int | None], list[np.ndarray]] = {}
    for inputs, targets in batches(data, batch_size):
        x = to_home(inputs, model)
        if joins is None:
            joins = Joins(model, example_of(x), output=output)
            _require_blocks(joins)
        unit = locate(unit, model, x, output=output)
        found = expand(model, x, unit=unit, constants="by_depth", output=output)
        outputs: dict[tuple[str, int | None], Tensor] = {(WHOLE, None): found.total}
        for k in (0, 1):
            terms = _upto(found.terms, k, found.total)
            outputs[FROZEN, k] = terms + found.constant
            outputs[FROZEN_THROUGHOUT, k] = terms + _upto(found.constants, k, found.total)
            if found.frozen is not None:
                outputs[FROZEN_THROUGHOUT, k] = outputs[FROZEN_THROUGHOUT, k] + found.frozen
        with pinned(model):
            with joins.without(range(len(joins.blocks))):
                outputs[EVALUATED, 0] = pick_output(call(model, x), output)
            outputs[EVALUATED, 1] = _parallel(model, joins, x, output)
        for key, y in outputs.items():
            measured.setdefault(key, []).append(np.stack(per_sample(y, targets)))
    assert joins is not None  # there is at least one batch
    whole = {key: np.concatenate(parts, axis=1) for key, parts in measured.items()}
    metadata = {"blocks": [block.name for block in joins.blocks], "samples": len(next(iter(whole.values()))[0])}
    return Leakage(_scores(whole), _gaps(whole), metadata)


def _require_blocks(joins: Joins) -> None:
    if not joins.blocks:
        raise UsageError("leakage: the model has no residual blocks: all its paths are of one length.")


def _parallel(model: nn.Module, joins: Joins, x: Any, output: Output) -> Tensor:
    brought: dict[tuple[int, int], Tensor] = {}

    def collect(block: int) -> Any:
        def keep(place: int, branch: Tensor) -> Tensor:
            brought[block, place] = branch.clone()  # the join may write into it
            return torch.zeros_like(branch)

        return keep

    def give(block: int) -> Any:
        return lambda place, _: brought[block, place]

    numbers = range(len(joins.blocks))
    with joins.changed({number: collect(number) for number in numbers}):
        call(model, x)
    with joins.changed({number: give(number) for number in numbers}):
        return pick_output(call(model, x), output)


def _upto(parts: Mapping[int, Tensor], k: int, like: Tensor) -> Tensor:
    return sum((part for depth, part in parts.items() if depth <= k), torch.zeros_like(like))


def _scores(measured: dict[tuple[str, int | None], np.ndarray]) -> Table:
    rows = []
    for (name, k), values in sorted(measured.items(), key=lambda item: (item[0][1] is None, item[0][1] or 0)):
        rows.append({"blocks_at_most": k, "network": name} | _means(values))
    return _table(rows)


def _gaps(measured: dict[tuple[str, int | None], np.ndarray]) -> Table:
    differences = [(k, measured[FROZEN_THROUGHOUT, k] - measured[EVALUATED, k]) for k in (0, 1)]
    return _table([{"blocks_at_most": k} | _means(values) for k, values in differences])


def _means(values: np.ndarray) -> dict[str, float]:
    """Of accuracy and loss, one column a sample, the means with their intervals."""
    line = {}
    for name, row in zip(("accuracy", "loss"), values, strict=True):
        mean = float(row.mean())
        half = 1.96 * float(row.std(ddof=1)) / math.sqrt(len(row)) if len(row) > 1 else math.nan
        line |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
    return line


def _table(rows: Iterable[dict[str, Any]]) -> Table:
    rows = list(rows)
    units = {"loss": "nats", "loss_low": "nats", "loss_high": "nats"}
    return Table({name: [row[name] for row in rows] for name in rows[0]}, units)
