"""The gradient of parameters by the length of whole paths: from the input, through the parameter, to the loss.

With x_i the terms of what an operator is applied to, delta_j the cotangent of its result by depth, B the operator as a
function of its parameter (bilinear in both), and s = 1 if it is a step and 0 if not,

    g_k = sum_{i + j + s = k} B(x_i, .)^T delta_j,      <g, g_k> = sum_{i + j + s = k} < delta_j, B(x_i, g) >,

so that the share of each length in the gradient needs no gradient of its own.  The terms x_i are those of
`termwise.expand`, with gates held; the cotangents are exact.  What is born of constants has no path from the input, and
is told apart; the whole gradient of a bias is.
"""

from __future__ import annotations

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.autograd.graph import Node as GradNode
from torch.utils import _pytree as pytree

from termwise.alongside import Visit
from termwise.backward import Cotangent, Edge, edge_of, nodes_behind, walk
from termwise.errors import ClosureWarning, ModelError, RuleError, UsageError, first_line
from termwise.expand import Forward, Output
from termwise.gradient import limit_of
from termwise.operators import check_followed
from termwise.pinning import pinned
from termwise.program import functional_of
from termwise.series import Origin, Series
from termwise.steps import Unit
from termwise.tape import Loss, Tape, record

_aten = torch.ops.aten
# The arguments that multiply the value; all others are added to it.
_FACTORS = {
    _aten.convolution: ("weight",),
    _aten.mm: ("self", "mat2"),
    _aten.addmm: ("mat1", "mat2"),
    _aten.mul: ("self", "other"),
    _aten.embedding: ("weight",),
    _aten.native_batch_norm: ("weight",),
    _aten.native_group_norm: ("weight",),
    _aten.native_layer_norm: ("weight",),
    _aten._fused_rms_norm: ("weight",),
}
# Products: all terms of the value can be laid one after another, and go through the operator at once.
_PRODUCTS = {_aten.convolution, _aten.mm, _aten.addmm}
# Scales, once the statistics are held: of the channels, or of the last axes.
_CHANNELS = {_aten.native_batch_norm, _aten.native_group_norm}
_LAST = {_aten.native_layer_norm, _aten._fused_rms_norm, _aten.mul}


@dataclasses.dataclass(frozen=True, eq=False)
class GradientLengths:
    """How much of the gradient of each parameter comes from paths of each length.

    Attributes:
        shares: parameter to length to <g, g_k> / |g|^2, of the paths from the input through the parameter to the loss.
        constant: parameter to the share of what is born of constants.
        total: length to the share in the gradient of all parameters together.
        total_constant: the share of what is born of constants in it.
        closure: the sum over parameters of |sum of <g, g_k> - |g|^2|, over that of |g|^2.
        unit: the unit of length.

    A share has a sign: it is negative where paths of this length pull the other way.  Shares of a gradient that is zero
    are zero.
    """

    shares: Mapping[str, Mapping[int, float]]
    constant: Mapping[str, float]
    total: Mapping[int, float]
    total_constant: float
    closure: float
    unit: str

    def __repr__(self) -> str:
        """One line: lengths, parameters, and the closure."""
        span = "..".join(dict.fromkeys((str(min(self.total)), str(max(self.total))))) if self.total else "none"
        return (
            f"GradientLengths(unit={self.unit!r}, lengths {span}, {len(self.shares)} parameters, born of constants "
            f"{self.total_constant:.1%}, closure {self.closure:.1e})"
        )


def gradient_lengths(
    model: Callable[..., Any],
    x: Any,
    loss: Loss,
    *,
    unit: str | Sequence[str] | Unit = "layers",
    at: Sequence[str] | None = None,
    output: Output = None,
    forward: Forward = None,
) -> GradientLengths:
    """Share out the gradient of each parameter over the lengths of whole paths.

    Args:
        model: as for `termwise.expand_gradient`.
        x: as there.
        loss: as there.
        unit: as there.
        at: names of parameters; by default all that require a gradient.
        output: as for `termwise.expand_gradient`.
        forward: as there.

    Returns:
        The GradientLengths.

    Raises:
        DataError, ModelError, UsageError: as `termwise.expand_gradient`.
        RuleError: when operators cannot be followed on the way there, or are not linear in their parameter.
    """
    with pinned(model):
        uses = _Uses(record(model, x, loss, unit, at, output, forward, lengths=True))
        uses.meet(lambda use, cotangent: None)
    return uses.shared()


