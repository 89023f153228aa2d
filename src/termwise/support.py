"""support(): what a model is to Termwise, before any real work.

One run with a single term tells everything but the numbers: which operators are called and what their rules do, where
terms flow, and so, by arithmetic on that graph alone, the depths, the number of paths, the ideal cost and the memory
that a full expansion takes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from termwise.blocks import Block, find_blocks
from termwise.errors import ModelError, RuleError
from termwise.expand import Forward, Output, follow, locate, polynomial
from termwise.graph import Graph, Node
from termwise.operators import OperatorUse, Unsupported
from termwise.pinning import bare
from termwise.program import Program
from termwise.series import INPUT_CALL, Born, add_paths
from termwise.steps import BLOCKS, Unit, unit_of

Paths = Mapping[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Support:
    """What a dry run found; print it.

    Attributes:
        unit: the unit of depth.
        paths: depth to the number of paths from the input to the output, as Python integers; empty where none reaches
            it. They are those of the expansion, but for buffers that are filled and read in parts, where they are more.
        blocks: the residual branches, whatever the unit.
        weights: how many products by a weight (convolutions, linear layers) are called on what the input reaches.
        ideal_cost: the least that all terms cost, in plain forward passes (see `termwise.Expansion`).
        memory: bytes that the terms of this input take at once, at the least: those that are still needed when the
            most are, counted on the graph. Temporary copies and what the model itself holds on to come on top.
        operators: how each operator is treated: "exact", "frozen" or "linearised".
        missing: the calls that no rule can follow; with any of them `expand` refuses the model.
        failure: why the model is refused although every call has a rule, if it is.
    """

    unit: str
    paths: Paths
    blocks: tuple[Block, ...]
    weights: int
    ideal_cost: float
    memory: int
    operators: tuple[OperatorUse, ...]
    missing: tuple[Unsupported, ...]
    failure: str | None

    @property
    def supported(self) -> bool:
        """Whether `expand` takes the model."""
        return not self.missing and self.failure is None

    @property
    def linearised(self) -> tuple[OperatorUse, ...]:
        """The operators without a rule of their own."""
        return tuple(use for use in self.operators if use.kind == "linearised")

    def __str__(self) -> str:
        """The table for a terminal."""
        from termwise.report.support import support_text

        return support_text(self)

    __repr__ = __str__


def support(
    model: Any,
    x: Any,
    *,
    unit: str | Sequence[str] | Unit = "layers",
    output: Output = None,
    forward: Forward = None,
) -> Support:
    """Say what `termwise.expand` would do with `model` at the input `x`, for the price of a run with one term.

    Args:
        model: an nn.Module or callable; run in evaluation mode and left as found.
        x: its input, as in `termwise.expand`; memory and cost are those of this batch.
        unit: the unit of depth, as in `termwise.expand`.
        output: which tensor of the model's result, as in `termwise.expand`.
        forward: how to call the model, as in `termwise.expand`.

    Returns:
        The Support, also of a model that is not supported.

    Raises:
        DataError, UsageError: see `termwise.expand`.
        ModelError: when the model is in a state that hides its operators or weights (see `termwise.pinning.bare`);
            what else is wrong with it is part of the result.
    """
    network = bare(model)
    resolved = unit_of(unit, network)
    graph = Graph()
    program = Program(network, Unit("nothing", resolved.modules), graph=graph)
    born, failure = (), None
    try:
        born = polynomial(follow(program, model, x, output, forward)).born
    except (ModelError, RuleError) as error:
        # Calls that no rule can follow are listed by themselves; any other reason is told.
        failure = None if program.unsupported else str(error)
    if born and resolved.modules:
        # The steps of modules have numbers in this graph; the blocks are named by the calls of operators alone.
        blocks = locate(BLOCKS, model, x, output=output, forward=forward).blocks or ()
    else:
        blocks = find_blocks(graph, born) if born else ()
    located = dataclasses.replace(resolved, blocks=blocks if resolved.name == BLOCKS else None)
    depths = _Depths(graph, located)
    return Support(
        unit=str(resolved),
        paths=dict(sorted(depths.of(born).items())),
        blocks=blocks,
        weights=program.weights,
        ideal_cost=_ideal_cost(graph, depths, program.flops),
        memory=_memory(graph, depths),
        operators=program.operators,
        missing=tuple(program.unsupported),
        failure=failure,
    )


class _Depths:
    """The number of paths of each length to every node: the expansion with every operator replaced by 1."""

    def __init__(self, graph: Graph, unit: Unit) -> None:
        self._unit = unit
        self._paths: dict[int, Paths] = {INPUT_CALL[0]: {0: 1}}
        for node in graph.nodes.values():
            if node.inputs:
                self._paths[node.number] = self._through(node)

    def of(self, born: Born) -> Paths:
        return add_paths(self._paths[number] for number in born)

    def _through(self, node: Node) -> Paths:
        steps = self._unit.branches.get(node.number, ())
        arriving = [_moved(self.of(born), operand in steps) for operand, born in node.inputs]
        return _moved(add_paths(arriving), self._is_step(node))

    def _is_step(self, node: Node) -> bool:
        event = "weight" if node.role == "weight" else "nonlinearity" if node.nonlinear else None
        return node.module_step or self._unit.counts(event)


def _moved(paths: Paths, step: bool) -> Paths:
    return {depth + 1: count for depth, count in paths.items()} if step else paths


def _ideal_cost(graph: Graph, depths: _Depths, flops: int) -> float:
    """Sum of (window + 1 for the constants) x FLOPs over the sum of FLOPs; what is frozen has no window."""
    if not flops:
        return 1.0
    windowed = 0
    for node in (node for node in graph.nodes.values() if node.flops):
        spans = [depths.of(born) for _, born in node.inputs]
        windowed += node.flops * max(max(span) - min(span) + 1 for span in spans)
    return 1.0 + windowed / flops


def _memory(graph: Graph, depths: _Depths) -> int:
    """The most bytes of terms that are needed at one time, each from its birth to its last reader."""

    @functools.cache
    def owners(number: int) -> Born:
        node = graph.nodes[number]
        return (number,) if node.size or not node.inputs else tuple(o for n in node.born for o in owners(n))

    last: dict[int, int] = {}
    for node in graph.nodes.values():
        for owner in (owner for number in node.born for owner in owners(number)):
            last[owner] = node.number
    ending: dict[int, list[int]] = {}
    held, peak = 0, 0
    for node in graph.nodes.values():
        held += (size := node.size * (len(depths.of((node.number,))) + 1))
        peak = max(peak, held)
        ending.setdefault(last.get(node.number, node.number), []).append(size)
        held -= sum(ending.pop(node.number, ()))
    return peak
