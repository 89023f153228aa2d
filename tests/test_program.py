"""What a run knows of a model: where weights and gates come from, what is a step, rules of the user's own."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import oracles
from programs import DOUBLE, Written, alike, dense, fresh, source
from termwise import rules
from termwise.errors import ModelError, RuleError
from termwise.expand import expand
from termwise.rules import RULES


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


# Provenance of weights: what has gone through PyTorch since it was a parameter is a weight still.


def standardised(m: Any, x: Tensor) -> Tensor:
    w = m.w
    w = (w - w.mean(dim=(1, 2, 3), keepdim=True)) / (w.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
    return F.conv2d(x, w)


def standardised_by_norm(m: Any, x: Tensor) -> Tensor:
    w = F.batch_norm(m.w.reshape(1, m.w.shape[0], -1), None, None, training=True).reshape_as(m.w)
    return F.conv2d(x, w)


def offloaded(m: Any, x: Tensor) -> Tensor:
    buffer = torch.zeros(4, 3, dtype=DOUBLE)
    buffer.copy_(m.w)
    return x @ buffer


IMAGE, FEATURES = (2, 3, 5, 5), (2, 4)
WEIGHTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "as-it-is": (lambda: dense(4, 3), FEATURES),
    "without-gradient": (lambda: dense(4, 3).requires_grad_(False), FEATURES),
    "cast": (lambda: Written(lambda m, x: (x.float() @ m.w.float()).double(), w=fresh(4, 3)), FEATURES),
    "view": (lambda: Written(lambda m, x: x @ m.w.view(4, 3), w=fresh(12)), FEATURES),
    "transposition": (lambda: Written(lambda m, x: x @ m.w.T, w=fresh(3, 4)), FEATURES),
    "slice": (lambda: Written(lambda m, x: x @ m.w[:, 1:3], w=fresh(4, 4)), FEATURES),
    "concatenation": (
        lambda: Written(lambda m, x: x @ torch.cat([m.w, m.v], 1), w=fresh(4, 2), v=fresh(4, 1)),
        FEATURES,
    ),
    "scale": (lambda: Written(lambda m, x: x @ (m.w * 0.3 * torch.ones(3).double()), w=fresh(4, 3)), FEATURES),
    "mask": (lambda: Written(lambda m, x: x @ (m.w * (torch.arange(3) > 0)), w=fresh(4, 3)), FEATURES),
    "low-rank-update": (
        lambda: Written(lambda m, x: x @ (m.w + m.a @ m.b), w=fresh(4, 3), a=fresh(4, 1), b=fresh(1, 3)),
        FEATURES,
    ),
    "in-place-on-a-copy": (lambda: Written(lambda m, x: x @ m.w.clone().mul_(2).add_(1), w=fresh(4, 3)), FEATURES),
    "copied-into-a-buffer": (lambda: Written(offloaded, w=fresh(4, 3)), FEATURES),
    "weight-norm": (lambda: parametrizations.weight_norm(dense(4, 3)), FEATURES),
    "spectral-norm": (lambda: parametrizations.spectral_norm(dense(4, 3)), FEATURES),
    "orthogonal": (lambda: parametrizations.orthogonal(dense(4, 3)), FEATURES),
    "standardised": (lambda: Written(standardised, w=fresh(4, 3, 3, 3)), IMAGE),
    "standardised-by-batch-norm": (lambda: Written(standardised_by_norm, w=fresh(4, 3, 3, 3)), IMAGE),
    "tied-embedding": (
        lambda: Written(lambda m, x: F.linear(x, m.e.weight), e=nn.Embedding(5, 4, dtype=DOUBLE)),
        FEATURES,
    ),
    "called-with-other-parameters": (
        lambda: Written(
            lambda m, x: torch.func.functional_call(m.layer, {"weight": m.layer.weight * 2}, (x,)), layer=dense(4, 3)
        ),
        FEATURES,
    ),
    "under-vmap": (lambda: Written(lambda m, x: torch.vmap(m.layer)(x), layer=dense(4, 3)), FEATURES),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_is_recognised_through(name: str) -> None:
    make, shape = WEIGHTS[name]
    model, x = make(), torch.randn(shape, dtype=DOUBLE)
    found = expand(model, x)
    assert found.depths == (1,) and found.paths == {1: 1}
    with torch.no_grad():
        assert torch.equal(found.total, model.eval()(x))


def test_a_weight_is_recognised_under_autocast() -> None:
    layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    def run(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.layers(x)

    x = torch.randn(2, 4)
    found = expand(Written(run, layers=layers), x)
    assert found.total.dtype is torch.bfloat16
    assert found.depths == (2,)
    assert found.closure is not None and found.closure < 0.1
    with torch.no_grad():
        assert torch.equal(found.total, run(Written(run, layers=layers), x))


def test_a_fixed_filter_is_no_step() -> None:
    blur = Written(lambda m, x: F.conv2d(x, m.k, groups=3), k=torch.ones(3, 1, 2, 2, dtype=DOUBLE) / 4)
    assert expand(blur, torch.randn(2, 3, 4, 4, dtype=DOUBLE)).depths == (0,)


def test_scales_of_norms_are_no_steps() -> None:
    model = nn.Sequential(
        nn.LayerNorm(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)
    ).double()
    model.append(Written(lambda m, x: x * m.gamma + m.beta, gamma=fresh(4), beta=fresh(4)))
    assert expand(model, torch.randn(5, 4, dtype=DOUBLE)).depths == (1,)


# Provenance of gates: what a product freezes.  The operands are layers, so that the depths tell who kept its parts.


def two_layers(product: Callable[[Tensor, Tensor], Tensor]) -> tuple[nn.Module, Tensor]:
    """product(u, v) with u of depth 1 and v of depth 2."""
    model = Written(lambda m, x: product(m.u(x), m.w(m.v(x))), u=dense(4, 4), v=dense(4, 4), w=dense(4, 4))
    return model, torch.randn(3, 4, dtype=DOUBLE)


FREEZING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda u, v: torch.sigmoid(u) * v,
    "hard-sigmoid": lambda u, v: v * F.hardsigmoid(u),
    "tanh": lambda u, v: torch.tanh(u) * v,
    "softmax": lambda u, v: u.softmax(dim=-1) * v,
    "one-plus-tanh": lambda u, v: (1 + torch.tanh(u)) * v,
    "scaled-and-shifted": lambda u, v: (0.5 * torch.tanh(u) * torch.arange(1.0, 5.0).double() - 1) * v,
    "one-minus-sigmoid": lambda u, v: v * (1 - torch.sigmoid(u)),
    "divided": lambda u, v: torch.sigmoid(u) / torch.full((4,), 3.0).double() * v,
    "viewed-and-expanded": lambda u, v: torch.sigmoid(u)[:, :1].expand(3, 4).contiguous().view(3, 4) * v,
    "concatenated": lambda u, v: torch.cat([torch.sigmoid(u[:, :2]), torch.tanh(u[:, 2:])], 1) * v,
    "comparison": lambda u, v: (u > 0) * v,
    "rounding": lambda u, v: torch.round(u) * v,
    "norm": lambda u, v: v * u.norm(dim=1, keepdim=True),
    "cast": lambda u, v: torch.sigmoid(u).float().double() * v,
    "in-place": lambda u, v: v.mul_(u.sigmoid_()),
    "matrix": lambda u, v: torch.sigmoid(u) @ v.t(),
    "scaled-by-a-larger-constant": lambda u, v: torch.sigmoid(u[:, :1]) * torch.arange(1.0, 5.0).double() * v,
}


@pytest.mark.parametrize("name", FREEZING)
def test_a_gate_is_frozen_by_a_product(name: str) -> None:
    found = expand(*two_layers(FREEZING[name]))
    assert found.depths == (2,)
    assert any(use.kind == "frozen" and use.operator in ("aten.mul", "aten.mm") for use in found.operators)


HALVING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "two-values": lambda u, v: u * v,
    "two-gates": lambda u, v: torch.sigmoid(u) * torch.sigmoid(v),
    "activated": lambda u, v: torch.relu(u) * v,
    "gate-through-a-value": lambda u, v: (torch.sigmoid(u) + u) * v,
}


@pytest.mark.parametrize("name", HALVING)
def test_two_of_a_kind_share_a_product(name: str) -> None:
    model, x = two_layers(HALVING[name])
    found = expand(model, x)
    assert found.depths == (1, 2)
    u_only, v_only = (expand(two_layers_held(model, HALVING[name], held, x), x) for held in ("v", "u"))
    assert oracles.disagreement(found.terms[1], u_only.terms[1] / 2) < 1e-12
    assert oracles.disagreement(found.terms[2], v_only.terms[2] / 2) < 1e-12


def two_layers_held(model: Any, product: Callable[..., Tensor], held: str, x: Tensor) -> nn.Module:
    """The same product with one operand a constant: then the other carries all."""
    with torch.no_grad():
        fixed = {"u": model.u(x), "v": model.w(model.v(x))}[held]

    def run(m: Any, x: Tensor) -> Tensor:
        return product(fixed, m.w(m.v(x))) if held == "u" else product(m.u(x), fixed)

    return Written(run, u=model.u, v=model.v, w=model.w)


# Where the matrix is square the result is of the gate's own shape, and is taken for a scaled gate.
@pytest.mark.parametrize("width", [4, 5])
def test_a_gate_through_a_weight_is_a_feature(width: int) -> None:
    matrix = nn.Parameter(torch.ones(width, 4, dtype=DOUBLE))
    model, x = two_layers(lambda u, v: F.linear(torch.sigmoid(u), matrix)[:, :4] * v)
    assert expand(model, x, unit=["u", "w"]).depths == (1,)
    assert expand(model, x).depths == (2,)
    assert expand(model, x).paths == {2: 2}


def test_a_path_goes_on_alone_where_it_meets_a_frozen_part() -> None:
    first, second, third = (nn.Linear(4, 4, bias=False, dtype=DOUBLE) for _ in range(3))
    x = torch.randn(3, 4, dtype=DOUBLE)
    found = expand(lambda x: first(x) * (third(second(x)) + torch.softmax(x, -1)), x, product="cauchy")
    assert found.paths == {1: 1, 3: 1}
    assert oracles.disagreement(found.terms[1], first(x).detach() * torch.softmax(x, -1)) < 1e-12
    assert oracles.disagreement(found.terms[3], (first(x) * third(second(x))).detach()) < 1e-12


def test_depths_add_in_a_cauchy_product() -> None:
    model, x = two_layers(lambda u, v: u * v)
    assert expand(model, x, product="cauchy").depths == (1, 2, 3)


# Steps.


def residual_network() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.second = dense(4, 6), nn.GELU(), dense(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.second(self.act(self.first(x)))

    return nn.Sequential(Block(), Block(), Block(), dense(4, 3))


def test_layers_are_counted_in_every_path() -> None:
    found = expand(residual_network(), torch.randn(2, 4, dtype=DOUBLE))
    assert found.paths == {1: 1, 3: 3, 5: 3, 7: 1}
    assert found.unit == "layers"


def test_activations_are_counted_in_every_path() -> None:
    found = expand(residual_network(), torch.randn(2, 4, dtype=DOUBLE), unit="activations")
    assert found.paths == {0: 1, 1: 3, 2: 3, 3: 1}
    assert found.unit == "activations"


def test_named_modules_are_counted_in_every_path() -> None:
    model = residual_network()
    found = expand(model, torch.randn(2, 4, dtype=DOUBLE), unit=["0.second", "2.act"])
    assert found.paths == {0: 2, 1: 4, 2: 2}
    assert found.unit == "modules: 0.second, 2.act"


def test_units_agree_on_the_function() -> None:
    model, x = residual_network(), torch.randn(2, 4, dtype=DOUBLE)
    runs = [expand(model, x, unit=unit) for unit in ("layers", "activations", ["0", "1"])]
    for one, other in itertools.pairwise(runs):
        assert torch.equal(one.total, other.total)
        assert oracles.disagreement(one.constant, other.constant) < 1e-12


@pytest.mark.parametrize(
    ("act", "count"),
    [
        (nn.ReLU(), 1),
        (nn.GELU(), 1),
        (nn.SiLU(inplace=True), 1),
        (nn.LogSigmoid(), 1),
        (nn.PReLU(), 1),
        (nn.MaxPool1d(2), 0),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_what_is_an_activation(act: nn.Module, count: int) -> None:
    model = nn.Sequential(dense(4, 4), act.double())
    assert expand(model, torch.randn(2, 4, dtype=DOUBLE), unit="activations").depths == (count,)


def test_norms_are_no_activations() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)).double()
    assert expand(model, torch.randn(3, 4, dtype=DOUBLE), unit="activations").depths == (0,)


def test_a_module_called_twice_is_two_steps() -> None:
    model = Written(lambda m, x: m.layer(m.layer(x)), layer=dense(4, 4))
    x = torch.randn(2, 4, dtype=DOUBLE)
    assert expand(model, x, unit=["layer"]).depths == (2,)
    assert expand(model, x).depths == (2,)


def test_a_named_module_inside_a_named_module() -> None:
    model = Written(lambda m, x: x + m.branch(x), branch=nn.Sequential(dense(4, 4), nn.ReLU()))
    found = expand(model, torch.randn(2, 4, dtype=DOUBLE), unit=["branch", "branch.0"])
    assert found.paths == {0: 1, 2: 1}


def test_all_tensors_of_a_named_module_are_steps() -> None:
    pair = Written(lambda m, x: {"a": (x, [x * 2])})
    model = Written(lambda m, x: m.pair(x)["a"][0] + m.pair(x)["a"][1][0], pair=pair)
    assert expand(model, torch.randn(2, 4, dtype=DOUBLE), unit=["pair"]).depths == (1,)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_operators_are_reported_with_their_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Softplus()).double()
    model.append(Written(lambda m, x: x + torch.logcumsumexp(x, 1)))
    uses = {use.operator: use for use in expand(model, torch.randn(2, 4, dtype=DOUBLE)).operators}
    assert uses["aten.addmm"].modules == ("0", "2.0") and uses["aten.addmm"].count == 2
    assert uses["aten.relu"].modules == ("1", "2.1") and uses["aten.relu"].kind == "exact"
    assert uses["aten.softplus"].modules == ("3",)
    assert uses["aten.logcumsumexp"].kind == "linearised" and uses["aten.logcumsumexp"].rule == "fallback"


def doubled(module: nn.Module, args: Any, out: Any) -> Any:
    return out * 2


def test_hooks_of_the_user_are_part_of_the_model() -> None:
    model = nn.Sequential(dense(4, 4), nn.ReLU())
    x = torch.randn(2, 4, dtype=DOUBLE)
    before = expand(model, x)
    model[0].register_forward_hook(doubled)
    after = expand(model, x)
    assert oracles.disagreement(after.terms[1], 2 * before.terms[1]) < 1e-12


# Memory formats: the rows are laid out in their own way, and what is a view of the value need be none of them.
LAYOUTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "reshape": lambda m, x: m.conv(x).permute(0, 2, 3, 1).reshape(32, 4),
    "view": lambda m, x: m.conv(x).permute(0, 2, 3, 1).view(32, 4),
    "contiguous": lambda m, x: m.conv(x).contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(32, 4),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("input_too", [True, False], ids=["input-too", "weights-alone"])
def test_channels_last(name: str, input_too: bool) -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1, dtype=DOUBLE)
    x = torch.randn(2, 3, 4, 4, dtype=DOUBLE)
    plainly = expand(Written(LAYOUTS["reshape"], conv=conv), x)
    conv.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last) if input_too else x
    alike(expand(Written(LAYOUTS[name], conv=conv), x), plainly)


def test_a_view_of_what_is_contiguous_again() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1, dtype=DOUBLE)
    x = torch.randn(2, 3, 4, 4, dtype=DOUBLE)
    viewed = expand(lambda x: (conv(x).transpose(1, 3) + 1).transpose(1, 3).view(2, 64), x)
    alike(viewed, expand(lambda x: (conv(x) + 1).flatten(1), x))


# Operators of the user's own.


@torch.library.custom_op("termwise_tests::twice_relu", mutates_args=())
def twice_relu(x: Tensor) -> Tensor:
    return 2 * torch.relu(x)


@torch.library.custom_op("termwise_tests::silent", mutates_args=())
def silent(x: Tensor) -> Tensor:
    return 2 * torch.relu(x)


@pytest.fixture
def registered() -> Iterator[None]:
    packet = torch.ops.termwise_tests.twice_relu
    rules.register("gate", rules.gated, [packet])
    yield
    del RULES[packet]


@pytest.mark.usefixtures("registered")
def test_a_rule_for_an_operator_of_the_user() -> None:
    before, x = source()
    found = expand(Written(lambda m, x: twice_relu(m.before(x)), before=before), x)
    alike(found, expand(Written(lambda m, x: 2 * torch.relu(m.before(x)), before=before), x))
    (use,) = [use for use in found.operators if "twice_relu" in use.operator]
    assert (use.operator, use.rule, use.kind) == ("termwise_tests.twice_relu", "gate", "exact")


@pytest.mark.usefixtures("registered")
def test_a_rule_for_an_operator_of_the_user_is_a_step() -> None:
    assert expand(lambda x: twice_relu(twice_relu(x)), torch.ones(2, 4), unit="activations").depths == (2,)


@pytest.mark.usefixtures("registered")
def test_a_second_rule_is_refused() -> None:
    with pytest.raises(RuleError, match=r"termwise_tests\.twice_relu has a rule already, of the family 'gate'"):
        rules.register("frozen", rules.frozen, [torch.ops.termwise_tests.twice_relu])


def test_an_operator_without_a_derivative_is_refused() -> None:
    with pytest.raises(
        RuleError, match=r"termwise_tests\.silent.*no rule.*cannot be linearised.*termwise\.rules\.register"
    ):
        expand(lambda x: silent(x), torch.ones(2, 4))


@torch.library.custom_op("termwise_tests::wordless", mutates_args=())
def wordless(x: Tensor) -> Tensor:
    return 2 * x


def _no_backward(ctx: Any, grad: Tensor) -> Tensor:
    raise NotImplementedError


wordless.register_autograd(_no_backward)


def test_a_derivative_that_fails_without_a_word_is_refused_by_its_name() -> None:
    with pytest.raises(RuleError, match=r"termwise_tests\.wordless.*cannot be linearised.*\(NotImplementedError\)"):
        expand(lambda x: wordless(x), torch.ones(2, 4))


@torch.library.custom_op("termwise_tests::places", mutates_args=())
def places(x: Tensor) -> Tensor:
    return x.argsort(dim=0)


def test_an_operator_that_gives_whole_numbers_is_frozen() -> None:
    x = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    found = expand(lambda x: x.gather(0, places(x)), x)
    assert {use.kind for use in found.operators if "places" in use.operator} == {"frozen"}
    assert torch.equal(found.terms[0], x.sort(dim=0).values)


@torch.library.custom_op("termwise_tests::thrice_tanh", mutates_args=())
def thrice_tanh(x: Tensor) -> Tensor:
    return 3 * torch.tanh(x)


thrice_tanh.register_autograd(
    lambda ctx, grad: grad * ctx.slope,
    setup_context=lambda ctx, inputs, output: setattr(ctx, "slope", 3 - output**2 / 3),
)


def test_a_gate_of_the_user_at_zero() -> None:
    packet = torch.ops.termwise_tests.thrice_tanh
    rules.register("gate", rules.gated, [packet])
    try:
        x = torch.tensor([[0.0, 1e-9, 1.0, -1.0]], dtype=DOUBLE)
        alike(expand(lambda x: thrice_tanh(x), x), expand(lambda x: 3 * torch.tanh(x), x))
    finally:
        del RULES[packet]


# Forward-mode derivatives of these, mapped over the parts, once ended the interpreter.
@pytest.mark.parametrize("line", ["torch.linalg.slogdet(x @ x.t())[1]", "torch.ldexp(x, torch.tensor(2))"])
def test_linearising_does_not_end_the_interpreter(line: str) -> None:
    code = f"import torch; from termwise.expand import expand; expand(lambda x: {line}, torch.randn(3, 3))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode in (0, 1)


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise AssertionError("no gradient is asked for")


def test_an_autograd_function_is_run_by_its_forward() -> None:
    before, x = source()
    found = expand(Written(lambda m, x: Cubed.apply(m.before(x)), before=before), x)
    alike(found, expand(Written(lambda m, x: m.before(x) ** 3, before=before), x))


def test_operators_that_call_functions_are_refused_in_words() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, lambda v: v + 1, lambda v: v * 2, (x,))

    with pytest.raises(RuleError, match=r"cond in module 'inner'.*Python's own control flow"):
        expand(Written(lambda m, x: m.inner(x), inner=Branching()), torch.ones(2, 4))


# What a program reads of its tensors in Python.


def test_a_number_of_the_input_is_written_as_one() -> None:
    experts = nn.ModuleDict({f"expert_{i}": nn.Linear(3, 3) for i in range(3)})

    def run(x: Tensor) -> Tensor:
        chosen = x.argmax(dim=-1)
        return torch.stack([experts[f"expert_{i}"](row) for i, row in zip(chosen, x, strict=True)])

    x = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    with torch.no_grad():
        expected = torch.stack([experts["expert_1"](x[0]), experts["expert_0"](x[1])])
    assert torch.allclose(expand(run, x).total, expected)


def test_chosen_places_may_be_read_as_a_list() -> None:
    layer = nn.Linear(3, 3)

    def run(x: Tensor) -> Tensor:
        return torch.stack([x[place] for place in x[:, 0].argsort().tolist()]) + layer(x)

    x = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    found = expand(run, x)
    assert found.depths == (0, 1)
    assert torch.equal(found.terms[0], x.flip(0))


@pytest.mark.parametrize(
    "leave", [lambda x: torch.tensor(x.tolist()), lambda x: torch.from_numpy(x.numpy())], ids=["list", "numpy"]
)
def test_leaving_torch_with_values_is_refused(leave: Callable[[Tensor], Tensor]) -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"of shape \(2, 3\)"):
        expand(lambda x: leave(layer(x)), torch.randn(2, 3))


def test_a_write_behind_a_module_that_hands_on_its_input_is_refused_while_the_input_is_there() -> None:
    def kept(m: Any, x: Tensor) -> Tensor:
        before = m.layer(x)
        behind = m.passing(before)
        behind *= 2
        return before

    def gone(m: Any, x: Tensor) -> Tensor:
        behind = m.passing(m.layer(x))
        behind *= 2
        return behind

    def before_written(m: Any, x: Tensor) -> Tensor:
        before = m.layer(x)
        behind = m.passing(before)
        before[:, 0] *= 2
        return behind

    x = torch.randn(3, 4, dtype=DOUBLE)
    for passing in (nn.Identity(), nn.Flatten(0), nn.Unflatten(1, (2, 2))):
        for program in (kept, before_written):
            with pytest.raises(RuleError, match="while the other is still there"):
                expand(Written(program, layer=dense(4, 4), passing=passing), x, unit=["passing"])
        found = expand(Written(gone, layer=dense(4, 4), passing=passing), x, unit=["passing"])
        assert found.depths == (1,) and found.closure is not None and found.closure < 1e-12
