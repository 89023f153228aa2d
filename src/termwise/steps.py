"""What counts as one step of depth.

layers        every convolution or matrix product by a parameter, its bias included (the default: it compares any
              two networks).  Scales of norms and look-ups in embeddings are no steps, nor are products by fixed
              filters: a weight is an operand computed from parameters (and constants) alone, whatever it went
              through since: a cast, a view, a standardisation.
blocks        every residual branch, found from the data flow (see `termwise.blocks`): the literature's path length.
activations   every element-wise nonlinearity; the nearest thing to "degree" in depth.  Selections (max-pooling)
              and normalisations are none.  A fused SiLU or GELU is one; written out as x * sigmoid(x) it is none:
              the gate is frozen, and x passes by it.
module names  the output of each named module, as in model.named_modules().
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping, Sequence

from torch import nn

from termwise.blocks import Block, Place
from termwise.errors import UsageError

NAMED = "modules"
BLOCKS = "blocks"
UNITS = ("layers", "blocks", "activations")
_EVENTS = {"layers": "weight", "activations": "nonlinearity"}


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of depth: which operators or which modules move every input-born part up by one.

    Attributes:
        name: "layers", "blocks", "activations", "modules", or "nothing" for a run in which no operator is a step.
        modules: the paths of the modules whose outputs are steps, for "modules".
        blocks: the residual branches, for "blocks"; None until they have been looked for in a program.
        route: a hash of the operator calls of that program and of the modules that made them.
        wiring: the same with the calls that each got its terms from; another one means another program.
        apart: for "blocks": block i counts for 2^i steps, so that the bits of a depth say which blocks a path passes.
    """

    name: str
    modules: frozenset[str] = frozenset()
    blocks: tuple[Block, ...] | None = None
    route: int = 0
    wiring: int = 0
    apart: bool = False

    @functools.cached_property
    def lengths(self) -> Mapping[Place, int]:
        """For each operand of a join that is a branch, how many steps it counts for."""
        return {p: 2**i if self.apart else 1 for i, block in enumerate(self.blocks or ()) for p in block.places}

    @functools.cached_property
    def branches(self) -> Mapping[int, tuple[int, ...]]:
        """For each call that is a join, which of its tensors are branches."""
        places: dict[int, tuple[int, ...]] = {}
        for place in self.lengths:
            places[place.call] = (*places.get(place.call, ()), place.operand)
        return places

    def counts(self, event: str | None) -> bool:
        """Whether a call with this event is a step."""
        return event is not None and _EVENTS.get(self.name) == event

    def __str__(self) -> str:
        """The unit as a user writes it."""
        if self.apart:
            return "blocks, each by itself"
        return self.name if not self.modules else "modules: " + ", ".join(sorted(self.modules))


def unit_of(unit: str | Sequence[str] | Unit, model: object) -> Unit:
    """The unit that the user means.

    Args:
        unit: "layers", "blocks", "activations", or the names of modules of `model`.
        model: the model whose modules the names are looked up in.

    Raises:
        UsageError: for an unknown unit, an unknown module, or module names without an nn.Module.
    """
    if isinstance(unit, Unit):
        return unit
    if isinstance(unit, str):
        if unit in UNITS:
            return Unit(unit)
        raise UsageError(
            f"unit={unit!r}: expected {', '.join(map(repr, UNITS))} or a list of module names. "
            f"To count the output of one module as a step write unit=[{unit!r}]."
        )
    names = list(unit)
    if not names:
        raise UsageError("unit=[]: no module is named, so nothing would be a step. Name at least one.")
    known = [name for name, _ in model.named_modules()] if isinstance(model, nn.Module) else []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise UsageError(f"unit: the model has no module called {name!r}.{hint} See dict(model.named_modules()).")
    return Unit(NAMED, frozenset(names))
