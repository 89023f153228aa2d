"""Computed weights, hooks, what a model keeps, settings, modes and inputs: expanded exactly, and left as found.

The oracle is the brute force over paths on a residual network written down by hand.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import oracles
from programs import DOUBLE, Written, alike, dense, fresh
from residual import Net, doubled, exact, under
from snapshots import snapshot, unchanged
from termwise.errors import ModelError
from termwise.expand import expand
from termwise.reference import Residual, Sequence, by_paths, describe, discrepancy


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(7))


# Weights that are computed, and weights that are shared.


def retied(net: Net) -> None:
    net.blocks[1][0].weight = net.blocks[0][0].weight  # pyright: ignore
    net.head.weight = nn.Parameter(net.stem.weight.detach()[:3, :].repeat(1, 2)[:, :8].clone())


def reparametrised(wrap: Callable[..., Any], *names: str) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            for block in net.blocks:
                for name in names or ("weight",):
                    wrap(block[4], name)  # pyright: ignore
        net.eval()
        with torch.no_grad():
            net(torch.randn(2, 6, dtype=DOUBLE))
        net.train()

    return change


class Standardised(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return (w - w.mean(dim=1, keepdim=True)) / (w.std(dim=1, keepdim=True) + 1e-5)


COMPUTED: dict[str, Callable[[Net], None]] = {
    "tied": retied,
    "weight-norm": reparametrised(parametrizations.weight_norm),
    "weight-norm-by-hooks": reparametrised(torch.nn.utils.weight_norm),
    "spectral-norm": reparametrised(parametrizations.spectral_norm),
    "spectral-norm-by-hooks": reparametrised(torch.nn.utils.spectral_norm),
    "orthogonal": reparametrised(parametrizations.orthogonal),
    "standardised": reparametrised(
        lambda module, name: parametrize.register_parametrization(module, name, Standardised())
    ),
}


def plainly_weighted(net: Net) -> Net:
    """The same network with the numbers that its weights came to, in evaluation mode, as parameters."""
    plain = Net()
    net.eval()
    for name, twin in plain.named_modules():
        module = net.get_submodule(name)
        for key in [*twin._parameters, *twin._buffers]:
            getattr(twin, key).data.copy_(getattr(module, key).detach())
    net.train()
    return plain


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_weights(name: str, net: Net, x: Tensor) -> None:
    COMPUTED[name](net)
    plain = plainly_weighted(net)
    before = snapshot(net)
    found = expand(net, x)
    unchanged(before, snapshot(net))
    exact(found, plain, x)


@pytest.mark.parametrize("name", ["weight-norm", "orthogonal", "standardised"])
def test_computed_weights_that_were_kept_are_weights(name: str, net: Net, x: Tensor) -> None:
    COMPUTED[name](net)
    plain = plainly_weighted(net)
    net.eval()
    with parametrize.cached():
        with torch.no_grad():
            net(x)
        exact(expand(net, x), plain, x)
    with parametrize.cached():
        expand(net, x)
        net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_shared_module_is_a_step_each_time(x: Tensor) -> None:
    layer, x = dense(6, 6), x / 2
    found = expand(Written(lambda m, x: m.layer(F.gelu(m.layer(x))) + m.layer(x), layer=layer), x)
    tree = Sequence((Residual(describe(nn.Sequential(nn.GELU(), layer)), Sequence(())),))
    with torch.no_grad():
        expected = by_paths(Sequence((describe(layer), *tree.parts)), x)
    assert found.paths == expected.paths == {1: 1, 2: 1}
    assert discrepancy(expected.terms, found.terms) < 1e-12


def test_an_ensemble_of_stacked_weights(x: Tensor) -> None:
    members = [nn.Sequential(dense(6, 4), nn.GELU(), dense(4, 3)) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(members)
    for given in (weights, {name: w.detach() for name, w in weights.items()}):
        model: Any = Written(lambda m, x: torch.vmap(m.member, in_dims=(0, None))(m.given, x))
        model.member, model.given = lambda w, x: torch.func.functional_call(members[0], w, (x,)), given
        found = expand(model, x)
        assert found.paths == {2: 1} and found.closure is not None and found.closure <= 1e-12
        each = [expand(member, x) for member in members]
        assert oracles.disagreement(found.terms[2], torch.stack([e.terms[2] for e in each])) < 1e-12
        assert oracles.disagreement(found.constant, torch.stack([e.constant for e in each])) < 1e-12


# Hooks, and what a model keeps.


def test_hooks_run_and_are_kept(net: Net, x: Tensor) -> None:
    seen: list[str] = []
    net.stem.register_forward_pre_hook(lambda module, args: seen.append("pre"))
    net.stem.register_forward_hook(doubled)
    net.head.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] / 2,), kwargs), with_kwargs=True)
    net.head.register_forward_hook(lambda module, args, out: seen.append("head"), always_call=True)
    net.head.register_full_backward_hook(lambda module, grads, out: None)
    before = snapshot(net)
    found = expand(net, x)
    unchanged(before, snapshot(net))
    assert seen == ["pre", "head"]

    class Unhooked(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = 2 * self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x / 2)

    plain = Unhooked()
    plain.load_state_dict(net.state_dict())
    alike(found, expand(plain, x))


def test_a_hook_that_removes_itself_is_there_again(net: Net, x: Tensor) -> None:
    handle = net.stem.register_forward_hook(lambda module, args, out: handle.remove())
    expand(net, x)
    assert list(net.stem._forward_hooks) == [handle.id]


KEEPING: dict[str, Callable[[Any, Tensor], Any]] = {
    "attribute": lambda m, x: setattr(m, "last", x),
    "list": lambda m, x: m.seen.append(x),
    "dictionary": lambda m, x: m.cache.update(last=x),
    "nested": lambda m, x: m.nested["inner"].append(x),
    "buffer": lambda m, x: setattr(m, "mean", 0.9 * m.mean + 0.1 * x.mean(dim=0)),
    "in-place": lambda m, x: m.mean.mul_(0.9).add_(0.1 * x.mean(dim=0)),
    "behind-its-back": lambda m, x: m.mean.data.add_(1),
    "counter": lambda m, x: setattr(m, "calls", m.calls + 1),
}


@pytest.mark.parametrize("name", KEEPING)
def test_what_a_model_keeps_is_put_back(name: str, net: Net, x: Tensor) -> None:
    keep = KEEPING[name]
    model: Any = Written(lambda m, x: (keep(m, h := m.net(x)), h)[1], net=net, mean=torch.zeros(3, dtype=DOUBLE))
    model.seen, model.cache, model.nested, model.calls = [1], {"first": 1}, {"inner": [1]}, 0
    before = snapshot(model)
    for _ in range(2):
        exact(expand(model, x), net, x)
        unchanged(before, snapshot(model))
    assert (model.seen, model.cache, model.nested, model.calls) == ([1], {"first": 1}, {"inner": [1]}, 0)
    assert not hasattr(model, "last") and torch.equal(model.mean, torch.zeros(3, dtype=DOUBLE))


def test_a_value_that_an_earlier_run_left_behind_is_refused(net: Net, x: Tensor) -> None:
    state: list[Tensor] = []

    def run(x: Tensor) -> Tensor:
        state.append(net(x))
        return state[0] + state[-1]

    assert expand(run, x).paths == {2: 2, 4: 4, 6: 2}
    with pytest.raises(ModelError, match=r"a value that an earlier run left behind.*Clear what keeps them"):
        expand(run, x)
    state.clear()
    assert expand(run, x).paths == {2: 2, 4: 4, 6: 2}


@pytest.mark.parametrize("where", ["stem", "blocks.1.2", "head"])
def test_a_model_that_raises_is_left_as_found(where: str, net: Net, x: Tensor) -> None:
    def fail(module: nn.Module, args: Any, out: Any) -> None:
        raise KeyError("told to")

    net.get_submodule(where).register_forward_hook(fail)
    models: list[Any] = [net, torch.compile(net), lambda x: net(x)]
    before = snapshot(net)
    for model in models:
        with pytest.raises(KeyError, match="told to"):
            expand(model, x)
        unchanged(before, snapshot(net))


def test_settings_of_the_process_are_put_back(net: Net, x: Tensor) -> None:
    backends: Any = torch.backends
    inside: dict[str, Any] = {}

    def look(module: nn.Module, args: Any, out: Any) -> None:
        inside.update(snapshot(module)["backends"])

    net.head.register_forward_hook(look)
    found = backends.cudnn.benchmark, backends.cudnn.deterministic, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    backends.cudnn.benchmark, backends.cudnn.deterministic = True, False
    try:
        before = snapshot(net)
        expand(net, x)
        unchanged(before, snapshot(net))
        assert torch.get_float32_matmul_precision() == "medium"
        assert before["backends"]["cublas"] == "tf32" and before["backends"]["onednn"] == "bf16"
        assert {inside[name] for name in ("cublas", "onednn", "cudnn convolution", "cudnn recurrence")} == {"ieee"}
        assert (inside["cudnn benchmark"], inside["cudnn deterministic"]) == (False, True)
    finally:
        backends.cudnn.benchmark, backends.cudnn.deterministic = found[:2]
        torch.set_float32_matmul_precision(found[2])


def test_random_states_are_put_back(net: Net, x: Tensor) -> None:
    import random

    import numpy as np

    def draw(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out + torch.rand(()) + random.random() + float(np.random.rand())

    net.head.register_forward_hook(draw)
    before = snapshot(net)
    once, again = expand(net, x), expand(net, x)
    unchanged(before, snapshot(net))
    assert torch.equal(once.total, again.total)


# Modes of the user's.


class Counting(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


class Watching(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


WHERE = ("around", "inside")
MODES: dict[str, Callable[[], Any]] = {
    "no-grad": torch.no_grad,
    "grad": torch.enable_grad,
    "inference": torch.inference_mode,
    "dispatch-mode": Counting,
    "function-mode": Watching,
    "device": lambda: torch.device("cpu"),
    "saved-tensors": torch.autograd.graph.save_on_cpu,
    "cached-parametrizations": parametrize.cached,
}


# Inference mode inside of a model is refused: see the tests of what is left as found.
@pytest.mark.parametrize(("name", "where"), [(n, w) for n in MODES for w in WHERE if (n, w) != ("inference", "inside")])
def test_modes(name: str, where: str, net: Net, x: Tensor) -> None:
    mode = MODES[name]()
    if where == "around":
        found = under(mode, lambda: expand(net, x))
    else:
        found = expand(Written(lambda m, x: under(mode, lambda: m.net(x)), net=net), x)
    exact(found, net, x)
    assert getattr(mode, "calls", 1) > 0
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_a_model_made_in_inference_mode(x: Tensor) -> None:
    with torch.inference_mode():
        net, x = Net(), x.clone()
    plain = Net()
    plain.load_state_dict(net.state_dict())
    exact(expand(net, x), plain, x.clone())
    with torch.inference_mode():
        found = expand(net, x)
    exact(found, plain, x.clone())


def test_derivatives_inside_of_a_model(net: Net, x: Tensor) -> None:
    """What is followed is the value: a slope is made of gates alone, and is none of the input's parts."""
    with pytest.raises(ModelError, match="the output is frozen"):
        expand(lambda x: torch.func.grad(lambda u: F.relu(net.stem(u)).sum())(x), x)
    rest = expand(lambda x: net.stem(x) + torch.func.grad(lambda u: F.relu(net.stem(u)).sum())(x).sum(), x)
    assert rest.depths == (1,) and rest.frozen is not None
    with torch.no_grad():
        assert oracles.disagreement(rest.terms[1], x @ net.stem.weight.t()) < 1e-12


