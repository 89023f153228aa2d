"""Terms by residual branches, against networks in which every branch has a switch, however the sums are written.

The oracle knows the branches by name.  It runs the network with the gates of the real run and every branch multiplied
by the same number eps; the coefficients of that polynomial in eps are read off at roots of unity.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from programs import DOUBLE
from termwise.expand import expand

Branch = Callable[[Tensor], Tensor]
DEPTHS = 16  # more than any path of these programs has


def sliced(v: Tensor, f: Branch) -> Tensor:
    y = f(v)
    return torch.cat([v[:, :2] + y[:, :2], v[:, 2:]], dim=1)


def in_place(v: Tensor, f: Branch) -> Tensor:
    y = f(v)
    y += v
    return y


def twice(v: Tensor, f: Branch) -> Tensor:
    y = f(v)
    return y + (v + 0.1 * y)


# Ways to write a residual sum, and the same for the oracle: v times its factor, f(v) times its own.
WAYS: dict[str, tuple[Callable[[Tensor, Branch], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "added": (lambda v, f: v + f(v), lambda v, y: v + y),
    "in place": (in_place, lambda v, y: v + y),
    "subtracted": (lambda v, f: v - f(v), lambda v, y: v - y),
    "stacked": (lambda v, f: torch.stack([v, f(v)]).sum(0), lambda v, y: v + y),
    "concatenated": (lambda v, f: torch.cat([v, f(v)], 1).view(3, 2, 4).sum(1), lambda v, y: v + y),
    "with a factor": (lambda v, f: torch.add(v, f(v), alpha=0.3), lambda v, y: v + 0.3 * y),
    "scaled": (lambda v, f: 0.7 * v + 0.2 * f(v), lambda v, y: 0.7 * v + 0.2 * y),
    "scaled after": (lambda v, f: 2 * (v + f(v)), lambda v, y: 2 * v + 2 * y),
    "averaged": (lambda v, f: 0.5 * (v + f(v)) + 0.5 * v, lambda v, y: v + 0.5 * y),
    "copied": (lambda v, f: (v + f(v)).clone() + v, lambda v, y: 2 * v + y),
    "viewed": (lambda v, f: (v.view(-1) + f(v).reshape(-1)).view(3, 4), lambda v, y: v + y),
    "twice": (twice, lambda v, y: v + 1.1 * y),
    "in the first channels": (sliced, lambda v, y: v + y * torch.tensor([1.0, 1, 0, 0])),
}


class Network(nn.Module):
    """Five branches of two layers, each added in a random way, with a ReLU on the stream after some."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        choose, g = random.Random(seed), torch.Generator().manual_seed(seed)
        self.ways = [choose.choice(sorted(WAYS)) for _ in range(5)]
        self.rectified = [choose.random() < 0.3 for _ in self.ways]
        weights = [0.5 * torch.randn(4, 4, dtype=DOUBLE, generator=g) for _ in range(2 * len(self.ways))]
        self.weights = nn.ParameterList(weights)

    def forward(self, v: Tensor) -> Any:
        for i, (way, rectified) in enumerate(zip(self.ways, self.rectified, strict=True)):
            first, second = self.weights[2 * i : 2 * i + 2]
            v = WAYS[way][0](v, lambda u, a=first, b=second: torch.relu(u @ a) @ b)
            v = torch.relu(v) if rectified else v
        return v

    def switched(self, v: Tensor, eps: Tensor, gates: list[Tensor]) -> Tensor:
        """The same with every branch times eps; gates are noted where there are none, else used."""
        given = iter(list(gates))

        def act(u: Tensor) -> Tensor:
            gate = next(given, None)
            if gate is None:
                gate = (u.real > 0).to(DOUBLE)
                gates.append(gate)
            return u * gate

        for i, (way, rectified) in enumerate(zip(self.ways, self.rectified, strict=True)):
            first, second = (weight.to(v.dtype) for weight in self.weights[2 * i : 2 * i + 2])
            v = WAYS[way][1](v, eps * (act(v @ first) @ second))
            v = act(v) if rectified else v
        return v


@pytest.mark.parametrize("seed", range(25))
def test_terms_are_the_coefficients_of_a_common_switch(seed: int) -> None:
    network = Network(seed)
    x = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        gates: list[Tensor] = []
        network.switched(x, torch.ones((), dtype=DOUBLE), gates)
        roots = torch.exp(2j * torch.pi * torch.arange(DEPTHS, dtype=DOUBLE) / DEPTHS)
        values = torch.stack([network.switched(x.to(roots.dtype), root, gates) for root in roots])
    expected = torch.fft.fft(values, dim=0).real / DEPTHS
    found = expand(network, x, unit="blocks")
    for depth in range(DEPTHS):
        term = found.terms.get(depth, torch.zeros_like(x))
        torch.testing.assert_close(term, expected[depth], rtol=0, atol=1e-12 * float(expected.abs().max()))
