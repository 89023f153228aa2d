"""Residual blocks, found from the data flow of a program and not from the names of its classes.

A *join* adds or concatenates values; a stack of values is one if it is summed up at once.  One of its operands is a
*branch*, and counts as one step of depth, when another operand brings along what the branch was computed from.  In
detail:

  - Joins that feed joins directly are one: x + (f + g) and (x + f) + g have the operands x, f and g.
  - A node is *carried* to a join when a route leads from it to another operand through structural operators, norms,
    scalings, joins, and at most one product by a weight (a lone projection).  No nonlinearity is on such a route, a
    selection (max-pooling) only to a sum, and what is subtracted is carried only to what is subtracted with it:
    f(x) - x takes the input away, and g - (x + f(x)) takes away a residual sum.
  - What the operand carries itself, through no more projections than another, is no mark of a branch: of
    (x + f(x)) / 2 + (x + g(x)) / 2 only f and g are, as if the factors stood before each summand; and two slices of
    f(x) beside x are, although each carries what the other comes from.
  - Of the last other node that the branch comes from and that is carried without a projection, or else of the last
    that is carried with one: the branch leads from it to the join through more weights than the carrying route does,
    or through a token mixer (an attention pattern, a pooling that keeps the shape).

No nonlinearity is asked of a branch, and a branch that is element-wise throughout (the 0.044 x^3 of a written-out GELU)
is none.  What is frozen is no route: a gate computed from x by a weight makes x * gate neither branch nor shortcut.
A join without a carried operand (the sum of two convolutions) has no branch.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from termwise.graph import Graph, Node
from termwise.series import Born

_SUMS = ("aten.sum", "aten.mean")


class Place(NamedTuple):
    """An operand of a join: the number of the call, and the operand's place among the call's tensors."""

    call: int
    operand: int


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual branch.

    Attributes:
        name: the module that holds the branch: the longest common path of its weights (of its mixers, without any).
        join: whether the branch is added or concatenated.
        places: where it joins; several where it is handed on, as a DenseNet's features are to every later layer, or
            where its slices join apart.
        weights: products by a weight along the branch, at the most.
    """

    name: str
    join: Literal["sum", "concatenation"]
    places: tuple[Place, ...]
    weights: int


class _Way(NamedTuple):
    """What the routes between two nodes lead through: weights, at the most, and whether a mixer is on any of them."""

    weights: int
    mixed: bool

    def then(self, node: Node) -> _Way:
        return _Way(self.weights + (node.role == "weight"), self.mixed or node.role == "mixer")


def find_blocks(graph: Graph, output: Born) -> tuple[Block, ...]:
    """The residual branches that reach `output`, in the order in which they join."""
    nodes = graph.upstream(output)
    search = _Search(nodes)
    joins = [node for node in nodes if search.is_join((node.number,))]
    fed = {born[0] for node in joins for _, born in node.inputs if search.is_join(born)}
    found: dict[Born, Block] = {}
    for node in joins:
        if node.number not in fed:
            for born, block in search.branches(node):
                whole = search.viewed(born)
                known = found.setdefault(whole, block)
                places = tuple(sorted({*known.places, *block.places}))
                found[whole] = dataclasses.replace(known, places=places)
    return tuple(sorted(found.values(), key=lambda block: block.places))


@dataclasses.dataclass(frozen=True)
class _Joined:
    """A join and the joins that feed it directly, as one sum.

    Attributes:
        joins: their numbers, and whether what they bring is added (or subtracted).
        operands: what they join.
        added: of each operand, whether it is added.
    """

    joins: dict[int, bool]
    operands: dict[Place, Born]
    added: dict[Place, bool]

    @functools.cached_property
    def _bits(self) -> dict[int | Place, int]:
        return {each: 1 << i for i, each in enumerate([*self.joins, *self.operands])}

    @functools.cached_property
    def _subtracted(self) -> int:
        signs = [*self.joins.items(), *self.added.items()]
        return sum(self._bits[each] for each, added in signs if not added)

    def bit(self, each: int | Place) -> int:
        """The bit that stands for a join or an operand."""
        return self._bits[each]

    def others(self, place: Place) -> int:
        """The bits of what may carry a shortcut of an operand: all others, what is subtracted only for its like."""
        apart = self._bits[place] | (self._subtracted if self.added[place] else 0)
        return ~apart


