"""Every rule against its formula, derived again in `oracles.py`; one case table, and a case for every operator.

A case feeds an operator with sources whose parts are known (one path of no step, one of one step, a constant), runs it
under `expand` and compares every part of the result.  Results that are frozen are added to their own input, so that
there is an output to expand.
"""

import ast
import inspect
import pathlib
import zlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracles
from cases import Case, aten, normal
from cases_choices import norms, selections
from cases_elementwise import frozen_values, gates, readings
from cases_linear import LINEAR, joint_ones, linear_ones
from cases_modules import attentions, deep, linearised, lstm_by_hand, multihead, recurrences
from cases_products import convolutions, products
from oracles import Known, Source, alone, scaled
from termwise import rules
from termwise.errors import RuleError
from termwise.expand import Expansion, expand
from termwise.rules import RULES

TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def sources(case: Case) -> tuple[list[Tensor], list[Source]]:
    g = torch.Generator().manual_seed(zlib.crc32(case.id.encode()))
    xs = [oracles.quarters(shape, g) for shape in case.shapes]
    return xs, [Source(x, case.domain(x.shape, g), g) for x in xs]


class Probe(nn.Module):
    def __init__(self, operands: list[Source], op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.operands, self.op = nn.ModuleList(operands), op

    def forward(self, *xs: Tensor) -> Tensor:
        return self.op(*(operand(x) for operand, x in zip(self.operands, xs, strict=True)))


def compare(found: Expansion, expected: Known, tolerance: float = TOLERANCE) -> None:
    assert found.depths == tuple(sorted(expected.terms))
    for depth, term in expected.terms.items():
        assert oracles.disagreement(found.terms[depth], term) < tolerance, f"the term of depth {depth}"
    assert oracles.disagreement(found.constant, expected.constant.expand(found.total.shape)) < tolerance, "the constant"
    if expected.frozen is None:
        assert found.frozen is None
    else:
        assert found.frozen is not None
        assert oracles.disagreement(found.frozen, expected.frozen) < tolerance, "the frozen part"


def compare_paths(found: Expansion, expected: Known) -> None:
    assert dict(found.paths) == dict(sorted(expected.paths.items()))


CASES = [
    *gates(),
    *frozen_values(),
    *readings(),
    *linear_ones(),
    *joint_ones(),
    *selections(),
    *norms(),
    *products(),
    *convolutions(),
    *attentions(),
    *multihead(),
    *recurrences(),
    *linearised(),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_rule(case: Case) -> None:
    xs, operands = sources(case)
    model = Probe(operands, case.op)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = case.oracle(*(source.known(x) for source, x in zip(operands, xs, strict=True)))
        clean = model(*xs)
    found = expand(model, tuple(xs), product=case.product)
    assert found.closure <= 1e-12
    compare(found, expected)
    if case.counted:
        compare_paths(found, expected)
    assert torch.equal(found.total, clean)
    arrived = {(use.operator.removeprefix("aten."), use.kind): use.rule for use in found.operators}
    names = {name for name, _ in arrived}
    assert set(case.reaches.split()) <= names, f"arrived: {sorted(names)}"
    if case.kind is not None:
        assert (case.reaches.split()[0], case.kind) in arrived
    for (name, _), family in arrived.items():
        if name in case.reaches.split() and case.kind != "linearised":
            assert family == RULES[getattr(aten, name)].family


# One case an operator is enough here: what differs is how constants are born and carried.
_BY_DEPTH = list({(case.reaches, case.oracle.__code__): case for case in CASES}.values())


@pytest.mark.parametrize("case", _BY_DEPTH, ids=lambda case: case.id)
def test_constants_by_depth_sum_to_the_pooled_one(case: Case) -> None:
    xs, operands = sources(case)
    model = Probe(operands, case.op)
    with torch.no_grad():
        expected = case.oracle(*(source.known(x) for source, x in zip(operands, xs, strict=True)))
    found = expand(model, tuple(xs), constants="by_depth", product=case.product)
    compare(found, expected)
    assert all(depth >= 0 for depth in found.constants)
    summed = sum(found.constants.values(), torch.zeros_like(found.total))
    summed = summed if found.frozen is None else summed + found.frozen
    assert oracles.disagreement(summed, found.constant) < TOLERANCE


# Rules that no case of the table reaches, and why.
_ELSEWHERE = {
    "cudnn_batch_norm": "runs on a graphics card alone",
    "mkldnn_rnn_layer": "float32 alone: test_fused_lstm",
    "_grouped_mm": "no float64: test_grouped_matrix_product",
    "_embedding_bag": "integer inputs: test_embedding_is_where_integer_inputs_start",
    "_embedding_bag_forward_only": "integer inputs: test_embedding_is_where_integer_inputs_start",
}


def test_every_rule_has_a_case() -> None:
    reached = {name for case in CASES for name in case.reaches.split() if case.kind != "linearised"}
    registered = {str(packet).removeprefix("aten.") for packet in RULES}
    assert sorted(registered - reached - set(_ELSEWHERE)) == []
    assert sorted(reached - registered) == []


# Names that other versions of PyTorch have: this one may lack them.
_OF_OTHER_VERSIONS: set[str] = set()


def test_every_operator_named_in_a_rule_exists() -> None:
    """A misspelt name would be left out in silence."""
    folder = pathlib.Path(inspect.getfile(rules)).parent
    missing = set()
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "existing"):
                continue
            names = node.args[0]
            if isinstance(names, ast.Constant) and isinstance(names.value, str):
                missing |= {name for name in names.value.split() if not hasattr(aten, name)}
    assert missing - _OF_OTHER_VERSIONS == set()


def test_fused_lstm() -> None:
    """In float32 the layer arrives whole; its parts are those of the loop."""
    module = nn.LSTM(4, 3, 2, bidirectional=True)
    g = torch.Generator().manual_seed(0)
    x = oracles.quarters((3, 2, 4), g).float()
    source = Source(x, normal(x.shape, g).float(), g)
    with torch.no_grad():
        expected = deep(lstm_by_hand)(module, source.known(x))
        clean = module(source(x))[0]
    found = expand(Probe([source], lambda u: module(u)[0]), (x,))
    assert torch.equal(found.total, clean)
    assert found.closure < 5e-6
    compare(found, expected, 1e-5)


@pytest.mark.parametrize("sizes", [[2, 0, 4], [6, 0, 0]])
def test_grouped_matrix_product(sizes: list[int]) -> None:
    """Each group of rows through its own expert, one step of depth; the sizes may be counted from the input."""
    g = torch.Generator().manual_seed(0)
    x = oracles.quarters((6, 4), g).float()
    source = Source(x, normal(x.shape, g).float(), g)
    experts = nn.Parameter(oracles.quarters((3, 4, 4), g).float())
    chosen = torch.tensor(sizes)

    def op(u: Tensor) -> Tensor:
        ends = (chosen + (u.sum() > 1e9)).cumsum(0).to(torch.int32)
        return F.grouped_mm(u, experts, offs=ends)

    by_row = experts.detach()[torch.repeat_interleave(torch.arange(3), chosen)]
    expected = oracles.stepped(alone(lambda p: torch.stack([p[i] @ by_row[i] for i in range(6)]), source.known(x)))
    found = expand(Probe([source], op), (x,))
    assert torch.equal(found.total, op(source(x)))
    compare(found, expected, 1e-5)
    compare_paths(found, expected)
    assert {use.kind for use in found.operators if use.operator == "aten._grouped_mm"} == {"exact"}


@pytest.mark.parametrize("module", [nn.Embedding(7, 4, padding_idx=0), nn.EmbeddingBag(7, 4)], ids=["embedding", "bag"])
def test_embedding_is_where_integer_inputs_start(module: nn.Module) -> None:
    tokens = torch.tensor([[1, 3, 0], [6, 2, 2]])
    head = nn.Linear(4, 2)
    model = nn.Sequential(module, head).double()
    found = expand(model, tokens)
    table = next(module.parameters()).detach()
    looked_up = table[tokens] if isinstance(module, nn.Embedding) else table[tokens].mean(dim=1)
    assert found.depths == (1,)
    assert found.paths == {1: 1}
    assert oracles.disagreement(found.terms[1], (looked_up @ head.weight.t()).detach()) < TOLERANCE
    assert oracles.disagreement(found.constant, head.bias.detach().expand_as(found.total)) < TOLERANCE


# Provenance: what a product with a sigmoid freezes, and what it halves.

_STRUCTURAL = [
    entry for entry in LINEAR if entry[2] and RULES[getattr(aten, entry[2].split()[0])].family == "structural"
]


@pytest.mark.parametrize(("name", "op", "packet", "shape"), _STRUCTURAL, ids=[entry[0] for entry in _STRUCTURAL])
def test_a_gate_survives_structural_operators(
    name: str, op: Callable[..., Tensor], packet: str, shape: tuple[int, ...]
) -> None:
    case = Case(
        f"gate-{name}",
        lambda u, v: op(torch.sigmoid(u)) * op(v),
        lambda u, v: scaled(alone(op, v), op(torch.sigmoid(u.value))),
        "mul",
        "frozen",
        (shape, shape),
        counted=False,
    )
    test_rule(case)


def test_rules_are_registered_once() -> None:
    with pytest.raises(RuleError, match="has a rule already, of the family 'gate'"):
        rules.register("gate", rules.gated, [aten.relu])
    with pytest.raises(RuleError, match="no operator packet"):
        rules.register("gate", rules.gated, [aten.relu.default])
    with pytest.raises(RuleError, match="no operator packet"):
        rules.register("gate", rules.gated, [torch.relu])
    assert RULES[aten.relu].family == "gate"
