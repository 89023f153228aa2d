"""The routes through a network's blocks, against every path walked by itself and against products written out."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oracles
from programs import DOUBLE
from termwise import nets
from termwise.errors import UsageError
from termwise.expand import expand, locate
from termwise.profile import profile
from termwise.reference import Node, Residual, Sequence, describe, freeze
from termwise.reference.network import Affine, FrozenDense
from termwise.routes import routes
from termwise.steps import BLOCKS, Unit


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def ready(model: nn.Module) -> nn.Module:
    """With statistics that are not those of the start, in evaluation mode."""
    model = model.double().train()
    with torch.no_grad():
        model(torch.randn(24, 1, 8, 8, dtype=DOUBLE))
    return model.eval()


NETS: dict[str, Any] = {
    "resnet": lambda: nets.resnet(8, width=4, channels=1, classes=3),
    "pre-activation": lambda: nets.preact_resnet(8, width=4, channels=1, classes=3),
    "densenet": lambda: nets.densenet(7, growth=4, channels=1, classes=3),
}


def ways(node: Node) -> list[tuple[tuple[bool, ...], tuple[Affine, ...]]]:
    """Every way through a frozen network: which branches it takes, in the order of the program, and its maps."""
    if isinstance(node, Sequence):
        found = []
        for parts in itertools.product(*(ways(part) for part in node.parts)):
            taken = tuple(itertools.chain.from_iterable(part[0] for part in parts))
            found.append((taken, tuple(itertools.chain.from_iterable(part[1] for part in parts))))
        return found
    if isinstance(node, Residual):
        passed = ((False, node.shortcut), (True, node.branch))
        return [((took,), maps) for took, side in passed for _, maps in ways(side)]
    if isinstance(node, FrozenDense):
        found = [((False,), (node.place_own,))]
        return [*found, *(((True,), (*maps, node.place_new)) for _, maps in ways(node.branch))]
    assert isinstance(node, Affine)
    return [((), (node,))]


@torch.no_grad()
def walked(model: nn.Module, x: Tensor) -> dict[int, Tensor]:
    """By the bits of the blocks that it passes, the sum of the paths, each walked by itself."""
    found: dict[int, Tensor] = {}
    for taken, maps in ways(freeze(describe(model), x)):
        v = x
        for one in maps:
            v = one.apply(v)
        key = sum(2**i for i, passed in enumerate(taken) if passed)
        found[key] = found[key] + v if key in found else v
    return found


def apart(model: nn.Module, x: Tensor) -> Unit:
    unit = locate(BLOCKS, model, x)
    return Unit(BLOCKS, blocks=unit.blocks, route=unit.route, wiring=unit.wiring, apart=True)


@pytest.mark.parametrize("name", sorted(NETS))
def test_each_route_is_that_path_walked_by_itself(name: str) -> None:
    model, x = ready(NETS[name]()), torch.randn(5, 1, 8, 8, dtype=DOUBLE)
    expected = walked(model, x)
    unit = apart(model, x)
    found = expand(model, x, unit=unit)
    assert set(found.terms) == set(expected) == set(range(2 ** len(unit.blocks or ())))
    size = float(found.total.norm())
    for key, term in found.terms.items():
        assert float((term - expected[key]).norm()) < 1e-12 * size, key
    assert found.paths == dict.fromkeys(expected, 1)
    assert found.closure is not None and found.closure <= 1e-12


@pytest.mark.parametrize("name", sorted(NETS))
def test_routes_of_one_length_add_up_to_its_term(name: str) -> None:
    model, x = ready(NETS[name]()), torch.randn(4, 1, 8, 8, dtype=DOUBLE)
    by_block, by_count = expand(model, x, unit=apart(model, x)), expand(model, x, unit="blocks")
    for length, term in by_count.terms.items():
        of_length = [by_block.terms[key] for key in by_block.terms if key.bit_count() == length]
        assert oracles.disagreement(sum(of_length, torch.zeros_like(term)), term) < 1e-11
        assert by_count.paths[length] == len(of_length)
    assert oracles.disagreement(by_block.constant, by_count.constant) < 1e-12


class Branches(nn.Module):
    """Linear residual blocks, one after the other."""

    def __init__(self, blocks: int, features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(features, features, bias=False) for _ in range(blocks))

    def forward(self, v: Tensor) -> Tensor:
        for layer in self.layers:
            v = v + layer(v)
        return v


def test_shares_are_those_of_the_product_written_out() -> None:
    model, x = Branches(3, 6).double(), torch.randn(40, 6, dtype=DOUBLE)
    found = routes(model, (x, torch.zeros(40, dtype=torch.long)), batch_size=16, replicates=20)
    weights = [layer.weight.detach() for layer in model.layers.children() if isinstance(layer, nn.Linear)]
    norms, dots = {}, {}
    whole = x
    for weight in weights:
        whole = whole + whole @ weight.T
    whole = whole - whole.mean(dim=1, keepdim=True)
    for size in range(4):
        for chosen in itertools.combinations(range(3), size):
            v = x
            for i in chosen:
                v = v @ weights[i].T
            v = v - v.mean(dim=1, keepdim=True)
            norms[chosen], dots[chosen] = v.norm(dim=1).sum().item(), (v * whole).sum().item()
    rows = found.table.where(origin="input").rows()
    assert [row["through"] for row in rows] == ["", "0", "1", "2", "0 1", "0 2", "1 2", "0 1 2"]
    for row in rows:
        chosen = tuple(int(i) for i in row["through"].split())
        assert row["length"] == len(chosen) and row["paths"] == "1"
        assert row["norm_share"] == pytest.approx(norms[chosen] / sum(norms.values()))
        assert row["aligned_share"] == pytest.approx(dots[chosen] / whole.square().sum().item())
        assert row["norm_share_low"] <= row["norm_share"] <= row["norm_share_high"]
    assert sum(row["aligned_share"] for row in rows) == pytest.approx(1)
    assert found.blocks == ("layers.0", "layers.1", "layers.2") and found.closure < 1e-12
    assert "through" in str(found)


def test_a_path_through_no_block_and_constants_are_there() -> None:
    model = ready(NETS["densenet"]())
    data = torch.randn(20, 1, 8, 8, dtype=DOUBLE), torch.randint(3, (20,))
    found, plain = routes(model, data, replicates=20), profile(model, data, unit="blocks", replicates=20)
    born = found.table.where(origin="constant").rows()
    assert [row["through"] for row in born] == [None]
    (expected,) = plain.share.where(origin="constant").rows()
    assert born[0]["aligned_share"] == pytest.approx(expected["aligned_share"])
    for length, share in zip(plain.depths, plain.share.where(origin="input")["aligned_share"], strict=True):
        assert found.table.where(length=length)["aligned_share"].sum() == pytest.approx(share)
    assert not np.isnan(found.table["norm_share"]).any()


def test_the_model_is_left_as_found_and_the_same_bits_come_again() -> None:
    model = ready(NETS["resnet"]()).float().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = torch.randn(20, 1, 8, 8), torch.randint(3, (20,))
    state = torch.get_rng_state()
    first, again = (routes(model, data, replicates=20).table.rows() for _ in range(2))
    assert first == again
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("count", [0, 9])
def test_too_many_or_no_blocks_are_refused(count: int) -> None:
    net = nets.resnet(20, width=4, channels=1) if count else nets.plain(8, width=4, channels=1)
    data = torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    with pytest.raises(UsageError, match=f"routes: {count} residual blocks; 1 to 8.*unit='blocks'"):
        routes(net, data)