class _Search:
    """The branches of each join of one graph."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = {node.number: node for node in nodes}
        joins = {node.number: node for node in nodes if node.role == "join"}
        # A stack that is only summed up is a sum; others lay values side by side, such as the states of a recurrence.
        summed, read = (
            {number for node in nodes if (node.operator in _SUMS) is sums for number in node.born}
            for sums in (True, False)
        )
        self._joins = {n for n, node in joins.items() if node.operator != "aten.stack" or n in summed - read}
        # The ancestors of each node and itself, one bit a node.
        self._above: dict[int, int] = {}
        for node in nodes:
            self._above[node.number] = self._ancestors(node.born) | 1 << node.number

    def _ancestors(self, born: Iterable[int]) -> int:
        bits = 0
        for number in born:
            bits |= self._above[number]
        return bits

    def is_join(self, born: Born) -> bool:
        return len(born) == 1 and born[0] in self._joins

    def viewed(self, born: Born) -> Born:
        """What a value is a view of: a branch that is handed on in slices is one."""
        while len(born) == 1 and (node := self._nodes[born[0]]).is_view:
            ((_, born),) = node.inputs
        return born

    def branches(self, root: Node) -> Iterator[tuple[Born, Block]]:
        """The branches among the operands of a join and of the joins that feed it directly."""
        joined = self._flattened(root)
        carried = self._carried(joined)
        for place, born in joined.operands.items():
            fork = self._fork(born, joined.bit(place), joined.others(place), carried)
            if fork is None:
                continue
            origin, projections = fork
            way = self._way(origin, born)
            if way.weights > projections or way.mixed:
                yield born, self._block(place, origin, born, way.weights)

    def _flattened(self, root: Node) -> _Joined:
        joined = _Joined({root.number: True}, {}, {})
        for number in (waiting := [root.number]):
            node = self._nodes[number]
            for operand, born in node.inputs:
                added = joined.joins[number] != _is_subtracted(node, operand)
                if not self.is_join(born):
                    joined.operands[Place(number, operand)] = born
                    joined.added[Place(number, operand)] = added
                elif born[0] not in joined.joins:
                    joined.joins[born[0]] = added
                    waiting.append(born[0])
        return joined

    def _carried(self, joined: _Joined) -> dict[int, tuple[int, int]]:
        """Node to what carries it, one bit an operand or join: without a projection, and through one."""
        carried: dict[int, tuple[int, int]] = {}
        waiting: list[int] = []

        def note(number: int, plain: int, projected: int) -> None:
            if number not in carried:
                heapq.heappush(waiting, -number)
            before = carried.get(number, (0, 0))
            carried[number] = (before[0] | plain, before[1] | projected)

        for number in joined.joins:
            note(number, joined.bit(number), 0)
        for place, born in joined.operands.items():
            for number in born:
                note(number, joined.bit(place), 0)
        whole = sum(map(joined.bit, joined.joins))
        summed = sum(joined.bit(place) for place in joined.operands if _kind(self._nodes[place.call]) == "sum")
        while waiting:  # against the order of the program, so that all routes of a node are known when it is left
            number = -heapq.heappop(waiting)
            node = self._nodes[number]
            if node.role not in ("affine", "selection", "join", "weight"):
                continue
            plain, projected = (0, carried[number][0]) if node.role == "weight" else carried[number]
            if number in joined.joins:  # its operands speak for themselves
                plain, projected = plain & ~whole, projected & ~whole
            if node.role == "selection":
                plain, projected = plain & summed, projected & summed
            if plain or projected:
                for source in _carrying(node):
                    note(source, plain, projected)
        return carried

    def _fork(self, born: Born, own: int, others: int, carried: dict[int, tuple[int, int]]) -> tuple[int, int] | None:
        """The node that a branch parts from its shortcut at, and the projections on that shortcut.

        Where the operand carries a node as well as the shortcut does, both come from it alike.
        """
        above = self._ancestors(born)
        shared = [number for number in carried if above >> number & 1]
        for projections in (0, 1):
            forks = [
                number
                for number in shared
                if carried[number][projections] & others
                and not own & (carried[number][0] | carried[number][projections])
            ]
            if forks:
                return max(forks), projections
        return None

    def _way(self, origin: int, born: Born) -> _Way:
        """The routes from `origin` to the nodes of `born`."""
        ways = {origin: _Way(0, False)}
        above = self._ancestors(born)
        for number in range(origin + 1, max(born) + 1):
            if above >> number & 1:
                node = self._nodes[number]
                arriving = [ways[source] for source in node.born if source in ways]
                if arriving:
                    ways[number] = _all(arriving).then(node)
        return _all(ways[number] for number in born if number in ways)

    def _block(self, place: Place, origin: int, born: Born, weights: int) -> Block:
        above = self._ancestors(born)
        between = (number for number in range(origin + 1, max(born) + 1) if above >> number & 1)
        inside = [self._nodes[number] for number in between if self._above[number] >> origin & 1]
        join = self._nodes[place.call]
        for role in ("weight", "mixer"):
            modules = [node.module.split(".") for node in inside if node.role == role]
            if modules:
                break
        else:
            modules = [join.module.split(".")]
        alike = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*modules, strict=False))
        name = ".".join(names[0] for names in alike)
        return Block(name or join.module, _kind(join), (place,), weights)


def _all(ways: Iterable[_Way]) -> _Way:
    weights, mixed = zip(*ways, strict=True)
    return _Way(max(weights), any(mixed))


def _kind(join: Node) -> Literal["sum", "concatenation"]:
    return "concatenation" if join.operator.rpartition(".")[2] == "cat" else "sum"


def _is_subtracted(join: Node, operand: int) -> bool:
    minuend = {"sub": 0, "rsub": 1}.get(join.operator.rpartition(".")[2])
    return minuend is not None and operand != minuend


def _carrying(node: Node) -> Born:
    """The calls whose terms a node passes on with their sign."""
    return tuple(number for i, born in node.inputs for number in born if not _is_subtracted(node, i))
