"""Runs that carry less than all terms: every rule under each of them, against the parts that its formula gives."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import oracles
from cases import Case
from oracles import Known
from programs import DOUBLE, Written, around_one, dense, fresh
from residual import Net
from termwise import expand, nets
from termwise.errors import UsageError
from termwise.expand import Expansion, relative
from termwise.profile import measured
from termwise.reference import at_roots, by_paths, describe, discrepancy, of_linear_network
from termwise.series import Origin
from termwise.steps import Unit
from test_rules import CASES, Probe, sources

TOLERANCE = 1e-10
pytestmark = pytest.mark.filterwarnings(
    r"ignore:index_reduce\(\) is in beta", "ignore:Sparse CSR tensor support is in beta"
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Bare(nn.Module):
    """Operands without a constant, of a single term: of no step, or of one."""

    def __init__(self, case: Case, steps: int) -> None:
        super().__init__()
        self.op, self.steps = case.op, steps
        self.eyes = nn.ParameterList(torch.eye(shape[-1], dtype=DOUBLE) for shape in case.shapes)

    def forward(self, *xs: Tensor) -> Tensor:
        return self.op(*(x @ eye if self.steps else x * 1 for x, eye in zip(xs, self.eyes, strict=True)))


def at_hand(case: Case, source: str) -> tuple[nn.Module, tuple[Tensor, ...], Known]:
    """The operator, what to feed it with, and the parts that come out by the case's formula."""
    xs, operands = sources(case)
    known = [operand.known(x) for operand, x in zip(operands, xs, strict=True)]
    model: nn.Module = Probe(operands, case.op)
    if source != "all parts":
        steps = int(source == "one step")
        xs, model = [k.value for k in known], Bare(case, steps)
        known = [Known(x, {steps: x}, {steps: 1}) for x in xs]
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return model, tuple(xs), case.oracle(*known)


def derivative(terms: dict[int, Tensor], like: Tensor) -> Tensor:
    """The sum of k y_k."""
    return sum((depth * term for depth, term in terms.items()), torch.zeros_like(like))


# Every rule: here, too, one case for each way in which an operator is treated is enough.

_CASES = list({(case.reaches, case.oracle.__code__, case.product): case for case in CASES}.values())


@pytest.mark.parametrize(("source", "max_depth"), [("all parts", 0), ("all parts", 1), ("one step", 0)])
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.id)
def test_a_rule_with_its_deep_terms_cut(case: Case, source: str, max_depth: int) -> None:
    """No term misses what was cut, nor does a gate or a constant come out otherwise for it."""
    model, xs, expected = at_hand(case, source)
    found = expand(model, xs, max_depth=max_depth, product=case.product)
    short = {depth: term for depth, term in sorted(expected.terms.items()) if depth <= max_depth}
    assert found.depths == tuple(short) == tuple(found.paths)
    for depth, term in short.items():
        assert oracles.disagreement(found.terms[depth], term) < TOLERANCE
        assert not case.counted or found.paths[depth] == expected.paths[depth]
    assert oracles.disagreement(found.constant, expected.constant.expand(found.total.shape)) < TOLERANCE
    long = [term for depth, term in expected.terms.items() if depth > max_depth]
    assert found.remainder is not None and found.closure is None
    assert oracles.disagreement(found.remainder, sum(long, torch.zeros_like(found.total))) < TOLERANCE


@pytest.mark.parametrize("source", ["all parts", "one step", "no step"])
@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.id)
def test_a_rule_around_one(case: Case, source: str) -> None:
    """The row of the derivative is the sum of k y_k, and what is born of constants or frozen is as ever."""
    model, xs, expected = at_hand(case, source)
    found = around_one(model, xs, Unit("layers"), case.product)
    rows = dict(zip((part.origin for part in found.parts), found.rows, strict=True))
    zeros = torch.zeros_like(found.value)
    wanted = {Origin.INPUT: derivative(expected.terms, found.value)}
    wanted |= {origin: expected.parts.get(origin.name.lower(), zeros) for origin in (Origin.CONSTANT, Origin.FROZEN)}
    for origin, part in wanted.items():
        assert oracles.disagreement(rows.get(origin, zeros), part.expand(zeros.shape)) < TOLERANCE, origin.name


