"""The dry run says what the expansion then does, and strict runs name all that has no rule."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import termwise
import termwise.rules
from programs import DOUBLE, Written, dense
from termwise import expand, nets, profile, support
from termwise.causal import without
from termwise.errors import DataError, RuleError, UsageError


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    """Three operators of somebody's: one that can be differentiated, one that cannot, one that gives no numbers."""
    lib = torch.library.Library("termwise_support", "DEF")
    lib.define("smooth(Tensor x) -> Tensor")
    lib.define("opaque(Tensor x) -> Tensor")
    lib.define("sealed(Tensor x) -> Tensor")
    lib.impl("smooth", lambda x: torch.sin(x) + x, "CompositeExplicitAutograd")
    lib.impl("opaque", lambda x: torch.flip(x, [0]), "CompositeExplicitAutograd")
    lib.impl("sealed", lambda x: torch.roll(x, 1), "CompositeExplicitAutograd")
    torch.library.register_autograd(
        "termwise_support::smooth",
        lambda ctx, grad: grad * (torch.cos(ctx.saved_tensors[0]) + 1),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
        lib=lib,
    )
    yield torch.ops.termwise_support
    lib._destroy()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(dim=1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (lambda: nets.resnet(14), (2, 3, 16, 16)),
    "resnet-projection": (lambda: nets.resnet(14, shortcut="projection"), (2, 3, 16, 16)),
    "densenet": (lambda: nets.densenet(16, 4, bottleneck=True, compression=0.5), (2, 3, 16, 16)),
    "plain": (lambda: nets.plain(14), (2, 3, 16, 16)),
    "mlp": (lambda: nets.mlp([12, 8, 8, 3]), (2, 12)),
    "attention": (Attention, (2, 5, 8)),
}


@pytest.mark.parametrize("unit", ["layers", "blocks", "activations"])
@pytest.mark.parametrize("name", MODELS)
def test_paths_and_cost_are_those_of_the_expansion(name: str, unit: str) -> None:
    make, shape = MODELS[name]
    model, x = make().eval(), torch.randn(shape)
    dry, wet = support(model, x, unit=unit), expand(model, x, unit=unit)
    assert dry.supported
    assert dict(dry.paths) == dict(wet.paths)
    assert dry.ideal_cost == pytest.approx(wet.ideal_cost, rel=1e-12)
    assert dry.unit == wet.unit == unit
    kinds = {(use.operator, use.kind): use.count for use in wet.operators}
    assert {(use.operator, use.kind): use.count for use in dry.operators} == kinds


@pytest.mark.parametrize(
    "line",
    [
        lambda u: u / u,
        lambda u: u + u.div_(u),
        lambda u: torch.addcdiv(u, u, u),
        lambda u: torch.copysign(u, u),
        lambda u: torch.linalg.solve(u @ u.T + 9 * torch.eye(2, dtype=DOUBLE), u),
    ],
    ids=["div", "in-place", "addcdiv", "copysign", "solve"],
)
def test_a_gate_brings_no_paths_even_where_it_is_the_operand_itself(line: Callable[[Tensor], Tensor]) -> None:
    model, x = Written(lambda m, x: line(m.layer(x)), layer=dense(4, 4)), torch.rand(2, 4, dtype=DOUBLE) + 1
    assert dict(support(model, x).paths) == dict(expand(model, x).paths)


@pytest.mark.parametrize(
    "line",
    [
        lambda u, i: u + i,
        lambda u, i: torch.gather(u, 1, i),
        lambda u, i: u[i[:, 0]],
        lambda u, i: nn.functional.embedding(i, u),
        lambda u, i: torch.where(i > 0, u, 0.5),
        lambda u, i: u.masked_fill(i > 0, 0.0),
    ],
    ids=["add", "gather", "index", "embedding", "where", "masked_fill"],
)
def test_integers_of_the_input_beside_numbers_bring_no_paths(line: Callable[..., Tensor]) -> None:
    x, places = torch.rand(2, 4, dtype=DOUBLE), torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0]])
    layer = dense(4, 4)
    inputs = (x, places)
    found = expand(lambda u, i: line(layer(u), i), inputs).paths
    assert dict(support(lambda u, i: line(layer(u), i), inputs).paths) == dict(found) == {1: 1}


def test_named_modules_are_steps_of_the_dry_run_too() -> None:
    model, x = nets.resnet(8), torch.randn(1, 3, 8, 8)
    names = ["stages.0.0.conv2", "stages.1", "classifier"]
    assert dict(support(model, x, unit=names).paths) == dict(expand(model, x, unit=names).paths)


def test_weights_are_counted_by_calls() -> None:
    model = Written(lambda m, x: m.layer(m.layer(x)) + m.bank(x), layer=dense(4, 4), bank=dense(4, 4))
    assert support(model, torch.randn(2, 4, dtype=DOUBLE)).weights == 3


def test_memory_is_counted_to_the_last_reader() -> None:
    """x and W x are needed at once, with one term each and the constants: 2 x 2 x (6 numbers of 8 bytes)."""
    x = torch.randn(2, 3, dtype=DOUBLE)
    chain = Written(lambda m, x: (x * 2.0) * 2.0 + 0.0, layer=dense(3, 3))
    assert support(chain, x).memory == 2 * 2 * 6 * 8
    # Behind the first sum there are two terms and the constants, behind the second three: when the last sum is made,
    # its two operands are there, and it itself.
    stream = Written(lambda m, x: _stream(m, x), f=dense(3, 3), g=dense(3, 3))
    assert support(stream, x).memory == (3 + 3 + 4) * 6 * 8


