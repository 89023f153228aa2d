"""The expansion on every network of `termwise.nets`: it closes, and agrees term by term with the slow oracles."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import nn

from termwise import expand, expand_gradient, nets, support
from termwise.reference import Residual, Sequence, at_roots, by_paths, describe, discrepancy, of_linear_network

Unit = Literal["layers", "blocks", "activations"]
UNITS: tuple[Unit, ...] = ("layers", "blocks", "activations")
NETWORKS = {
    "resnet-8": lambda: nets.resnet(8, width=4),
    "resnet-8-projection": lambda: nets.resnet(8, width=4, shortcut="projection"),
    "resnet-14": lambda: nets.resnet(14, width=4),
    "resnet-8-zero-init": lambda: nets.resnet(8, width=4, zero_init=True),
    "preact-8": lambda: nets.preact_resnet(8, width=4),
    "preact-8-unnormalised": lambda: nets.preact_resnet(8, width=4, norm=False),
    "preact-14-small-gain": lambda: nets.preact_resnet(14, width=4, norm=False, gain=0.2),
    "densenet-10": lambda: nets.densenet(10, 4),
    "densenet-bc-16": lambda: nets.densenet(16, 4, bottleneck=True, compression=0.5),
    "plain-8": lambda: nets.plain(8, width=4),
    "mlp": lambda: nets.mlp([48, 12, 11, 10], norm=True),
}
LARGE = {
    "resnet-20": lambda: nets.resnet(20),
    "resnet-20-projection": lambda: nets.resnet(20, shortcut="projection"),
    "resnet-56": lambda: nets.resnet(56),
    "resnet-20-zero-init": lambda: nets.resnet(20, zero_init=True),
    "preact-20": lambda: nets.preact_resnet(20),
    "preact-20-unnormalised": lambda: nets.preact_resnet(20, norm=False),
    "preact-20-small-gain": lambda: nets.preact_resnet(20, norm=False, gain=0.2),
    "se-20": lambda: nets.se_resnet(20),
    "sk-20": lambda: nets.sk_resnet(20),
    "sk-20-in-groups": lambda: nets.sk_resnet(20, groups=4),
    "vit": lambda: nets.vit(4, 32, size=8),
    "vit-mean": lambda: nets.vit(4, 32, size=8, patch=2, pool="mean"),
    "transformer": lambda: nets.transformer(4, 32, vocabulary=10, length=12),
    "transformer-untied": lambda: nets.transformer(4, 32, vocabulary=10, length=12, tied=False),
    "lstm": lambda: nets.lstm(16, size=8),
    "lstm-2": lambda: nets.lstm(16, layers=2, size=8),
    "densenet-22": lambda: nets.densenet(22, 12),
    "densenet-bc-40": lambda: nets.densenet(40, 12, bottleneck=True, compression=0.5),
    "plain-20": lambda: nets.plain(20),
    "mlp": lambda: nets.mlp([48, 64, 64, 10]),
}


def images(name: str, n: int = 3) -> torch.Tensor:
    torch.manual_seed(1)
    if name.startswith("transformer"):
        return torch.randint(10, (n, 12))
    return torch.randn(n, 48) if name == "mlp" else torch.randn(n, 3, 8, 8)


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Against any targets, of samples (N, 10) or of tokens (N, T, 10)."""
    flat = logits.flatten(0, -2)
    return nn.functional.cross_entropy(flat, torch.arange(len(flat)) % 10)


def briefly_trained(model: nn.Module, x: torch.Tensor) -> nn.Module:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(8):
        optimiser.zero_grad()
        cross_entropy(model(x)).backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_every_path_by_itself_and_with_roots_of_unity(name: str, unit: Unit) -> None:
    torch.manual_seed(0)
    model = briefly_trained(NETWORKS[name](), images(name, 16)).double()
    x = images(name, 2).double()
    expansion = expand(model, x, unit=unit, constants="by_depth")
    paths, roots = by_paths(describe(model), x, unit), at_roots(describe(model), x, unit)
    assert expansion.paths == paths.paths
    for oracle in (paths, roots):
        assert discrepancy(oracle.terms, expansion.terms) < 1e-10
        assert discrepancy(oracle.constants, expansion.constants) < 1e-10
    pooled = expand(model, x, unit=unit)
    assert torch.allclose(pooled.constant, paths.constant, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 5e-6), (torch.float64, 1e-12)], ids=["float32", "float64"])
@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize("name", LARGE)
def test_closes(name: str, trained: bool, dtype: torch.dtype, bar: float) -> None:
    torch.manual_seed(0)
    model = LARGE[name]()
    if trained:
        model = briefly_trained(model, images(name, 16))
    expansion = expand(model.to(dtype), as_input(images(name), dtype))
    assert expansion.closure is not None and expansion.closure <= bar
    total = expansion.constant + torch.stack(list(expansion.terms.values())).sum(dim=0)
    assert (total - expansion.total).norm() <= 2 * bar * expansion.total.norm()


def as_input(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype) if x.is_floating_point() else x


