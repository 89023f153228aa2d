"""What a model may be wrapped in, and weights that are elsewhere or no numbers: expanded exactly, or refused.

The oracle is the brute force over paths on a residual network written down by hand.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from programs import DOUBLE, Written, alike
from residual import Net, doubled, exact
from snapshots import snapshot, unchanged
from termwise.errors import ModelError, UsageError
from termwise.expand import expand
from termwise.profile import profile
from termwise.recorder import Recorder


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


# What a model is wrapped in, and how it is called.


def warmed(compiled: Any) -> Any:
    """Compiled already, for plain tensors."""
    with torch.no_grad():
        compiled(torch.randn(5, 6, dtype=DOUBLE))
    return compiled


def compiled(model: Any) -> Any:
    return torch.compile(model)


def compiled_in_place(net: Net, *, warm: bool) -> Net:
    net.compile(backend="eager")
    return warmed(net) if warm else net


def with_compiled_blocks(net: Net) -> Net:
    for i, block in enumerate(net.blocks):
        block.eval()
        compiled: Any = torch.compile(block, backend="eager")
        net.blocks[i] = compiled
    return net


class Listing(nn.Module):
    """Keeps its network where nn.Module does not find it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.nets = [net]

    def forward(self, x: Tensor) -> Tensor:
        return self.nets[0](x)


def called_with(net: Net, weights: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.func.functional_call(net, weights, (x,))


WRAPPED: dict[str, Callable[[Net], Any]] = {
    "plain": lambda net: net,
    "compiled": lambda net: torch.compile(net),
    "compiled-already": lambda net: warmed(torch.compile(net.eval(), backend="eager")),
    "compiled-in-place": lambda net: compiled_in_place(net, warm=False),
    "compiled-in-place-already": lambda net: compiled_in_place(net.eval(), warm=True),
    "compiled-inside": lambda net: Written(lambda m, x: m.net(x), net=torch.compile(net)),
    "compiled-function": lambda net: torch.compile(lambda x: net(x)),
    "compiled-function-already": lambda net: warmed(torch.compile(lambda x: net.eval()(x), backend="eager")),
    "compiled-function-inside": lambda net: Written(lambda m, x: m.f(x), f=torch.compile(lambda x: net(x))),
    "data-parallel": lambda net: nn.DataParallel(net),
    "data-parallel-inside": lambda net: Written(lambda m, x: m.net(x), net=nn.DataParallel(net)),
    "data-parallel-compiled": lambda net: nn.DataParallel(compiled(net)),
    "checkpointed": lambda net: Written(lambda m, x: checkpoint(m.net, x, use_reentrant=False), net=net),
    "checkpointed-in-pieces": lambda net: Written(
        lambda m, x: m.head(checkpoint_sequential([m.stem, *map(plus_branch, m.blocks)], 2, x, use_reentrant=False)),
        **dict(net.named_children()),
    ),
    "traced-by-fx": lambda net: torch.fx.symbolic_trace(net),
    "lambda": lambda net: lambda x: net(x),
    "bound-method": lambda net: net.forward,
    "partial": lambda net: functools.partial(net.__call__),
    "unregistered": Listing,
    "functional-call": lambda net: called_with(net, dict(net.named_parameters())),
    "functional-call-detached": lambda net: called_with(net, {k: v.detach() for k, v in net.named_parameters()}),
    "functional-call-state": lambda net: called_with(net, {k: v.clone() for k, v in net.state_dict().items()}),
    "vmapped": lambda net: Written(lambda m, x: torch.vmap(m.net, in_dims=1, out_dims=1)(x[:, None])[:, 0], net=net),
}


def plus_branch(block: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: x + block(x)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_model_is_expanded_through_what_it_is_wrapped_in(name: str, net: Net, x: Tensor) -> None:
    model = WRAPPED[name](net)
    training = {module: module.training for module in net.modules()}
    before, rows = snapshot(net), x.clone()
    for _ in range(2):
        found = expand(model, x)
        unchanged(before, snapshot(net))
    assert torch.equal(x, rows)
    assert {module: module.training for module in net.modules()} == training
    net.train()
    exact(found, net, x)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_reentrant_checkpoint(net: Net, x: Tensor) -> None:
    exact(expand(Written(lambda m, x: checkpoint(m.net, x, use_reentrant=True), net=net), x), net, x)


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, lambda net: nn.DataParallel(compiled(net))])
def test_modules_are_named_as_inside_of_the_wrapper(wrap: Any, net: Net, x: Tensor) -> None:
    unit = ["stem", "blocks.0.4", "blocks.1.4", "head"]
    plainly, found = expand(net, x, unit=unit), expand(wrap(net), x, unit=unit)
    assert found.paths == plainly.paths == {2: 1, 3: 2, 4: 1}
    alike(found, plainly)
    assert {use.operator: use.modules for use in found.operators} == {u.operator: u.modules for u in plainly.operators}
    with pytest.raises(UsageError, match=r"no module called 'module\.stem'"):
        expand(wrap(net), x, unit=["module.stem"])


