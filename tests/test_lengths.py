"""The gradient of parameters by the length of whole paths agrees with every path walked by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import termwise as tw
from programs import DOUBLE, Written, dense, fresh
from snapshots import snapshot, unchanged
from termwise import nets
from termwise.errors import ClosureWarning, ModelError, RuleError, UsageError


class Rectified(nn.Module):
    """Residual blocks of one or two layers with a scaled norm; its gates can be held, and its paths walked alone."""

    def __init__(self, layers: list[int]) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.norms = nn.ModuleList(nn.BatchNorm1d(6) for _ in layers)
        self.blocks = nn.ModuleList(nn.ModuleList(nn.Linear(6, 6) for _ in range(n)) for n in layers)
        self.head = nn.Linear(6, 3)
        self.double()
        with torch.no_grad():
            for norm in self.norms:
                assert isinstance(norm, nn.BatchNorm1d)
                for tensor in (norm.weight, norm.running_var):
                    assert tensor is not None
                    tensor.uniform_(0.5, 1.5)
                assert norm.running_mean is not None
                norm.running_mean.normal_()
        self.eval()

    def branch(self, i: int, v: Tensor) -> Tensor:
        v = self.norms[i](v)
        layers = self.blocks[i]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            v = torch.relu(layer(v))
        return v

    def forward(self, x: Tensor) -> Tensor:
        v = self.stem(x)
        for i in range(len(self.blocks)):
            v = v + self.branch(i, v)
        return self.head(v)

    def gates(self, x: Tensor) -> list[list[Tensor]]:
        """Where each rectifier is open in the whole network."""
        found = []
        v = self.stem(x)
        for i, layers in enumerate(self.blocks):
            u, opened = self.norms[i](v), []
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                u = torch.relu(layer(u))
                opened.append((u > 0).double())
            found.append(opened)
            v = v + u
        return found

    def along(self, x: Tensor, mask: tuple[int, ...], gates: list[list[Tensor]]) -> Tensor:
        """What comes along one path from the input, without all that is born of constants."""
        v = x @ self.stem.weight.T
        for i, taken in enumerate(mask):
            if not taken:
                continue
            norm, layers = self.norms[i], self.blocks[i]
            assert isinstance(norm, nn.BatchNorm1d) and isinstance(layers, nn.ModuleList)
            assert norm.running_var is not None
            v = v * norm.weight / (norm.running_var + norm.eps).sqrt()
            for layer, gate in zip(layers, gates[i], strict=True):
                assert isinstance(layer, nn.Linear)
                v = (v @ layer.weight.T) * gate
        return v @ self.head.weight.T

    def length(self, mask: tuple[int, ...], unit: str) -> int:
        if unit == "blocks":
            return sum(mask)
        steps = sum(taken * len(list(layers.children())) for taken, layers in zip(mask, self.blocks, strict=True))
        return steps + (2 if unit == "layers" else 0)


def path_by_path(
    net: Rectified, x: Tensor, loss: Callable[[Tensor], Tensor], unit: str
) -> dict[int, dict[str, Tensor]]:
    """For each length the gradient of <slope of the loss, sum of all paths of that length>."""
    y = net(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(y), y)
    gates = [[gate.detach() for gate in opened] for opened in net.gates(x)]
    parameters = dict(net.named_parameters())
    found: dict[int, dict[str, Tensor]] = {}
    for mask in itertools.product((0, 1), repeat=len(net.blocks)):
        along = (net.along(x, mask, gates) * slope).sum()
        grads = torch.autograd.grad(along, list(parameters.values()), allow_unused=True, materialize_grads=True)
        sums = found.setdefault(net.length(mask, unit), {name: torch.zeros_like(p) for name, p in parameters.items()})
        for name, gradient in zip(parameters, grads, strict=True):
            sums[name] += gradient
    return found


def cross_entropy(y: Tensor) -> Tensor:
    return F.cross_entropy(y, torch.arange(len(y)) % 3)


def squares(y: Tensor) -> Tensor:
    return y.square().sum()


def case(layers: list[int]) -> tuple[Rectified, Tensor]:
    torch.manual_seed(0)
    return Rectified(layers), torch.randn(4, 5, dtype=DOUBLE)


@pytest.mark.parametrize("unit", ["layers", "blocks", "activations"])
@pytest.mark.parametrize("layers", [[1, 2, 1], [2, 1, 2, 1, 1], [1] * 8], ids=str)
def test_agrees_with_every_path_by_itself(layers: list[int], unit: str) -> None:
    net, x = case(layers)
    expected = path_by_path(net, x, cross_entropy, unit)
    found = tw.gradient_lengths(net, x, cross_entropy, unit=unit)
    whole = tw.expand_gradient(net, x, cross_entropy, unit=unit).parameters
    assert found.closure < 1e-12
    assert found.total.keys() == expected.keys()
    for length, parts in expected.items():
        for name, part in parts.items():
            g = whole[name].total
            share = float((part * g).sum() / g.square().sum())
            assert found.shares[name].get(length, 0.0) == pytest.approx(share, abs=1e-11)
    for name, shares in found.shares.items():
        assert sum(shares.values()) + found.constant[name] == pytest.approx(1, abs=1e-11)
        assert (found.constant[name] == pytest.approx(1, abs=1e-11)) == name.endswith("bias")


@pytest.mark.parametrize("unit", ["layers", "blocks", "activations"])
def test_the_gradient_by_paths_of_chosen_lengths_agrees_with_these_paths(unit: str) -> None:
    net, x = case([2, 1, 2, 1])
    expected = path_by_path(net, x, cross_entropy, unit)
    lengths = sorted(expected)
    for lo, hi in [(lengths[0], lengths[0]), (lengths[1], lengths[2]), (0, 99), (lengths[-1], 99)]:
        found = tw.path_gradient(net, x, cross_entropy, lo, hi, unit=unit)
        for name, gradient in found.items():
            part = sum((expected[k][name] for k in lengths if lo <= k <= hi), torch.zeros_like(gradient))
            assert torch.allclose(gradient, part, rtol=1e-11, atol=1e-13)


def test_the_length_downstream_is_not_that_of_the_path() -> None:
    """Restricted to long paths the last layer still learns; restricted downstream it would not."""
    net, x = case([1, 1, 1])
    name = "head.weight"
    downstream = tw.expand_gradient(net, x, squares).parameters[name]
    assert downstream.depths == (1,)  # nothing is left of it from depth 4 on
    long = tw.path_gradient(net, x, squares, 4, 5)[name]
    expected = path_by_path(net, x, squares, "layers")
    assert torch.allclose(long, expected[4][name] + expected[5][name], rtol=1e-11)
    assert float(long.norm()) > 0.1 * float(downstream.total.norm())


def test_a_step_of_training_by_short_paths_lowers_the_loss() -> None:
    net, x = case([1, 2, 1])
    before = float(squares(net(x)).detach())
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-4)
    for name, gradient in tw.path_gradient(net, x, squares, 0, 4).items():
        net.get_parameter(name).grad = gradient
    optimiser.step()
    assert float(squares(net(x)).detach()) < before


class Scaled(nn.Module):
    """A pre-norm block of attention with layer scales, positions and tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.positions = nn.Parameter(torch.randn(1, 4, 6))
        self.norm, self.last = nn.LayerNorm(6), nn.RMSNorm(6)
        self.mix = nn.MultiheadAttention(6, 2, batch_first=True)
        self.scale = nn.Parameter(torch.randn(6))
        self.wide = nn.utils.parametrizations.weight_norm(nn.Linear(6, 9))
        self.narrow = nn.Linear(9, 6, bias=False)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        v = self.table(tokens) + self.positions
        u = self.norm(v)
        v = v + self.mix(u, u, u, need_weights=False)[0] * self.scale
        v = v + self.narrow(F.gelu(self.wide(v)))
        return F.linear(self.last(v), self.table.weight)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.group, self.norm = nn.GroupNorm(2, 6), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.up = nn.ConvTranspose2d(6, 6, 2, 2, groups=2)
        self.head = nn.Linear(6, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        v = self.stem(x)
        v = v + F.silu(self.depthwise(self.group(v)))
        v = v + F.max_pool2d(self.up(self.norm(v)), 2)
        return self.head(v.mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer = kind(4, 5, batch_first=True, num_layers=2)
        self.head = nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_are_shared_out_over_their_time_steps(kind: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    found = tw.gradient_lengths(Recurrent(kind), torch.randn(2, 3, 4, dtype=DOUBLE), squares)
    assert found.closure < 1e-12
    # Two layers and the head; each layer goes through up to two more time steps.
    assert tuple(found.total) == (3, 4, 5, 6, 7)


class Overwritten(nn.Module):
    """Writes into a bias after it was added, before the terms of the sum are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False, dtype=DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.ones(4, dtype=DOUBLE)
        y = F.linear(x + 1, self.layer.weight, bias)
        bias.add_(x[0])
        return self.layer(y)


def test_terms_are_those_before_a_buffer_was_written_into() -> None:
    torch.manual_seed(0)
    model, x = Overwritten(), torch.randn(3, 4, dtype=DOUBLE)
    weight = model.layer.weight.detach().clone()
    outer, inner, whole = (weight.clone().requires_grad_() for _ in range(3))
    ((x @ inner.T) @ outer.T).sum().backward()
    (((x + 1) @ whole.T + 1) @ whole.T).sum().backward()
    found = tw.gradient_lengths(model, x, torch.ones(3, 4, dtype=DOUBLE))
    assert outer.grad is not None and inner.grad is not None and whole.grad is not None
    born = (outer.grad + inner.grad) * whole.grad
    assert found.shares["layer.weight"][2] == pytest.approx(float(born.sum() / whole.grad.square().sum()), rel=1e-12)


def test_a_sum_that_does_not_close_is_told() -> None:
    def hooked(m: Any, x: Tensor) -> Tensor:
        v = m.a(x)
        v.register_hook(lambda grad: 2 * grad)  # autograd's gradient is no longer that of the program
        return m.b(v)

    net = Written(hooked, a=dense(3, 3), b=dense(3, 2))
    with pytest.warns(ClosureWarning, match="in a way that was not seen"):
        tw.gradient_lengths(net, torch.randn(2, 3, dtype=DOUBLE), squares)


def subjects() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    return {
        "attention": (Scaled(), torch.randint(0, 7, (2, 4))),
        "convolutions": (Convolved(), torch.randn(2, 3, 6, 6, dtype=DOUBLE)),
        "resnet": (nets.resnet(8, width=4).double(), torch.randn(2, 3, 8, 8, dtype=DOUBLE)),
        "densenet": (nets.densenet(10, 4).double(), torch.randn(2, 3, 8, 8, dtype=DOUBLE)),
    }


@pytest.mark.parametrize("unit", ["layers", "blocks", "activations"])
@pytest.mark.parametrize("name", ["attention", "convolutions", "resnet", "densenet"])
def test_both_formulas_agree_on_every_kind_of_parameter(name: str, unit: str) -> None:
    """<g, g_k> without g_k, and g_k itself; together with what is born of constants they are the whole."""
    net, x = subjects()[name]
    found = tw.gradient_lengths(net, x, squares, unit=unit)
    whole = tw.expand_gradient(net, x, squares, unit=unit).parameters
    assert found.closure < 1e-11
    norms = {key: float(gradient.total.norm()) for key, gradient in whole.items()}
    largest = max(norms.values())
    for length in found.total:
        parts = tw.path_gradient(net, x, squares, length, length, unit=unit)
        assert parts.keys() == whole.keys()
        for key, part in parts.items():
            product = float((part * whole[key].total).sum())
            assert product == pytest.approx(
                found.shares[key].get(length, 0.0) * norms[key] ** 2, abs=1e-11 * largest**2
            )
    for key, shares in found.shares.items():
        if norms[key] > 1e-6 * largest:  # the bias of the keys has none
            assert sum(shares.values()) + found.constant[key] == pytest.approx(1, abs=1e-9)


def test_a_plain_network_is_refused() -> None:
    with pytest.raises(ModelError, match="all paths have one length, 8"):
        tw.path_gradient(nets.plain(8, width=4), torch.randn(2, 3, 8, 8), squares, 1, 3)
    shares = tw.gradient_lengths(nets.plain(8, width=4), torch.randn(2, 3, 8, 8), squares)
    assert tuple(shares.total) == (8,)


def test_lengths_that_no_path_has_are_refused() -> None:
    net, x = case([1, 2])
    with pytest.raises(UsageError, match=r"from 6 to 9\. There are 2, 3, 4, 5\."):
        tw.path_gradient(net, x, squares, 6, 9)


def test_an_operator_that_is_not_known_to_be_linear_in_its_parameter_is_refused() -> None:
    net = Written(lambda m, x: m.b(torch.sin(x * m.s) + F.prelu(m.a(x), m.s)), a=dense(3, 3), b=dense(3, 2), s=fresh(3))
    x = torch.randn(2, 3, dtype=DOUBLE)
    with pytest.raises(RuleError, match="_prelu_kernel in the model itself"):
        tw.path_gradient(net, x, squares, 1, 2)
    found = tw.gradient_lengths(net, x, squares, at=["a.weight", "b.weight"])
    assert found.closure < 1e-12


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(weight, x)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        weight, x = ctx.saved_tensors
        return x.T @ grads[0], grads[0] @ weight.T


def test_a_product_inside_of_a_function_with_other_operands_is_refused() -> None:
    net = Written(lambda m, x: m.a(x) + Reversed.apply(m.w, m.a(x)), a=dense(3, 3), w=fresh(3, 3))
    with pytest.raises(RuleError, match=r"aten\.mm in the model itself"):
        tw.gradient_lengths(net, torch.randn(2, 3, dtype=DOUBLE), squares)


def test_what_is_drawn_at_random_is_the_same_on_the_way_there_and_back() -> None:
    torch.manual_seed(0)
    net = Written(
        lambda m, x: m.b(m.a(x) * torch.bernoulli(torch.sigmoid(x)) + m.a(x)) + torch.randn_like(x),
        a=dense(3, 3),
        b=dense(3, 3),
    )
    found = tw.gradient_lengths(net, torch.randn(5, 3, dtype=DOUBLE), squares)
    assert found.closure < 1e-12


def diverged(net: Rectified, by: float) -> Rectified:
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(by)
    return net


def refused() -> dict[str, tuple[type[Exception], str, Callable[[Rectified], nn.Module], Callable[[Tensor], Tensor]]]:
    """What is asked for in vain: the error, its words, what is done to the network, and the loss."""

    def as_it_is(net: Rectified) -> nn.Module:
        return net

    return {
        "many numbers": (UsageError, r"shape \(4, 3\)", as_it_is, lambda y: y.square()),
        "a loss of something else": (UsageError, "no gradient leads", as_it_is, lambda y: y.detach().sum()),
        "no parameter": (ModelError, "no parameter has a gradient", lambda net: net.requires_grad_(False), squares),
        "rounded on the way": (ModelError, "no gradient leads back from the output", Rounded, squares),
        "infinite weights": (ModelError, "may have diverged", lambda net: diverged(net, math.inf), squares),
        "too large a loss": (ModelError, "not finite", lambda net: diverged(net, 1e60), squares),
        "an infinite slope": (ModelError, "'input' is not finite", as_it_is, lambda y: (y * 0).sqrt().sum()),
    }


class Rounded(nn.Module):
    """Its result is made of whole numbers, which have no derivative."""

    def __init__(self, net: Rectified) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).detach().round()


def part(net: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Any:
    return tw.path_gradient(net, x, loss, 2, 3)


@pytest.mark.parametrize("ask", [tw.gradient_lengths, part])
@pytest.mark.parametrize("name", refused())
def test_is_refused_in_words_and_the_model_left_as_it_was(name: str, ask: Callable[..., Any]) -> None:
    net, x = case([1, 2])
    error, message, done, loss = refused()[name]
    model = done(net).train()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        ask(model, x, loss)
    unchanged(before, snapshot(model))


def test_the_model_is_left_as_it_was() -> None:
    net, x = case([1, 2])
    net.train()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    before = snapshot(net)
    tw.gradient_lengths(net, x, squares)
    tw.path_gradient(net, x, squares, 2, 3)
    with pytest.raises(UsageError):
        tw.path_gradient(net, x, lambda y: y, 2, 3)
    unchanged(before, snapshot(net))


def test_shares_in_single_precision_add_up() -> None:
    torch.manual_seed(0)
    found = tw.gradient_lengths(nets.resnet(14, width=4), torch.randn(3, 3, 8, 8), cross_entropy)
    assert found.closure < 5e-6
    assert math.isclose(sum(found.total.values()) + found.total_constant, 1, abs_tol=5e-6)
