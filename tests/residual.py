"""A residual network with norms and dropout, and the oracle that an expansion of it must equal."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import oracles
from programs import DOUBLE
from termwise.expand import Expansion
from termwise.reference import Node, Residual, Sequence, by_paths, describe, discrepancy


class Net(nn.Module):
    """Two residual blocks with norms and dropout, in training mode, with running statistics of its own."""

    def __init__(self, dtype: torch.dtype = DOUBLE) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 8))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 3)
        self.to(dtype)
        with torch.no_grad():
            for _ in range(3):
                self(3 * torch.randn(16, 6, dtype=dtype) + 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)

    def tree(self) -> Node:
        """The network in evaluation mode, for the oracle."""
        branches = [
            describe(nn.Sequential(*(m for m in block.children() if not isinstance(m, nn.Dropout))).eval())
            for block in self.blocks
        ]
        self.train()
        nothing = Sequence(())
        return Sequence((describe(self.stem), *(Residual(branch, nothing) for branch in branches), describe(self.head)))


def exact(found: Expansion, net: Net, x: Tensor) -> None:
    """Equal to every path walked by itself."""
    with torch.no_grad():
        expected = by_paths(net.tree(), x)
    assert found.paths == expected.paths == {2: 1, 4: 2, 6: 1}
    assert found.closure is not None and found.closure <= 1e-12
    assert discrepancy(expected.terms, found.terms) < 1e-11
    assert oracles.disagreement(found.constant, expected.constant) < 1e-11
    assert not any(use.kind == "linearised" for use in found.operators)


def under(context: Any, run: Callable[[], Any]) -> Any:
    with context:
        return run()


def doubled(module: nn.Module, args: Any, out: Any) -> Any:
    return out * 2
