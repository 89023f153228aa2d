"""aligned_depth(): the mean depth under the aligned share without the terms, against what the terms give."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import termwise as tw
from programs import DOUBLE, Written, around_one, dense
from residual import Net
from termwise import nets
from termwise.errors import DataError, ModelError, RuleError, UsageError
from termwise.profile import Estimate
from termwise.reference import at_roots, by_paths, describe
from termwise.series import Origin

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def mean_of(terms: Mapping[int, Tensor], total: Tensor) -> float:
    """sum_k k E<y_k, y> / sum_k E<y_k, y>, with y centred over the classes; by its definition."""
    y = total.double() - total.double().mean(dim=-1, keepdim=True)
    overlap = {k: float((term.double() * y).sum()) for k, term in terms.items()}
    return sum(k * share for k, share in overlap.items()) / sum(overlap.values())


def value_of(found: Estimate | None) -> float:
    assert found is not None
    return found.value


# Networks, as models and as trees that the oracles walk.

TREES: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: nets.resnet(14, width=4),
    "projections": lambda: nets.resnet(8, width=4, shortcut="projection"),
    "densenet": lambda: nets.densenet(10, 4),
    "bottleneck": lambda: nets.densenet(16, 4, bottleneck=True, compression=0.5),
    "plain": lambda: nets.plain(8, width=4),
}


@pytest.mark.parametrize("unit", ["layers", "blocks", "activations"])
@pytest.mark.parametrize("name", TREES)
def test_it_is_the_mean_over_all_paths(name: str, unit: Any) -> None:
    model, x = TREES[name]().double().eval(), torch.randn(4, 3, 8, 8, dtype=DOUBLE)
    with torch.no_grad():
        total = model(x)
    for oracle in (by_paths, at_roots):
        expected = mean_of(oracle(describe(model), x, unit).terms, total)
        assert value_of(tw.aligned_depth(model, x, unit=unit)) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("unit", ["layers", "activations"])
def test_gates_are_frozen_where_a_derivative_would_move_them(unit: Any) -> None:
    """For GELU the value gate and the slope differ, so that a derivative of the model itself is another number."""
    net, x = Net(), torch.randn(4, 6, dtype=DOUBLE)
    tree = net.tree()
    net.eval()
    with torch.no_grad():
        expected = mean_of(by_paths(tree, x, unit).terms, total := net(x))
    assert value_of(tw.aligned_depth(net, x, unit=unit)) == pytest.approx(expected, rel=1e-10)

    if unit == "layers":

        def scaled(eps: Tensor) -> Tensor:
            """Each layer times eps, all gates as they come."""

            def run(layer: nn.Module, v: Tensor) -> Tensor:
                return layer(v) * eps if isinstance(layer, nn.Linear) else layer(v)

            v = run(net.stem, x)
            for block in net.blocks:
                branch = v
                for layer in block.children():
                    branch = run(layer, branch)
                v = v + branch
            return run(net.head, v)

        one = torch.ones((), dtype=DOUBLE)
        _, slope = torch.autograd.functional.jvp(scaled, one, one)
        y = total - total.mean(dim=-1, keepdim=True)
        assert abs(float((slope * y).sum()) / float((total * y).sum()) - expected) > 1e-3


# Networks of every kind, against their own terms.


class Attention(nn.Module):
    """A small transformer: a position table, two pre-norm blocks with a GLU, a mean over the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(5, 8))
        self.stem = nn.Linear(6, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(4))
        self.attend = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(12, 8) for _ in range(2))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x) + self.positions
        for i in range(2):
            u = self.norms[2 * i](h)
            h = h + self.attend[i](u, u, u)[0]
            a, b = self.up[i](self.norms[2 * i + 1](h)).chunk(2, dim=-1)
            h = h + self.down[i](a * nn.functional.silu(b))
        return self.head(h.mean(dim=1))


