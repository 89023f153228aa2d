"""On a CUDA device: the same expansion, in exact float32, with the settings of the process put back."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import oracles
from snapshots import snapshot, unchanged
from termwise import expand, nets
from termwise.errors import RuleError
from termwise.expand import Expansion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: nothing here was verified on a GPU"),
]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nets.resnet(20)


@pytest.fixture
def tf32() -> Iterator[None]:
    """The user's process has TF32 and autotuning on."""
    backends: Any = torch.backends
    flags = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    found = [flag.fp32_precision for flag in flags], backends.cudnn.benchmark, backends.cudnn.deterministic
    for flag in flags:
        flag.fp32_precision = "tf32"
    backends.cudnn.benchmark, backends.cudnn.deterministic = True, False
    yield
    for flag, precision in zip(flags, found[0], strict=True):
        flag.fp32_precision = precision
    backends.cudnn.benchmark, backends.cudnn.deterministic = found[1:]


def agree(left: Expansion, right: Expansion, tolerance: float) -> None:
    assert left.paths == right.paths
    assert oracles.disagreement(left.constant.cpu(), right.constant) < tolerance
    for depth in right.depths:
        assert oracles.disagreement(left.terms[depth].cpu(), right.terms[depth]) < tolerance


@pytest.mark.usefixtures("tf32")
def test_exact_float32_inside_and_the_settings_back_after(network: nn.Module, images: Tensor) -> None:
    inside: dict[str, Any] = {}
    network.cuda().register_forward_hook(lambda module, args, out: inside.update(snapshot(module)["backends"]))
    before = snapshot(network)
    expand(network, images.cuda())
    unchanged(before, snapshot(network))
    assert [inside[name] for name in ("cublas", "cudnn convolution", "cudnn recurrence")] == ["ieee"] * 3
    assert (inside["cudnn benchmark"], inside["cudnn deterministic"]) == (False, True)


@pytest.mark.usefixtures("tf32")
def test_closes_in_float32(network: nn.Module, images: Tensor) -> None:
    found = expand(network.cuda(), images.cuda())
    assert found.closure is not None and found.closure <= 5e-6


def test_calling_twice_gives_the_same_bits(network: nn.Module, images: Tensor) -> None:
    once, again = (expand(network.cuda(), images.cuda()) for _ in range(2))
    assert torch.equal(once.total, again.total) and torch.equal(once.constant, again.constant)
    assert all(torch.equal(once.terms[depth], again.terms[depth]) for depth in once.depths)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-10)])
def test_agrees_with_the_cpu(dtype: torch.dtype, tolerance: float, network: nn.Module, images: Tensor) -> None:
    network, images = network.to(dtype), images.to(dtype)
    on_cpu = expand(network, images)
    agree(expand(network.cuda(), images.cuda()), on_cpu, tolerance)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_refused(kind: Any) -> None:
    with pytest.raises(RuleError, match=r"recurrent layers on a GPU.*model\.cpu\(\)"):
        expand(kind(4, 3, num_layers=2).cuda(), torch.randn(5, 2, 4).cuda(), output=0)


def test_attention_agrees_with_the_cpu() -> None:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    on_cpu = expand(encoder, x)
    agree(expand(encoder.cuda(), x.cuda()), on_cpu, 1e-10)


def jittered(module: nn.Module, args: Any, out: Any) -> Any:
    return out + torch.rand((), device="cuda")


def test_random_states_of_the_device_are_put_back(network: nn.Module, images: Tensor) -> None:
    network.cuda().register_forward_hook(jittered)
    before = torch.cuda.get_rng_state()
    expand(network, images.cuda())
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device: nothing to split the weights over")
def test_weights_on_two_devices(images: Tensor) -> None:
    torch.manual_seed(0)
    first, second = nets.mlp([6, 8, 8]).double(), nets.mlp([8, 8, 3]).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    on_cpu = expand(lambda x: second(torch.relu(first(x))), x)
    first.to("cuda:0")
    second.to("cuda:1")
    agree(expand(lambda x: second(torch.relu(first(x)).to("cuda:1")), x.to("cuda:0")), on_cpu, 1e-10)
