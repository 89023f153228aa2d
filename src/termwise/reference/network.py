"""A network written down as a small tree, its plain forward, and its frozen gates."""

from collections import abc
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Unit: TypeAlias = Literal["layers", "blocks", "activations"]
LinearMap: TypeAlias = abc.Callable[[Tensor], Tensor]


# The network, written down ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Affine:
    """A node whose gates are frozen: v -> apply(v) + constant. What `freeze` turns every leaf into.

    Attributes:
        apply: the linear part, a function of one tensor (N, ...).
        constant: what it adds, expanded to the shape of the output, batch included; None if nothing.
        step_in: the unit in which this node is one step of depth, None if in no unit.
    """

    apply: LinearMap
    constant: Tensor | None = None
    step_in: Unit | None = None

    def at(self, u: Tensor) -> "Affine":
        """Itself: there is nothing left to freeze."""
        return self

    def __call__(self, v: Tensor) -> Tensor:
        """The real value for the real input `v`, (N, ...)."""
        out = self.apply(v)
        return out if self.constant is None else out + self.constant


@dataclass(frozen=True, eq=False)
class Weight:
    """A linear map by a parameter, with its bias: one step in unit `layers`.

    Attributes:
        apply: the map *without* its bias.
        bias: broadcasts against the map's output, e.g. (C,) for a matrix and (C, 1, 1) for a convolution.
    """

    apply: LinearMap
    bias: Tensor | None = None

    def __call__(self, v: Tensor) -> Tensor:
        """The real value for the real input `v`, (N, ...)."""
        out = self.apply(v)
        return out if self.bias is None else out + self.bias

    def at(self, u: Tensor) -> Affine:
        """The same map; its bias is expanded to the shape of the output for the input `u`."""
        bias = None if self.bias is None else self.bias.expand_as(self.apply(u))
        return Affine(self.apply, bias, "layers")


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm of fixed statistics (batch norm in evaluation mode): v -> scale v + shift. A step in no unit.

    Attributes:
        scale: broadcasts against the input, e.g. (C, 1, 1) for images: gamma / sqrt(variance + epsilon).
        shift: of the same shape: beta - mean * scale.
    """

    scale: Tensor
    shift: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        """The real value for the real input `v`, (N, ...)."""
        return self.scale * v + self.shift

    def at(self, u: Tensor) -> Affine:
        """The same map; its shift is expanded to the shape of `u`."""
        return Affine(lambda v: self.scale * v, self.shift.expand_as(u))


@dataclass(frozen=True, eq=False)
class Nonlinearity:
    """An element-wise nonlinearity with a slope at 0, or one on each side: one step in unit `activations`.

    Attributes:
        fn: the function of one tensor (ReLU, GELU, sigmoid, ...). Its value must depend on nothing else.
    """

    fn: abc.Callable[[Tensor], Tensor]

    def __call__(self, v: Tensor) -> Tensor:
        """The real value for the real input `v`, (N, ...)."""
        return self.fn(v)

    def at(self, u: Tensor) -> Affine:
        """Its value gate at `u`: v -> s(0) + g v with g = (s(u) - s(0)) / u."""
        at_zero = self.fn(torch.zeros_like(u))
        # Near 0 the quotient cancels; there the gate is s'(u / 2) up to u^2 s''' / 24, and s'(0) at 0 itself.
        near_zero = u.abs() < torch.finfo(u.dtype).eps ** (1 / 3)
        quotient = (self.fn(u) - at_zero) / torch.where(near_zero, torch.ones_like(u), u)
        gate = torch.where(near_zero, _slope(self.fn, u / 2), quotient)
        return Affine(lambda v: gate * v, at_zero if bool(at_zero.any()) else None, "activations")


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear map that is no step in any unit: pooling by means, flatten, subsample and pad, identity.

    Attributes:
        apply: the map; it must be linear, without a constant.
    """

    apply: LinearMap

    def __call__(self, v: Tensor) -> Tensor:
        """The real value for the real input `v`, (N, ...)."""
        return self.apply(v)

    def at(self, u: Tensor) -> Affine:
        """The same map."""
        return Affine(self.apply)


