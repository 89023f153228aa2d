"""What pruning found: which blocks are out, what that was predicted to cost, and what it does."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from termwise.profile import Estimate
from termwise.pruning.removal import write
from termwise.records import Record, Table, write_record

KIND = "pruning"


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A network without some of its blocks, and how it came to be; print it for a table.

    Attributes:
        model: the shortened network in evaluation mode; it needs nothing of Termwise.
        table: a row for each step, the first being the whole network.  `gone`: the numbers of the blocks that are out,
            among `kept` and `removed` together in the order of the program; `block`: which of them are new.
            `predicted`: the loss expected by frozen gates, missing where members come back.  `measured`: the loss right
            after the removal, batch-norm statistics as before, and `loss`: the loss after they were estimated anew
            (equal, where there are none); both with 95 % intervals over samples.  (Of "random" all three are means over
            draws, with t-intervals over them.)  `accuracy`, of class numbers.  `parameters`; `flops` and, where it was
            asked for, `latency`, as fractions of those of the whole network.  `passes`: how many passes over the data
            the choice has taken so far; the passes that measure the result are not among them.
        removed: the names of the blocks that are out.
        kept: the names of those that could go and are still there.
        fixed: those that cannot go, and why.
        method: how blocks were chosen.
        target: what was asked for, in words.
        healed: the loss after healing; None without.
        healed_accuracy: the accuracy then.
        metadata: samples, unit of the loss, seed, whether an nn.Identity stands in the place of what is out.
    """

    model: nn.Module
    table: Table
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    fixed: Mapping[str, str]
    method: str
    target: str
    healed: Estimate | None
    healed_accuracy: float | None
    metadata: Mapping[str, Any]

    def __str__(self) -> str:
        """The table, and what it comes to."""
        rows = self.table.rows()
        whole, last = rows[0], rows[-1]
        columns = ["step", "block", "predicted", "measured", "loss", "loss_low", "loss_high"]
        columns += [name for name in ("accuracy", "parameters", "flops", "latency", "passes") if name in last]
        shown = {name: self.table.to_arrow()[name].to_pylist() for name in columns}
        lines = [repr(Table(shown, {k: v for k, v in self.table.units.items() if k in shown})), ""]
        blocks = len(self.removed) + len(self.kept) + len(self.fixed)
        drawn = "; losses are means over random orders" if self.method == "random" else ""
        lines.append(
            f"{self.target}: without {len(self.removed)} of {blocks} blocks ({', '.join(self.removed)}{drawn}) "
            f"the loss is {last['loss']:.4g} [{last['loss_low']:.4g}, {last['loss_high']:.4g}], of the whole network "
            f"{whole['loss']:.4g}; {last['parameters'] / whole['parameters']:.0%} of the parameters are left."
        )
        if self.healed is not None:
            lines.append(f"After healing the loss is {self.healed}.")
        lines += [f"'{name}' stays: {reason}." for name, reason in self.fixed.items()]
        return "\n".join(lines)

    __repr__ = __str__

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the shortened network to a directory.

        `plan.json` and `plan.termwise` (the table) say what was done.  A model of transformers is written by its own
        `save_pretrained`, and its own `from_pretrained` reads it.  Of any other there are `model.safetensors` and
        `rebuild.py`, a short file of plain PyTorch: `rebuild(original)` takes the blocks out of the architecture that
        was pruned, and loads the weights.

        Raises:
            UsageError: when the directory holds anything but an earlier plan, or cannot be made.
        """
        directory = Path(path)
        identity = bool(self.metadata["identity"])
        plan = {"removed": list(self.removed), "identity": identity, "method": self.method, "target": self.target}
        write(self.model, directory, plan)
        record = {"removed": list(self.removed), "kept": list(self.kept), "fixed": dict(self.fixed)}
        record |= {"method": self.method, "target": self.target, "metadata": dict(self.metadata)}
        write_record(directory / "plan.termwise", Record(KIND, record, {"steps": self.table}, {}))
        return directory