def test_a_profile_of_a_wrapped_model(net: Net, x: Tensor) -> None:
    plainly, wrapped = (profile(model, [x], unit=["stem", "head"]) for model in (net, torch.compile(net)))
    assert wrapped.depths == plainly.depths == (2,)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, nn.parallel.DistributedDataParallel])
def test_a_recorder_of_a_wrapped_model(wrap: Any, net: Net) -> None:
    probe = torch.randn(8, 6, dtype=DOUBLE), torch.arange(8) % 3
    plainly, wrapped = [Recorder(model, probe, unit=["stem", "head"]) for model in (net, wrap(net))]
    before = snapshot(net)
    for recorder in (plainly, wrapped):
        recorder.step(0)
    assert wrapped.timeline.profiles[0].loss == plainly.timeline.profiles[0].loss
    unchanged(before, snapshot(net))
    wrapper = wrap(net)
    wrapper.register_forward_hook(doubled)
    with pytest.raises(ModelError, match=r"hooks of its own.*Register them on the model inside"):
        Recorder(wrapper, probe).step(0)


def test_hooks_on_a_wrapper_are_part_of_the_model(net: Net, x: Tensor) -> None:
    for wrap in (torch.compile, nn.DataParallel):
        wrapper = wrap(net)
        wrapper.register_forward_hook(lambda module, args, out: out * 2)
        wrapper.register_forward_pre_hook(lambda module, args: (args[0] / 4,))
        alike(expand(wrapper, x), expand(lambda x: net(x / 4) * 2, x))


def test_compiled_blocks_inside_of_a_model(net: Net, x: Tensor) -> None:
    with_compiled_blocks(net)
    found = expand(net, x, unit=["stem", "blocks.0", "blocks.1._orig_mod"])
    assert found.paths == {1: 1, 2: 2, 3: 1}
    assert expand(net, x).paths == {2: 1, 4: 2, 6: 1}


def test_what_was_compiled_is_compiled_still(net: Net, x: Tensor) -> None:
    calls = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    compiled = torch.compile(net.eval(), backend=backend)
    expand(compiled, x)
    assert not calls
    with torch.no_grad():
        compiled(x)
    assert calls


# Several processes.


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("where", ["outside", "inside", "compiled"])
def test_distributed_data_parallel(where: str, net: Net, x: Tensor) -> None:
    replica = nn.parallel.DistributedDataParallel(net)
    model: Any = replica
    if where == "inside":
        model = Written(lambda m, x: m.net(x) + 0 * m.net.module.head.bias, net=replica)
    if where == "compiled":
        model = torch.compile(replica)
    before = snapshot(replica)
    found = expand(model, x)
    unchanged(before, snapshot(replica))
    exact(found, net, x)
    if where != "inside":
        assert expand(model, x, unit=["stem"]).depths == (1,)
    replica(x).sum().backward()
    assert net.stem.weight.grad is not None


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_in_a_function_is_refused(net: Net, x: Tensor) -> None:
    replica = nn.parallel.DistributedDataParallel(net)
    before = snapshot(replica)
    with pytest.raises(ModelError, match=r"calls a DistributedDataParallel.*\.module.*pass it itself"):
        expand(lambda x: replica(x), x)
    unchanged(before, snapshot(replica))


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [1, 2])
def test_sharded_models_are_refused(version: int, net: Net, x: Tensor) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    if version == 1:
        model: nn.Module = FullyShardedDataParallel(net, device_id=torch.device("cpu"))
    else:
        fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
        model = net
    with pytest.raises(ModelError, match=r"sharded by FSDP.*get_model_state_dict.*full_state_dict=True"):
        expand(model, x)


# Weights that are somewhere else, or no numbers at all.


@pytest.mark.parametrize("how", ["cpu", "disk", "dispatched", "buffers-too"])
def test_offloaded_weights(how: str, net: Net, x: Tensor, tmp_path: Path) -> None:
    exact_before = expand(net, x)
    if how == "disk":
        model = accelerate.disk_offload(net, str(tmp_path), execution_device=torch.device("cpu"))
    elif how == "dispatched":
        places: Any = {"stem": "cpu", "blocks.0": "disk", "blocks.1": "disk", "head": "disk"}
        model = accelerate.dispatch_model(
            net, places, main_device=torch.device("cpu"), offload_dir=str(tmp_path), force_hooks=True, skip_keys=None
        )
    else:
        model = accelerate.cpu_offload(net, execution_device=torch.device("cpu"), offload_buffers=how == "buffers-too")
    devices = {name: p.device.type for name, p in model.named_parameters()}
    assert "meta" in devices.values()
    alike(expand(model, x), exact_before)
    assert expand(model, x, unit=["stem", "head"]).depths == (2,)
    assert profile(model, [x]).depths == exact_before.depths
    assert {name: p.device.type for name, p in model.named_parameters()} == devices


