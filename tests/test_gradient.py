"""The gradient by depth: it is autograd's, and agrees term by term with every path by itself."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import termwise as tw
from programs import DOUBLE, Written, dense, fresh
from snapshots import snapshot, unchanged
from termwise import nets
from termwise.errors import ClosureWarning, DataError, ModelError, RuleError, UsageError

UNITS = ("layers", "blocks", "activations")


def by_autograd(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient at the input and at the parameters, on a copy, by .backward()."""
    model = copy.deepcopy(model).eval()
    x = x.clone().requires_grad_()
    loss(model(x)).backward()
    assert x.grad is not None
    return x.grad, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def closes(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], unit: Any = "layers") -> tw.GradientExpansion:
    """Every gradient is that of autograd, in total and as the sum of its terms."""
    found = tw.expand_gradient(model, x, loss, unit=unit)
    at_input, at_parameters = by_autograd(model, x, loss)
    single = x.dtype is torch.float32
    limit = 5e-6 if single else 1e-12
    scale = torch.stack([g.norm() for g in at_parameters.values()]).norm() if at_parameters else torch.tensor(1.0)
    assert found.parameters.keys() == at_parameters.keys()
    assert found.closure <= limit
    whole = sum(found.input.terms.values(), torch.zeros_like(x))
    assert float((whole - at_input).norm()) <= limit * float(at_input.norm())
    for name, gradient in found.parameters.items():
        whole = sum(gradient.terms.values(), torch.zeros_like(gradient.total))
        # Some gradients are zero but for rounding (the bias of an attention's keys).
        assert float((whole - at_parameters[name]).norm()) <= limit * float(at_parameters[name].norm() + 1e-3 * scale)
        assert float((gradient.total - at_parameters[name]).norm()) <= limit * float(scale)
    return found


# Every path by itself: at each block gradients are stopped in the branch, or in the shortcut.


class Blocks(nn.Module):
    """A residual network of which single paths can be opened for gradients; its values are always whole."""

    def __init__(self, layers: Sequence[int], activation: type[nn.Module], project: Sequence[int] = ()) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.blocks = nn.ModuleList(nn.Sequential(*self._branch(n, activation)) for n in layers)
        self.shortcuts = nn.ModuleList(nn.Linear(6, 6) if i in project else nn.Identity() for i in range(len(layers)))
        self.head = nn.Linear(6, 3)
        self.open: Sequence[int] | None = None
        self.double()

    @staticmethod
    def _branch(layers: int, activation: type[nn.Module]) -> Iterator[nn.Module]:
        for _ in range(layers):
            yield nn.LayerNorm(6)
            yield nn.Linear(6, 6)
            yield activation()

    def forward(self, x: Tensor) -> Tensor:
        v = self.stem(x)
        for i, (branch, shortcut) in enumerate(zip(self.blocks, self.shortcuts, strict=True)):
            if self.open is None:
                v = shortcut(v) + branch(v)
            elif self.open[i]:
                v = shortcut(v).detach() + branch(v)
            else:
                v = shortcut(v) + branch(v).detach()
        return self.head(v)

    def length(self, open: Sequence[int], unit: str) -> int:
        """The number of steps on the path that takes these branches, from the output back to the input."""
        steps = 0 if unit != "layers" else 2
        for taken, branch, shortcut in zip(open, self.blocks, self.shortcuts, strict=True):
            assert isinstance(branch, nn.Sequential)
            layers = sum(isinstance(module, nn.Linear) for module in branch)
            steps += taken * (1 if unit == "blocks" else layers)
            steps += (1 - taken) * (unit == "layers" and isinstance(shortcut, nn.Linear))
        return steps


