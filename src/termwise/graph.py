"""The graph of a program: which operator calls took part, and from which of them each got its terms.

A node is one call of an operator, numbered in the order of the program; node 0 is the input.  An edge says that terms
flow from one call to another: what a rule freezes (a gate, an attention pattern, the statistics of a norm) is no edge,
since no path leads through it.  The graph holds numbers and names, never a tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from termwise.series import INPUT_CALL, Born

Role = Literal["input", "affine", "selection", "weight", "mixer", "join", "other"]


@dataclasses.dataclass(frozen=True)
class Node:
    """One call of an operator.

    Attributes:
        number: its place in the program.
        operator: its name, such as "aten.add".
        role: what it does to the terms that pass: "affine" moves, scales or averages them (structural operators,
            norms, products by constants and gates); "selection" reads at places that the data chose; "weight" is a
            product by a parameter; "mixer" mixes positions without one (an attention pattern, a pooling that keeps the
            shape, a Fourier transform); "join" adds or concatenates several values; "other" is everything else,
            nonlinearities above all.
        nonlinear: whether it is an element-wise nonlinearity.
        module: the path of the module that called it.
        inputs: for each operand that terms flow from, its place among the call's tensors and the calls it was born of.
        flops: of convolutions and matrix products, for the clean value.
        size: bytes of the clean result; 0 where it is a view.
        module_step: whether it stands for the output of a module that is a step by name.
    """

    number: int
    operator: str
    role: Role
    nonlinear: bool
    module: str
    inputs: tuple[tuple[int, Born], ...]
    flops: int = 0
    size: int = 0
    module_step: bool = False

    @property
    def born(self) -> Born:
        """All calls that terms flow from, once each."""
        return tuple(dict.fromkeys(number for _, born in self.inputs for number in born))

    @property
    def is_view(self) -> bool:
        """Whether the result is a view of the one operand that terms flow from."""
        return not self.size and self.role == "affine" and len(self.inputs) == 1


class Graph:
    """The nodes of one run, by number; only those that terms of the input reach."""

    def __init__(self) -> None:
        """The input alone."""
        (number,) = INPUT_CALL
        self.nodes: dict[int, Node] = {number: Node(number, "input", "input", False, "", ())}

    def add(self, node: Node) -> None:
        """Enter a call; calls come in the order of the program."""
        self.nodes[node.number] = node

    def upstream(self, born: Iterable[int]) -> list[Node]:
        """All nodes from which terms reach those in `born`, themselves included, in the order of the program."""
        found: set[int] = set()
        waiting = list(born)
        while waiting:
            number = waiting.pop()
            if number not in found:
                found.add(number)
                waiting.extend(self.nodes[number].born)
        return [self.nodes[number] for number in sorted(found)]


def role_of(event: str | None, family: str, flowing: int, tensors: int) -> Role:
    """What a call does to the terms of its `flowing` operands among its `tensors`."""
    if event == "weight" or event == "mixer":
        return event
    if event == "join" and flowing > 1:
        return "join"
    if family == "selection" and tensors == 1:
        return "selection"
    # The greater of two is a nonlinearity: maximum(x, 0) is relu(x).
    if family == "selection":
        return "other"
    # A product of two values is no scaling.
    other = event == "nonlinearity" or family == "fallback" or (family == "product" and flowing > 1)
    return "other" if other else "affine"
