r"""Slow, independent oracles of the depth expansion: what `termwise.expand` must agree with.

The object. Freeze every nonlinearity s of a network at the value u that it really saw,

    s(v)  ->  s(0) + g v,      g = (s(u) - s(0)) / u      (g = s'(0) where u = 0),

and give every *step* (every linear map by a weight in unit `layers`, every nonlinearity in unit
`activations`) a factor eps. Each intermediate value is then a polynomial in eps; its coefficient of eps^k
that is born of the input is the sum over all paths of exactly k steps from the input: the unravelled view of
Veit, Wilber and Belongie, "Residual networks behave like ensembles of relatively shallow networks" (2016,
arXiv 1605.06431, section 3), made exact by frozen gates. Whatever is born of a constant (a bias, the shift of
a norm, s(0)) is kept apart and counted by its number of steps *after birth*; the constant of a step enters
before that step's factor, so it counts that step.

Three ways to compute it, which share nothing but the frozen network:

* `by_paths` walks every path by itself, all 2^L of them, and adds up those of equal length;
* `at_roots` evaluates the polynomial at the complex roots of unity and reads the coefficients off a Fourier
  transform;
* `of_linear_network` expands a product of (I + W_l) into sums over subsets of its factors.

A network is first written down as a small tree of the nodes below, by hand or by `describe`. Nothing in this
file knows how the expansion itself is computed. All of it is exponential or quadratic in the depth: it is for
tests and for reading. The largest residual network that `by_paths` walks in a few seconds has about ten
blocks.
"""

import functools
import itertools
from collections import Counter, abc
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise.errors import ModelError, UsageError

__all__ = [
    "Affine",
    "Dense",
    "Linear",
    "Node",
    "Nonlinearity",
    "Norm",
    "Residual",
    "Sequence",
    "Terms",
    "Weight",
    "at_roots",
    "by_paths",
    "describe",
    "discrepancy",
    "forward",
    "freeze",
    "of_linear_network",
]

Unit: TypeAlias = Literal["layers", "activations"]
LinearMap: TypeAlias = abc.Callable[[Tensor], Tensor]
_T = TypeVar("_T")


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
            return Residual(frozen_branch, frozen_shortcut), a + b
        case Dense(branch):
            frozen_branch, b = _run(branch, u)
            return _FrozenDense(frozen_branch, u.shape[1], b.shape[1]), torch.cat([u, b], dim=1)
        case _:
            return node.at(u), node(u)


@dataclass(frozen=True, eq=False)
class _FrozenDense(Dense):
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


# Oracle (a): every path by itself ---------------------------------------------------------------------------

Path: TypeAlias = tuple[Affine, ...]


@torch.no_grad()
def by_paths(tree: Node, x: Tensor, unit: Unit = "layers") -> Terms:
    """The terms by brute force: each path walked alone, as a product of linear maps, added up by length.

    This is the definition (Veit et al. 2016, section 3: every residual block doubles the number of paths);
    a dense connection is the sum of two placements, of its own channels and of the new ones. The cost is
    (number of paths) x (length), so 2^L for L blocks.

    Args:
        tree: the network.
        x: its input, (N, ...).
        unit: what counts as a step, "layers" or "activations".

    Returns:
        Terms, shape of the output each, in the dtype of the network.

    Raises:
        UsageError: for another unit.
    """
    _check_unit(unit)
    frozen = freeze(tree, x)
    terms: dict[int, Tensor] = {}
    constants: dict[int, Tensor] = {}
    paths: Counter[int] = Counter()
    for path in _paths(frozen):
        depth = _length(path, unit)
        _accumulate(terms, depth, _walk(path, x))
        paths[depth] += 1
    for birthplace, path in _births(frozen):
        assert birthplace.constant is not None
        _accumulate(constants, _length((birthplace, *path), unit), _walk(path, birthplace.constant))
    return Terms(_ascending(terms), _ascending(constants), _ascending(paths))


def _paths(node: Node) -> abc.Iterator[Path]:
    """Every way through a frozen node, as the affine maps that it meets."""
    match node:
        case Sequence(parts):
            for ways in itertools.product(*(list(_paths(part)) for part in parts)):
                yield tuple(itertools.chain.from_iterable(ways))
        case Residual(branch, shortcut):
            yield from _paths(shortcut)
            yield from _paths(branch)
        case _FrozenDense():
            yield (node.place_own,)
            for path in _paths(node.branch):
                yield (*path, node.place_new)
        case Affine():
            yield (node,)
        case _:
            raise TypeError(f"{type(node).__name__} is not frozen")