def by_masks(
    net: Blocks, x: Tensor, loss: Callable[[Tensor], Tensor], unit: str
) -> tuple[dict[int, Tensor], dict[int, int]]:
    terms: dict[int, Tensor] = {}
    paths: dict[int, int] = {}
    for mask in itertools.product((0, 1), repeat=len(net.blocks)):
        net.open = mask
        at = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(net(at)), at)
        depth = net.length(mask, unit)
        terms[depth] = terms[depth] + gradient if depth in terms else gradient
        paths[depth] = paths.get(depth, 0) + 1
    net.open = None
    return terms, paths


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh])
def test_agrees_with_every_path_by_itself(activation: type[nn.Module], unit: str) -> None:
    torch.manual_seed(0)
    net = Blocks([1, 2, 1, 3, 2], activation, project=(1,))
    x, targets = torch.randn(4, 5, dtype=DOUBLE), torch.tensor([0, 2, 1, 1])

    def loss(y: Tensor) -> Tensor:
        return F.cross_entropy(y, targets)

    terms, paths = by_masks(net, x, loss, unit)
    found = closes(net, x, loss, unit).input
    assert found.paths == paths
    assert found.terms.keys() == terms.keys()
    for depth, term in terms.items():
        assert float((found.terms[depth] - term).norm()) <= 1e-12 * float(found.total.norm())


def test_agrees_with_all_256_paths_of_eight_blocks() -> None:
    torch.manual_seed(1)
    net = Blocks([1] * 8, nn.ReLU)
    x = torch.randn(2, 5, dtype=DOUBLE)
    terms, paths = by_masks(net, x, lambda y: y.square().sum(), "layers")
    found = tw.expand_gradient(net, x, lambda y: y.square().sum(), at=[]).input
    assert found.paths == paths and sum(paths.values()) == 256
    for depth, term in terms.items():
        assert float((found.terms[depth] - term).norm()) <= 1e-12 * float(found.total.norm())


def test_a_parameter_counts_the_steps_from_its_own_to_the_loss() -> None:
    """Of the weight of block 1 that are the paths through blocks 2 and 3, whatever was before."""
    torch.manual_seed(0)
    net = Blocks([1, 1, 1, 1], nn.GELU)
    x = torch.randn(3, 5, dtype=DOUBLE)
    found = tw.expand_gradient(net, x, lambda y: y.square().sum())
    weight, scale = net.get_parameter("blocks.1.1.weight"), net.get_parameter("blocks.1.0.weight")
    terms: dict[int, list[Tensor]] = {}
    for after in itertools.product((0, 1), repeat=2):
        net.open = (1, 1, *after)
        at_weight, at_scale = torch.autograd.grad(net(x).square().sum(), [weight, scale])
        steps = 2 + sum(after)  # its own, those of the branches after it, and the head's
        terms.setdefault(steps, []).append(at_weight)
        # A scale of a norm is no step, but stands before the layer of its branch.
        terms.setdefault(-steps, []).append(at_scale)
    for name, sign in (("blocks.1.1.weight", 1), ("blocks.1.0.weight", -1)):
        gradient = found.parameters[name]
        assert gradient.depths == (2, 3, 4) and gradient.paths == {2: 1, 3: 2, 4: 1}
        for depth, term in gradient.terms.items():
            assert torch.allclose(term, torch.stack(terms[sign * depth]).sum(0), rtol=1e-12, atol=1e-13)
    assert found.parameters["head.weight"].depths == (1,)
    assert found.parameters["head.bias"].depths == (1,)


