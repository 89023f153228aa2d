"""Anything else: affine at the operating point.

    y_k = J x_k,      c = J c_x + f(x) - J x,      J the Jacobian at the clean values

It keeps the expansion complete for any differentiable operator,
and the result lists the operator as *linearised*: the split between its parts rests on a first-order expansion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from termwise.errors import RuleError, first_line
from termwise.rules.registry import Call, differentiating, plain
from termwise.series import Parts, Series, add_paths, align_rows, carries, frozen_series, merge_parts


def linearise(call: Call) -> Any:
    """The affine rule for an operator without one of its own.

    Raises:
        RuleError: when the operator cannot be differentiated.
    """
    call.kind = "linearised"
    leaves, structure = pytree.tree_flatten((call.args, call.kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Series) and carries(leaf)]
    operands = [leaves[i] for i in places]
    parts = merge_parts(s.parts for s in operands)
    clean = call.clean()
    outputs, _ = pytree.tree_flatten(clean)
    real = [i for i, out in enumerate(outputs) if isinstance(out, Tensor) and carries(out)]
    if not real:
        call.kind = "frozen"  # integers and booleans have no parts, whatever the operator
        return pytree.tree_map_only(Tensor, frozen_series, clean)

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        filled = list(plain(leaves))
        for i, value in zip(places, values, strict=True):
            filled[i] = value
        args, kwargs = pytree.tree_unflatten(filled, structure)
        flat, _ = pytree.tree_flatten(call.func(*args, **kwargs))
        return tuple(flat[i] for i in real)

    # The value goes along as one more row: what the parts leave of it is constant only where all of them are kept.
    stacks = [torch.cat([align_rows(s.rows, s.parts, parts), s.value[None]]) for s in operands]
    tangents = push(call, function, operands, stacks)
    paths = add_paths(s.paths for s in operands)
    return _assembled(clean, real, tangents, parts, paths)


def push(call: Call, function: Any, operands: list[Series], stacks: list[Tensor]) -> list[Tensor | None]:
    """J applied to rows, a stack (R, *S) for each operand: (R, *out) for each output that has a derivative.

    J u is had by reverse mode alone, as the derivative of v -> J^T v in the direction u: nearly every operator has a
    backward formula, many have no forward one, and a missing one is an error, never a silent zero.
    """
    try:
        with differentiating():
            leaves = [s.value.detach().requires_grad_() for s in operands]
            outputs = function(*leaves)
            differentiable = [out for out in outputs if out.requires_grad]
            # Autograd would only warn of an operator that never told its derivative, and go on with a wrong one.
            untold = any(out.grad_fn is not None and "NotImplemented" in out.grad_fn.name() for out in differentiable)
            if untold or not differentiable:
                raise NotImplementedError("it has no derivative")
            # J^T v is linear in v, but not every formula for it can be differentiated at v = 0.
            dummies = [torch.ones_like(out).requires_grad_() for out in differentiable]
            transposed = torch.autograd.grad(differentiable, leaves, dummies, create_graph=True, allow_unused=True)
            if all(t is None for t in transposed):
                raise NotImplementedError("it has no derivative")
            rows = [_row(transposed, dummies, list(rows)) for rows in zip(*stacks, strict=True)]
    except RuntimeError as error:
        raise RuleError(
            f"{call.func}: there is no rule for this operator, and it cannot be linearised either "
            f"({first_line(error)}). Name its family with termwise.rules.register(...), "
            "or write the model without it."
        ) from error
    columns = iter(torch.stack(column) for column in zip(*rows, strict=True))
    return [next(columns) if out.requires_grad else None for out in outputs]


def _row(transposed: Any, dummies: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
    pairs = [(t, u) for t, u in zip(transposed, tangents, strict=True) if t is not None and t.requires_grad]
    if not pairs:
        return [torch.zeros_like(dummy).detach() for dummy in dummies]
    found = torch.autograd.grad(
        [t for t, _ in pairs], dummies, [u for _, u in pairs], retain_graph=True, allow_unused=True
    )
    return [torch.zeros_like(d).detach() if f is None else f.detach() for f, d in zip(found, dummies, strict=True)]


def _assembled(clean: Any, real: list[int], tangents: list[Tensor | None], parts: Parts, paths: dict[int, int]) -> Any:
    flat, structure = pytree.tree_flatten(clean)
    out: list[Any] = [frozen_series(leaf) if isinstance(leaf, Tensor) else leaf for leaf in flat]
    for i, rows in zip(real, tangents, strict=True):
        value = flat[i]
        if rows is not None:
            out[i] = Series(value, rows[:-1], parts, paths).plus(value - rows[-1], value)
    return pytree.tree_unflatten(out, structure)