def _births(node: Node) -> abc.Iterator[tuple[Affine, Path]]:
    """Every map that adds a constant, with every way from behind it to the end of the node."""
    match node:
        case Sequence(parts):
            for i, part in enumerate(parts):
                for birthplace, within in _births(part):
                    for after in _paths(Sequence(parts[i + 1 :])):
                        yield birthplace, within + after
        case Residual(branch, shortcut):
            yield from _births(shortcut)
            yield from _births(branch)
        case _FrozenDense():
            for birthplace, path in _births(node.branch):
                yield birthplace, (*path, node.place_new)
        case Affine():
            if node.constant is not None:
                yield node, ()
        case _:
            raise TypeError(f"{type(node).__name__} is not frozen")


def _walk(path: Path, v: Tensor) -> Tensor:
    for affine in path:
        v = affine.apply(v)
    return v


def _length(path: Path, unit: Unit) -> int:
    return sum(affine.step_in == unit for affine in path)


def _accumulate(sums: dict[int, Tensor], depth: int, value: Tensor) -> None:
    sums[depth] = sums[depth] + value if depth in sums else value


# Oracle (b): evaluation at the roots of unity ---------------------------------------------------------------


@torch.no_grad()
def at_roots(tree: Node, x: Tensor, unit: Unit = "layers") -> Terms:
    """The terms by interpolation: the frozen network, every step times eps, at the complex roots of unity.

    With n > degree, p_k = 1/n sum_j p(w^j) w^(-jk) with w = exp(2 pi i / n). The polynomial of the input is
    the run with all constants removed; that of the constants is the full run less that one. Path counts come
    from the same idea in integers: every map becomes 1, every step a factor 2^B above all counts, and the
    binary digits are the counts. The cost is 2 n runs of the network in complex arithmetic, so that it also
    serves networks too deep for `by_paths`.

    Args:
        tree: the network.
        x: its input, (N, ...). Coefficients carry the rounding error of the whole polynomial: use float64.
        unit: what counts as a step, "layers" or "activations".

    Returns:
        Terms, shape of the output each, in the dtype of the network. Only depths that have a path are listed.

    Raises:
        UsageError: for another unit.
    """
    _check_unit(unit)
    frozen = freeze(tree, x)
    paths, births = _counts(frozen, unit)
    n = max(paths) + 1
    angles = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    roots = torch.polar(torch.ones_like(angles), angles).tolist()
    z = torch.complex(x, torch.zeros_like(x))
    of_input = _coefficients([_evaluate(frozen, z, eps, unit, constants=False) for eps in roots])
    of_all = _coefficients([_evaluate(frozen, z, eps, unit, constants=True) for eps in roots])
    terms = {k: of_input[k] for k in paths}
    constants = {k: of_all[k] - of_input[k] for k in births}
    return Terms(terms, constants, paths)


def _evaluate(node: Node, z: Tensor, eps: complex, unit: Unit, *, constants: bool) -> Tensor:
    """The frozen node at a complex value, with every step of `unit` multiplied by `eps`."""
    match node:
        case Sequence(parts):
            for part in parts:
                z = _evaluate(part, z, eps, unit, constants=constants)
            return z
        case Residual(branch, shortcut):
            a = _evaluate(shortcut, z, eps, unit, constants=constants)
            return a + _evaluate(branch, z, eps, unit, constants=constants)
        case Dense(branch):
            return torch.cat([z, _evaluate(branch, z, eps, unit, constants=constants)], dim=1)
        case Affine(apply, constant, step_in):
            # A real linear map acts on both parts alike; not every operator takes complex values.
            out = torch.complex(apply(z.real.contiguous()), apply(z.imag.contiguous()))
            if constants and constant is not None:
                out = out + constant
            return eps * out if step_in == unit else out
        case _:
            raise TypeError(f"{type(node).__name__} is not frozen")


def _coefficients(values: list[Tensor]) -> Tensor:
    """Coefficients (n, N, ...) of a polynomial of degree < n from its values at w^0, w^1, ..., w^(n - 1)."""
    spectrum = torch.fft.fft(torch.stack(values).to(torch.complex128), dim=0) / len(values)
    return spectrum.real.to(values[0].real.dtype)


def _counts(frozen: Node, unit: Unit) -> tuple[dict[int, int], dict[int, int]]:
    """Number of paths by length, from the input and from constants (depths without any are left out)."""
    bits = sum(_count(frozen, 1, 0, 1, unit)).bit_length()
    paths, births = _count(frozen, 1, 0, 1 << bits, unit)
    return _digits(paths, bits), _digits(births, bits)


