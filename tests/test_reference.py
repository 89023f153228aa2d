"""The three oracles against each other, against hand-written forwards, and against counts in closed form."""

import math
from typing import Literal, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise.errors import ModelError, UsageError
from termwise.nets import densenet, mlp, plain, resnet
from termwise.reference import (
    Affine,
    Dense,
    Linear,
    Node,
    Nonlinearity,
    Norm,
    Residual,
    Sequence,
    Terms,
    Weight,
    at_roots,
    by_paths,
    describe,
    discrepancy,
    forward,
    freeze,
    of_linear_network,
)

UNITS: tuple[Literal["layers", "blocks", "activations"], ...] = ("layers", "blocks", "activations")
TOLERANCE = 1e-10
M = TypeVar("M", bound=nn.Module)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def trained(model: M) -> M:
    """The model in float64 and evaluation mode, with norms and biases unlike those of initialisation."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model.double().eval()


class ResidualMLP(nn.Module):
    """v + W2 s(norm(W1 v)), a few times over, then a matrix."""

    def __init__(self, blocks: int, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), act(), nn.Linear(6, 5)) for _ in range(blocks)
        )
        self.head = nn.Linear(5, 3)

    def forward(self, v: Tensor) -> Tensor:
        for branch in self.branches:
            v = v + branch(v)
        return self.head(v)

    def tree(self) -> Node:
        blocks = [Residual(describe(branch)) for branch in self.branches]
        return Sequence((*blocks, describe(self.head)))


class ConvNet(nn.Module):
    """A post-activation residual net: an identity shortcut, a strided projection, a subsample-and-pad."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.same = self.branch(3, 3, 1)
        self.wider = self.branch(3, 4, 2)
        self.project = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4))
        self.widest = self.branch(4, 6, 2)
        self.head = nn.Linear(6, 3)

    @staticmethod
    def branch(inner: int, outer: int, stride: int) -> nn.Sequential:
        first = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
        second = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        return nn.Sequential(first, nn.BatchNorm2d(outer), nn.ReLU(), second, nn.BatchNorm2d(outer))

    @staticmethod
    def pad(v: Tensor) -> Tensor:
        return F.pad(v[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        v = self.stem(x)
        v = F.relu(v + self.same(v))
        v = F.relu(self.project(v) + self.wider(v))
        v = F.relu(self.pad(v) + self.widest(v))
        return self.head(v.mean((2, 3)))

    def tree(self) -> Node:
        relu = Nonlinearity(F.relu)
        return Sequence(
            (
                describe(self.stem),
                Residual(describe(self.same)),
                relu,
                Residual(describe(self.wider), describe(self.project)),
                relu,
                Residual(describe(self.widest), Linear(self.pad)),
                relu,
                Linear(lambda v: v.mean((2, 3))),
                describe(self.head),
            )
        )


class DenseNet(nn.Module):
    """Pre-activation dense layers, the second with a bottleneck, then a transition and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.first = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1, bias=False))
        squeeze = (nn.BatchNorm2d(5), nn.SiLU(), nn.Conv2d(5, 4, 1, bias=False))
        self.second = nn.Sequential(*squeeze, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
        self.third = nn.Sequential(nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 2, 3, padding=1, bias=False))
        self.transition = nn.Sequential(nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(9, 4, 1), nn.AvgPool2d(2))
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        v = self.stem(x)
        for branch in (self.first, self.second, self.third):
            v = torch.cat([v, branch(v)], 1)
        return self.head(self.transition(v))

    def tree(self) -> Node:
        dense = [Dense(describe(branch)) for branch in (self.first, self.second, self.third)]
        return Sequence((describe(self.stem), *dense, describe(self.transition), describe(self.head)))


NETWORKS = {
    "residual-mlp-relu": (lambda: ResidualMLP(4), (4, 5)),
    "residual-mlp-gelu": (lambda: ResidualMLP(4, nn.GELU), (4, 5)),
    "residual-mlp-sigmoid": (lambda: ResidualMLP(4, nn.Sigmoid), (4, 5)),
    "conv-net": (ConvNet, (2, 2, 8, 8)),
    "dense-net": (DenseNet, (2, 2, 6, 6)),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Node, Tensor]:
    """A trained model, its tree and an input."""
    build, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    model = trained(build())
    return model, model.tree(), torch.randn(shape, dtype=torch.float64)


def assert_same(a: Terms, b: Terms) -> None:
    assert discrepancy(a.terms, b.terms) < TOLERANCE
    assert discrepancy(a.constants, b.constants) < TOLERANCE
    assert a.paths == b.paths
    assert list(a.terms) == list(b.terms) == list(a.paths)
    assert list(a.constants) == list(b.constants)


# The oracles agree ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_paths_and_roots_agree(network: tuple[nn.Module, Node, Tensor], unit) -> None:
    _, tree, x = network
    assert_same(by_paths(tree, x, unit), at_roots(tree, x, unit))


@pytest.mark.parametrize("oracle", [by_paths, at_roots])
@pytest.mark.parametrize("unit", UNITS)
def test_sum_is_what_the_modules_compute(network: tuple[nn.Module, Node, Tensor], unit, oracle) -> None:
    model, tree, x = network
    with torch.no_grad():
        expected = model(x)
    assert torch.allclose(forward(tree, x), expected, rtol=0, atol=1e-12)
    assert torch.allclose(oracle(tree, x, unit).total, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("biased", [True, False])
def test_all_three_agree_on_a_linear_residual_network(biased: bool) -> None:
    depth, width = 6, 4
    weights = [torch.randn(width, width, dtype=torch.float64) for _ in range(depth)]
    biases = [torch.randn(width, dtype=torch.float64) if biased else None for _ in range(depth)]
    x = torch.randn(3, width, dtype=torch.float64)
    tree = Sequence(tuple(Residual(Weight(lambda v, w=w: v @ w.T, b)) for w, b in zip(weights, biases, strict=True)))
    expanded = of_linear_network(weights, biases, x)
    assert_same(expanded, by_paths(tree, x))
    assert_same(expanded, at_roots(tree, x))
    assert bool(expanded.constants) == biased

    v = x
    for w, b in zip(weights, biases, strict=True):
        v = v + v @ w.T + (0 if b is None else b)
    assert torch.allclose(expanded.total, v, rtol=0, atol=TOLERANCE)


# Numbers written out by hand --------------------------------------------------------------------------------


def test_two_scalar_blocks_by_hand() -> None:
    # v + (2 v + 1), then v + (3 v + 5):  x (1 + 2 eps) (1 + 3 eps)  +  eps (1 + 3 eps)  +  5 eps.
    two = Residual(Weight(lambda v: 2 * v, torch.tensor([1.0])))
    three = Residual(Weight(lambda v: 3 * v, torch.tensor([5.0])))
    x = torch.tensor([[10.0]])
    for oracle in (by_paths, at_roots):
        result = oracle(Sequence((two, three)), x)
        assert {k: round(float(v), 4) for k, v in result.terms.items()} == {0: 10, 1: 50, 2: 60}
        assert {k: round(float(v), 4) for k, v in result.constants.items()} == {1: 6, 2: 3}
        assert float(result.constant) == pytest.approx(9)


def test_norm_shift_is_no_step_and_sigmoid_offset_is_one() -> None:
    # sigmoid(2 x + 7), then the matrix 3: the shift 7 is no step; in activations s(0) = 1/2 counts its own.
    tree = Sequence(
        (Norm(torch.tensor([2.0]), torch.tensor([7.0])), Nonlinearity(torch.sigmoid), Weight(lambda v: 3 * v))
    )
    x = torch.tensor([[-2.0]], dtype=torch.float64)
    gate = (1 / (1 + math.exp(-3)) - 0.5) / 3
    for unit in ("layers", "activations"):
        result = by_paths(tree, x, unit)
        assert result.paths.keys() == result.constants.keys() == {1}
        assert float(result.terms[1]) == pytest.approx(3 * gate * -4)
        assert float(result.constants[1]) == pytest.approx(3 * (0.5 + gate * 7))


def test_dense_layer_by_hand() -> None:
    # (x, 4 x + 1), then the sum of both channels: paths 1 and 4, and the bias as a constant of one step.
    dense = Dense(Weight(lambda v: 4 * v, torch.tensor([1.0])))
    tree = Sequence((dense, Linear(lambda v: v.sum(1, keepdim=True))))
    for oracle in (by_paths, at_roots):
        result = oracle(tree, torch.tensor([[10.0]]))
        assert {k: round(float(v), 4) for k, v in result.terms.items()} == {0: 10, 1: 40}
        assert {k: round(float(v), 4) for k, v in result.constants.items()} == {1: 1}


def test_value_gates() -> None:
    u = torch.tensor([[-3.0, -1e-9, 0.0, 1e-9, 1e-4, 2.0]], dtype=torch.float64)
    ones = torch.ones_like(u)
    for fn, slope, left in ((F.gelu, 0.5, 0.5), (torch.tanh, 1.0, 1.0), (F.leaky_relu, None, 0.01)):
        frozen = freeze(Nonlinearity(fn), u)
        assert isinstance(frozen, Affine) and frozen.constant is None
        gate = frozen.apply(ones)
        assert torch.allclose(gate * u, fn(u), rtol=1e-12, atol=0)
        assert float(gate[0, 1]) == pytest.approx(left, abs=1e-8)
        if slope is not None:
            assert float(gate[0, 2]) == pytest.approx(slope)


# Plain networks and counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("oracle", [by_paths, at_roots])
def test_a_plain_network_has_one_depth_and_shorter_constants(oracle) -> None:
    layers = [nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()) for _ in range(5)]
    model = trained(nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 3)))
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    result = oracle(describe(model), x)
    assert result.paths == {6: 1}
    assert list(result.terms) == [6]
    # Biases of layer l take 7 - l steps, shifts of its norm one less.
    assert list(result.constants) == [1, 2, 3, 4, 5, 6]
    with torch.no_grad():
        assert torch.allclose(result.total, model(x), rtol=0, atol=TOLERANCE)
    assert oracle(describe(model), x, "activations").paths == {5: 1}


@pytest.mark.parametrize("blocks", [1, 3, 7])
def test_counts_are_binomials(blocks: int) -> None:
    x = torch.ones(1, 5, dtype=torch.float64)
    tree = trained(ResidualMLP(blocks)).tree()
    # Two matrices on each branch and one at the end; one ReLU on each branch.
    in_layers = {1 + 2 * k: math.comb(blocks, k) for k in range(blocks + 1)}
    in_activations = {k: math.comb(blocks, k) for k in range(blocks + 1)}
    for oracle in (by_paths, at_roots):
        assert oracle(tree, x).paths == in_layers
        assert oracle(tree, x, "activations").paths == in_activations


def test_counts_beyond_64_bits() -> None:
    blocks = 80
    tree = Sequence(tuple(Residual(Weight(lambda v: 0.1 * v)) for _ in range(blocks)))
    result = at_roots(tree, torch.ones(1, 1, dtype=torch.float64))
    assert result.paths == {k: math.comb(blocks, k) for k in range(blocks + 1)}
    assert float(result.terms[3]) == pytest.approx(math.comb(blocks, 3) * 1e-3)


def test_shortcut_with_a_step_leaves_a_gap_in_the_depths() -> None:
    branch = Sequence((Weight(lambda v: v), Weight(lambda v: v), Weight(lambda v: v)))
    tree = Residual(branch, Weight(lambda v: 2 * v))
    for oracle in (by_paths, at_roots):
        result = oracle(tree, torch.ones(1, 1, dtype=torch.float64))
        assert result.paths == {1: 1, 3: 1}
        assert {k: round(float(v), 9) for k, v in result.terms.items()} == {1: 2, 3: 1}


# The networks of the library --------------------------------------------------------------------------------

IMAGE = (2, 3, 8, 8)
NETS = {
    "resnet-pad": (lambda: resnet(8, width=4), IMAGE, {1 + 1 + 2 * k: math.comb(3, k) for k in range(4)}),
    # A projection is a step of its own, so two of the three blocks choose between one step and two.
    "resnet-projection": (
        lambda: resnet(8, width=4, shortcut="projection"),
        IMAGE,
        {4: 1, 5: 2, 6: 1 + 1, 7: 2, 8: 1},
    ),
    # A transition is a step too.
    "densenet": (lambda: densenet(10, 3), IMAGE, {4 + k: math.comb(6, k) for k in range(7)}),
    "densenet-bc": (
        lambda: densenet(10, 3, bottleneck=True, compression=0.5),
        IMAGE,
        {4 + 2 * k: math.comb(3, k) for k in range(4)},
    ),
    "plain": (lambda: plain(8, width=4), IMAGE, {8: 1}),
    "mlp": (lambda: mlp([5, 6, 6, 3], activation=nn.GELU, norm=True), (4, 5), {3: 1}),
}


@pytest.mark.parametrize("name", NETS)
def test_the_networks_are_described(name: str) -> None:
    build, shape, counts = NETS[name]
    model = trained(build())
    tree, x = describe(model), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
    scale = float(expected.abs().max())
    assert torch.allclose(forward(tree, x), expected, rtol=0, atol=1e-12 * scale)
    for unit in UNITS:
        walked, interpolated = by_paths(tree, x, unit), at_roots(tree, x, unit)
        assert_same(walked, interpolated)
        assert torch.allclose(walked.total, expected, rtol=0, atol=TOLERANCE * scale)
        assert torch.allclose(interpolated.total, expected, rtol=0, atol=TOLERANCE * scale)
        if unit == "layers":
            assert walked.paths == counts


# The surface ------------------------------------------------------------------------------------------------


def test_float32_stays_float32() -> None:
    model = trained(ResidualMLP(3)).float()
    x = torch.randn(4, 5)
    for oracle in (by_paths, at_roots):
        result = oracle(model.tree(), x)
        assert result.total.dtype == torch.float32
        assert torch.allclose(result.total, model(x).detach(), rtol=1e-4, atol=1e-4)


def test_discrepancy_compares_missing_depths_with_zero() -> None:
    a, b = torch.tensor([3.0]), torch.tensor([4.0])
    assert discrepancy({1: a, 2: b}, {1: a, 2: b}) == 0
    assert discrepancy({1: a, 2: b}, {1: a}) == pytest.approx(4 / 5)
    assert discrepancy({1: a}, {1: a, 5: torch.zeros(1)}) == 0
    assert discrepancy({}, {1: b}) == pytest.approx(4)


class Backwards(nn.Sequential):
    """A sequential module that is none."""

    def forward(self, v: Tensor) -> Tensor:
        for part in reversed(list(self)):
            v = part(v)
        return v


def test_refusals() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(UsageError, match="unit"):
        by_paths(Sequence(), x, "stages")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="biases"):
        of_linear_network([torch.eye(2)], [], x)
    with pytest.raises(ModelError, match="LSTM"):
        describe(nn.LSTM(2, 2))
    with pytest.raises(ModelError, match="eval"):
        describe(nn.BatchNorm1d(2))
    with pytest.raises(ModelError, match="eval"):
        describe(nn.Dropout())
    with pytest.raises(ModelError, match="forward of its own"):
        describe(Backwards())
    with pytest.raises(ModelError, match="padding_mode"):
        describe(nn.Conv2d(1, 1, 3, padding_mode="reflect"))
