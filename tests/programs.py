"""Small models that tests write, and how two expansions are compared."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import oracles
from oracles import Source
from termwise.expand import Expansion, traverse
from termwise.pinning import bare
from termwise.program import Program
from termwise.series import Series
from termwise.steps import Unit, unit_of
from termwise.walks import AroundOne

DOUBLE = torch.float64


def fresh(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, dtype=DOUBLE))


def dense(n: int, m: int) -> nn.Linear:
    return nn.Linear(n, m, dtype=DOUBLE)


class Written(nn.Module):
    """A forward written in the test, with parameters, buffers and modules by name."""

    def __init__(self, run: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.run = run
        for name, member in members.items():
            if isinstance(member, Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def alike(left: Expansion, right: Expansion, tolerance: float = 1e-12) -> None:
    assert left.depths == right.depths
    assert oracles.disagreement(left.total, right.total) < tolerance
    assert oracles.disagreement(left.constant, right.constant) < tolerance
    for depth in left.depths:
        assert oracles.disagreement(left.terms[depth], right.terms[depth]) < tolerance


def source(shape: tuple[int, ...] = (4, 4)) -> tuple[Source, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = oracles.quarters(shape, g)
    return Source(x, torch.randn(shape, generator=g, dtype=DOUBLE), g), x


def around_one(model: Any, x: Any, unit: Any, product: str = "half") -> Series:
    """The value of the output, its parts that are not born of the input, and its derivative in eps at 1."""
    times = "half" if product == "half" else "leibniz"

    def program(located: Unit) -> Program:
        return Program(bare(model), located, "pooled", times, walk=AroundOne())

    return traverse(program, model, x, unit_of(unit, bare(model)), None, None)[0]