def _count(node: Node, paths: int, births: int, factor: int, unit: Unit) -> tuple[int, int]:
    """Ways from the input and from constants, with every map replaced by 1 and every step by `factor`."""
    match node:
        case Sequence(parts):
            for part in parts:
                paths, births = _count(part, paths, births, factor, unit)
            return paths, births
        case Residual(branch, shortcut):
            a, b = _count(shortcut, paths, births, factor, unit), _count(branch, paths, births, factor, unit)
            return a[0] + b[0], a[1] + b[1]
        case Dense(branch):
            b = _count(branch, paths, births, factor, unit)
            return paths + b[0], births + b[1]
        case Affine(_, constant, step_in):
            born = births + (constant is not None)
            return (paths * factor, born * factor) if step_in == unit else (paths, born)
        case _:
            raise TypeError(f"{type(node).__name__} is not frozen")


def _digits(number: int, bits: int) -> dict[int, int]:
    """The non-zero digits of a number in base 2^bits, by position."""
    digits = {}
    for position in itertools.count():
        if not number:
            return digits
        number, digit = number >> bits, number & ((1 << bits) - 1)
        if digit:
            digits[position] = digit
    raise AssertionError("unreachable")


# Oracle (c): the product expansion of a linear network ------------------------------------------------------


@torch.no_grad()
def of_linear_network(weights: abc.Sequence[Tensor], biases: abc.Sequence[Tensor | None], x: Tensor) -> Terms:
    """The terms of the linear residual network v -> v + W_l v + b_l, l = 1..L, from the expanded product.

        prod_l (I + W_l)  =  sum_k  sum_{l_1 < ... < l_k}  W_{l_k} ... W_{l_1}

    a non-commutative elementary symmetric sum of order k (no gates: all of it is exact). A bias b_l is
    carried on by the subsets of the later layers, and counts its own layer as one step. Every layer is a
    step, as in unit `layers`.

    Args:
        weights: L matrices (D, D), which act on columns.
        biases: L vectors (D,), or None.
        x: the input, (N, D).

    Returns:
        Terms, (N, D) each.

    Raises:
        UsageError: when there are not as many biases as weights.
    """
    if len(weights) != len(biases):
        raise UsageError(
            f"of_linear_network got {len(weights)} weights and {len(biases)} biases: each layer needs one of "
            "each; give None for a layer without a bias"
        )
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    layers = range(len(weights))
    terms: dict[int, Tensor] = {}
    constants: dict[int, Tensor] = {}
    paths: Counter[int] = Counter()
    for k, chosen in _subsets(layers):
        _accumulate(terms, k, x @ _product(chosen, weights, identity).T)
        paths[k] += 1
    for born, bias in enumerate(biases):
        if bias is not None:
            for k, chosen in _subsets(layers[born + 1 :]):
                _accumulate(constants, k + 1, (_product(chosen, weights, identity) @ bias).expand_as(x))
    return Terms(_ascending(terms), _ascending(constants), _ascending(paths))


def _subsets(layers: abc.Sequence[int]) -> abc.Iterator[tuple[int, tuple[int, ...]]]:
    for k in range(len(layers) + 1):
        for chosen in itertools.combinations(layers, k):
            yield k, chosen


def _product(chosen: tuple[int, ...], weights: abc.Sequence[Tensor], identity: Tensor) -> Tensor:
    """W_{l_k} ... W_{l_1} for l_1 < ... < l_k."""
    return functools.reduce(lambda product, layer: weights[layer] @ product, chosen, identity)


# Shared by the oracles and their users ----------------------------------------------------------------------


def discrepancy(first: abc.Mapping[int, Tensor], second: abc.Mapping[int, Tensor]) -> float:
    """How far two splits by depth are apart: the largest |a_k - b_k| over the root of sum_k |a_k|^2.

    Norms are L2 over all entries. A depth that only one of them lists is compared with zero, so that a term
    which is listed but vanishes is no difference.

    Args:
        first: depth -> tensor, the reference.
        second: depth -> tensor of the same shape.

    Returns:
        The discrepancy, at least 0; the absolute one if the first is all zeros.
    """
    worst = 0.0
    for k in first.keys() | second.keys():
        known = [split[k] for split in (first, second) if k in split]
        worst = max(worst, float((known[0] - known[1] if len(known) == 2 else known[0]).norm()))
    scale = sum(float(value.norm()) ** 2 for value in first.values()) ** 0.5
    return worst / scale if scale else worst


def _ascending(by_depth: abc.Mapping[int, _T]) -> dict[int, _T]:
    return {k: by_depth[k] for k in sorted(by_depth)}


def _check_unit(unit: str) -> None:
    if unit not in ("layers", "activations"):
        raise UsageError(f"the reference has the units 'layers' and 'activations', not {unit!r}: choose one")


# From a module to a tree ------------------------------------------------------------------------------------