def _stream(m: Any, x: Tensor) -> Tensor:
    v = x + m.f(x)
    return v + m.g(torch.relu(v)).mul(2.0)


def test_it_prints_what_was_found() -> None:
    text = str(support(nets.resnet(8), torch.randn(1, 3, 8, 8), unit="blocks"))
    first, *rest = text.splitlines()
    assert first == "supported: every operator has a rule"
    found = {line[:14].strip(): line[14:] for line in rest if line[:14].strip()}
    assert found["paths"] == "8 paths, of 0 to 3 blocks: 4 terms"
    assert found["blocks"] == "3 residual branches: stages.0.0, stages.1.0, stages.2.0"
    assert found["weights"].startswith("8 calls")
    assert found["missing"] == "none"
    assert "aten.convolution x7" in found["exact"]
    assert all(len(line) <= 100 and line == line.rstrip() for line in text.splitlines())
    plain = str(support(nets.plain(8), torch.randn(1, 3, 8, 8)))
    assert "1 path, of 8 layers: a single term, nothing to split" in plain
    assert "none: no addition or concatenation carries its own input along" in plain


def test_a_model_that_would_be_refused_is_told_so() -> None:
    frozen = support(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)), torch.randn(2, 4))
    assert not frozen.supported
    assert frozen.paths == {}
    assert str(frozen).startswith("not supported: expand: the output is frozen")
    pair = support(Written(lambda m, x: (x, x)), torch.randn(2, 4))
    assert str(pair).startswith("not supported: expand: the model returned a tuple of 2")
    with pytest.raises(DataError):
        support(nn.Linear(4, 3), torch.full((2, 4), float("nan")))
    with pytest.raises(UsageError):
        support(nn.Linear(4, 3), torch.randn(2, 4), unit="blocs")


# Operators without a rule.


def somebodys(library: Any, *names: str) -> nn.Module:
    class Act(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            return getattr(library, self.name)(x)

    model = nn.Sequential()
    for i, name in enumerate(names):
        model.append(nn.Linear(4, 4))
        model.add_module(f"act{i}", Act(name))
    return model.append(nn.Linear(4, 2)).double()


def test_a_linearised_operator_is_listed(library: Any) -> None:
    found = support(somebodys(library, "smooth"), torch.randn(2, 4, dtype=DOUBLE))
    assert found.supported
    assert [(use.operator, use.modules) for use in found.linearised] == [("termwise_support.smooth", ("act0",))]
    text = str(found)
    assert text.startswith("supported, but 1 of the operators only to first order")
    assert "termwise.rules.register(" in text


def test_all_operators_that_cannot_be_followed_are_named_at_once(library: Any) -> None:
    model, x = somebodys(library, "opaque", "smooth", "sealed", "opaque"), torch.randn(2, 4, dtype=DOUBLE)
    found = support(model, x)
    assert not found.supported
    assert [(call.operator.rpartition(".")[2], call.module) for call in found.missing] == [
        ("opaque", "act0"),
        ("sealed", "act2"),
        ("opaque", "act3"),
    ]
    with pytest.raises(RuleError) as caught:
        expand(model, x)
    message = str(caught.value)
    assert message.startswith("2 operators cannot be followed:")
    assert "termwise_support.opaque in 'act0', 'act3' (2 calls)" in message
    assert "[torch.ops.termwise_support.opaque, torch.ops.termwise_support.sealed]" in message
    assert "smooth" not in message


def test_strict_names_all_that_has_no_rule(library: Any) -> None:
    model, x = somebodys(library, "smooth", "opaque"), torch.randn(2, 4, dtype=DOUBLE)
    with pytest.raises(RuleError, match=r"(?s)2 operators.*smooth in 'act0'.*opaque in 'act1'"):
        expand(model, x, strict=True)
    with pytest.raises(RuleError, match="strict=True"):
        profile(somebodys(library, "smooth"), x, strict=True)
    found = expand(nets.resnet(8), torch.randn(1, 3, 8, 8), strict=True)
    assert found.closure is not None and found.closure < 5e-6


def test_what_strict_asks_for_can_be_typed(library: Any) -> None:
    model, x = somebodys(library, "smooth"), torch.randn(2, 4, dtype=DOUBLE)
    with pytest.raises(RuleError) as caught:
        expand(model, x, strict=True)
    line = str(caught.value).splitlines()[-1].strip()
    try:
        exec(line, {"termwise": termwise, "torch": torch})
        found = expand(model, x, strict=True)
        assert {use.kind for use in found.operators} == {"exact"}
        assert found.depths == (2,)
    finally:
        del termwise.rules.RULES[library.smooth]


def test_the_cause_is_named_where_the_run_breaks_down_afterwards(library: Any) -> None:
    """What a frozen stand-in leads to is not the reason."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = library.opaque(x)
            raise ValueError("no such luck") if y.requires_grad is False else RuntimeError

    with pytest.raises(RuleError, match="opaque"):
        expand(Odd(), torch.randn(2, 4, dtype=DOUBLE))


def test_blocks_are_the_same_in_every_unit() -> None:
    """Also beside named modules, whose outputs are steps of the graph: what is listed can be left out."""
    model, x = nets.resnet(14).double(), torch.randn(2, 3, 16, 16, dtype=DOUBLE)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    expected = support(model, x).blocks
    for unit in ("blocks", "activations", names):
        blocks = support(model, x, unit=unit).blocks
        assert blocks == expected
        assert torch.equal(without(model, x, blocks[1:2]), without(model, x, [1]))


def test_nothing_can_be_left_out_of_a_model_without_branches() -> None:
    with pytest.raises(UsageError, match=r"^0: the model has no residual branches"):
        without(nn.Linear(4, 3), torch.ones(2, 4), [0])