# What each is to the expansion: the number of blocks, and the polynomial of its paths in blocks and in layers.
BINOMIAL = {k: math.comb(9, k) for k in range(10)}
TWO_WAYS = {k: math.comb(9, k) * 2**k for k in range(10)}  # each block has two convolutions side by side
EIGHT = {k: math.comb(8, k) for k in range(9)}
POLYNOMIALS = {
    "resnet-20-zero-init": (9, BINOMIAL, 2),
    "preact-20": (9, BINOMIAL, 2),
    "preact-20-unnormalised": (9, BINOMIAL, 2),
    "preact-20-small-gain": (9, BINOMIAL, 2),
    "se-20": (9, BINOMIAL, 2),
    "sk-20": (9, TWO_WAYS, 2),
    "sk-20-in-groups": (9, TWO_WAYS, 2),
    "vit": (8, EIGHT, 2),
    "vit-mean": (8, EIGHT, 2),
    "transformer": (8, EIGHT, 1),
    "transformer-untied": (8, EIGHT, 1),
}


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_the_paths_of_a_network(name: str) -> None:
    """Two layers a block (a gate or a pattern is no path), and so many outside of all blocks."""
    torch.manual_seed(0)
    model, x = LARGE[name](), images(name)
    blocks, polynomial, outside = POLYNOMIALS[name]
    dry = support(model, x)
    assert dry.supported and not dry.linearised
    assert len(dry.blocks) == blocks
    assert dict(expand(model, x, unit="blocks").paths) == polynomial
    assert dict(expand(model, x).paths) == {2 * k + outside: n for k, n in polynomial.items()}


@pytest.mark.parametrize("layers", [1, 2])
def test_the_paths_of_an_lstm(layers: int) -> None:
    """In T steps a memory cell is added to T - 1 times.

    So is the state to the input, T - 1 times, in the sum before the gates: of the rows of one image the expansion does
    not know that they share nothing, and takes what comes from an earlier row for what the later one carries.
    """
    torch.manual_seed(0)
    model, x = nets.lstm(6, layers=layers, size=8), images("lstm")
    dry = support(model, x)
    assert dry.supported and not dry.linearised
    assert len(dry.blocks) == 2 * layers * (8 - 1)
    # From the last row up through every layer, or from the first one on through all steps; and the classifier.  The
    # states of a layer are handed on in one tensor, in which longer paths than these are counted: they bring nothing.
    terms = expand(model, x).terms
    lengths = [depth for depth, term in terms.items() if term.any()]
    assert (min(lengths), max(lengths)) == (layers + 1, 8 + layers)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 5e-6), (torch.float64, 1e-12)], ids=["float32", "float64"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", [*POLYNOMIALS, "lstm"])
def test_closes_in_every_unit_forwards_and_backwards(name: str, unit: Unit, dtype: torch.dtype, bar: float) -> None:
    torch.manual_seed(0)
    model, x = LARGE[name]().to(dtype), as_input(images(name), dtype)
    closure = expand(model, x, unit=unit).closure
    assert closure is not None and closure <= bar
    gradient = expand_gradient(model, x, cross_entropy, unit=unit)
    assert gradient.closure <= bar
    assert set(gradient.parameters) == {parameter for parameter, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["plain-8", "mlp"])
def test_a_plain_network_has_one_term(name: str) -> None:
    torch.manual_seed(0)
    model = briefly_trained(NETWORKS[name](), images(name, 16))
    expansion = expand(model, images(name))
    assert expansion.depths == (8 if name == "plain-8" else 3,)
    assert dict(expansion.paths) == {expansion.depths[0]: 1}


def test_a_resnet_of_two_layer_blocks_has_every_other_depth_binomially() -> None:
    expansion = expand(nets.resnet(20), images("resnet-20"))
    binomial = [1, 9, 36, 84, 126, 126, 84, 36, 9, 1]
    assert dict(expansion.paths) == dict(zip(range(2, 21, 2), binomial, strict=True))


def test_path_counts_are_exact_integers_where_floats_are_not() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(171))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = x + 0.01 * layer(x)
            return x

    expansion = expand(Deep(), torch.randn(1, 2))
    assert dict(expansion.paths) == {k: math.comb(171, k) for k in range(172)}


class Chain(nn.Module):
    """Residual blocks after one another: x + (Linear, Tanh, Linear)(x)."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5)) for _ in range(blocks)]
        self.branches = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("blocks", [1, 4, 8])
def test_agrees_with_all_paths_through_eight_blocks(blocks: int, unit: Unit) -> None:
    torch.manual_seed(0)
    model = Chain(blocks).double()
    tree = Sequence(tuple(Residual(describe(branch)) for branch in model.branches))
    x = torch.randn(3, 5, dtype=torch.float64)
    expansion = expand(model, x, unit=unit, constants="by_depth")
    stride = 2 if unit == "layers" else 1
    assert dict(expansion.paths) == {stride * k: math.comb(blocks, k) for k in range(blocks + 1)}
    for oracle in (by_paths(tree, x, unit), at_roots(tree, x, unit)):
        assert discrepancy(oracle.terms, expansion.terms) < 1e-10
        assert discrepancy(oracle.constants, expansion.constants) < 1e-10


def test_a_linear_network_is_its_product_expansion() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4) for _ in range(6)]

    def run(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = x + layer(x)
        return x

    for layer in layers:
        layer.double()
    x = torch.randn(3, 4, dtype=torch.float64)
    oracle = of_linear_network([layer.weight for layer in layers], [layer.bias for layer in layers], x)
    expansion = expand(run, x, constants="by_depth")
    assert discrepancy(oracle.terms, expansion.terms) < 1e-10
    assert discrepancy(oracle.constants, expansion.constants) < 1e-10
