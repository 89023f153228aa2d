"""Depth pruning: what frozen gates predict, what is really taken out, what is asked for and what is refused."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import termwise as tw
from termwise import nets
from termwise.causal import lesion
from termwise.deletion import example_of
from termwise.errors import DataError, ModelError, TermwiseError, UsageError
from termwise.pruning import Healing
from termwise.pruning.bench import Bench
from termwise.pruning.frozen import predict, shares
from termwise.pruning.members import find_members
from termwise.recorder import reestimated


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter and statistic away from its first value, so that no branch is silent."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():  # variances stay positive
                tensor += 0.2 * torch.rand(tensor.shape, generator=g) - 0.1
    return model.eval()


def entropy(y: Tensor, targets: Tensor) -> float:
    return float(F.cross_entropy(y.detach(), targets))


def distance(y: Tensor, targets: Tensor) -> float:
    return float(F.mse_loss(y.detach(), targets))


class Adding(nn.Module):
    """A residual block of two linear layers."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, v: Tensor) -> Tensor:
        return v + 0.5 * self.branch(v)


class Deep(nn.Module):
    """Residual blocks in a list, called with something beside their input."""

    class Layer(Adding):
        def forward(self, v: Tensor, scale: float) -> Tensor:
            return v + scale * self.branch(v)

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.Layer() for _ in range(depth))
        self.head = nn.Linear(6, 3)

    def forward(self, v: Tensor) -> Tensor:
        for layer in self.layers:
            v = layer(v, 0.3)
        return self.head(v)


def chain(depth: int = 4) -> nn.Module:
    return shaken(nn.Sequential(nn.Linear(5, 6), *(Adding() for _ in range(depth)), nn.Linear(6, 3)))


def resnet(depth: int = 20) -> nn.Module:
    return shaken(nets.resnet(depth, width=4, channels=1, classes=4))


def vit(depth: int = 3) -> nn.Module:
    return shaken(nets.vit(depth, 16, size=8, channels=1, classes=4))


def pairs(model: str, samples: int = 24) -> tuple[Tensor, Tensor]:
    """Inputs and class numbers."""
    g = torch.Generator().manual_seed(2)
    shape = {"chain": (5,), "deep": (6,)}.get(model, (1, 8, 8))
    classes = 3 if model in ("chain", "deep") else 4
    return torch.randn(samples, *shape, generator=g), torch.randint(classes, (samples,), generator=g)


MODELS: dict[str, Callable[[], nn.Module]] = {"chain": chain, "resnet": resnet, "vit": vit}


# What frozen gates predict, against the network run by itself with every gate put in.


