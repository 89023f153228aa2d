"""The chain rule, by the number of steps: cotangents walked backwards through autograd's graph.

Every backward operator is linear in its cotangent.  So a cotangent is carried as a polynomial

    delta(eps) = sum_j delta_j eps^j

whose coefficient delta_j is the sum over all paths to the loss with exactly j steps.  Its rows are sent through each
node of autograd's graph at once, and a step moves them up by one.  Nothing is frozen and nothing approximated: the rows
sum to the cotangent that autograd computes.  Only depths that some path has are carried.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node as GradNode

from termwise.series import Paths, add_paths

Edge = tuple[GradNode, int]  # the place of a tensor in the graph: the node that made it, and which of its results it is
Depths = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Cotangent:
    """A cotangent by the number of steps between its tensor and the loss.

    Attributes:
        rows: the coefficients, shape (len(depths), *S).
        depths: the number of steps of each row, ascending.
        paths: depth to the number of paths.
    """

    rows: Tensor
    depths: Depths
    paths: Paths

    def moved(self, steps: int) -> Cotangent:
        """All rows up by so many steps."""
        if not steps:
            return self
        depths = tuple(depth + steps for depth in self.depths)
        return Cotangent(self.rows, depths, {depth + steps: n for depth, n in self.paths.items()})

    def plus(self, other: Cotangent) -> Cotangent:
        """The sum, depth by depth."""
        paths = add_paths([self.paths, other.paths])
        if self.depths == other.depths:
            return Cotangent(self.rows + other.rows, self.depths, paths)
        depths = tuple(sorted({*self.depths, *other.depths}))
        # Rows are shared between the operands of a sum: never written in place.
        rows = self.rows.new_empty((len(depths), *self.rows.shape[1:]))
        left, right = self._by_depth(), other._by_depth()
        for row, depth in zip(rows, depths, strict=True):
            if depth in left and depth in right:
                torch.add(left[depth], right[depth], out=row)
            else:
                row.copy_(left[depth] if depth in left else right[depth])
        return Cotangent(rows, depths, paths)

    def _by_depth(self) -> dict[int, Tensor]:
        return dict(zip(self.depths, self.rows, strict=True))

    def laid_out(self, depths: Depths) -> Tensor:
        """The rows of `depths`, which hold all of its own; zeros where it has none."""
        if depths == self.depths:
            return self.rows
        held, zero = self._by_depth(), torch.zeros_like(self.rows[0])
        return torch.stack([held.get(depth, zero) for depth in depths])


def edge_of(tensor: Tensor) -> Edge:
    """Where a tensor that takes part in autograd is in the graph."""
    edge = torch.autograd.graph.get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def walk(
    start: Mapping[Edge, Cotangent],
    places: Collection[Edge],
    steps: Mapping[GradNode, int],
    branches: Mapping[Edge, int],
    visit: Callable[[GradNode, Mapping[int, Cotangent]], None] | None = None,
) -> dict[Edge, Cotangent]:
    """Send cotangents from `start` back to `places`.

    Args:
        start: cotangents to start from, by place.
        places: where they are wanted.
        steps: by how many steps the rows move up on the way through a node.
        branches: the same for one operand of a node: (node, index among its next functions).
        visit: told of every node that is passed, with the cotangents of its results, before it is passed.

    Returns:
        The cotangent at each place that a path leads to; a step that made the tensor there is not counted.
    """
    order = _order([node for node, _ in start], {node for node, _ in places})
    arrived: dict[GradNode, dict[int, Cotangent]] = {}
    for (node, result), cotangent in start.items():
        arrived.setdefault(node, {})[result] = cotangent
    found: dict[Edge, Cotangent] = {}
    for node in order:
        cotangents = arrived.pop(node, None)
        if cotangents is None:
            continue
        found |= {(node, result): c for result, c in cotangents.items() if (node, result) in places}
        if visit is not None:
            visit(node, cotangents)
        sources = enumerate(node.next_functions)
        edges = [(i, (source, result)) for i, (source, result) in sources if source is not None and source in order]
        moved = {result: cotangent.moved(steps.get(node, 0)) for result, cotangent in cotangents.items()}
        for i, (source, result), cotangent in _through(node, moved, edges):
            cotangent = cotangent.moved(branches.get((node, i), 0))
            waiting = arrived.setdefault(source, {})
            waiting[result] = waiting[result].plus(cotangent) if result in waiting else cotangent
    return found


def _order(roots: Iterable[GradNode], wanted: set[GradNode]) -> dict[GradNode, None]:
    """The nodes on the way from `roots` to those that are wanted, each after all that lead to it."""
    leads: dict[GradNode, bool] = {}
    for node in (behind := nodes_behind(roots)):
        leads[node] = node in wanted or any(leads[source] for source, _ in node.next_functions if source is not None)
    return {node: None for node in reversed(behind) if leads[node]}


def nodes_behind(roots: Iterable[GradNode]) -> list[GradNode]:
    """All nodes that gradients flow back to from `roots`, themselves included, each before all that lead to it."""
    finished: list[GradNode] = []
    stack: list[tuple[GradNode, bool]] = [(root, False) for root in roots]
    opened: set[GradNode] = set()
    while stack:
        node, left = stack.pop()
        sources = [source for source, _ in node.next_functions if source is not None]
        if left:
            finished.append(node)
        elif node not in opened:
            opened.add(node)
            stack.append((node, True))
            stack.extend((source, False) for source in sources if source not in opened)
    return finished


def _through(
    node: GradNode, cotangents: Mapping[int, Cotangent], edges: list[tuple[int, Edge]]
) -> Iterable[tuple[int, Edge, Cotangent]]:
    """What a node makes of the cotangents of its results, for each of the edges that leave it."""
    if not edges:
        return
    depths = tuple(sorted({depth for cotangent in cotangents.values() for depth in cotangent.depths}))
    paths = add_paths(cotangent.paths for cotangent in cotangents.values())
    stacks = {result: cotangent.laid_out(depths) for result, cotangent in cotangents.items()}
    for (i, edge), rows in zip(edges, _backward(node, edges, stacks), strict=True):
        if rows is not None:
            yield i, edge, Cotangent(rows, depths, paths)


def _backward(node: GradNode, edges: list[tuple[int, Edge]], stacks: Mapping[int, Tensor]) -> list[Tensor | None]:
    """All rows through one node; at once where vmap can take it."""
    reached: list[int] = []

    def once(*row: Tensor) -> tuple[Tensor, ...]:
        cotangents: list[Tensor | None] = [None] * len(node._input_metadata)
        for result, tensor in zip(stacks, row, strict=True):
            cotangents[result] = tensor
        out = _called(node, cotangents)
        gradients = {place: out[i] for place, (i, _) in enumerate(edges)}
        reached[:] = [place for place, gradient in gradients.items() if gradient is not None]
        return tuple(_fitted(g, edges[place][1]) for place, g in gradients.items() if g is not None)

    stacked = _rows_of(once, list(stacks.values()), at_once=node.name() not in _LOOPED)
    out: list[Tensor | None] = [None] * len(edges)
    for place, rows in zip(reached, stacked, strict=True):
        out[place] = rows
    return out


# Batched, these take a way through PyTorch that is up to four times slower than one row after another.
_LOOPED = {
    "ConvolutionBackward0",
    "MaxPool2DWithIndicesBackward0",
    "NativeBatchNormBackward0",
    "NativeGroupNormBackward0",
}


def _rows_of(once: Callable[..., tuple[Tensor, ...]], stacks: list[Tensor], *, at_once: bool) -> list[Tensor]:
    if at_once and len(stacks[0]) > 1:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                return list(torch.vmap(once)(*stacks))
        except RuntimeError:
            pass  # it has no batching rule, or looks at the numbers: row by row
    out: list[Tensor] = []
    for n, row in enumerate(zip(*stacks, strict=True)):
        gradients = once(*row)
        if not n:
            out = [gradient.new_empty((len(stacks[0]), *gradient.shape)) for gradient in gradients]
        for rows, gradient in zip(out, gradients, strict=True):
            rows[n] = gradient
    return out


def _called(node: GradNode, cotangents: list[Tensor | None]) -> Sequence[Tensor | None]:
    """One node alone; autograd's engine would go on from one operand to another that it was computed from."""
    call: Any = node
    if isinstance(node, BackwardCFunction):
        given = [_zeros(node, i) if c is None else c for i, c in enumerate(cotangents)]
        out = call.apply(*given)
    else:
        out = call(*cotangents)
    return out if isinstance(out, (tuple, list)) else (out,)


def _zeros(node: GradNode, result: int) -> Tensor:
    metadata = node._input_metadata[result]
    return torch.zeros(metadata.shape, dtype=metadata.dtype, device=metadata.device)


def _fitted(gradient: Tensor, edge: Edge) -> Tensor:
    """A gradient as its tensor is: what was broadcast is summed, what was cast is cast back."""
    node, result = edge
    metadata = node._input_metadata[result]
    gradient = gradient.to_dense() if gradient.layout is not torch.strided else gradient
    if gradient.is_complex() and not metadata.dtype.is_complex:
        gradient = gradient.real
    gradient = gradient if gradient.shape == metadata.shape else gradient.sum_to_size(metadata.shape)
    return gradient.to(metadata.dtype)