# Inputs.


@pytest.mark.parametrize("lead", [(), (1,), (2, 3, 2)], ids=["none", "one", "three"])
def test_any_number_of_batch_dimensions(lead: tuple[int, ...]) -> None:
    model = nn.Sequential(dense(6, 4), nn.LayerNorm(4, dtype=DOUBLE), nn.SiLU(), dense(4, 3))
    x = torch.randn(*lead, 6, dtype=DOUBLE)
    found, flat = expand(model, x), expand(model, x.reshape(-1, 6))
    assert found.total.shape == (*lead, 3)
    for depth in found.depths:
        assert oracles.disagreement(found.terms[depth].reshape(-1, 3), flat.terms[depth]) < 1e-12


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "wants-gradients": lambda x: x.clone().requires_grad_(),
    "computed": lambda x: x.clone().requires_grad_() * 1,
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "offset": lambda x: torch.cat([x, x])[5:],
    "expanded": lambda x: x[:1].expand(5, 6),
    "parameter": lambda x: nn.Parameter(x),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_in_any_memory(name: str, net: Net, x: Tensor) -> None:
    given = INPUTS[name](x)
    content, wants = given.detach().clone(), given.requires_grad
    exact(expand(net, given), net, content)
    assert torch.equal(given, content) and given.requires_grad == wants and (not given.is_leaf or given.grad is None)