# Up to a depth: whole networks, against every path walked by itself.

UNITS: tuple[Literal["layers", "blocks", "activations"], ...] = ("layers", "blocks", "activations")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: nets.resnet(14, width=4, shortcut="projection"),
    "densenet": lambda: nets.densenet(10, 4),
    "plain": lambda: nets.plain(8, width=4),
}


def images(n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, dtype=DOUBLE)


def rest(found: Expansion) -> Tensor:
    """What the listed parts leave of the total."""
    return found.total - found.constant - sum(found.terms.values(), torch.zeros_like(found.total))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_short_terms_are_those_of_all_short_paths(name: str, unit: Any) -> None:
    model, x = NETWORKS[name]().double().eval(), images()
    expected = by_paths(describe(model), x, unit)
    whole = expand(model, x, unit=unit)
    for max_depth in range(max(expected.paths) + 2):
        found = expand(model, x, unit=unit, max_depth=max_depth, constants="by_depth")
        short, births = ({k: t for k, t in d.items() if k <= max_depth} for d in (expected.terms, expected.constants))
        assert tuple(found.terms) == tuple(short) == tuple(found.paths)
        assert tuple(found.constants) == tuple(births)
        assert found.paths == {k: expected.paths[k] for k in short}
        # Beside all terms: those that are short may all be small.
        scale = sum(float(t.norm()) ** 2 for t in expected.terms.values()) ** 0.5
        for k, term in short.items():
            assert float((found.terms[k] - term).norm()) < 1e-11 * scale
        assert discrepancy(births, found.constants) < 1e-10
        long = [t for d in (expected.terms, expected.constants) for k, t in d.items() if k > max_depth]
        assert found.remainder is not None and found.closure is None
        assert oracles.disagreement(found.remainder, sum(long, torch.zeros_like(found.total))) < 1e-11
        assert torch.equal(found.total, whole.total)
        assert found.ideal_cost <= whole.ideal_cost or found.constants
        assert expand(model, x, unit=unit, max_depth=max_depth).ideal_cost <= min(max_depth + 2, whole.ideal_cost)


def test_a_path_shorter_than_any_leaves_everything_in_the_remainder() -> None:
    model, x = NETWORKS["resnet"]().double(), images()
    found = expand(model, x, max_depth=1)
    assert found.terms == {} and found.depths == () and found.paths == {} and found.remainder is not None
    assert torch.allclose(found.remainder, found.total - found.constant, rtol=0, atol=1e-12)
    part = relative(found.total - found.constant, found.total)
    assert f"depths none (0), output (2, 10), remainder {part:.1e} of it, linearised: nothing" in repr(found)
    assert "depths 4..5 (2), output (2, 10), remainder " in repr(expand(model, x, max_depth=5))


def test_what_was_cut_is_still_computed_from_the_input() -> None:
    """It is no gate and no constant: a product with it is halved as ever."""
    model: Any = Written(lambda m, x: m.second(torch.tanh(m.first(x))) * x, first=dense(4, 4), second=dense(4, 4))
    x = torch.randn(3, 4, dtype=DOUBLE)
    with torch.no_grad():
        deep = model.second(torch.tanh(model.first(x)))
    found = expand(model, x, max_depth=0)
    assert found.depths == (0,) and oracles.disagreement(found.terms[0], x * deep / 2) < 1e-12
    assert not any(use.kind == "frozen" for use in found.operators)


def test_a_cauchy_product_beyond_the_depth_needs_all_constants() -> None:
    """The constant of two steps that x is multiplied by makes a term of no step."""
    model: Any = Written(lambda m, x: m.second(m.first(x)) * x, first=dense(4, 4), second=dense(4, 4))
    x = torch.randn(3, 4, dtype=DOUBLE)
    with torch.no_grad():
        constant = model.second(model.first.bias)
        term = x @ model.first.weight.T @ model.second.weight.T * x
    for constants in ("pooled", "by_depth"):
        found = expand(model, x, max_depth=1, product="cauchy", constants=constants)
        assert found.depths == (0,) and oracles.disagreement(found.terms[0], constant * x) < 1e-12
        assert found.remainder is not None and oracles.disagreement(found.remainder, term) < 1e-12