class Gates(TorchFunctionMode):
    """Notes the gates of a run, call by call of each module; or has another run go by them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.noted, self.replay = model, {}, False
        self.inside: list[str] = []
        self.counts: dict[Any, int] = {}

    def run(self, x: Tensor, *, without: Sequence[str] = ()) -> Tensor:
        self.counts = {}
        names = {module: name for name, module in self.model.named_modules()}
        hooks = [module.register_forward_pre_hook(lambda m, args: self.inside.append(names[m])) for module in names]
        hooks += [module.register_forward_hook(lambda m, args, out: (self.inside.pop(), None)[1]) for module in names]
        hooks += [self.model.get_submodule(n).register_forward_hook(lambda m, args, out: args[0]) for n in without]
        try:
            with torch.no_grad(), self:
                return self.model(x)
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in (torch.relu, F.relu, torch.nn.functional.gelu, F.layer_norm, F.scaled_dot_product_attention):
            return func(*args, **kwargs)
        place = (self.inside[-1], func)
        key = (*place, self.counts.setdefault(place, 0))
        self.counts[place] += 1
        v = args[0]
        if func is F.layer_norm:
            scale, shift, eps = (kwargs[name] for name in ("weight", "bias", "eps"))
            root = self.of(key, 1 / (v.var(-1, keepdim=True, unbiased=False) + eps).sqrt())
            return (v - v.mean(-1, keepdim=True)) * root * scale + shift  # the mean is linear: no gate
        if func is F.scaled_dot_product_attention:
            q, k, values = args
            pattern = self.of(key, (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
            return pattern @ values
        out = v.clamp_min(0) if "relu" in func.__name__ else 0.5 * v * (1 + torch.erf(v / 2**0.5))
        return v * self.of(key, torch.where(v == 0, torch.zeros_like(v), out / v))

    def of(self, key: Any, found: Any) -> Any:
        if self.replay:
            return self.noted[key]
        self.noted[key] = found
        return found


def frozen_output(model: nn.Module, x: Tensor, without: Sequence[str]) -> Tensor:
    """The output of the network that passes by some modules, all gates being those of the whole network."""
    gates = Gates(model)
    whole = gates.run(x)
    with torch.no_grad():
        assert torch.allclose(whole, model(x), rtol=1e-12, atol=1e-12)
    gates.replay = True
    return gates.run(x, without=without)


@pytest.mark.parametrize("name", MODELS)
def test_the_prediction_is_the_frozen_network_without_the_blocks(name: str) -> None:
    model, (x, targets) = MODELS[name]().double(), pairs(name)
    x = x.double()
    names = [member.name for member in find_members(model, x[:1]).free]
    sets = [*((one,) for one in names), *itertools.combinations(names, 2), tuple(names)]
    y, rows, _ = shares(model, x, sets)
    for chosen, row in zip(sets, rows, strict=True):
        expected = frozen_output(model, x, chosen)
        assert float((y - row - expected).abs().max()) < 1e-11 * float(y.abs().max())
    found = predict(model, [(x[:10], targets[:10]), (x[10:], targets[10:])], sets, largest=10**6)
    losses = [entropy(frozen_output(model, x, chosen), targets) for chosen in sets]
    np.testing.assert_allclose(found.sets.mean(), losses, rtol=1e-11)
    with torch.no_grad():
        assert found.whole.mean()[0] == pytest.approx(entropy(model(x), targets), rel=1e-12)


def test_blocks_that_only_add_are_removed_with_all_terms_through_them() -> None:
    # By brute force over the paths: m in {0, 1}^3, and the multilinear function of it through all its corners.
    model, (x, _) = chain(3).double(), pairs("chain", 5)
    names = [member.name for member in find_members(model, x[:1].double()).free]
    corner = {s: frozen_output(model, x.double(), s) for k in range(4) for s in itertools.combinations(names, k)}
    whole, rows, _ = shares(model, x.double(), [*corner])
    moebius = {
        t: sum(
            (-1) ** (len(t) - len(s)) * corner[tuple(n for n in names if n not in s)] for s in corner if {*s} <= {*t}
        )
        for t in corner
    }
    for removed, row in zip(corner, rows, strict=True):
        through = sum(moebius[t] for t in moebius if {*t} & {*removed})
        assert torch.allclose(row, whole * 0 + through, rtol=1e-9, atol=1e-11)
    assert torch.allclose(whole, whole * 0 + sum(moebius.values()), rtol=1e-11)


def test_what_the_last_block_costs_is_predicted_exactly() -> None:
    # Nothing but a linear layer stands behind it: there is no gate that could switch.
    model, data = chain(), pairs("chain")
    plan = tw.prune(model, data, keep=0.75, blocks=["4"])
    row = plan.table.rows()[1]
    assert row["predicted"] == pytest.approx(row["measured"], rel=1e-6)


# What is really taken out.


@pytest.mark.parametrize("method", ["expansion", "last", "exhaustive"])
def test_the_shortened_network_is_the_lesioned_one(method: str) -> None:
    model, data = resnet(), pairs("resnet")
    plan = tw.prune(model, data, keep=0.5, method=method, calibration=False)
    blocks = [
        i for member in find_members(model, data[0][:1]).free if member.name in plan.removed for i in member.blocks
    ]
    with torch.no_grad(), lesion(model, blocks, example=data[0][:1]):
        expected = model(data[0])
    assert len(plan.removed) == 4
    assert torch.allclose(plan.model(data[0]), expected, rtol=1e-5, atol=1e-6)
    assert plan.table.rows()[-1]["measured"] == pytest.approx(entropy(expected, data[1]), rel=1e-5)
    assert all(isinstance(plan.model.get_submodule(name), nn.Identity) for name in plan.removed)
    assert sum(p.numel() for p in plan.model.parameters()) == plan.table["parameters"][-1]


def test_statistics_are_those_of_the_shortened_network() -> None:
    model, data = resnet(), pairs("resnet", 64)
    plan = tw.prune(model, data, keep=0.6, calibration=data[0])
    expected = reestimated(plan.model, data[0])
    assert torch.allclose(plan.model(data[0]), expected(data[0]), atol=1e-6)
    with torch.no_grad():
        loss = entropy(expected(data[0]), data[1])
    assert plan.table.rows()[-1]["loss"] == pytest.approx(loss, rel=1e-5)
    assert plan.table.rows()[-1]["loss"] != plan.table.rows()[-1]["measured"]


LIBRARIES: dict[str, tuple[str, Callable[[Any], nn.Module], int]] = {
    "torchvision-resnet": ("torchvision", lambda library: library.models.resnet34(num_classes=4), 4),
    "torchvision-vit": (
        "torchvision",
        lambda library: library.models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=4),
        2,
    ),
    "timm-mobilenet": ("timm", lambda library: library.create_model("mobilenetv2_035", num_classes=4), 3),
    "timm-vit": (
        "timm",
        lambda library: library.create_model("vit_tiny_patch16_224", depth=4, img_size=32, num_classes=4),
        2,
    ),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_networks_of_libraries_become_plain_modules(name: str) -> None:
    library, build, count = LIBRARIES[name]
    model = shaken(build(pytest.importorskip(library)))
    data = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    members = find_members(model, data[0][:1])
    plan = tw.prune(model, data, keep=1 - (count + 0.1) / members.count, calibration=False)
    blocks = [i for member in members.free if member.name in plan.removed for i in member.blocks]
    with torch.no_grad(), lesion(model, blocks, example=data[0][:1]):
        expected = model(data[0])
    assert len(plan.removed) == count and plan.metadata["identity"]
    assert torch.allclose(plan.model(data[0]), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not any(type(module).__module__.startswith("termwise") for module in plan.model.modules())


def test_blocks_are_chosen_on_one_part_and_measured_on_another() -> None:
    model, (x, targets) = resnet(), pairs("resnet", 40)
    plan = tw.prune(model, (x[:20], targets[:20]), test=(x[20:], targets[20:]), keep=0.6, calibration=False)
    same = tw.prune(model, (x[:20], targets[:20]), keep=0.6, calibration=False)
    assert plan.removed == same.removed
    assert plan.table["loss"][-1] == pytest.approx(entropy(plan.model(x[20:]), targets[20:]), rel=1e-5)


def test_members_that_are_called_with_more_are_deleted() -> None:
    model = shaken(Deep())
    data = pairs("deep")
    plan = tw.prune(model, data, keep=0.5)
    layers: Any = plan.model.layers
    assert len(layers) == 2 and not plan.metadata["identity"]
    with torch.no_grad():
        v = data[0]
        for name in plan.kept:
            v = model.get_submodule(name)(v, 0.3)
        assert torch.equal(plan.model(data[0]), model.head(v))  # type: ignore[operator]


@pytest.mark.parametrize(("name", "build"), [("resnet", resnet), ("deep", lambda: shaken(Deep()))])
def test_saved_and_built_again_it_is_the_same(name: str, build: Any, tmp_path: Path) -> None:
    data = pairs(name)
    plan = tw.prune(build(), data, keep=0.6)
    directory = plan.save(tmp_path / "short")
    assert "termwise" not in (directory / "rebuild.py").read_text()
    rebuild = loaded(directory / "rebuild.py").rebuild
    assert torch.equal(rebuild(build())(data[0]), plan.model(data[0]))


def test_nothing_but_an_earlier_plan_is_written_over(tmp_path: Path) -> None:
    plan = tw.prune(chain(), pairs("chain"), keep=0.75)
    assert plan.save(plan.save(tmp_path / "short")) == tmp_path / "short"
    (tmp_path / "model.safetensors").write_bytes(b"of the whole network")
    with pytest.raises(UsageError, match="holds other files"):
        plan.save(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        plan.save(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="cannot be made"):
        plan.save(tmp_path / "model.safetensors" / "short")
    assert (tmp_path / "model.safetensors").read_bytes() == b"of the whole network"


def loaded(path: Path) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("rebuilt", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_healing_brings_the_outputs_nearer() -> None:
    data = pairs("chain", 128)
    model = chain()
    options: Any = {"keep": 0.5, "method": "last"}
    plan = tw.prune(model, data, **options)
    heals = [tw.prune(model, data, healing=Healing(data, steps=60, rate=0.01), **options) for _ in range(2)]
    with torch.no_grad():
        before, after = ((p.model(data[0]) - model(data[0])).square().mean() for p in (plan, heals[0]))
    assert float(after) < 0.5 * float(before)
    assert torch.equal(heals[0].model(data[0]), heals[1].model(data[0]))
    assert heals[0].healed is not None
    loss = entropy(heals[0].model(data[0]), data[1])
    assert heals[0].healed.value == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("build", "healing", "words"),
    [
        (chain, lambda data: 5, "expected a termwise.pruning.Healing"),
        (chain, lambda data: Healing(data, steps=0), "expected steps and rate above 0"),
        (chain, lambda data: Healing(data, seed=-1), "a seed of 0 or more"),
        (lambda: chain().requires_grad_(False), Healing, "every parameter of the model is frozen"),
        (chain, lambda data: Healing(data[0], distil=False), "no targets to learn"),
        (lambda: normed(), lambda data: Healing(data, batch_size=1), "batch norm cannot be trained on single samples"),
    ],
)
def test_a_healing_that_cannot_be_is_refused_before_anything_is_pruned(build: Any, healing: Any, words: str) -> None:
    data, steps = pairs("chain"), []
    with pytest.raises(TermwiseError, match=words):
        tw.prune(build(), data, keep=0.5, healing=healing(data), progress=steps.append)
    assert not steps


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), *(Adding() for _ in range(3)), nn.Linear(6, 3))


def test_a_last_batch_of_one_sample_is_left_out_where_there_is_batch_norm() -> None:
    x, targets = pairs("chain", 25)
    model = normed()
    options: Any = {"keep": 0.6, "method": "last"}
    left, cut = (
        tw.prune(model, (x, targets), healing=Healing((x[:n], targets[:n]), steps=4, batch_size=12), **options)
        for n in (25, 24)
    )
    # With three batches their order would be another.
    assert left.healed is not None and cut.healed is not None and left.healed.value == cut.healed.value


def test_a_healing_that_diverges_says_so() -> None:
    data = pairs("chain")
    with pytest.raises(ModelError, match=r"healing: the loss is not finite after \d+ steps at rate=1e\+30"):
        tw.prune(chain(), data, keep=0.5, healing=Healing(data, steps=9, rate=1e30))


def test_in_inference_mode_the_result_can_be_trained() -> None:
    data = pairs("chain")
    with torch.inference_mode():
        plan = tw.prune(chain(), data, keep=0.5, healing=Healing(data, steps=2))
    F.cross_entropy(plan.model(data[0]), data[1]).backward()
    assert all(parameter.grad is not None for parameter in plan.model.parameters())


# What is asked for.


def test_each_target_is_met() -> None:
    model, data = resnet(), pairs("resnet")
    assert len(tw.prune(model, data, keep=0.5, method="last").removed) == 4
    flops = tw.prune(model, data, flops=0.7, method="last").table["flops"]
    assert flops[-1] <= 0.7 < flops[-2]
    bound = 1.2 * entropy(model(data[0]), data[1])
    loss = tw.prune(model, data, loss=bound, method="exhaustive").table["loss"]
    assert (loss <= bound).all()
    latency = tw.prune(model, data, latency=0.9, method="last").table["latency"]
    assert latency[-1] <= 0.9 and latency[0] == 1


def test_a_model_without_targets_stays_close_to_itself() -> None:
    model, (x, _) = chain(), pairs("chain")
    plan = tw.prune(model, x, keep=0.75)
    whole, short = (network(x).detach().double() for network in (model, plan.model))
    expected = float((short - whole).square().mean() / whole.square().mean())
    assert plan.table["loss"][-1] == pytest.approx(expected, rel=1e-5)
    assert plan.table["loss"][0] == pytest.approx(0, abs=1e-9)
    assert "accuracy" not in plan.table.columns


def test_regression_is_measured_by_the_squared_error() -> None:
    model, (x, _) = chain(), pairs("chain")
    targets = torch.randn(len(x), 3)
    plan = tw.prune(model, (x, targets), keep=0.75)
    assert plan.table["loss"][-1] == pytest.approx(distance(plan.model(x), targets), rel=1e-5)


def test_the_same_call_gives_the_same_bits() -> None:
    model, data = resnet(), pairs("resnet")
    one, two = (tw.prune(model, data, keep=0.6, method=m) for m in ("random", "random"))
    assert repr(one.table) == repr(two.table)
    states = [plan.model.state_dict() for plan in (one, two)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_model_is_left_as_found() -> None:
    model, data = resnet().train(), pairs("resnet")
    model.get_submodule("stages.0.0").eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    modules = [*map(id, model.modules())]
    state = torch.get_rng_state()
    tw.prune(model, data, keep=0.6, healing=Healing(data, steps=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [*map(id, model.modules())] == modules
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_table_tells_it() -> None:
    plan = tw.prune(resnet(), pairs("resnet"), keep=0.6)
    text = str(plan)
    assert "keep=0.6: without 3 of 9 blocks" in text
    assert "'stages.1.0' stays: it changes the shape, (4, 8, 8) to (8, 4, 4)." in text
    rows = plan.table.rows()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(row["measured_low"] <= row["measured"] <= row["measured_high"] for row in rows)
    assert {*plan.removed} == {row["block"] for row in rows[1:]}
    assert not {*plan.removed} & {*plan.kept} and len(plan.removed) + len(plan.kept) == 7


def test_the_interval_of_random_orders_is_over_orders() -> None:
    model, data = chain(), pairs("chain")
    plan = tw.prune(model, data, keep=0.75, method="random", draws=3, seed=5)
    losses = []
    for draw in range(3):
        first = int(np.random.default_rng(5 + draw).permutation(4)[0])
        short = nn.Sequential(*(module for i, module in enumerate(model.children()) if i != first + 1))
        losses.append(entropy(short(data[0]), data[1]))
    mean, error = np.mean(losses), np.std(losses, ddof=1) / 3**0.5
    row = plan.table.rows()[1]
    assert row["loss"] == pytest.approx(mean, rel=1e-5)
    assert row["loss_high"] - row["loss"] == pytest.approx(4.302653 * error, rel=1e-3)  # t(0.975), 2 degrees of freedom


def test_predictions_of_random_orders_are_means_over_orders() -> None:
    model, (x, targets) = chain().double(), pairs("chain")
    x = x.double()
    plan = tw.prune(model, (x, targets), keep=0.75, method="random", draws=3, seed=5)
    firsts = [int(np.random.default_rng(5 + draw).permutation(4)[0]) for draw in range(3)]
    losses = [entropy(frozen_output(model, x, [str(first + 1)]), targets) for first in firsts]
    assert plan.table["predicted"][1] == pytest.approx(np.mean(losses), rel=1e-9)
    assert "losses are means over random orders" in str(plan)


# Latency.


class Ticking(nn.Module):
    """A residual block that takes a second, and now and then, when other work comes between, ten more."""

    now = calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(5, 5)

    def forward(self, v: Tensor) -> Tensor:
        Ticking.calls += 1
        Ticking.now += 1 if Ticking.calls % 7 else 11
        return v + self.branch(v)


def test_latency_is_of_passes_that_nothing_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("termwise.pruning.bench.time", SimpleNamespace(perf_counter=lambda: Ticking.now))
    model = nn.Sequential(*(Ticking() for _ in range(6)), nn.Linear(5, 3))
    plan = tw.prune(model, pairs("chain", 4), latency=0.7, method="last")
    assert len(plan.removed) == 2
    assert plan.table["latency"].tolist() == pytest.approx([1, 5 / 6, 4 / 6])


def test_a_latency_that_is_not_reached_in_the_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = itertools.chain([0.5], itertools.repeat(0.95))
    monkeypatch.setattr(Bench, "latency", lambda self: next(measured) if self.gone else 1.0)
    with pytest.raises(UsageError, match=r"latency=0\.6: without all of the 4 blocks that can go it is 0\.95 of"):
        tw.prune(chain(), pairs("chain"), latency=0.6)


# What is refused.


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = Adding()
        self.blocks = nn.Sequential(block, block)
        self.head = nn.Linear(6, 3)

    def forward(self, v: Tensor) -> Tensor:
        return self.head(self.blocks(v))


def tied() -> nn.Module:
    model: Any = nn.Sequential(Adding(), Adding(), nn.Linear(6, 3))
    model[1].branch[0].weight = model[0].branch[0].weight
    return model


def quantised() -> nn.Module:
    model: Any = nn.Sequential(Adding(), nn.Linear(6, 3))
    model[1].weight = nn.Parameter(torch.ones(3, 6, dtype=torch.int8), requires_grad=False)
    return model


class Recurrent(nn.Module):
    """A residual block whose products PyTorch does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.LSTM(5, 5, batch_first=True)

    def forward(self, v: Tensor) -> Tensor:
        return v + self.branch(v[:, None])[0][:, 0]


