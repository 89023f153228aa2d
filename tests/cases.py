"""What a case is: an operator on operands with known parts, and the domains that it is tried on."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from oracles import Known

aten = torch.ops.aten
Oracle = Callable[..., Known]


# Domains: what the operand's clean value is; the parts that make it up are never zero.


def normal(shape: Sequence[int], g: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=g, dtype=torch.float64)


def zeros(shape: Sequence[int], g: torch.Generator) -> Tensor:
    return normal(shape, g) * (torch.rand(tuple(shape), generator=g) < 0.5)


def small(shape: Sequence[int], g: torch.Generator) -> Tensor:
    return normal(shape, g) * torch.where(torch.rand(tuple(shape), generator=g) < 0.5, 1e-9, 1.0)


def integers(shape: Sequence[int], g: torch.Generator) -> Tensor:
    return torch.randint(-2, 3, tuple(shape), generator=g).double()


def inside(shape: Sequence[int], g: torch.Generator) -> Tensor:
    """The open interval from -0.9 to 0.9."""
    return torch.rand(tuple(shape), generator=g, dtype=torch.float64) * 1.8 - 0.9


def inside_zeros(shape: Sequence[int], g: torch.Generator) -> Tensor:
    return inside(shape, g) * (torch.rand(tuple(shape), generator=g) < 0.5)


def inside_small(shape: Sequence[int], g: torch.Generator) -> Tensor:
    return inside(shape, g) * torch.where(torch.rand(tuple(shape), generator=g) < 0.5, 1e-9, 1.0)


def positive(shape: Sequence[int], g: torch.Generator) -> Tensor:
    return normal(shape, g).abs() + 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """One operator on one domain.

    `reaches` names the packets that the run must arrive at, `kind` how the first of them must be reported (None where
    it is not).  `op` takes the operands; `oracle` takes their known parts.  `counted` is false where PyTorch takes the
    operator apart into several that each read the operand, so that its paths are counted more than once.
    """

    id: str
    op: Callable[..., Tensor]
    oracle: Oracle
    reaches: str
    kind: Literal["exact", "frozen", "linearised"] | None = "exact"
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),)
    domain: Callable[..., Tensor] = normal
    product: Literal["half", "cauchy"] = "half"
    counted: bool = True


def whole(op: Callable[..., Any]) -> Callable[..., Any]:
    """Composite operators handed over whole, as they arrive from inside of a decomposition."""

    @functools.wraps(op)
    def run(*operands: Any) -> Any:
        # No public name leaves autograd's part of the dispatcher out without making inference tensors.
        with torch._C._AutoDispatchBelowAutograd():
            return op(*operands)

    return run


# An index along an axis of four or of three, one place twice and one not at all.
INDEX = torch.tensor([2, 0, 1, 2])
