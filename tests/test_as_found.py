"""The model is left as found: its modes, hooks and numbers, also after an error; and the same bits come twice."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from programs import DOUBLE, Written, alike, dense
from snapshots import snapshot, unchanged
from termwise.errors import ModelError, RuleError
from termwise.expand import expand


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# The model as found.


class Fragile(nn.Module):
    """Dropout, batch norm, a buffer, a branch; raises where it is told to."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 2)
        self.register_buffer("table", torch.randn(4))
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        if self.fails:
            raise ArithmeticError("told to")
        x = self.attention(x.flatten(2).transpose(1, 2)) + torch.rand(4) * self.table
        return self.head(x.mean(dim=1))


@pytest.fixture
def fragile() -> Iterator[tuple[Fragile, Tensor]]:
    model, x = Fragile(), torch.randn(2, 3, 4, 4)
    model(x).sum().backward()
    model.train()
    model.norm.eval()
    model.head.weight.requires_grad_(False)
    model.head.register_forward_hook(lambda m, args, out: None)
    model.conv.register_forward_pre_hook(lambda m, args: None)
    yield model, x


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("unit", ["layers", "activations", ["conv", "attention"]])
def test_the_model_is_left_as_found(fragile: tuple[Fragile, Tensor], unit: Any, fast: bool) -> None:
    model, x = fragile
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        before, x_before = snapshot(model), x.clone()
        expand(model, x, unit=unit)
        unchanged(before, snapshot(model))
        assert torch.equal(x, x_before) and x.grad is None
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("unit", ["layers", ["conv"]])
def test_the_model_is_left_as_found_after_an_error(fragile: tuple[Fragile, Tensor], unit: Any) -> None:
    model, x = fragile
    model.fails = True
    before = snapshot(model)
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="told to"):
            expand(model, x, unit=unit)
        unchanged(before, snapshot(model))
    model.fails = False
    found = expand(model, x, unit=unit)
    assert found.closure is not None and found.closure <= 5e-6


def test_the_model_is_left_as_found_after_a_refused_operator(fragile: tuple[Fragile, Tensor]) -> None:
    model, x = fragile
    whole = nn.Sequential(model, Written(lambda m, u: torch.mul(u, 2, out=torch.zeros(2, 2))))
    before = snapshot(whole)
    with pytest.raises(RuleError, match="in module '1'"):
        expand(whole, x)
    unchanged(before, snapshot(whole))


def test_calling_twice_gives_the_same_bits(fragile: tuple[Fragile, Tensor]) -> None:
    model, x = fragile
    once, again = expand(model, x), expand(model, x)
    assert once.depths == again.depths and once.closure == again.closure and once.paths == again.paths
    assert once.operators == again.operators
    assert torch.equal(once.total, again.total) and torch.equal(once.constant, again.constant)
    assert all(torch.equal(once.terms[depth], again.terms[depth]) for depth in once.depths)


def test_an_input_that_wants_gradients_is_left_alone() -> None:
    x = torch.randn(2, 4, dtype=DOUBLE, requires_grad=True)
    found = expand(dense(4, 3), x)
    assert x.requires_grad and x.grad is None and x.grad_fn is None
    assert not found.total.requires_grad and not any(term.requires_grad for term in found.terms.values())


# The clean value of the input is the user's own tensor.
def test_an_input_that_the_model_writes_is_left_alone() -> None:
    model, x = nn.Sequential(nn.ReLU(inplace=True), dense(4, 3)), torch.randn(2, 4, dtype=DOUBLE)
    before = x.clone()
    expand(model, x)
    assert torch.equal(x, before)


def test_the_result_does_not_share_memory_with_the_input() -> None:
    x = torch.randn(2, 4, dtype=DOUBLE)
    found = expand(nn.Identity(), x)
    before = found.total.clone()
    x.zero_()
    assert torch.equal(found.total, before) and torch.equal(found.terms[0], before)


def test_results_are_plain_tensors() -> None:
    found = expand(nn.Sequential(dense(4, 5), nn.GELU(), dense(5, 3)), torch.randn(2, 4, dtype=DOUBLE))
    assert {type(v) for v in (found.total, found.constant, *found.terms.values())} == {Tensor}