def path_gradient(
    model: Callable[..., Any],
    x: Any,
    loss: Loss,
    lo: int,
    hi: int,
    *,
    unit: str | Sequence[str] | Unit = "layers",
    output: Output = None,
    forward: Forward = None,
) -> dict[str, Tensor]:
    """The part of the gradient of each parameter that comes from paths of lengths lo to hi alone.

    A path leads from the input through the parameter to the loss, its own step counted.  For a step of training write

        for name, gradient in tw.path_gradient(model, x, loss, 1, 5).items():
            model.get_parameter(name).grad = gradient

    What is born of constants is in none of it: biases get no gradient.  (To restrict the length downstream of a
    parameter alone is another thing: it leaves late layers untouched.)

    Args:
        model: as for `termwise.expand_gradient`; it is run in evaluation mode.
        x: as there.
        loss: as there.
        lo: the shortest length.
        hi: the longest length.
        unit: as for `termwise.expand_gradient`.
        output: as there.
        forward: as there.

    Returns:
        The gradient by the name of its parameter, for all parameters that require one and that the loss depends on.

    Raises:
        DataError, ModelError: as `termwise.expand_gradient`, and when all paths have one length.
        UsageError: also when no path has a length from lo to hi.
        RuleError: as `gradient_lengths`.
    """
    with pinned(model):
        uses = _Uses(record(model, x, loss, unit, None, output, forward, lengths=True))
        found = {name: torch.zeros_like(gradient) for name, gradient in uses.gradients.items()}
        lengths: set[int] = set()

        def add(use: _Use, cotangent: Cotangent) -> None:
            rows, depths = use.applied(torch.ones_like(use.operand))
            born = [i for i in depths if i is not None]
            lengths.update(i + j + use.steps for i in born for j in cotangent.depths)
            if born:
                gradient = use.between(cotangent, rows, depths, lo, hi)
                for name in uses.behind(use):
                    found[name] += use.pulled(uses.parameters[name], gradient)

        uses.meet(add)
    uses.shared()
    _check_lengths(lengths, lo, hi)
    return found


def _check_lengths(lengths: set[int], lo: int, hi: int) -> None:
    if len(lengths) < 2:
        raise ModelError(
            f"path_gradient: all paths have one length, {min(lengths, default=0)}, so that there is nothing to choose. "
            "It is for networks with shortcuts; or use another unit."
        )
    if not any(lo <= length <= hi for length in lengths):
        raise UsageError(
            f"path_gradient: no path has a length from {lo} to {hi}. There are {', '.join(map(str, sorted(lengths)))}."
        )