@dataclass(frozen=True, eq=False)
class Sequence:
    """Nodes applied one after the other, the first one first; the empty sequence is the identity."""

    parts: "tuple[Node, ...]" = ()


@dataclass(frozen=True, eq=False)
class Residual:
    """Two parallel nodes, added: v -> shortcut(v) + branch(v). The shortcut is the identity unless given."""

    branch: "Node"
    shortcut: "Node" = Sequence()


@dataclass(frozen=True, eq=False)
class Dense:
    """The dense connection: v -> concatenation of v and branch(v) along the channels (dimension 1)."""

    branch: "Node"


Leaf: TypeAlias = Affine | Weight | Norm | Nonlinearity | Linear
Node: TypeAlias = Leaf | Sequence | Residual | Dense


@dataclass(frozen=True, eq=False)
class Terms:
    """The output of a network by depth.

    Attributes:
        terms: depth -> what is born of the input and took exactly that many steps, shape of the output, for
            every depth that some path has, in ascending order.
        constants: depth -> what is born of constants and took that many steps after birth, likewise.
        paths: depth -> number of paths from the input, as Python integers; same keys as `terms`.
    """

    terms: dict[int, Tensor]
    constants: dict[int, Tensor]
    paths: dict[int, int]

    @property
    def constant(self) -> Tensor:
        """Everything born of constants, pooled: shape of the output, zeros if there is nothing."""
        return sum(self.constants.values(), start=torch.zeros_like(next(iter(self.terms.values()))))

    @property
    def total(self) -> Tensor:
        """The sum of all terms and constants: what the network computes, up to rounding."""
        return sum(self.terms.values(), start=self.constant)


# The plain forward and its gates ----------------------------------------------------------------------------


@torch.no_grad()
def forward(tree: Node, x: Tensor) -> Tensor:
    """What the network really computes for the input `x` (N, ...): no gates, no expansion."""
    return _run(tree, x)[1]


@torch.no_grad()
def freeze(tree: Node, x: Tensor) -> Node:
    """The tree with every leaf replaced by the `Affine` map that it is for the input `x` (N, ...).

    The frozen network equals the real one at `x` (and only there): `forward(freeze(tree, x), x)` is
    `forward(tree, x)` up to rounding.
    """
    return _run(tree, x)[0]


def _run(node: Node, u: Tensor) -> tuple[Node, Tensor]:
    """The frozen node and the real output, for the real input `u`."""
    match node:
        case Sequence(parts):
            frozen = []
            for part in parts:
                gate, u = _run(part, u)
                frozen.append(gate)
            return Sequence(tuple(frozen)), u
        case Residual(branch, shortcut):
            frozen_branch, b = _run(branch, u)
            frozen_shortcut, a = _run(shortcut, u)
            return Residual(_as_block(frozen_branch), frozen_shortcut), a + b
        case Dense(branch):
            frozen_branch, b = _run(branch, u)
            return FrozenDense(_as_block(frozen_branch), u.shape[1], b.shape[1]), torch.cat([u, b], dim=1)
        case _:
            return node.at(u), node(u)


def _as_block(branch: Node) -> Sequence:
    """A branch, with the end of it as its one step in unit `blocks`."""
    return Sequence((branch, Affine(lambda v: v, step_in="blocks")))


@dataclass(frozen=True, eq=False)
class FrozenDense(Dense):
    """A dense connection of known widths: the channels of its input, and those that the branch adds."""

    own: int
    new: int

    @property
    def place_own(self) -> Affine:
        """Channels of the input as the first channels of the concatenation, zeros behind."""
        return Affine(lambda v: torch.cat([v, _blank(v, self.new)], dim=1))

    @property
    def place_new(self) -> Affine:
        """Channels of the branch as the last channels of the concatenation, zeros before."""
        return Affine(lambda v: torch.cat([_blank(v, self.own), v], dim=1))


def _blank(v: Tensor, channels: int) -> Tensor:
    return v.new_zeros(v.shape[0], channels, *v.shape[2:])


def _slope(fn: abc.Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    with torch.enable_grad():
        point = u.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(fn(point).sum(), point)
    return slope