def written(m: Any, x: Tensor) -> Tensor:
    """Writes into a base, into views of it and into a buffer, of values whose terms are cut or not."""
    h = m.first(x)
    left, row = h[:, :2], h.t()[3]
    left *= 2
    row += x[:, 0]
    h[:, 1] = m.second(h)[:, 1]
    left.add_(x[:, :2])
    out = torch.zeros(3, 4, dtype=DOUBLE)
    out[:, 0] = h[:, 0]
    out[:, 1:] = (h * left.sum(1, keepdim=True))[:, 1:]
    out[0] += x[0]
    return m.third(out) + h


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("max_depth", range(5))
def test_writes_into_views_whose_base_was_cut(max_depth: int, bias: bool) -> None:
    layers = {name: nn.Linear(4, 4, bias=bias, dtype=DOUBLE) for name in ("first", "second", "third")}
    model, x = Written(written, **layers), torch.randn(3, 4, dtype=DOUBLE)
    whole = expand(model, x)
    assert whole.closure is not None and whole.closure <= 1e-12 and max(whole.depths) == 3
    found = expand(model, x, max_depth=max_depth)
    assert found.depths == tuple(depth for depth in whole.depths if depth <= max_depth)
    for depth, term in found.terms.items():
        assert oracles.disagreement(term, whole.terms[depth]) < 1e-12
    assert oracles.disagreement(found.constant, whole.constant) < 1e-12
    moved = around_one(model, x, Unit("layers"))
    assert oracles.disagreement(moved.rows[-1], derivative(dict(whole.terms), whole.total)) < 1e-12


def test_a_write_into_a_view_without_any_part() -> None:
    """Nothing is kept of it, and nothing is in the way."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = x @ m.weight
        h[:, 1:3] *= 2
        h.view(-1)[::2] *= 3
        return h + x

    x = torch.randn(3, 4, dtype=DOUBLE)
    found = expand(Written(run, weight=fresh(4, 4)), x, max_depth=0)
    assert torch.equal(found.terms[0], x) and not found.constant.any()


# Within a tolerance.


class Decaying(nn.Module):
    """v + W_l v with small W_l: the term of depth k is about 3^k / 1000^k of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(dense(4, 4) for _ in range(3))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.div_(1000)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_small_terms_are_dropped_and_the_others_are_those_of_the_oracle() -> None:
    model, x = Decaying(), torch.randn(5, 4, dtype=DOUBLE)
    layers = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    expected = of_linear_network([layer.weight for layer in layers], [layer.bias for layer in layers], x)
    for tolerance, depths in ((0.1, (0,)), (1e-4, (0, 1)), (1e-7, (0, 1, 2)), (1e-13, (0, 1, 2, 3))):
        found = expand(model, x, tolerance=tolerance)
        assert found.depths == depths and found.paths == {k: expected.paths[k] for k in depths}
        kept = {k: expected.terms[k] for k in depths}
        assert discrepancy(kept, found.terms) < 1e-12  # the paths that lead through a dropped term are all dropped
        lost = sum((t for k, t in expected.terms.items() if k not in depths), torch.zeros_like(found.total))
        assert found.remainder is not None and oracles.disagreement(found.remainder, lost) < 1e-13
        assert found.dropped is not None and (found.dropped > 0) == (len(depths) < 4)


def test_the_first_drop_by_hand() -> None:
    """x + W x + b: which of the two terms goes, and how large it was."""
    layer, x = dense(4, 4), torch.randn(5, 4, dtype=DOUBLE)
    with torch.no_grad():
        layer.weight.div_(100)
        value, term = x + layer(x), x @ layer.weight.T
    size = float(term.norm() / value.norm())
    model = Written(lambda m, x: x + m.layer(x), layer=layer)
    kept = expand(model, x, tolerance=0.5, threshold=0.99 * size)
    assert kept.depths == (0, 1) and kept.dropped == 0 and kept.threshold == 0.99 * size
    found = expand(model, x, tolerance=0.5, threshold=1.01 * size)
    assert found.depths == (0,) and found.remainder is not None
    assert found.dropped == pytest.approx(size, rel=1e-12)
    assert oracles.disagreement(found.remainder, term) < 1e-12


