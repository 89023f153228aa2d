"""Three ways to compute the terms of a frozen network, which share nothing but the network."""

import functools
import itertools
from collections import Counter, abc
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from termwise.errors import UsageError
from termwise.reference.network import Affine, Dense, FrozenDense, Node, Residual, Sequence, Terms, Unit, freeze

_T = TypeVar("_T")
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
        unit: what counts as a step, "layers", "blocks" or "activations".

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
        case FrozenDense():
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
        case FrozenDense():
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
        unit: what counts as a step, "layers", "blocks" or "activations".

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
    if unit not in ("layers", "blocks", "activations"):
        raise UsageError(f"the reference has the units 'layers', 'blocks' and 'activations', not {unit!r}: choose one")