class Batch(nn.Module):
    """Takes a dictionary batch; says what types its inputs have."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.table = net, nn.Embedding(4, 3, dtype=DOUBLE)

    def forward(self, x: Tensor, kind: Tensor, keep: Tensor, note: str) -> dict[str, Any]:
        assert kind.dtype is torch.long and keep.dtype is torch.bool and note == "as it is"
        out = self.net(x).masked_fill(~keep[:, None], 0)
        return {"logits": out, "typed": out + self.table(kind), "count": keep.sum()}


def test_integers_and_masks_beside_floating_inputs(net: Net, x: Tensor) -> None:
    batch: dict[str, Any] = {
        "x": x,
        "kind": torch.tensor([0, 1, 2, 3, 0]),
        "keep": torch.tensor([True, False, True, True, True]),
        "note": "as it is",
    }
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
    model = Batch(net)
    plainly = expand(net, x)
    found, typed = expand(model, batch), expand(model, batch, output="typed")
    assert all(torch.equal(batch[name], value) for name, value in before.items())
    kept = batch["keep"][:, None]
    for depth in plainly.depths:
        assert oracles.disagreement(found.terms[depth], plainly.terms[depth] * kept) < 1e-12
        assert oracles.disagreement(typed.terms[depth], plainly.terms[depth] * kept) < 1e-12
    assert typed.paths == {0: 1, **plainly.paths}
    assert torch.equal(typed.terms[0], model.table.weight[batch["kind"]].detach())
    with pytest.raises(ModelError, match="the output is frozen"):
        expand(model, batch, output="count")


@pytest.mark.parametrize("make", [lambda x: x.to_sparse(), lambda x: torch.nested.as_nested_tensor([x, x])])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_sparse_and_nested_inputs_are_refused(make: Any, net: Net, x: Tensor) -> None:
    from termwise.errors import DataError

    with pytest.raises(DataError, match=r"sparse or nested.*to_dense.*padded"):
        expand(net, make(x))


@pytest.mark.parametrize(
    "leave",
    [
        lambda x: torch.as_tensor(x.numpy()),
        lambda x: torch.tensor([x[0, 0], x[0, 1], x[0, 2]]),
        lambda x: x * x.untyped_storage().data_ptr(),
    ],
    ids=["numpy", "listed", "memory"],
)
def test_numbers_that_leave_pytorch_are_refused(leave: Any, net: Net, x: Tensor) -> None:
    before = snapshot(net)
    with pytest.raises(ModelError, match=r"out of PyTorch.*write it with PyTorch operators"):
        expand(Written(lambda m, x: leave(m.net(x)), net=net), x)
    unchanged(before, snapshot(net))


def test_a_custom_autograd_function_is_followed(net: Net, x: Tensor) -> None:
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight)
            return F.gelu(x @ weight)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            raise AssertionError("no gradient is asked for")

    weight = fresh(3, 3)
    found = expand(Written(lambda m, x: Scaled.apply(m.net(x), m.w), net=net, w=weight), x)
    alike(found, expand(Written(lambda m, x: F.gelu(m.net(x) @ m.w), net=net, w=weight), x))
    assert found.paths == {3: 1, 5: 2, 7: 1}
