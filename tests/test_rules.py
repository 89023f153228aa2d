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

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracles
from cases import INDEX, Case, aten, normal
from cases_choices import norms, selections
from cases_elementwise import frozen_values, gates, readings
from cases_linear import LINEAR, joint_ones, linear_ones
from cases_modules import attentions, deep, linearised, lstm_by_hand, multihead, packed, recurrences
from cases_products import convolutions, products
from cases_vision import vision
from oracles import Known, Source, alone, scaled
from termwise import rules, support
from termwise.errors import ModelError, RuleError
from termwise.expand import Expansion, expand
from termwise.rules import RULES

TOLERANCE = 1e-10
ENTRIES = {str(packet).removeprefix("aten."): entry for packet, entry in RULES.items()}
pytestmark = pytest.mark.filterwarnings(
    r"ignore:index_reduce\(\) is in beta", "ignore:Sparse CSR tensor support is in beta"
)


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
    *packed(),
    *vision(),
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
    assert found.closure is not None and found.closure <= 1e-12
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
            assert family == ENTRIES[name].family


# One case an operator is enough here, too.
_COUNTED = {case.reaches: case for case in CASES if case.counted and case.product == "half"}


@pytest.mark.parametrize("case", _COUNTED.values(), ids=lambda case: case.id)
def test_the_graph_of_a_dry_run_has_the_same_paths(case: Case) -> None:
    """What a rule freezes is no edge; every other operand is."""
    xs, operands = sources(case)
    model = Probe(operands, case.op)
    assert dict(support(model, tuple(xs)).paths) == dict(expand(model, tuple(xs)).paths)


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
    "_cudnn_rnn": "refused, on a graphics card alone: test_states_layers",
    "_thnn_fused_gru_cell": "the same",
    "_thnn_fused_lstm_cell": "the same",
    "miopen_rnn": "the same",
    "mkldnn_rnn_layer": "float32 alone: test_fused_lstm",
    "_grouped_mm": "no float64: test_grouped_matrix_product",
}


def test_every_rule_has_a_case() -> None:
    reached = {name for case in CASES for name in case.reaches.split() if case.kind != "linearised"}
    assert sorted(set(ENTRIES) - reached - set(_ELSEWHERE)) == []
    assert sorted(reached - set(ENTRIES)) == []


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
    assert found.closure is not None and found.closure < 5e-6
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


# Infinities: a masked score is one, and a gate that closes on it must not make it NaN.

_CLOSING: list[Callable[[Tensor], Tensor]] = [
    torch.exp,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    nn.functional.softplus,
    nn.functional.elu,
    torch.erf,
    torch.atan,
    lambda u: u.clamp(-1, 1),
]


@pytest.mark.parametrize("op", _CLOSING, ids=[getattr(op, "__name__", "clamp") for op in _CLOSING])
def test_a_masked_score_gives_what_the_operator_gives_at_minus_infinity(op: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([[0.5, -1.0, 2.0]]).double()
    mask = torch.tensor([True, False, False])
    found = expand(lambda u: op((u * 2 + 1).masked_fill(mask, -torch.inf)), x)
    at_infinity = op(torch.tensor(-torch.inf).double())
    assert found.closure is not None and found.closure <= 1e-12
    assert found.terms[0][0, 0] == 0 and oracles.disagreement(found.constant[0, 0], at_infinity) < TOLERANCE
    elsewhere = expand(lambda u: op(u * 2 + 1), x[:, 1:])
    assert torch.equal(found.terms[0][:, 1:], elsewhere.terms[0])
    assert torch.equal(found.constant[:, 1:], elsewhere.constant)


# Values near zero, where a quotient in single precision loses its digits.

# prelu takes slopes of its own type alone, and those of the case are double; masks have the shape of their case.
_NEAR = [c for c in gates() if c.domain is normal and not hasattr(c.op, "__wrapped__") and c.id != "prelu-normal"]
_NEAR = [c for c in _NEAR if not c.id.endswith("-masked")]


@pytest.mark.parametrize("case", _NEAR, ids=lambda case: case.id)
def test_gates_near_zero_in_single_precision(case: Case) -> None:
    sizes = torch.logspace(-12, 0, 40, dtype=torch.float64)
    x = torch.cat([sizes, -sizes]).view(20, 4).float()
    found = expand(lambda x: case.op(x * 0.5), x)
    assert found.closure is not None and found.closure <= 5e-6
    u = Known(x.double() * 0.5, {0: x.double() * 0.5}, {0: 1})
    expected = case.oracle(u)
    found_term, term = found.terms[0].double(), expected.terms[0]
    # Rounding of s(u) and s(0), nothing more; below 1e-37 numbers lose digits of their own.
    allowed = 1e-5 * term.abs() + 5e-7 * (expected.value - term).abs() + 1e-37
    assert bool(((found_term - term).abs() <= allowed).all())


# Out of PyTorch.


@pytest.mark.parametrize(
    "line",
    [
        lambda u: torch.from_numpy(u.numpy()),
        lambda u: torch.from_numpy(u.detach().cpu().numpy()),
        lambda u: torch.tensor(u.tolist()),
        lambda u: torch.from_dlpack(u),
        lambda u: u + torch.tensor(np.asarray(u)),
    ],
    ids=["numpy", "detached", "list", "dlpack", "asarray"],
)
def test_values_that_leave_pytorch_are_refused(line: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match=r"out of PyTorch \(.*of shape \(2, 4\)\).*write it with PyTorch operators"):
        expand(lambda x: line(x * 2), torch.ones(2, 4))


def test_whole_numbers_may_leave_pytorch() -> None:
    """They steer the program, as any number that it reads."""
    x = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]]).double()
    places = x.argmax(dim=1)
    for line in (lambda u: u[:, u.argmax(1).tolist()], lambda u: u[:, torch.from_numpy(u.argmax(1).numpy())]):
        assert torch.equal(expand(line, x).terms[0], x[:, places])