@functools.singledispatch
def describe(model: nn.Module) -> Node:
    """Write a model down as a tree, by a converter written by hand for every class that it is built of.

    Served are the networks of `termwise.nets`, the layers of `torch.nn` that they are built of, and
    `nn.Sequential`. For a class of your own: `@describe.register`, a function from the module to a node.

    Args:
        model: a module in evaluation mode. Describe it again after its parameters have changed.

    Returns:
        The tree. `forward(describe(model), x)` is `model(x)` up to rounding.

    Raises:
        ModelError: for an unknown class, or a layer that is not affine as it is (a batch norm that trains).
    """
    tree = _describe_net(model)
    if tree is None:
        raise ModelError(
            f"the reference has no description of {type(model).__name__}: write its tree by hand, "
            "or register a converter with @describe.register"
        )
    return tree


def _describe_net(model: nn.Module) -> Node | None:
    """The tree of a network of `termwise.nets`, or of one of its blocks; None for anything else."""
    # Imported when called: the networks stand below this module and nothing else here needs them.
    from termwise.nets.densenet import DenseLayer, DenseNet
    from termwise.nets.resnet import Block, PadShortcut, ResNet

    match model:
        case Block():
            branch = _chain(model.conv1, model.norm1, model.relu, model.conv2, model.norm2)
            return Sequence((Residual(branch, describe(model.shortcut)), describe(model.relu)))
        case PadShortcut():
            return Linear(model)
        case DenseLayer():
            return Dense(describe(model.branch))
        case ResNet():
            stem = _chain(model.conv, model.norm, model.relu)
            return Sequence((stem, describe(model.stages), _chain(model.pool, nn.Flatten(), model.classifier)))
        case DenseNet():
            body = _chain(model.conv, model.stages, model.norm, model.relu)
            return Sequence((body, _chain(model.pool, nn.Flatten(), model.classifier)))
        case _:
            return None


def _chain(*modules: nn.Module) -> Node:
    return Sequence(tuple(describe(module) for module in modules))


@describe.register
def _(model: nn.Sequential) -> Node:
    if type(model).forward is not nn.Sequential.forward:
        raise ModelError(
            f"{type(model).__name__} is an nn.Sequential with a forward of its own: register a converter "
            "for it with @describe.register"
        )
    return _chain(*model)


@describe.register
def _(model: nn.Linear) -> Node:
    weight = model.weight.detach()
    return Weight(lambda v: F.linear(v, weight), None if model.bias is None else model.bias.detach())


@describe.register
def _(model: nn.Conv2d) -> Node:
    if model.padding_mode != "zeros":
        raise ModelError(f"the reference has no convolution of padding_mode={model.padding_mode!r}: use 'zeros'")
    weight = model.weight.detach()
    how: tuple[Any, ...] = (model.stride, model.padding, model.dilation, model.groups)
    bias = None if model.bias is None else model.bias.detach()[:, None, None]
    return Weight(lambda v: F.conv2d(v, weight, None, *how), bias)


@describe.register(nn.BatchNorm1d)
@describe.register(nn.BatchNorm2d)
def _(model: nn.BatchNorm1d | nn.BatchNorm2d) -> Node:
    mean, variance = model.running_mean, model.running_var
    if model.training or mean is None or variance is None:
        raise ModelError("batch norm is affine only with running statistics: call model.eval() first")
    gain = torch.ones_like(mean) if model.weight is None else model.weight.detach()
    offset = torch.zeros_like(mean) if model.bias is None else model.bias.detach()
    scale = gain / (variance + model.eps).sqrt()
    shift = offset - mean * scale
    shape = (-1, 1, 1) if isinstance(model, nn.BatchNorm2d) else (-1,)
    return Norm(scale.view(shape), shift.view(shape))


@describe.register(nn.ReLU)
@describe.register(nn.LeakyReLU)
@describe.register(nn.ELU)
@describe.register(nn.GELU)
@describe.register(nn.SiLU)
@describe.register(nn.Softplus)
@describe.register(nn.Sigmoid)
@describe.register(nn.Tanh)
def _(model: nn.Module) -> Node:
    in_place = getattr(model, "inplace", False)
    return Nonlinearity((lambda v: model(v.clone())) if in_place else model)


@describe.register(nn.AvgPool2d)
@describe.register(nn.AdaptiveAvgPool2d)
@describe.register(nn.Flatten)
@describe.register(nn.Identity)
def _(model: nn.Module) -> Node:
    return Linear(model)


@describe.register
def _(model: nn.Dropout) -> Node:
    if model.training:
        raise ModelError("dropout is the identity only in evaluation: call model.eval() first")
    return Sequence()