class Excited(nn.Module):
    """Squeeze and excitation, max-pooling, and a product of two values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.value = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.squeeze, self.excite, self.head = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.max_pool2d(self.stem(x), 2)
        y = self.inner(torch.relu(self.norm(h)))
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean(dim=(2, 3))))))
        h = h + y * scale[:, :, None, None]
        h += self.value(h) * h
        return self.head(h.mean(dim=(2, 3)))


def gpt() -> nn.Module:
    hf: Any = pytest.importorskip("transformers")
    small = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 20, "n_positions": 8}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**small, bos_token_id=0, eos_token_id=0)).eval()


def images(dtype: torch.dtype) -> Any:
    return torch.randn(3, 3, 8, 8, dtype=dtype)


def vit() -> nn.Module:
    size: dict[str, Any] = {
        "image_size": 8,
        "patch_size": 4,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "mlp_dim": 24,
    }
    model: Any = torchvision.models.VisionTransformer(**size, num_classes=5)
    nn.init.normal_(model.heads[0].weight)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.dtype], Any], list[Any]]] = {
    "attention": (Attention, lambda dtype: torch.randn(3, 5, 6, dtype=dtype), ["stem", "attend.0", "up.1"]),
    "excited": (Excited, images, ["inner", "excite", "norm"]),
    "gpt-2": (gpt, lambda dtype: torch.randint(0, 20, (3, 6)), ["transformer.h.0.mlp", "transformer.ln_f"]),
    "vit": (vit, images, ["encoder.layers.encoder_layer_0", "conv_proj"]),
    "resnet": (lambda: nets.resnet(14, width=4), images, ["conv"]),
    "densenet": (lambda: nets.densenet(10, 4), images, ["classifier"]),
    "plain": (lambda: nets.plain(8, width=4), images, ["0"]),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("product", ["half", "cauchy"])
@pytest.mark.parametrize("unit", ["layers", "blocks", "activations", "modules"])
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_mean_over_the_terms(name: str, unit: Any, product: Any, dtype: torch.dtype) -> None:
    build, data, modules = MODELS[name]
    model, x = build().to(dtype), data(dtype)
    unit = modules if unit == "modules" else unit
    whole = tw.expand(model, x, unit=unit, product=product)
    expected = mean_of(whole.terms, whole.total)
    series = around_one(model, x, unit, product)
    moved = {part.origin: row for part, row in zip(series.parts, series.rows, strict=True)}
    slope = moved.pop(Origin.INPUT, torch.zeros_like(whole.total))
    born = whole.total - sum(moved.values(), torch.zeros_like(whole.total))
    y = (whole.total - whole.total.mean(dim=-1, keepdim=True)).double()
    assert float((slope * y).sum() / (born * y).sum()) == pytest.approx(expected, rel=LIMIT[dtype], abs=LIMIT[dtype])
    found = tw.aligned_depth(model, x, unit=unit, product=product)
    # Where it is undefined for so few samples, it is so for a profile.
    defined = tw.profile(model, [x if x.is_floating_point() else {"input_ids": x}], unit=unit, product=product)
    if defined.aligned_depth is None:
        return
    assert value_of(found) == pytest.approx(expected, rel=LIMIT[dtype], abs=LIMIT[dtype])


def test_the_interval_is_that_of_a_profile() -> None:
    model, x = TREES["resnet"]().double(), torch.randn(16, 3, 8, 8, dtype=DOUBLE)
    for seed in (0, 3):
        found = tw.aligned_depth(model, x, seed=seed, replicates=50)
        expected = tw.profile(model, [x], seed=seed, replicates=50).aligned_depth
        assert found is not None and expected is not None and found.low < found.value < found.high
        assert found == pytest.approx(expected, rel=1e-10)


def test_it_is_undefined_where_the_share_is_within_its_error() -> None:
    """A bias that dwarfs what the input brings: the sign of the share is that of chance."""
    layer = dense(4, 3)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1e6, -1e6, 0.0]))
    x = torch.randn(8, 4, dtype=DOUBLE)
    x = torch.cat([x, -x])
    assert tw.aligned_depth(layer, x) is None
    assert tw.profile(layer, [x]).aligned_depth is None


def test_constants_and_frozen_values_have_no_part_in_it() -> None:
    model: Any = Written(
        lambda m, x: m.second(torch.tanh(m.first(x))) + x.softmax(dim=1) + x + torch.arange(4),
        first=dense(4, 4),
        second=dense(4, 4),
    )
    x = torch.randn(99, 4, dtype=DOUBLE)
    with torch.no_grad():
        u = model.first(x)
        terms = {0: x, 2: x @ model.first.weight.T * (torch.tanh(u) / u) @ model.second.weight.T}
        expected = mean_of(terms, model(x))
    assert value_of(tw.aligned_depth(model, x)) == pytest.approx(expected, rel=1e-10)


def test_classes_of_dense_outputs_and_outputs_by_name() -> None:
    conv, deeper = (nn.Conv2d(n, m, 3, padding=1, dtype=DOUBLE) for n, m in ((3, 3), (3, 4)))
    model = Written(lambda m, x: {"maps": m.deeper(x + m.conv(x)), "other": x}, conv=conv, deeper=deeper)
    x = torch.randn(6, 3, 4, 4, dtype=DOUBLE)
    e = tw.expand(model, x, output="maps")
    expected = mean_of({k: t.movedim(1, -1) for k, t in e.terms.items()}, e.total.movedim(1, -1))
    assert value_of(tw.aligned_depth(model, x, output="maps")) == pytest.approx(expected, rel=1e-10)
    called = tw.aligned_depth(model, {"a": x}, output="maps", forward=lambda m, given: m(given["a"]))
    assert value_of(called) == pytest.approx(expected, rel=1e-10)


# What is refused, as by expand.


def test_what_it_refuses() -> None:
    model, x = dense(4, 3), torch.randn(5, 4, dtype=DOUBLE)
    with pytest.raises(UsageError, match="unit='layer'"):
        tw.aligned_depth(model, x, unit="layer")
    with pytest.raises(UsageError, match="product='full'"):
        tw.aligned_depth(model, x, product="full")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="replicates=1"):
        tw.aligned_depth(model, x, replicates=1)
    with pytest.raises(DataError, match="holds 1 value that is NaN"):
        tw.aligned_depth(model, torch.tensor([[1.0, torch.nan, 0, 0]]).double())
    with pytest.raises(ModelError, match="the output is frozen"):
        tw.aligned_depth(lambda x: x.softmax(dim=1), x)
    with pytest.raises(ModelError, match="the output has one dimension"):
        tw.aligned_depth(lambda x: x.sum(dim=1), x)
    with pytest.raises(ModelError, match="the output has no dimension"):
        tw.aligned_depth(lambda x: x.sum(), x)
    with pytest.raises(ModelError, match="a single number a sample"):
        tw.aligned_depth(lambda x: x[:, :1], x)
    with pytest.raises(RuleError, match="strict=True"):
        tw.aligned_depth(lambda x: torch.linalg.qr(x)[0] + x, x, strict=True)


def test_the_model_is_left_as_found() -> None:
    net = Net()
    state = {name: t.clone() for name, t in net.state_dict().items()}
    x = torch.randn(4, 6, dtype=DOUBLE)
    before, seed = x.clone(), torch.get_rng_state()
    tw.aligned_depth(net, x)
    assert net.training and torch.equal(x, before) and torch.equal(torch.get_rng_state(), seed)
    assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