# Autograd's own gradient is the sum, whatever the network is made of.

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: nets.resnet(8, width=4),
    "resnet-projection": lambda: nets.resnet(8, width=4, shortcut="projection"),
    "densenet-bc": lambda: nets.densenet(16, 4, bottleneck=True, compression=0.5),
    "plain": lambda: nets.plain(8, width=4),
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_of_the_package_close(name: str, unit: str) -> None:
    torch.manual_seed(0)
    targets = torch.tensor([1, 7])
    for dtype in (torch.float32, DOUBLE):
        model, x = NETWORKS[name]().to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype)
        if name == "plain" and unit == "blocks":
            assert tw.expand_gradient(model, x, lambda y: F.cross_entropy(y, targets), unit=unit).input.depths == (0,)
            continue
        found = closes(model, x, lambda y: F.cross_entropy(y, targets), unit)
        # No gates are multiplied here, so that the paths back are those of the way there.
        assert found.input.paths == tw.expand(model, x, unit=unit).paths


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.layer = kind(4, 5, batch_first=True, **options)
        self.head = nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def images(*layers: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(*layers), (2, 4, 7, 7)


def vectors(*layers: nn.Module) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(*layers), (3, 6)


def written(run: Callable[[Any, Tensor], Tensor], **members: Any) -> tuple[nn.Module, tuple[int, ...]]:
    return Written(run, **members), (3, 6)


def buffered(m: Any, x: Tensor) -> Tensor:
    out = x.new_zeros(3, 12)
    out[:, :6] = m.a(x)
    out[:, 6:] += m.b(out[:, :6].clone())
    return m.c(out)


def in_place(m: Any, x: Tensor) -> Tensor:
    v = m.a(x)
    v += m.b(v.clone())
    v.relu_()
    return m.c(v.clone().unsqueeze_(1)).squeeze(1)


ZOO: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "gelu-mlp": lambda: vectors(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 3)),
    "norms": lambda: vectors(nn.Linear(6, 8), nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8), nn.BatchNorm1d(8)),
    "softmax": lambda: vectors(nn.Linear(6, 4), nn.LogSoftmax(-1), nn.Linear(4, 4), nn.Softmax(-1)),
    "pooling": lambda: images(nn.Conv2d(4, 6, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(6, 3, 1), nn.Flatten()),
    "averages": lambda: images(nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1)),
    "grouped": lambda: images(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=8)),
    "dilated": lambda: images(nn.Conv2d(4, 4, 3, dilation=2, padding=2, stride=2), nn.ELU(), nn.Conv2d(4, 2, 2)),
    "transposed": lambda: images(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.Tanh(), nn.Conv2d(6, 2, 3, 2)),
    "upsampled": lambda: images(nn.Conv2d(4, 2, 3), nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelUnshuffle(2)),
    "lstm": lambda: (Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (2, 3, 4)),
    "gru": lambda: (Recurrent(nn.GRU), (2, 3, 4)),
    "rnn": lambda: (Recurrent(nn.RNN, num_layers=2), (2, 3, 4)),
    "attention": lambda: (Attention(), (2, 5, 6)),
    "buffer": lambda: written(buffered, a=dense(6, 6), b=dense(6, 6), c=dense(12, 2)),
    "in-place": lambda: written(in_place, a=dense(6, 6), b=dense(6, 6), c=dense(6, 2)),
    "broadcast": lambda: written(
        lambda m, x: m.a(x).sum(0) * m.s + m.a(m.t) * x.mean(), a=dense(6, 4), s=fresh(3, 1), t=fresh(6)
    ),
    "shared": lambda: written(lambda m, x: m.a(m.a(x).tanh()) + m.a(x), a=dense(6, 6)),
    "square": lambda: written(lambda m, x: (v := m.a(x)) * v + v @ v.T @ v, a=dense(6, 6)),
    "normed-weight": lambda: vectors(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 2)
    ),
    "several-results": lambda: written(
        lambda m, x: torch.cat(m.a(x).chunk(2, 1)[::-1], 1).topk(2).values, a=dense(6, 6)
    ),
}