def gated() -> nn.Module:
    return nn.Sequential(Recurrent(), Recurrent(), nn.Linear(5, 3))


class Kind(Deep):
    """Looks at what its layers are."""

    def forward(self, v: Tensor) -> Tensor:
        for layer in self.layers:
            if not isinstance(layer, self.Layer):
                raise TypeError("no layer")
            v = layer(v, 0.3)
        return self.head(v)


REFUSED: dict[str, tuple[Callable[[], Any], str, dict[str, Any], type[TermwiseError], str]] = {
    "no block": (lambda: nn.Sequential(nn.Linear(5, 3)), "chain", {"keep": 0.5}, UsageError, "no residual blocks"),
    "shared": (Shared, "deep", {"keep": 0.5}, UsageError, "runs 2 times in a pass"),
    "tied": (tied, "deep", {"keep": 0.5}, UsageError, "weights are tied"),
    "quantised": (quantised, "deep", {"keep": 0.5}, ModelError, "quantised"),
    "no target": (chain, "chain", {}, UsageError, "no targets are given; give exactly one"),
    "two targets": (chain, "chain", {"keep": 0.5, "loss": 1.0}, UsageError, "2 targets are given"),
    "too few": (resnet, "resnet", {"keep": 0.1}, UsageError, "of 9 blocks 7 can go, so at least keep=0.222"),
    "none": (resnet, "resnet", {"keep": 0.95}, UsageError, "keep=0.888 takes one out"),
    "flops": (resnet, "resnet", {"flops": 0.05}, UsageError, "it is 0.189 of the whole"),
    "no flops": (gated, "chain", {"flops": 0.5}, UsageError, "no convolution or matrix product that PyTorch counts"),
    "loss": (resnet, "resnet", {"loss": 1e-3}, UsageError, "the whole network has"),
    "shape": (resnet, "resnet", {"keep": 0.5, "blocks": ["stages.1.0"]}, UsageError, "it changes the shape"),
    "unknown": (resnet, "resnet", {"keep": 0.5, "blocks": ["stages.9"]}, UsageError, "no block 'stages.9'"),
    "method": (chain, "chain", {"keep": 0.5, "method": "best"}, UsageError, "expected one of expansion"),
    "function": (lambda: lambda x: x, "chain", {"keep": 0.5}, UsageError, "plain nn.Module"),
    "fraction": (chain, "chain", {"keep": 1.5}, UsageError, "a fraction between 0 and 1"),
    "a name alone": (chain, "chain", {"keep": 0.5, "blocks": "1"}, UsageError, "expected a list of names"),
    "no name": (chain, "chain", {"keep": 0.5, "blocks": []}, UsageError, "expected a list of names"),
    "seed": (chain, "chain", {"keep": 0.5, "seed": -1}, UsageError, "seed=-1"),
    "kind": (Kind, "deep", {"keep": 0.5}, ModelError, r"without layers\.\d the model fails.*no layer"),
    "kind, on trial": (Kind, "deep", {"keep": 0.5, "method": "exhaustive"}, ModelError, r"without layers\.0 the model"),
}


