"""expand_gradient(): the gradient of a loss by the number of steps between its place and the loss, exactly.

By the chain rule a gradient is a sum over paths, and no gate has to be held for that: the model is run once as it is,
with its gradients recorded, and the cotangent of the loss walks back as a polynomial that every step moves up by one
(see `termwise.backward`).  The terms sum to what autograd gives; the error of that sum is the *closure*.

For a parameter the path counts its own step: a weight of the last layer has a gradient of depth 1.  This is the length
*downstream* of the parameter, and not that of the whole path, which began at the input.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from termwise.backward import Cotangent, walk
from termwise.errors import ClosureWarning, ModelError, UsageError
from termwise.expand import CLOSURE, Forward, Output
from termwise.pinning import pinned
from termwise.steps import Unit
from termwise.tape import Loss, Name, Tape, record


@dataclasses.dataclass(frozen=True, eq=False)
class GradientTerms:
    """The gradient at one place by depth; every tensor has the shape of what stands there.

    total = sum(terms.values()), up to `closure`.

    Attributes:
        terms: number of steps between the place and the loss to the sum over all such paths; only depths that some
            path has.  The step that made a value is not counted at the value; a parameter's own step is.
        total: what autograd gives, computed apart from the terms.
        paths: depth to the number of paths, as Python integers; an edge of autograd's graph that hands on a gradient
            is one, also where the gradient leads through a gate.
        closure: |sum of terms - total| / |total|.
    """

    terms: Mapping[int, Tensor]
    total: Tensor
    paths: Mapping[int, int]

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths that some path has, ascending."""
        return tuple(self.terms)

    @property
    def closure(self) -> float:
        """How exactly the terms add up to autograd's gradient; absolute where that is zero."""
        error, whole = self.squares()
        return (error / (whole or 1.0)) ** 0.5

    def squares(self) -> tuple[float, float]:
        """|sum of terms - total| ** 2 and |total| ** 2, summed in float64."""
        total = self.total.double()
        error = torch.stack(list(self.terms.values())).double().sum(dim=0) - total
        return float(error.abs().square().sum()), float(total.abs().square().sum())


@dataclasses.dataclass(frozen=True, eq=False)
class GradientExpansion:
    """The gradient of one loss by depth, at the input, at modules and at parameters.

    Attributes:
        inputs: the gradient at each floating-point input: under "input" where x is one tensor, else under its key or
            place in x.
        modules: at the output of each module that was asked for.
        parameters: at each parameter that a path leads to.
        loss: the value of the loss; None where a cotangent was given.
        closure: the largest of |terms - total| / |total| over all inputs together, all modules, all parameters.
        unit: the unit of depth.

    What a term means: the part of the gradient that came through exactly so many steps.  What it does not mean: for a
    parameter, the length of whole paths, which begin at the input.
    """

    inputs: Mapping[str, GradientTerms]
    modules: Mapping[str, GradientTerms]
    parameters: Mapping[str, GradientTerms]
    loss: float | None
    closure: float
    unit: str

    @property
    def input(self) -> GradientTerms:
        """The gradient at the input, where there is one.

        Raises:
            UsageError: where x held several floating-point tensors, or none.
        """
        if len(self.inputs) != 1:
            held = ", ".join(map(repr, self.inputs)) or "none"
            raise UsageError(f"input: there is not one input with a gradient but these: {held}. Use .inputs[name].")
        return next(iter(self.inputs.values()))

    def __repr__(self) -> str:
        """One line: where, depths, and the closure."""
        depths = sorted(
            {d for each in (self.inputs, self.modules, self.parameters) for g in each.values() for d in g.depths}
        )
        span = "..".join(dict.fromkeys((str(depths[0]), str(depths[-1])))) if depths else "none"
        return (
            f"GradientExpansion(unit={self.unit!r}, depths {span}, {len(self.inputs)} inputs, {len(self.modules)} "
            f"modules, {len(self.parameters)} parameters, closure {self.closure:.1e})"
        )


