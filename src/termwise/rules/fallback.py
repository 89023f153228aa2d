"""Anything else: affine at the operating point.

    y_k = J x_k,      c = f(x) - sum_k J x_k - (frozen part),      J the Jacobian at the clean values

by forward-mode differentiation, all parts at once.  It keeps the expansion complete for any differentiable operator,
and the result lists the operator as *linearised*: the split between its parts rests on a first-order expansion.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from termwise.errors import RuleError
from termwise.rules.registry import Call, plain, transforms
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
        return pytree.tree_map_only(Tensor, frozen_series, clean)

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        filled = list(plain(leaves))
        for i, value in zip(places, values, strict=True):
            filled[i] = value
        args, kwargs = pytree.tree_unflatten(filled, structure)
        flat, _ = pytree.tree_flatten(call.func(*args, **kwargs))
        return tuple(flat[i] for i in real)

    tangents = _push(call, function, operands, parts)
    paths = add_paths(s.paths for s in operands)
    return _assembled(clean, real, tangents, parts, paths)


def _push(call: Call, function: Any, operands: list[Series], parts: Parts) -> tuple[Tensor, ...]:
    values = tuple(s.value for s in operands)
    stacks = [align_rows(s.rows, s.parts, parts) for s in operands]

    def push(*rows: Tensor) -> tuple[Tensor, ...]:
        return torch.func.jvp(function, values, rows)[1]

    try:
        with transforms(), warnings.catch_warnings():
            # PyTorch's first forward-mode derivative compiles with its own deprecated compiler, and tells the user.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.vmap(push)(*stacks)
    except (RuntimeError, NotImplementedError) as error:
        raise RuleError(
            f"{call.func}: there is no rule for this operator, and it cannot be linearised either "
            f"({str(error).splitlines()[0]}). Name its family with termwise.rules.register(...), "
            "or write the model without it."
        ) from error


def _assembled(clean: Any, real: list[int], tangents: tuple[Tensor, ...], parts: Parts, paths: dict[int, int]) -> Any:
    flat, structure = pytree.tree_flatten(clean)
    out: list[Any] = [frozen_series(leaf) if isinstance(leaf, Tensor) else leaf for leaf in flat]
    for i, rows in zip(real, tangents, strict=True):
        value = flat[i]
        out[i] = Series(value, rows, parts, paths).plus(value - rows.sum(dim=0), value)
    return pytree.tree_unflatten(out, structure)