@pytest.mark.parametrize(("target", "value", "gone"), [("keep", 0.05, 7), ("keep", 0.97, 1), ("flops", 0.05, 7)])
def test_what_a_message_offers_can_be_had(target: str, value: float, gone: int) -> None:
    model, data = resnet(), pairs("resnet")
    options: dict[str, Any] = {"method": "last"}
    with pytest.raises(UsageError) as refused:
        tw.prune(model, data, **{target: value}, **options)
    pattern = r"keep=(0\.\d+)[. ]" if target == "keep" else r"it is (0\.\d+) of"
    offered = [float(found) for found in re.findall(pattern, str(refused.value)) if float(found) != value]
    plan = tw.prune(model, data, **{target: offered[0]}, **options)
    assert len(plan.removed) == gone


def test_targets_are_there_or_are_not() -> None:
    x, targets = pairs("chain")
    with pytest.raises(DataError, match="with all, or with none"):
        tw.prune(chain(), [(x, targets), x], keep=0.5)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    build, data, options, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        tw.prune(build(), pairs(data), **options)


def test_the_example_is_one_sample_where_all_tensors_have_as_many() -> None:
    x, mask = torch.randn(5, 3), torch.ones(5, 2)
    cut = example_of({"x": x, "nested": (mask, "kept")})
    assert torch.equal(cut["x"], x[:1]) and torch.equal(cut["nested"][0], mask[:1]) and cut["nested"][1] == "kept"
    for whole in ({"x": x, "positions": torch.arange(3)[None]}, {"x": x, "scale": torch.tensor(2.0)}):
        assert example_of(whole) is whole


@pytest.mark.parametrize("needed", [False, True])
def test_what_a_block_returns_beside_its_output_may_go_if_nobody_needs_it(needed: bool) -> None:
    class Telling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
            return v + self.branch(v), v.abs()

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Telling() for _ in range(3))

        def forward(self, v: Tensor) -> Tensor:
            for block in self.blocks:
                v, beside = block(v)
                v = v + beside if needed else v
            return v

    torch.manual_seed(0)
    model, x = Loop().eval(), torch.randn(6, 4)
    if needed:
        with pytest.raises(UsageError, match="returns more than one tensor, and the others are needed"):
            tw.prune(model, x, keep=0.5)
        return
    plan = tw.prune(model, x, keep=0.6)
    (gone,) = plan.removed
    y = x
    for name, block in model.blocks.named_children():
        y = y if gone == f"blocks.{name}" else block(y)[0]
    assert torch.equal(plan.model(x), y)