@dataclasses.dataclass(eq=False)
class _Use:
    """An operand of one call that is computed from parameters and constants alone.

    Attributes:
        visit: the call.
        place: which of its leaves it is.
        operand: its value.
        source: where it is in autograd's graph.
        steps: 1 if the call is a step, 0 if not.
        run: runs an operator in the program.
    """

    visit: Visit
    place: int
    operand: Tensor
    source: Edge
    steps: int
    run: Callable[..., Any]

    @property
    def packet(self) -> Any:
        """The operator."""
        return self._func.overloadpacket

    @property
    def _func(self) -> Any:
        return functional_of(self.visit.func) if self.visit.func._schema.is_mutable else self.visit.func

    @property
    def is_factor(self) -> bool | None:
        """Whether it multiplies the value, or is added to it; None where that is not known of the operator."""
        factors = _FACTORS.get(self.packet)
        if factors is None:
            return None
        names = [
            argument.name
            for i, argument in enumerate(self._func._schema.arguments)
            for _ in pytree.tree_leaves(self.visit.args[i : i + 1])
        ]
        return self.place < len(names) and names[self.place] in factors

    def _with(self, direction: Tensor) -> Series:
        """The result with another operand in this place, and zero for other parameters."""
        leaves, structure = pytree.tree_flatten((self.visit.args, self.visit.kwargs))
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and not isinstance(leaf, Series):
                if i not in self.visit.sources and self.packet not in _PRODUCTS:
                    continue  # statistics
                leaves[i] = direction if i == self.place else torch.zeros_like(leaf)
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        with torch.no_grad():
            out = self.run(self._func, args, kwargs)
        return out if isinstance(out, Series) else out[0]

    def applied(self, direction: Tensor) -> tuple[Tensor, list[int | None]]:
        """What the operator makes of each term of its value with `direction` in the place of the parameter.

        Returns:
            The rows, and for each of them the depth of its term; None for what is born of constants.
        """
        series = self._with(direction)
        rows, parts = series.rows, series.parts
        if self.packet not in _PRODUCTS:
            # What it does without the parameter is none of its doing.
            nothing = self._with(torch.zeros_like(direction))
            if nothing.parts != parts:
                raise _not_linear(self.visit)
            rows = rows - nothing.rows
        depths: list[int | None] = [part.depth if part.origin is Origin.INPUT else None for part in parts]
        if not self.is_factor:
            born = [n for n, depth in enumerate(depths) if depth is not None]
            if self.is_factor is None and bool(rows[born].any()):
                raise _not_linear(self.visit)
            kept = [n for n, depth in enumerate(depths) if depth is None]
            return rows[kept], [None for _ in kept]
        return rows, depths

    def between(self, cotangent: Cotangent, rows: Tensor, depths: Sequence[int | None], lo: int, hi: int) -> Tensor:
        """The gradient at the operand by paths of lengths lo to hi: sum_i B(x_i, .)^T (sum_j delta_j).

        Args:
            cotangent: delta.
            rows: what the operator makes of each term with ones in the place of the parameter.
            depths: the depth of each of these rows.
            lo: the shortest length.
            hi: the longest.
        """
        wanted = [[lo <= i + j + self.steps <= hi for j in cotangent.depths] if i is not None else [] for i in depths]
        kept = [n for n, row in enumerate(wanted) if any(row)]
        if not kept:
            return torch.zeros_like(self.operand)
        choice = torch.tensor([wanted[n] for n in kept], dtype=rows.dtype, device=rows.device)
        deltas = torch.tensordot(choice, cotangent.rows, dims=1)  # for each x_i the cotangents that it may meet
        if self.packet in _CHANNELS:
            return (deltas * rows[kept]).sum(dim=[d for d in range(rows.dim()) if d != 2])
        if self.packet in _LAST:
            return (deltas * rows[kept]).sum(dim=0).sum_to_size(self.operand.shape)
        return self._stacked(deltas, [depths[n] for n in kept])

    def _stacked(self, deltas: Tensor, depths: Sequence[int | None]) -> Tensor:
        leaves, structure = pytree.tree_flatten((self.visit.args, self.visit.kwargs))
        values = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Series)]
        if self.packet is _aten.embedding:
            stacks, folded = {}, deltas[0]
        elif self.packet in _PRODUCTS and len(values) == 1:
            series = leaves[values[0]]
            terms = [n for n, p in enumerate(series.parts) if p.origin is Origin.INPUT and p.depth in depths]
            is_left = values[0] < self.place
            stack = series.rows[terms]
            # A value on the right has its columns laid side by side.
            side = 0 if is_left else 1
            stacks = {values[0]: torch.cat(list(stack), dim=side)}
            folded = torch.cat(list(deltas), dim=side)
        else:
            raise _not_linear(self.visit)
        with torch.enable_grad():
            operand = self.operand.detach().requires_grad_()
            for i, leaf in enumerate(leaves):
                if isinstance(leaf, Series):
                    leaves[i] = stacks.get(i, leaf.value)
                elif isinstance(leaf, Tensor):
                    leaves[i] = operand if i == self.place else leaf.detach()
            args, kwargs = pytree.tree_unflatten(leaves, structure)
            (gradient,) = torch.autograd.grad(self._func(*args, **kwargs), operand, folded)
        return gradient

    # Between the operand and the parameters that it is computed from.

    def pulled(self, parameter: Edge, gradient: Tensor) -> Tensor:
        """A gradient at the operand as one at a parameter that it is computed from."""
        if self.source == parameter:
            return gradient
        (found,) = torch.autograd.grad(
            [GradientEdge(*self.source)], [GradientEdge(*parameter)], [gradient], retain_graph=True
        )
        return found

    def pushed(self, parameter: Edge, direction: Tensor) -> Tensor:
        """How the operand moves when a parameter that it is computed from moves in a direction."""
        if self.source == parameter:
            return direction
        # The derivative of v -> J^T v in that direction.
        dummy = torch.ones_like(self.operand).requires_grad_()
        try:
            with torch.enable_grad():
                (transposed,) = torch.autograd.grad(
                    [GradientEdge(*self.source)], [GradientEdge(*parameter)], [dummy], create_graph=True
                )
                (found,) = torch.autograd.grad(transposed, dummy, direction)
        except RuntimeError as error:
            raise RuleError(
                f"gradient_lengths: a parameter goes into {self.packet} through an operator that cannot be "
                f"differentiated twice ({first_line(error)}). Leave the parameter out with at=."
            ) from error
        return found.detach()