@pytest.mark.parametrize("product", ["half", "cauchy"])
@pytest.mark.parametrize("tolerance", [0.3, 0.03, 1e-3, 1e-6])
@pytest.mark.parametrize("name", ["resnet", "densenet", "chain", "gated"])
def test_the_remainder_is_as_small_as_promised(name: str, tolerance: float, product: Any) -> None:
    tree, model, x = None, None, images()
    if name == "chain":
        net = Net()
        tree, model, x = net.tree(), net.eval(), torch.randn(4, 6, dtype=DOUBLE)
    elif name == "gated":
        x = torch.randn(4, 6, dtype=DOUBLE)
        model = Written(
            lambda m, x: m.out(x + m.up(x) * m.value(x) + m.norm(m.value(x) + x) * torch.sigmoid(m.up(x))),
            **{key: dense(6, 6) for key in ("out", "up", "value")},
            norm=nn.LayerNorm(6, dtype=DOUBLE),
        )
    else:
        model = NETWORKS[name]().double().eval()
        tree = describe(model)
    found = expand(model, x, tolerance=tolerance, product=product)
    assert found.remainder is not None and found.closure is None
    assert float(found.remainder.norm()) <= tolerance * float(found.total.norm())
    assert oracles.disagreement(found.remainder, rest(found)) < 1e-12
    assert found.threshold is not None and found.threshold <= tolerance
    assert tuple(found.paths) == found.depths
    again = expand(model, x, tolerance=tolerance, threshold=found.threshold, product=product)
    assert again.threshold == found.threshold and again.dropped == found.dropped and again.depths == found.depths
    assert all(torch.equal(again.terms[k], found.terms[k]) for k in found.depths)
    if tree is not None:
        expected = at_roots(tree, x)
        # What the terms lack, and what those that are gone were, is the remainder.
        lacking = [t - found.terms.get(k, torch.zeros_like(t)) for k, t in expected.terms.items()]
        assert oracles.disagreement(sum(lacking, torch.zeros_like(found.total)), found.remainder) < 1e-10


def test_a_threshold_that_drops_too_much_is_made_smaller() -> None:
    model, x = NETWORKS["resnet"]().double(), images()
    found = expand(model, x, tolerance=1e-3, threshold=0.9)
    assert found.threshold is not None and found.threshold < 0.9 and relative(rest(found), found.total) <= 1e-3
    steps = torch.tensor(0.9 / found.threshold).log() / torch.tensor(4.0).log()
    assert abs(float(steps - steps.round())) < 1e-6


def test_a_tolerance_within_rounding_is_refused() -> None:
    model, x = NETWORKS["resnet"]().float(), images().float()
    with pytest.raises(UsageError, match=r"tolerance=1e-12: in this precision all parts together miss.*float64"):
        expand(model, x, tolerance=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": -1}, "max_depth=-1: expected a whole number of steps, 0 or more"),
        ({"max_depth": 1.0}, "max_depth=1.0: expected a whole number"),
        ({"max_depth": True}, "max_depth=True: expected a whole number"),
        ({"max_depth": "2"}, "max_depth='2': expected a whole number"),
        ({"tolerance": 0}, "tolerance=0: expected a part of the whole, between 0 and 1"),
        ({"tolerance": 1.0}, "tolerance=1.0: expected"),
        ({"tolerance": float("nan")}, "tolerance=nan: expected"),
        ({"tolerance": "small"}, "tolerance='small': expected"),
        ({"tolerance": 0.1, "threshold": 0}, "threshold=0: expected"),
        ({"threshold": 0.1}, "threshold: it is where a tolerance starts"),
        ({"max_depth": 3, "tolerance": 0.1}, "max_depth and tolerance: the remainder of both would bound neither"),
    ],
)
def test_limits_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("the model was run")

    with pytest.raises(UsageError, match=message):
        expand(never, images(), **options)


def test_a_profile_is_made_of_all_terms() -> None:
    model, x = NETWORKS["resnet"]().double(), images()
    with pytest.raises(UsageError, match="a profile needs all terms"):
        measured(expand(model, x, max_depth=4), None)