@pytest.mark.parametrize("unit", ["layers", "activations"])
@pytest.mark.parametrize("name", ZOO)
def test_whatever_a_network_is_made_of_it_closes(name: str, unit: str) -> None:
    torch.manual_seed(0)
    model, shape = ZOO[name]()
    x = torch.randn(shape, dtype=DOUBLE)
    closes(model.double(), x, lambda y: (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum(), unit)


def test_a_fused_recurrent_layer_has_the_lengths_of_its_time_steps() -> None:
    torch.manual_seed(0)
    model = Recurrent(nn.RNN).double()
    found = closes(model, torch.randn(2, 4, 4, dtype=DOUBLE), lambda y: y.square().sum())
    # From the input of time t to the last state: its own product, one for each later step, and the head.
    assert found.input.depths == (2, 3, 4, 5)
    at_input = {depth: term.norm(dim=(0, 2)).nonzero().flatten().tolist() for depth, term in found.input.terms.items()}
    assert at_input == {2: [3], 3: [2], 4: [1], 5: [0]}
    lstm = closes(Recurrent(nn.LSTM).double(), torch.randn(2, 4, 4, dtype=DOUBLE), lambda y: y.square().sum())
    assert lstm.input.depths == (2, 3, 4, 5)


def test_embeddings_start_paths() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 2)).double()
    tokens = torch.randint(0, 7, (2, 3))
    found = tw.expand_gradient(model, tokens, lambda y: y.square().sum())
    model.eval()(tokens).square().sum().backward()
    assert not found.inputs
    assert found.parameters["0.weight"].depths == (2,)  # a look-up is no step
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(sum(found.parameters[name].terms.values(), torch.zeros(())), parameter.grad, rtol=1e-12)


@pytest.mark.parametrize("unit", UNITS)
def test_a_vision_transformer_closes(unit: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=24, num_classes=3).double()
    found = closes(model, torch.randn(2, 3, 32, 32, dtype=DOUBLE), lambda y: y.logsumexp(1).sum(), unit)
    if unit == "blocks":
        assert found.input.depths == tuple(range(7))


def test_a_language_model_closes() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).double()
    tokens = torch.randint(0, 11, (2, 5))
    found = tw.expand_gradient(
        model,
        tokens,
        lambda y: F.cross_entropy(y.flatten(0, 1), tokens.flatten()),
        unit="blocks",
        at=["transformer.wpe.weight"],
    )
    assert found.parameters["transformer.wpe.weight"].paths == {
        # Four branches; three ways through each: queries, keys and values, or the three x of a written-out GELU.
        k: math.comb(4, k) * 3**k
        for k in range(5)
    }
    assert found.closure <= 1e-12