class _Uses:
    """The calls that parameters go into, met on the way back from the loss."""

    def __init__(self, tape: Tape) -> None:
        check_followed(tape.program.unsupported)
        self._tape = tape
        self.gradients = {name: g for (kind, name), g in tape.plainly().items() if kind == "parameter"}
        self.parameters = {name: tape.places["parameter", name] for name in self.gradients}
        self._sums: dict[str, dict[int | None, float]] = {n: collections.defaultdict(float) for n in self.gradients}
        if not self.gradients:
            raise ModelError(
                "gradient_lengths: no parameter has a gradient. Call .requires_grad_() on those that are of interest."
            )

    def behind(self, use: _Use) -> list[str]:
        """The parameters that an operand is computed from."""
        nodes = set(nodes_behind([use.source[0]]))
        return [name for name, (node, _) in self.parameters.items() if node in nodes]

    def meet(self, with_use: Callable[[_Use, Cotangent], None]) -> None:
        """Walk back from the loss, and tell of every use with the cotangent of the result of its call."""
        by_node: dict[GradNode, list[Visit]] = {}
        while self._tape.visits:
            visit = self._tape.visits.pop()
            assert visit.node is not None
            by_node.setdefault(visit.node, []).append(visit)

        def passed(node: GradNode, cotangents: Mapping[int, Cotangent]) -> None:
            # What a call was given is let go once it has been met.
            for call in by_node.pop(node, ()):
                for use in self._of(call):
                    if set(cotangents) != {0} or node.name() == "CopySlices":
                        raise _not_linear(call)
                    self._share(use, cotangents[0])
                    with_use(use, cotangents[0])

        walk(self._tape.cotangents(), set(self.parameters.values()), self._tape.steps, self._tape.branches, passed)

    def _share(self, use: _Use, cotangent: Cotangent) -> None:
        """Enter < delta_j, B(x_i, g) > for all i and j."""
        for name in self.behind(use):
            rows, depths = use.applied(use.pushed(self.parameters[name], self.gradients[name]))
            table = cotangent.rows.double().flatten(1).conj() @ rows.double().flatten(1).T
            for j, row in zip(cotangent.depths, table.real.tolist(), strict=True):
                for i, inner in zip(depths, row, strict=True):
                    self._sums[name][None if i is None else i + j + use.steps] += inner

    def _of(self, visit: Visit) -> Iterator[_Use]:
        assert visit.node is not None
        tensors = 0
        for i, leaf in enumerate(pytree.tree_leaves((visit.args, visit.kwargs))):
            if not isinstance(leaf, Tensor):
                continue
            edge = visit.edges[tensors]
            tensors += 1
            if i not in visit.sources:
                continue
            source = visit.sources[i] or edge_of(leaf)
            if edge is None or visit.node.next_functions[edge] != source:
                raise _not_linear(visit)  # the node is that of a function around this operator
            yield _Use(visit, i, leaf.detach(), source, self._tape.steps.get(visit.node, 0), self._run)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self._tape.program:
            return func(*args, **kwargs)

    def shared(self) -> GradientLengths:
        """The shares of what has been met, with a warning where they do not add up."""
        sums = self._sums
        squares = {name: float(g.double().abs().square().sum()) for name, g in self.gradients.items()}
        whole = sum(squares.values())
        lengths = sorted({length for table in sums.values() for length in table if length is not None})

        def share(part: float, of: float) -> float:
            return part / of if of else 0.0

        total = {k: share(sum(table.get(k, 0.0) for table in sums.values()), whole) for k in lengths}
        constant = share(sum(table.get(None, 0.0) for table in sums.values()), whole)
        closure = share(sum(abs(sum(sums[name].values()) - squares[name]) for name in sums), whole)
        limit = limit_of(self._tape)
        if not closure <= limit:
            warnings.warn(
                f"the lengths add up to the gradient only within {closure:.1e}, not {limit:.0e}. Profile "
                "in float64 (model.double(), x.double()); if it stays, a parameter acts in a way that was not seen.",
                ClosureWarning,
                stacklevel=3,
            )
        return GradientLengths(
            shares={n: {k: share(table[k], squares[n]) for k in lengths if k in table} for n, table in sums.items()},
            constant={name: share(table.get(None, 0.0), squares[name]) for name, table in sums.items()},
            total=total,
            total_constant=constant,
            closure=closure,
            unit=str(self._tape.unit),
        )


def _not_linear(visit: Visit) -> RuleError:
    where = f"module '{visit.module}'" if visit.module else "the model itself"
    return RuleError(
        f"{visit.func.overloadpacket} in {where}: it is not known how this operator is linear in its parameter, nor "
        "therefore the lengths of the paths through it. gradient_lengths can leave the parameter out (at=); or write "
        "the model with products, convolutions and norms."
    )