def expand_gradient(
    model: Callable[..., Any],
    x: Any,
    loss: Loss,
    *,
    unit: str | Sequence[str] | Unit = "layers",
    at: Sequence[str] | None = None,
    output: Output = None,
    forward: Forward = None,
) -> GradientExpansion:
    """Expand the gradient of a loss by the number of steps between its place and the loss.

    Args:
        model: an nn.Module or any callable; it is run in evaluation mode and left exactly as found, its .grad included.
        x: as for `termwise.expand`.
        loss: a function of the output that gives one number, such as lambda y: F.cross_entropy(y, targets); or a
            cotangent, a tensor of the output's shape.
        unit: what counts as a step, as for `termwise.expand`.
        at: names of parameters, and of modules for the gradient at their output as it leaves them; the input is always
            there.  By default all parameters that require a gradient.  Each takes the memory of one gradient a depth.
        output: which tensor of the model's result the loss is a function of, as for `termwise.expand`.
        forward: how to call the model, as for `termwise.expand`.

    Returns:
        The GradientExpansion.

    Raises:
        DataError: when the input is empty or not finite.
        ModelError: when the model's operators are hidden, or no gradient reaches the places, or gradients are not
            finite.
        UsageError: for an unknown unit or name, a parameter that requires no gradient, a loss that is not one number.
        RuleError: when steps are inside of an operator, so that its gradient cannot be told apart.
    """
    with pinned(model):
        tape = record(model, x, loss, unit, at, output, forward)
        plain = tape.plainly()
        found = walk(tape.cotangents(), set(tape.places.values()), tape.steps, tape.branches)
    terms = {name: _terms(found[tape.places[name]], total) for name, total in plain.items()}
    _check(terms, tape, everything=at is None)
    closure = closure_of(terms)
    if not closure <= limit_of(tape):
        warnings.warn(
            f"the terms add up to autograd's gradient only within {closure:.1e}, not {limit_of(tape):.0e}: terms that "
            "nearly cancel lose their digits in this precision (profile in float64: model.double(), x.double()), or a "
            "hook on a tensor changes the gradient.",
            ClosureWarning,
            stacklevel=2,
        )
    by_kind: dict[str, dict[str, GradientTerms]] = {"input": {}, "module": {}, "parameter": {}}
    for (kind, name), gradient in terms.items():
        by_kind[kind][name] = gradient
    return GradientExpansion(
        inputs=by_kind["input"],
        modules=by_kind["module"],
        parameters=by_kind["parameter"],
        loss=tape.loss,
        closure=closure,
        unit=str(tape.unit),
    )


def _terms(cotangent: Cotangent, total: Tensor) -> GradientTerms:
    paths = {depth: cotangent.paths[depth] for depth in cotangent.depths}
    return GradientTerms(dict(zip(cotangent.depths, cotangent.rows, strict=True)), total, paths)


def _check(terms: Mapping[Name, GradientTerms], tape: Tape, *, everything: bool) -> None:
    """Refuse what would be no answer."""
    reached = {kind for kind, _ in terms}
    unreached = [f"{kind} '{name}'" for kind, name in tape.places if (kind, name) not in terms]
    lost = everything and "input" not in reached and any(kind == "input" for kind, _ in tape.places)
    if lost or not terms or (not everything and unreached):
        where = unreached[0] if unreached else "any parameter"
        raise ModelError(
            f"expand_gradient: no gradient leads from the loss back to {where}. Something on the way is detached, "
            "computed under torch.no_grad(), or has no derivative (an index, a comparison, rounding); or it is unused."
        )


def closure_of(terms: Mapping[Name, GradientTerms]) -> float:
    """The largest error of a kind of places, each kind taken together."""
    worst = 0.0
    for kind in {kind for kind, _ in terms}:
        squares = [gradient.squares() for (of, _), gradient in terms.items() if of == kind]
        error, whole = (sum(column) for column in zip(*squares, strict=True))
        worst = max(worst, (error / (whole or 1.0)) ** 0.5)
    return worst


def limit_of(tape: Tape) -> float:
    """The closure that is promised in the coarsest precision of the run."""
    return CLOSURE.get(tape.program.coarsest or torch.float32, 1e-2)