@pytest.mark.parametrize("where", ["around", "inside"])
def test_inference_mode(where: str) -> None:
    model, x = dense(4, 3), torch.randn(2, 4, dtype=DOUBLE)

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.relu(model(x)) * 2

    expected = expand(lambda x: torch.relu(model(x)) * 2, x)
    if where == "around":
        with torch.inference_mode():
            found = expand(lambda x: torch.relu(model(x)) * 2, x)
    else:
        found = expand(run, x)
    alike(found, expected)


# PyTorch makes no view of a Series inside of inference mode.
def test_views_inside_of_inference_mode_are_refused() -> None:
    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return x[0]

    with pytest.raises(ModelError, match=r"inference_mode.*torch\.no_grad"):
        expand(run, torch.randn(2, 4, dtype=DOUBLE))


# The attribute is left a Series, and the next run stumbles over it.
def test_a_buffer_that_the_model_replaces_is_put_back() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        m.mean = 0.9 * m.mean + 0.1 * x.mean(dim=0)
        return x - m.mean

    model: Any = Written(run, mean=torch.zeros(4, dtype=DOUBLE))
    expand(model, torch.randn(2, 4, dtype=DOUBLE))
    assert torch.equal(model.mean, torch.zeros(4, dtype=DOUBLE))


# The model writes into its own buffer: a plain run would too, but "left exactly as found" is what is promised.
def test_a_buffer_that_the_model_writes_is_put_back() -> None:
    model: Any = Written(lambda m, x: (m.calls.add_(1), x * 2)[1], calls=torch.zeros(()))
    expand(model, torch.randn(2, 4, dtype=DOUBLE))
    assert model.calls == 0


# A forward that writes into the model's own parameters.


class Clipping(nn.Module):
    """Keeps its weights in bounds, as a Wasserstein critic does, and counts in a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, dtype=torch.float64)
        self.count = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight.data.clamp_(-0.1, 0.1)
        self.count += 1
        self.layer.bias.data[:2] = 0.25
        self.count.copy_(x.mean())
        return self.layer(x)


@pytest.mark.parametrize("fails", [False, True])
def test_parameters_that_the_forward_writes_are_put_back(fails: bool) -> None:
    torch.manual_seed(0)
    model, x = Clipping(), torch.randn(3, 4, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = nn.Sequential(model, nn.Linear(5, 5, dtype=torch.float64)) if fails else model
    if fails:
        with pytest.raises(RuntimeError, match="shapes"):
            expand(network, x)
    else:
        found = expand(network, x)
        weight, bias = before["layer.weight"].clamp(-0.1, 0.1), before["layer.bias"].clone()
        bias[:2] = 0.25
        assert torch.allclose(found.terms[1], x @ weight.T, atol=1e-12)
        assert torch.allclose(found.constant, bias.expand(3, 4), atol=1e-12)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_rows_that_wait_are_computed_from_what_was_written_into_a_parameter() -> None:
    torch.manual_seed(0)
    model, x = Doubling(), torch.randn(3, 4, dtype=torch.float64)
    weight = model.layer.weight.detach().clone()
    found = expand(model, x)
    assert torch.allclose(found.terms[1], 2 * x @ weight.T, atol=1e-12)
    assert torch.equal(model.layer.weight, weight)


class Doubling(nn.Module):
    """Ends in a product that nobody reads the terms of before the weights are put back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight.data.mul_(2)
        return self.layer(x)


def test_an_embedding_with_a_largest_norm_is_left_as_found() -> None:
    torch.manual_seed(0)
    look_up, layer = nn.Embedding(7, 4, max_norm=0.5).double(), nn.Linear(4, 3).double()
    tokens = torch.tensor([[1, 3], [6, 3]])
    table = look_up.weight.detach().clone()
    found = expand(nn.Sequential(look_up, layer), tokens)
    rows = table[tokens]
    rows = rows * (0.5 / rows.norm(dim=-1, keepdim=True)).clamp(max=1)
    assert torch.allclose(found.terms[1], (rows @ layer.weight.T).detach(), atol=1e-6)
    assert torch.equal(look_up.weight, table)
