"""What expand() takes, refuses and returns; whole models against themselves and against paths counted by hand."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn

import oracles
from termwise import rules
from termwise.errors import ClosureWarning, DataError, ModelError, TermwiseError, UsageError
from termwise.expand import Expansion, expand
from termwise.steps import unit_of

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m, dtype=DOUBLE), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def batch(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE)


# Data that are refused.


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_an_input_that_is_not_finite_is_refused(bad: float) -> None:
    x = batch(2, 4)
    x[1, 2] = bad
    with pytest.raises(DataError, match=r"the input holds 1 value that is NaN or infinite \(of 8\)"):
        expand(mlp(4, 3), x)


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_weights_that_are_not_finite_are_refused_by_name(kind: str) -> None:
    model = nn.Sequential(mlp(4, 4), nn.BatchNorm1d(4, dtype=DOUBLE))
    name = "0.0.weight" if kind == "parameter" else "1.running_var"
    model.state_dict()[name].view(-1)[:2] = torch.nan
    with pytest.raises(ModelError, match=f"'{name}' of the model holds 2 values that are NaN.*earlier checkpoint"):
        expand(model, batch(2, 4))


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_an_empty_input_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"the input is empty, of shape"):
        expand(mlp(4, 3), batch(*shape))


@pytest.mark.parametrize("x", [(), {}, [1, 2], "image", None])
def test_an_input_without_tensors_is_refused(x: Any) -> None:
    with pytest.raises(DataError, match="x holds no tensor"):
        expand(mlp(4, 3), x)


def test_an_output_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the model's output holds 8 values that are NaN"):
        expand(lambda x: x * 1e300 * 1e300, batch(2, 4))


# Options that are refused, before the model is run.


def never(x: Tensor) -> Tensor:
    raise AssertionError("the model was run")


def test_unknown_options_are_refused() -> None:
    x: Any = batch(2, 4)
    with pytest.raises(UsageError, match="constants='none': expected 'pooled' or 'by_depth'"):
        expand(never, x, constants="none")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="product='full': expected 'half' or 'cauchy'"):
        expand(never, x, product="full")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"unit='layer': expected 'layers'.*unit=\['layer'\]"):
        expand(never, x, unit="layer")
    with pytest.raises(UsageError, match=r"unit=\[\]: no module is named"):
        expand(never, x, unit=[])


def test_an_unknown_module_is_refused_with_a_suggestion() -> None:
    model = nn.ModuleDict({"encoder": mlp(4, 4), "decoder": mlp(4, 4)})
    with pytest.raises(UsageError, match=r"no module called 'encodr'\. Did you mean encoder"):
        expand(model, batch(2, 4), unit=["encodr"])
    with pytest.raises(UsageError, match=r"no module called 'zzz'\. See dict\(model\.named_modules\(\)\)"):
        expand(model, batch(2, 4), unit=["zzz"])
    with pytest.raises(UsageError, match="no module called 'layer'"):
        expand(never, batch(2, 4), unit=["layer"])


def test_a_unit_may_be_resolved_beforehand() -> None:
    model = mlp(4, 5, 3)
    unit = unit_of(["0", "2"], model)
    assert str(unit) == "modules: 0, 2"
    assert expand(model, batch(2, 4), unit=unit).unit == str(unit)
    assert str(unit_of("layers", model)) == "layers"


# Outputs.


class Result(NamedTuple):
    features: Tensor
    logits: Tensor


class Answer:
    def __init__(self, logits: Tensor, hidden: Tensor) -> None:
        self.logits, self.hidden = logits, hidden


def head(x: Tensor) -> Tensor:
    return x * 2 + 1


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Any]] = {
    "tensor": (head, None),
    "logits-in-a-dictionary": (lambda x: {"loss": x.sum(), "logits": head(x)}, None),
    "logits-of-an-object": (lambda x: Answer(head(x), x), None),
    "logits-of-a-named-tuple": (lambda x: Result(x, head(x)), None),
    "key": (lambda x: {"a": x, "b": head(x)}, "b"),
    "attribute": (lambda x: Answer(x, head(x)), "hidden"),
    "index": (lambda x: (x, head(x)), 1),
    "negative-index": (lambda x: [x, head(x)], -1),
    "whole-number-key": (lambda x: {0: x, 7: head(x)}, 7),
    "function": (lambda x: {"a": [x, (head(x),)]}, lambda result: result["a"][1][0]),
    "function-that-computes": (lambda x: x, head),
    "key-over-logits": (lambda x: {"logits": x, "b": head(x)}, "b"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_that_is_meant(name: str) -> None:
    model, output = OUTPUTS[name]
    x = batch(2, 4)
    found = expand(model, x, output=output)
    assert torch.equal(found.total, head(x))
    assert torch.equal(found.terms[0], 2 * x)
    assert torch.equal(found.constant, torch.ones_like(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda x: {"a": x, "b": x},
            r"returned a dict with 'a', 'b', and none of it is called 'logits'.*output='name'",
        ),
        (lambda x: {}, "a dict with nothing"),
        (lambda x: (x, x), r"returned a tuple of 2.*output=0"),
        (lambda x: None, "returned a NoneType"),
        (lambda x: {"logits": [x]}, "the output is a list, not a tensor"),
    ],
    ids=["dictionary", "empty-dictionary", "tuple", "nothing", "list-of-logits"],
)
def test_an_output_without_logits_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        expand(model, batch(2, 4))


@pytest.mark.parametrize("output", ["c", 7, "shape_of_it"])
def test_an_output_that_is_not_there_is_refused(output: Any) -> None:
    with pytest.raises(ModelError, match=rf"output={output!r} is not in what the model returned \(a dict with 'a'\)"):
        expand(lambda x: {"a": x}, batch(2, 4), output=output)


def test_an_output_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the output is a dict, not a tensor\. Name one with output="):
        expand(lambda x: x, batch(2, 4), output=lambda result: {"a": result})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.softmax(dim=1),
        lambda x: x > 0,
        lambda x: x.argmax(dim=1),
        lambda x: x.norm(dim=1),
        lambda x: x.softmax(dim=1) * 2 + 1,
        lambda x: 1 / x,
    ],
    ids=["softmax", "comparison", "argmax", "norm", "affine-softmax", "reciprocal"],
)
def test_an_output_that_is_frozen_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match=r"the output is frozen.*for a softmax the logits"):
        expand(model, batch(2, 4))


@pytest.mark.parametrize(
    "model",
    [lambda x: torch.ones(2, 3), lambda x: torch.zeros_like(x), lambda x: nn.Linear(4, 3).weight, lambda x: x.shape[0]],
    ids=["constant", "zeros-like", "parameter", "number"],
)
def test_an_output_that_does_not_depend_on_the_input_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match=r"does not depend on the input|is a int, not a tensor|returned a int"):
        expand(model, batch(2, 4))


def test_an_output_whose_dependence_was_overwritten() -> None:
    """Its paths are there and carry nothing: a zero that the model computed."""
    try:
        found = expand(lambda x: x.clone().zero_(), batch(2, 4))
    except ModelError:
        return
    assert not found.total.any() and not any(term.any() for term in found.terms.values())


# Inputs.


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3, dtype=DOUBLE), nn.Linear(5, 3, dtype=DOUBLE)

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        out = (self.left(a) + self.right(b)) * scale
        return out if mask is None else out.masked_fill(mask, 0)


@pytest.mark.parametrize("form", ["tuple", "list", "dictionary"])
def test_several_inputs(form: str) -> None:
    model, a, b = TwoInputs(), batch(2, 4), batch(2, 5)
    x: Any = {"tuple": (a, b), "list": [a, b], "dictionary": {"b": b, "a": a}}[form]
    found = expand(model, x)
    assert found.paths == {1: 2}
    expected = a @ model.left.weight.t() + b @ model.right.weight.t()
    assert oracles.disagreement(found.terms[1], expected.detach()) < 1e-12


def test_what_is_no_tensor_is_handed_on() -> None:
    model, a, b = TwoInputs(), batch(2, 4), batch(2, 5)
    mask = torch.tensor([[True, False, False]]).expand(2, 3)
    found = expand(model, {"a": a, "b": b, "scale": 3.0, "mask": mask})
    assert torch.equal(found.total, model(a, b, 3.0, mask).detach())
    assert not found.terms[1][:, 0].any() and not found.constant[:, 0].any()


def test_nested_inputs() -> None:
    found = expand(lambda pair, extra: pair["a"] + pair["b"][0] * extra, ({"a": batch(2), "b": [batch(2)]}, 3))
    assert found.paths == {0: 2}


def test_integer_inputs_start_at_their_embedding() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)).double()
    assert expand(model, torch.randint(0, 9, (2, 3))).depths == (1,)


def test_integer_inputs_without_an_embedding_are_frozen() -> None:
    with pytest.raises(ModelError, match="frozen"):
        expand(lambda x: x.double() * 2, torch.arange(4))


# What comes back.


def check(found: Expansion, model: Callable[..., Any], *x: Any, limit: float = 1e-12) -> None:
    """What every result promises."""
    training = model.training if isinstance(model, nn.Module) else False
    with torch.no_grad():
        assert torch.equal(found.total, (model.eval() if isinstance(model, nn.Module) else model)(*x))
    if isinstance(model, nn.Module):
        model.train(training)
    assert found.closure is not None and found.closure <= limit
    whole = found.constant + torch.stack([*found.terms.values()]).sum(dim=0)
    assert float((whole - found.total).norm() / found.total.norm()) <= 10 * limit
    assert found.depths == tuple(found.terms) == tuple(sorted(found.terms)) == tuple(found.paths)
    assert all(isinstance(count, int) and count > 0 for count in found.paths.values())
    assert {v.shape for v in (*found.terms.values(), found.constant)} == {found.total.shape}
    assert not any(use.kind == "linearised" for use in found.operators)


def test_a_plain_network_has_one_depth() -> None:
    for act, norm in ((nn.ReLU, nn.BatchNorm1d), (nn.SiLU, nn.LayerNorm), (nn.Tanh, nn.Identity)):
        layers = itertools.chain.from_iterable((nn.Linear(4, 4), norm(4), act()) for _ in range(7))
        model = nn.Sequential(*layers, nn.Linear(4, 3)).double()
        x = batch(5, 4)
        found = expand(model, x)
        check(found, model, x)
        assert found.depths == (8,) and found.paths == {8: 1}
        assert expand(model, x, unit="activations").depths == (7 if act is not nn.Identity else 0,)


def test_constants_by_depth_by_hand() -> None:
    """Three matrices: the bias of the first has gone through three steps, its own included, the last through one."""
    model = mlp(4, 5, 5, 3)
    x = batch(2, 4)
    found = expand(model, x, constants="by_depth")
    u = [x]
    with torch.no_grad():
        for layer in model:
            u.append(layer(u[-1]))
    gates = [torch.where(u[i] == 0, 0.5, u[i + 1] / u[i]) for i in (1, 3)]
    first, second, third = model[0], model[2], model[4]
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and isinstance(third, nn.Linear)
    with torch.no_grad():
        from_first = first.bias * gates[0] @ second.weight.t() * gates[1] @ third.weight.t()
        from_second = second.bias * gates[1] @ third.weight.t()
    assert tuple(found.constants) == (1, 2, 3)
    assert oracles.disagreement(found.constants[3], from_first) < 1e-12
    assert oracles.disagreement(found.constants[2], from_second) < 1e-12
    assert oracles.disagreement(found.constants[1], third.bias.detach().expand(2, 3)) < 1e-12


@pytest.mark.parametrize("unit", ["layers", "activations", ["0", "2.1"]])
def test_constants_by_depth_sum_to_the_pooled_one(unit: Any) -> None:
    inner = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).double()

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_module("0", nn.Linear(4, 4, dtype=DOUBLE))
            self.register_module("2", inner)

        def forward(self, x: Tensor) -> Tensor:
            x = self.get_submodule("0")(x)
            return x + self.get_submodule("2")(x) + x.softmax(dim=-1)

    model, x = Residual(), batch(3, 4)
    pooled, split = expand(model, x, unit=unit), expand(model, x, unit=unit, constants="by_depth")
    assert pooled.constants == {} and pooled.frozen is not None and split.frozen is not None
    assert torch.equal(pooled.frozen, split.frozen)
    summed = torch.stack([*split.constants.values(), split.frozen]).sum(dim=0)
    assert oracles.disagreement(summed, pooled.constant) < 1e-12
    assert oracles.disagreement(split.constant, pooled.constant) < 1e-12
    assert split.depths == pooled.depths
    assert all(torch.equal(split.terms[depth], pooled.terms[depth]) for depth in pooled.depths)


def test_frozen_values_are_reported_apart() -> None:
    x = batch(3, 4)
    found = expand(lambda x: x * 2 + x.softmax(dim=1) + 0.25, x)
    assert found.frozen is not None
    assert oracles.disagreement(found.frozen, x.softmax(dim=1)) < 1e-12
    assert oracles.disagreement(found.constant, x.softmax(dim=1) + 0.25) < 1e-12
    assert expand(lambda x: x * 2, x).frozen is None


def test_without_constants_the_constant_is_zero() -> None:
    found = expand(lambda x: torch.relu(x), batch(2, 3))
    assert torch.equal(found.constant, torch.zeros(2, 3, dtype=DOUBLE))


def test_a_cauchy_product_adds_depths() -> None:
    a, b = nn.Linear(4, 3, bias=False, dtype=DOUBLE), nn.Linear(4, 3, bias=False, dtype=DOUBLE)
    x = batch(2, 4)
    half = expand(lambda x: a(x) * b(x), x)
    full = expand(lambda x: a(x) * b(x), x, product="cauchy")
    assert half.depths == (1,) and full.depths == (2,)
    assert torch.equal(half.total, full.total)


def test_the_terms_are_homogeneous_in_a_linear_network() -> None:
    """Without gates a term is the sum over paths: (1 + W3)(1 + W2)(1 + W1) x, by powers."""
    weights = [nn.Parameter(batch(4, 4)) for _ in range(3)]

    def run(x: Tensor) -> Tensor:
        for w in weights:
            x = x + x @ w
        return x

    x = batch(2, 4)
    found = expand(run, x)
    assert found.paths == {0: 1, 1: 3, 2: 3, 3: 1}
    for depth in range(4):
        expected = torch.zeros_like(x)
        for chosen in itertools.combinations(weights, depth):
            path = x
            for w in chosen:
                path = path @ w.detach()
            expected = expected + path
        assert oracles.disagreement(found.terms[depth], expected) < 1e-12


def test_paths_are_exact_where_they_exceed_64_bits() -> None:
    w = nn.Parameter(torch.zeros(2, 2, dtype=DOUBLE))

    def run(x: Tensor) -> Tensor:
        for _ in range(80):
            x = x + x @ w
        return x

    found = expand(run, batch(1, 2))
    assert sum(found.paths.values()) == 2**80
    assert found.paths[40] == 107507208733336176461620


def test_parts_that_nearly_cancel_are_warned_of() -> None:
    def run(x: Tensor) -> Tensor:
        return (x * 1e9 + 1) - x * 1e9

    with pytest.warns(ClosureWarning, match="Profile in float64"):
        found = expand(run, torch.randn(64, dtype=torch.float32) + 3)
    assert found.closure is not None and found.closure > 5e-6


def test_the_result_says_what_it_is_in_one_line() -> None:
    one = expand(mlp(4, 5, 3), batch(2, 4))
    assert repr(one).startswith("Expansion(unit='layers', depths 2 (1), output (2, 3), closure ")
    assert repr(one).endswith("linearised: nothing)")
    several = expand(lambda x: x + x @ nn.Parameter(torch.eye(4).double()), batch(2, 4))
    assert "depths 0..1 (2)" in repr(several)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_what_was_linearised_is_named() -> None:
    found = expand(lambda x: x + torch.logcumsumexp(x, 1), batch(2, 4))
    assert "linearised: aten.logcumsumexp" in repr(found)
    assert [use.operator for use in found.operators if use.kind == "linearised"] == ["aten.logcumsumexp"]


def test_operators_are_listed_most_often_first() -> None:
    counts = [use.count for use in expand(mlp(4, 5, 5, 3), batch(2, 4)).operators]
    assert counts == sorted(counts, reverse=True)


def test_a_model_may_expand_another_on_the_way() -> None:
    inner, seen = mlp(4, 3), []

    def run(x: Tensor) -> Tensor:
        seen.append(expand(inner, torch.ones(2, 4, dtype=DOUBLE)))
        return x * 2

    x = batch(2, 4)
    found, alone = expand(run, x), expand(inner, torch.ones(2, 4, dtype=DOUBLE))
    assert found.depths == (0,) and torch.equal(found.terms[0], 2 * x)
    assert seen[0].depths == alone.depths == (1,) and torch.equal(seen[0].terms[1], alone.terms[1])


def masked_attention(x: Tensor, fill: float) -> Tensor:
    scores = (x @ x.t()).masked_fill(torch.eye(3, dtype=torch.bool), fill)
    weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
    return weights / weights.sum(dim=1, keepdim=True) @ x


def test_a_masked_softmax_written_out_is_that_of_a_large_number() -> None:
    x = batch(3, 4)
    found = expand(lambda x: masked_attention(x, -torch.inf), x)
    expected = expand(lambda x: masked_attention(x, -1e30), x)
    assert found.closure is not None and found.closure <= 1e-12
    for depth, term in expected.terms.items():
        assert oracles.disagreement(found.terms[depth], term) < 1e-12
    assert oracles.disagreement(found.constant, expected.constant) < 1e-12


# The constant part holds the infinity, and a derivative of zero makes it NaN.
def test_an_infinity_held_at_zero_is_refused() -> None:
    def run(x: Tensor) -> Tensor:
        scores = x.masked_fill(torch.tensor([False, True, False, False]), -torch.inf)
        return torch.fake_quantize_per_tensor_affine(scores.float(), 0.1, 0, -128, 127)

    with pytest.raises(ModelError, match=r"terms are not.*large finite number"):
        expand(run, batch(3, 4))


def test_every_refusal_is_of_one_kind() -> None:
    for call in (
        lambda: expand(never, ()),
        lambda: expand(never, batch(1, 2), unit="depth"),
        lambda: expand(lambda x: x.softmax(0), batch(2)),
        lambda: rules.register("gate", rules.gated, [torch.relu]),
    ):
        with pytest.raises(TermwiseError):
            call()


# Whole models.


class SmallViT(nn.Module):
    """Patches, a class token, positions, a Pre-LN encoder, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16) / 4)
        layer = nn.TransformerEncoderLayer(16, 4, 32, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.positions
        return self.head(self.encoder(tokens)[:, 0])


def unlike_initialisation(model: nn.Module) -> nn.Module:
    """Norms with statistics, scales and shifts of their own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "densenet121": lambda: torchvision.models.densenet121(num_classes=10),
    "small_vit": SmallViT,
}
DEPTHS: dict[str, Callable[[tuple[int, ...]], bool]] = {
    # Three of the eight blocks have a projection for a shortcut: one step there, two in the branch; conv1 and fc.
    "resnet18": lambda depths: depths == tuple(range(5, 19)),
    "mobilenet_v3_small": lambda depths: depths[-1] - depths[0] > 10,
    "densenet121": lambda depths: depths[-1] == 121,
    # The patches, an even number over three layers (values and output, or the two of the MLP), the head.
    "small_vit": lambda depths: depths == tuple(range(2, 15, 2)),
}


def plain_run(model: nn.Module, x: Tensor) -> Tensor:
    """Evaluation mode, attention in its mathematical form, the fused multi-head path off: the same operators."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return model.eval()(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 5e-6), (DOUBLE, 1e-12)], ids=["float32", "float64"])
def test_whole_models_close(name: str, dtype: torch.dtype, limit: float) -> None:
    model = unlike_initialisation(MODELS[name]()).to(dtype)
    x = torch.randn(2, 3, 32 if name == "small_vit" else 64, 32 if name == "small_vit" else 64).to(dtype)
    if dtype is torch.float32 and name == "densenet121":
        x = x[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClosureWarning)
        found = expand(model, x)
    assert torch.equal(found.total, plain_run(model, x))
    check(found, lambda x: found.total, x, limit=limit)
    assert DEPTHS[name](found.depths), found.depths


def test_the_terms_do_not_depend_on_precision() -> None:
    model = unlike_initialisation(MODELS["resnet18"]())
    x = torch.randn(1, 3, 64, 64)
    single = expand(model, x)
    double = expand(model.double(), x.double())
    assert single.paths == double.paths
    for depth in double.depths:
        error = (single.terms[depth].double() - double.terms[depth]).norm()
        assert float(error / double.total.norm()) < 1e-4


def test_batches_do_not_mix() -> None:
    model = unlike_initialisation(MODELS["resnet18"]()).double()
    x = batch(2, 3, 64, 64)
    both, alone = expand(model, x), expand(model, x[1:])
    for depth in both.depths:
        assert oracles.disagreement(both.terms[depth][1:], alone.terms[depth]) < 1e-10


# What is computed and what is given: look-ups, and the constants beside a product.


def test_constants_by_depth_change_no_term_of_a_cauchy_product() -> None:
    first, second = (nn.Linear(4, 4, dtype=DOUBLE) for _ in range(2))
    x = batch(3, 4)
    for run in (lambda x: first(x) * x, lambda x: second(first(x)) * x):
        pooled, by_depth = (expand(run, x, product="cauchy", constants=c) for c in ("pooled", "by_depth"))
        assert pooled.depths == by_depth.depths and pooled.paths == by_depth.paths
        for depth in pooled.depths:
            assert torch.allclose(pooled.terms[depth], by_depth.terms[depth], rtol=0, atol=1e-12)


def test_a_table_read_at_computed_places_is_frozen() -> None:
    table, layer = nn.Embedding(7, 4, dtype=DOUBLE), nn.Linear(4, 4, dtype=DOUBLE)
    x = batch(3, 4)
    for look_up in (table, lambda i: table.weight[i]):
        found = expand(lambda x, look_up=look_up: layer(x) + look_up(layer(x).argmax(-1)), x)
        with torch.no_grad():
            read = table(layer(x).argmax(-1))
        assert found.depths == (1,) and found.frozen is not None
        assert torch.equal(found.frozen, read)


def test_a_constant_sampled_at_computed_places_is_frozen() -> None:
    image, layer = torch.randn(1, 1, 4, 4, dtype=DOUBLE), nn.Linear(2, 2, dtype=DOUBLE)
    x = batch(1, 4, 4, 2)
    found = expand(lambda x: x[..., 0] + nn.functional.grid_sample(image, layer(x), align_corners=False)[0], x)
    with torch.no_grad():
        sampled = nn.functional.grid_sample(image, layer(x), align_corners=False)[0]
    assert found.depths == (0,) and found.frozen is not None
    assert torch.equal(found.frozen, sampled)


def test_tokens_may_be_looked_up_by_indexing() -> None:
    table, layer = nn.Embedding(7, 4, dtype=DOUBLE), nn.Linear(4, 4, dtype=DOUBLE)
    tokens = torch.tensor([[1, 2], [5, 6]])
    embedded = expand(lambda i: table(i) + layer(table(i)), tokens)
    indexed = expand(lambda i: table.weight[i] + layer(table(i.view(4)).view(2, 2, 4)), tokens)
    assert embedded.depths == indexed.depths == (0, 1) and indexed.frozen is None
    assert all(torch.equal(embedded.terms[k], indexed.terms[k]) for k in (0, 1))


def test_scripted_modules_are_refused_and_left_as_found() -> None:
    class Scripted(torch.jit.ScriptModule):
        pass

    model = nn.Sequential(Scripted(), nn.Linear(4, 4)).train()
    with pytest.raises(ModelError, match=r"scripted or traced.*original module"):
        expand(model, batch(3, 4))
    assert all(module.training for module in model.modules())


def test_a_mask_times_a_gate_is_the_gate_masked() -> None:
    x = batch(3, 4)
    found = expand(lambda x: (x > 0) * torch.sigmoid(x), x)
    assert found.closure is not None and found.closure <= 1e-12 and found.depths == (0,)
    assert torch.allclose(found.constant, 0.5 * (x > 0).double(), rtol=0, atol=1e-12)