# Provenance: what a product with a sigmoid freezes, and what it halves.

_STRUCTURAL = [entry for entry in LINEAR if entry[2] and ENTRIES[entry[2].split()[0]].family == "structural"]


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


_AFFINE: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("minus", lambda g: -g),
    ("one-minus", lambda g: 1 - g),
    ("twice", lambda g: 2 * g - 0.5),
    ("over", lambda g: g / torch.arange(1, 5)),
    ("mask", lambda g: g.masked_fill(torch.tensor([True, False, True, False]), 0.5)),
    ("index-fill", lambda g: g.index_fill(1, torch.tensor([2, 0]), 0.5)),
    ("pad", lambda g: nn.functional.pad(g[:, 1:3], (1, 1), value=1.0)),
    ("where", lambda g: torch.where(torch.tensor([True, False, True, False]), g, 1.0)),
    ("cat", lambda g: torch.cat([g[:2], torch.ones(1, 4).double()])),
    ("scatter", lambda g: g.scatter(1, torch.tensor([[1], [2]]), 0.5)),
    ("cast", lambda g: g.to(torch.float64, copy=True)),
]


@pytest.mark.parametrize(("name", "op"), _AFFINE, ids=[name for name, _ in _AFFINE])
def test_a_gate_survives_affine_maps_by_constants(name: str, op: Callable[[Tensor], Tensor]) -> None:
    case = Case(
        f"gate-{name}",
        lambda u, v: op(torch.sigmoid(u)) * v,
        lambda u, v: scaled(v, op(torch.sigmoid(u.value))),
        "mul",
        "frozen",
        ((3, 4), (3, 4)),
    )
    test_rule(case)


_MIXED: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
    ("sum", lambda g, h: g + h),
    ("scatter-add", lambda g, h: g.scatter_add(0, INDEX.expand(3, 4), h)),
    ("scatter-mean", lambda g, h: g.scatter_reduce(0, INDEX.expand(3, 4), h, "mean")),
    ("index-add", lambda g, h: g.index_add(0, torch.tensor([2, 2, 0]), h)),
    ("accumulated", lambda g, h: g.index_put((torch.tensor([2, 2]),), h[:2], accumulate=True)),
]


@pytest.mark.parametrize(("name", "op"), _MIXED, ids=[name for name, _ in _MIXED])
def test_a_sum_of_gates_is_none(name: str, op: Callable[[Tensor, Tensor], Tensor]) -> None:
    def oracle(u: Known, v: Known) -> Known:
        return oracles.halves(torch.mul, alone(op, *(oracles.gated(torch.sigmoid, k) for k in (u, v))), v)

    test_rule(
        Case(
            f"mixed-{name}",
            lambda u, v: op(torch.sigmoid(u), torch.sigmoid(v)) * v,
            oracle,
            "mul",
            "exact",
            ((3, 4), (3, 4)),
        )
    )


def test_parts_take_the_type_of_the_value() -> None:
    """A sum with a constant of higher precision is carried on in that."""
    single = nn.Linear(4, 4).requires_grad_(False)
    x, shift, w = torch.ones(2, 4), torch.full((4,), 1 / 3).double(), torch.full((4, 3), 0.1).double()
    found = expand(lambda x: (single(x) + shift) @ w, x)
    assert found.terms[1].dtype == found.constant.dtype == torch.float64
    assert oracles.disagreement(found.constant, ((single.bias.double() + shift) @ w).expand(2, 3)) < 1e-7
    assert oracles.disagreement(found.terms[1], (x @ single.weight.t()).double() @ w) < 1e-7


@pytest.mark.parametrize(
    "op",
    [
        lambda g: g / g.sum(-1, keepdim=True),
        lambda g: g * g.sum(-1, keepdim=True).reciprocal(),
        lambda g: g / 2,
        lambda g: g.topk(4).values,
        lambda g: g.gather(1, g.argsort(1)),
        lambda g: g.sort(1).values,
    ],
    ids=["normalised", "normalised-by-product", "halved", "top", "gathered", "sorted"],
)
def test_a_gate_that_is_normalised_or_chosen_is_one(op: Callable[[Tensor], Tensor]) -> None:
    """The scores of a router, before they weigh its experts."""
    test_rule(
        Case(
            "router",
            lambda u, v: op(torch.sigmoid(u)) * v,
            lambda u, v: scaled(v, op(torch.sigmoid(u.value))),
            "mul",
            "frozen",
            ((3, 4), (3, 4)),
            counted=False,
        )
    )


def test_rules_are_registered_once() -> None:
    with pytest.raises(RuleError, match="has a rule already, of the family 'gate'"):
        rules.register("gate", rules.gated, [aten.relu])
    with pytest.raises(RuleError, match="no operator packet"):
        rules.register("gate", rules.gated, [aten.relu.default])
    with pytest.raises(RuleError, match="no operator packet"):
        rules.register("gate", rules.gated, [torch.relu])
    with pytest.raises(RuleError, match="no operator packet"):
        rules.register("gate", rules.gated, ["relu"])
    for known in ("aten.relu", "torchvision.nms", torch.ops.torchvision.nms):
        with pytest.raises(RuleError, match="has a rule already"):
            rules.register("gate", rules.gated, [known])
    assert RULES[aten.relu].family == "gate"