def test_offloaded_weights_are_sent_back_after_an_error(net: Net, x: Tensor) -> None:
    model: Any = accelerate.cpu_offload(net, execution_device=torch.device("cpu"))
    with pytest.raises(ZeroDivisionError):
        expand(model, x, output=lambda result: result / 0 if 1 / 0 else result)
    model.head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        expand(model, x)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("name", ["weight", "1.running_mean"])
def test_weights_without_numbers_are_refused(name: str) -> None:
    model: nn.Module = nn.Linear(4, 3)
    if name != "weight":
        model = nn.Sequential(model, nn.BatchNorm1d(3))
        model[1].to("meta")
        model[1].weight, model[1].bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
    else:
        model.to("meta")
    with pytest.raises(ModelError, match=rf"'{name}' of the model is on the meta device.*to_empty.*load_state_dict"):
        expand(model, torch.randn(2, 4))


@pytest.mark.parametrize("layer", [nn.LazyLinear(3), nn.Sequential(nn.LazyBatchNorm1d())])
def test_lazy_modules_are_refused(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"has no shape yet \(a lazy module\)\. Run the model once"):
        expand(layer, torch.randn(2, 4))
    layer(torch.randn(2, 4))
    found = expand(layer, torch.randn(2, 4))
    assert found.closure is not None and found.closure <= 5e-6


def dynamically_quantised(net: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)


def statically_quantised(net: nn.Module) -> nn.Module:
    quantization = torch.ao.quantization
    model = nn.Sequential(quantization.QuantStub(), nn.Linear(6, 3), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig("x86")  # pyright: ignore[reportArgumentType]
    prepared = quantization.prepare(model)
    prepared(torch.randn(5, 6))
    return quantization.convert(prepared)


def graph_quantised(net: nn.Module) -> nn.Module:
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(
        nn.Sequential(nn.Linear(6, 3), nn.ReLU()).eval(),
        torch.ao.quantization.get_default_qconfig_mapping("x86"),
        (torch.randn(5, 6),),
    )
    prepared(torch.randn(5, 6))
    return convert_fx(prepared)


class Eightbit(Tensor):
    """A weight as torchao and others make them: numbers inside, arithmetic of its own."""

    @staticmethod
    def __new__(cls, value: Tensor) -> "Eightbit":
        return Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype)

    def __init__(self, value: Tensor) -> None:
        self.numbers = (value * 127).to(torch.int8)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return cls(args[0].numbers / 127)
        raise NotImplementedError(func)


def subclassed(net: nn.Module) -> nn.Module:
    model = nn.Linear(6, 3)
    model.weight = nn.Parameter(Eightbit(model.weight.detach()))
    return model


def in_bytes(net: nn.Module) -> nn.Module:
    model = nn.Linear(6, 3)
    model.weight = nn.Parameter(torch.zeros(9, 1, dtype=torch.uint8), requires_grad=False)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("quantise", "message"),
    [
        (dynamically_quantised, r"quantised modules.*\(Linear, module 'stem'\).*before it was quantised"),
        (statically_quantised, r"quantised modules.*\(Quantize, module '0'\).*before it was quantised"),
        (graph_quantised, r"quantised modules.*\(LinearReLU, module '0'\).*before it was quantised"),
        (subclassed, r"'weight' of the model is a Eightbit, a tensor with arithmetic of its own.*converted"),
        (in_bytes, r"'weight' of the model is quantised \(torch\.uint8\).*before it was quantised"),
    ],
)
def test_quantised_models_are_refused(quantise: Callable[[nn.Module], nn.Module], message: str) -> None:
    model = quantise(Net(torch.float32))
    training = [module.training for module in model.modules()]
    with pytest.raises(ModelError, match=message):
        expand(model, torch.randn(5, 6))
    assert [module.training for module in model.modules()] == training


@pytest.mark.filterwarnings("ignore")
def test_observers_of_a_coming_quantisation_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = torch.randn(5, 6)
    plainly = expand(model, x)
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")  # pyright: ignore[reportArgumentType]
    prepared = torch.ao.quantization.prepare(model)
    prepared(x)
    before = snapshot(prepared)
    alike(expand(prepared, x), plainly, 1e-6)
    unchanged(before, snapshot(prepared))