# Places, losses, and what is refused.


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = dense(4, 6), dense(6, 6), dense(6, 3)
        self.unused = dense(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        v = self.first(x)
        return self.last(v + torch.relu_(self.second(v)))


def total(y: Tensor) -> Tensor:
    return y.square().sum()


def test_the_gradient_at_the_output_of_a_module_is_that_of_the_value_as_it_left() -> None:
    torch.manual_seed(0)
    net, x = Named(), torch.randn(2, 4, dtype=DOUBLE)
    found = tw.expand_gradient(net, x, total, at=["first", "second", "last.weight"])
    assert found.modules.keys() == {"first", "second"} and found.parameters.keys() == {"last.weight"}
    v = net.first(x).detach().requires_grad_()
    inside = net.second(v)
    through = net.last(v.detach() + torch.relu(inside))
    around = net.last(v + torch.relu(inside).detach())
    # Both have the values of the whole, so that the loss has the same slope.
    slope = 2 * net(x).detach()
    (deep, at_inside) = torch.autograd.grad(through, [v, inside], slope)
    (shallow,) = torch.autograd.grad(around, v, slope)
    assert found.modules["first"].depths == (1, 2)
    assert torch.allclose(found.modules["first"].terms[1], shallow, rtol=1e-12)
    assert torch.allclose(found.modules["first"].terms[2], deep, rtol=1e-12)
    assert found.modules["second"].depths == (1,)  # before it was written into
    assert torch.allclose(found.modules["second"].terms[1], at_inside, rtol=1e-12)


def test_steps_can_be_the_outputs_of_modules() -> None:
    torch.manual_seed(0)
    net, x = Named(), torch.randn(2, 4, dtype=DOUBLE)
    found = closes(net, x, total, ["second", "last"])
    assert found.input.paths == tw.expand(net, x, unit=["second", "last"]).paths == {1: 1, 2: 1}
    assert found.parameters["last.weight"].depths == (1,)
    layers = tw.expand_gradient(net, x, total).input
    for depth in (1, 2):
        assert torch.allclose(found.input.terms[depth], layers.terms[depth + 1], rtol=1e-12)


def test_a_cotangent_stands_for_the_loss_whose_slope_it_is() -> None:
    torch.manual_seed(0)
    net, x = Named(), torch.randn(2, 4, dtype=DOUBLE)
    slope = 2 * net(x).detach()
    found, expected = tw.expand_gradient(net, x, slope), tw.expand_gradient(net, x, total)
    assert found.loss is None
    assert expected.loss == float(total(net(x)).detach())
    assert "unused.weight" not in expected.parameters
    for name, gradient in expected.parameters.items():
        assert gradient.depths == found.parameters[name].depths
        for depth, term in gradient.terms.items():
            assert torch.allclose(found.parameters[name].terms[depth], term, rtol=1e-12)


def test_several_inputs_have_names() -> None:
    torch.manual_seed(0)
    net = Written(lambda m, x: x, a=dense(3, 3), b=dense(3, 3))
    x = {"left": torch.randn(2, 3, dtype=DOUBLE), "right": torch.randn(2, 3, dtype=DOUBLE)}
    found = tw.expand_gradient(net, x, total, forward=lambda m, x: m.b(m.a(x["left"]) + x["right"]))
    assert {name: gradient.depths for name, gradient in found.inputs.items()} == {"left": (2,), "right": (1,)}
    with pytest.raises(UsageError, match="'left', 'right'"):
        _ = found.input


def test_what_is_asked_for_decides_nothing_else() -> None:
    """Weights of which no gradient is asked for are weights, and their products steps."""
    torch.manual_seed(0)
    net, x = Blocks([1, 2], nn.ReLU), torch.randn(2, 5, dtype=DOUBLE)
    full = tw.expand_gradient(net, x, total)
    frozen = copy.deepcopy(net).requires_grad_(False)
    for found in (tw.expand_gradient(net, x, total, at=[]), tw.expand_gradient(frozen, x, total)):
        assert not found.parameters
        assert found.input.paths == full.input.paths
        for depth, term in full.input.terms.items():
            assert torch.equal(found.input.terms[depth], term)


class Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grads[0] @ weight.T, x.T @ grads[0]


class TimesThenHalf(Times):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return Times.forward(ctx, x, weight) * 0.5

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return Times.backward(ctx, grads[0] * 0.5)


class Scaling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x * 3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return float(grads[0].sum() * 0) + grads[0] * 2 + grads[1] * 3


def test_functions_with_a_derivative_of_their_own_are_followed() -> None:
    net = Written(lambda m, x: m.b(Scaling.apply(m.a(x))[0] + m.c(m.a(x))), a=dense(4, 4), b=dense(4, 2), c=dense(4, 4))
    found = closes(net, torch.randn(2, 4, dtype=DOUBLE), total)
    assert found.input.depths == (2, 3)


def test_a_product_with_a_derivative_of_its_own_is_a_step() -> None:
    net = Written(lambda m, x: Times.apply(m.a(x), m.w), a=dense(4, 4), w=fresh(4, 4))
    found = closes(net, torch.randn(2, 4, dtype=DOUBLE), total)
    assert found.input.depths == (2,) and found.parameters["w"].depths == (1,)


def test_steps_inside_of_such_a_function_are_refused() -> None:
    net = Written(lambda m, x: TimesThenHalf.apply(m.a(x), m.w), a=dense(4, 4), w=fresh(4, 4))
    with pytest.raises(
        RuleError, match=r"aten\.mm in the model itself is called without gradients.*TimesThenHalfBackward"
    ):
        tw.expand_gradient(net, torch.randn(2, 4, dtype=DOUBLE), total)


def refusals() -> dict[str, tuple[type[Exception], str, Callable[[Named, Tensor], Any]]]:
    def loss(y: Tensor) -> Tensor:
        return total(y)

    def under(context: Any, model: nn.Module) -> nn.Module:
        with context:
            return copy.deepcopy(model)

    go = tw.expand_gradient
    return {
        "many numbers": (UsageError, r"shape \(2, 3\)", lambda m, x: go(m, x, lambda y: y.square())),
        "no tensor": (UsageError, "not a float", lambda m, x: go(m, x, lambda y: cast(Any, float(y.detach().sum())))),
        "detached loss": (UsageError, "no gradient leads", lambda m, x: go(m, x, lambda y: loss(y.detach()))),
        "loss of something else": (
            UsageError,
            "no gradient leads",
            lambda m, x: go(m, x, lambda y: m.last.weight.sum()),
        ),
        "cotangent of another shape": (UsageError, r"shape \(2, 3\)", lambda m, x: go(m, x, torch.ones(3))),
        "unknown name": (UsageError, "Did you mean first", lambda m, x: go(m, x, loss, at=["frist"])),
        "one name": (UsageError, r"at=\['first'\]", lambda m, x: go(m, x, loss, at="first")),
        "no gradient wanted": (
            UsageError,
            "'first.weight' requires no gradient",
            lambda m, x: go(m, x, loss, at=["first.weight"]) if m.first.requires_grad_(False) else None,
        ),
        "not used": (ModelError, "parameter 'unused.bias'", lambda m, x: go(m, x, loss, at=["unused.bias"])),
        "never ran": (ModelError, "'unused' gave 0 tensors", lambda m, x: go(m, x, loss, at=["unused"])),
        "rounded": (
            ModelError,
            "back to input 'input'",
            lambda m, x: go(m, x, loss, forward=lambda m, x: m(x.round().detach())),
        ),
        "no gradients": (ModelError, "torch.no_grad", lambda m, x: go(torch.no_grad()(m.forward), x, loss)),
        "a choice": (ModelError, "no derivative", lambda m, x: go(m, x, loss, output=lambda y: y.argmax(1))),
        "inference mode": (ModelError, "inference_mode", lambda m, x: go(torch.inference_mode()(m.forward), x, loss)),
        "writes over": (
            ModelError,
            "would fail",
            lambda m, x: go(m, x, loss, output=lambda y: y.exp().mul_(y.exp()).neg_()),
        ),
        "made there": (ModelError, "inference_mode", lambda m, x: go(under(torch.inference_mode(), m), x, loss)),
        "not finite": (DataError, "NaN", lambda m, x: go(m, x / 0 * 0, loss)),
        "infinite": (ModelError, "not finite", lambda m, x: go(m, x, lambda y: (y * 0).sqrt().sum())),
    }


@pytest.mark.parametrize("name", refusals())
def test_is_refused_in_words_and_the_model_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    net, x = Named().train(), torch.randn(2, 4, dtype=DOUBLE)
    net.last.weight.grad = torch.ones_like(net.last.weight)
    error, message, run = refusals()[name]
    if name == "no gradient wanted":
        net.first.requires_grad_(False)
    before = snapshot(net)
    with pytest.raises(error, match=message):
        run(net, x)
    unchanged(before, snapshot(net))


def test_the_model_is_left_as_it_was_and_answers_twice_alike() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(dense(4, 6), nn.BatchNorm1d(6, dtype=DOUBLE), nn.Dropout(), dense(6, 2)).train()
    x = torch.randn(5, 4, dtype=DOUBLE)
    net(x).sum().backward()
    before, given = snapshot(net), x.clone()
    first, second = (tw.expand_gradient(net, x, total, at=["0", "3.weight"]) for _ in range(2))
    unchanged(before, snapshot(net))
    assert torch.equal(x, given)
    for kind in ("inputs", "modules", "parameters"):
        for name, gradient in getattr(first, kind).items():
            for depth, term in gradient.terms.items():
                assert torch.equal(term, getattr(second, kind)[name].terms[depth])


def test_a_hook_that_changes_the_gradient_shows_in_the_closure() -> None:
    def scaled(m: Any, x: Tensor) -> Tensor:
        v = m.a(x)
        v.register_hook(lambda grad: 2 * grad)
        return m.b(v)

    net = Written(scaled, a=dense(4, 4), b=dense(4, 2))
    with pytest.warns(ClosureWarning, match="hook"):
        found = tw.expand_gradient(net, torch.randn(2, 4, dtype=DOUBLE), total)
    assert found.closure > 0.1
