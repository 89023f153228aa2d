"""The unfrozen series against nested derivatives, Cauchy's integral, and series known in closed form."""

import cmath
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks_at_hand import language_models
from programs import DOUBLE, Written, dense
from termwise import nets
from termwise.errors import DataError, ModelError, RuleError, UsageError
from termwise.jets import Jet
from termwise.unfrozen import Unfrozen, radius_of, unfrozen

# Nested forward derivatives, the oracle, make PyTorch script its decompositions.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning"),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def derivatives(f: Callable[[Tensor], Tensor], order: int) -> list[Tensor]:
    """Taylor coefficients at 0 by nested forward-mode derivatives of f(eps)."""
    found, g = [], f
    zero = torch.zeros((), dtype=DOUBLE)
    for k in range(order + 1):
        found.append(g(zero) / math.factorial(k))
        g = (lambda h: lambda e: torch.func.jvp(h, (e,), (torch.ones_like(e),))[1])(g)
    return found


def agree(found: Unfrozen, expected: list[Tensor], tolerance: float = 1e-10) -> None:
    expected = [term.detach() for term in expected]
    scale = max(float(term.norm()) for term in expected)
    for term, other in zip(found.terms, expected, strict=False):
        assert float((term - other).norm()) < tolerance * scale


class Residual(nn.Module):
    """Blocks whose strength can be given."""

    def __init__(self, activation: Callable[[Tensor], Tensor], norm: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.activation = activation
        self.stem, self.head = dense(5, 6), dense(6, 3)
        self.inner = nn.ModuleList(dense(6, 6) for _ in range(3))
        self.outer = nn.ModuleList(dense(6, 6) for _ in range(3))
        self.norms = nn.ModuleList(norm() for _ in range(4))
        self.double()

    def forward(self, x: Tensor, eps: Any = None) -> Tensor:
        v = self.stem(x)
        for norm, inner, outer in zip(self.norms, self.inner, self.outer, strict=False):
            branch = outer(self.activation(inner(norm(v))))
            v = v + branch if eps is None else v + eps * branch
        return self.head(self.activation(self.norms[3](v)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sine": torch.sin,
    "cosine": torch.cos,
    "gelu": F.gelu,
    "gelu-tanh": lambda v: F.gelu(v, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus-2": lambda v: F.softplus(v, beta=2),
    "exp": lambda v: torch.exp(-v * v),
    "log": lambda v: v * torch.log(v.square() + 1),
    "softmax": lambda v: v * F.softmax(v, dim=-1),
    "log-softmax": lambda v: F.log_softmax(v, dim=-1),
    "quotient": lambda v: v / (2 + v * v).sqrt(),
    "rational": lambda v: (1 / (v.pow(2) + 3)) - (1 - v).pow(3) * (v**2 + 1).rsqrt(),
    "normalised": lambda v: v / v.norm(dim=-1, keepdim=True),
    "gate": lambda v: torch.cat([a := v.chunk(2, -1)[0].sigmoid(), a * v.chunk(2, -1)[1]], -1),
    "padded": lambda v: F.pad(v[:, 1:-1], (1, 1), value=0.3).masked_fill(torch.eye(6)[:4].bool(), 0.5),
    "chosen": lambda v: torch.where(torch.eye(6)[:4].bool(), v.sin(), 0.5),
    "in-place": lambda v: (v * 2).tanh_().mul_(v).add_(1).sub_(v),
}

# PyTorch does not differentiate these twice in forward mode.
WRITTEN_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda v: v * torch.sigmoid(v),
    "mish": lambda v: v * torch.tanh(F.softplus(v)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_coefficients_are_nested_derivatives(name: str) -> None:
    model = Residual(ACTIVATIONS[name])
    x = torch.randn(4, 5, dtype=DOUBLE)
    found = unfrozen(model, x, order=8)
    with torch.no_grad():
        torch.testing.assert_close(found.total, model(x))
        model.activation = WRITTEN_OUT.get(name, model.activation)
        agree(found, derivatives(lambda e: model(x, e), 5))


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm(6),
    "rms": lambda: nn.RMSNorm(6, eps=1e-3),
    "group": lambda: nn.GroupNorm(2, 6),
    "batch": lambda: nn.BatchNorm1d(6),
    "batch-of-its-own": lambda: nn.BatchNorm1d(6, track_running_stats=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_recomputed(name: str) -> None:
    model = Residual(torch.tanh, NORMS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model(torch.randn(16, 5, dtype=DOUBLE))
    model.eval()
    x = torch.randn(4, 5, dtype=DOUBLE)
    found = unfrozen(model, x, order=20)
    with torch.no_grad():
        torch.testing.assert_close(found.total, model(x))
        # Not by nested derivatives: of fused norms PyTorch's second derivative in forward mode is another.
        for eps in (0.01, -0.02):
            value = sum(term * eps**k for k, term in enumerate(found.terms))
            torch.testing.assert_close(value, model(x, eps), rtol=1e-10, atol=1e-12)


def written_out(norm: Any, v: Tensor) -> Tensor:
    """A layer norm that can be differentiated in forward mode more than once."""
    u = v - v.mean(dim=-1, keepdim=True)
    return u / (u.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def test_coefficients_are_cauchys_integral() -> None:
    """a_k = r^-k mean over the roots of unity w of w^-k f(r w): the network in complex numbers."""
    model = Residual(torch.tanh)
    x = torch.randn(4, 5, dtype=DOUBLE)
    found = unfrozen(model, x, order=12)
    twin = Residual(torch.tanh)
    twin.load_state_dict(model.state_dict())
    twin.to(torch.complex128)
    r, m = 0.2, 64
    roots = [cmath.exp(2j * math.pi * i / m) for i in range(m)]
    with torch.no_grad():
        values = [twin(x.to(torch.complex128), r * w) for w in roots]
    powers = torch.tensor([[w**-k for w in roots] for k in range(13)], dtype=torch.complex128)
    expected = [torch.einsum("w,wnc->nc", row, torch.stack(values)).real / m / r**k for k, row in enumerate(powers)]
    for k, (term, other) in enumerate(zip(found.terms, expected, strict=True)):
        assert float((term - other).norm()) < 1e-12 * float(expected[0].norm()) / r**k
        assert float((term - other).norm()) < 1e-4 * float(other.norm())


def test_an_attention_and_convolutions() -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, x: Tensor, eps: float | Tensor = 1.0) -> Tensor:
            v = self.stem(x)
            branch = F.gelu(self.conv(v))
            v = v + (branch if isinstance(eps, float) else eps * branch)
            v = F.avg_pool2d(v, 2).flatten(2).transpose(1, 2)
            n = self.norm(v)
            branch = self.attention(n, n, n, need_weights=False)[0]
            v = v + (branch if isinstance(eps, float) else eps * branch)
            return self.head(v.mean(dim=1))

    model: Any = Image().double().eval()
    x = torch.randn(2, 1, 4, 4, dtype=DOUBLE)
    found = unfrozen(model, x, order=8)
    assert found.table["error"][-1] < found.table["error"][0]
    model.norm.forward = lambda v: written_out(model.norm, v)
    # With gradients, since the fused attention of inference cannot be differentiated.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        agree(found, derivatives(lambda e: model(x, e), 3))


def test_a_transformer_of_a_library() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, embed_dim=24).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=DOUBLE)
    found = unfrozen(model, x, order=10)

    def scaled(eps: float) -> Tensor:
        v = model._pos_embed(model.patch_embed(x))
        for block in model.blocks:
            v = v + eps * block.attn(block.norm1(v))
            v = v + eps * block.mlp(block.norm2(v))
        return model.head(model.norm(v)[:, 0])

    with torch.no_grad():
        for eps in (0.02, -0.03):
            value = sum(term * eps**k for k, term in enumerate(found.terms))
            torch.testing.assert_close(value, scaled(eps), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found.total, scaled(1.0), rtol=1e-9, atol=1e-11)


def test_a_language_model_of_a_library() -> None:
    make, x, _ = language_models()["gpt2"]
    model = make().double().eval()
    found = unfrozen(model, x, order=10)
    with torch.no_grad():
        torch.testing.assert_close(found.total, model(**x).logits, rtol=1e-9, atol=1e-11)
        for layer in model.transformer.h:  # the last of each branch is linear: its weights are its strength
            for part in (layer.attn.c_proj, layer.mlp.c_proj):
                for parameter in part.parameters():
                    parameter.mul_(0.02)
        value = sum(term * 0.02**k for k, term in enumerate(found.terms))
        torch.testing.assert_close(value, model(**x).logits, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("strength", [0.4, 4.0])
def test_the_radius_of_a_series_that_is_known(strength: float) -> None:
    """tanh(x + eps s) has its nearest poles at eps = (+-i pi / 2 - x) / s."""
    bias = nn.Parameter(torch.tensor([strength], dtype=DOUBLE))
    model = Written(lambda m, x: torch.tanh(x + (0 * m.f(x) + m.bias)), f=dense(1, 1), bias=bias)
    x = torch.tensor([[0.3]], dtype=DOUBLE)
    found = unfrozen(model, x, order=24)
    truth = abs(complex(0.3, math.pi / 2)) / strength
    assert found.radius.low < truth < found.radius.high
    assert found.radius.value == pytest.approx(truth, rel=0.3)
    assert found.converges == ("yes" if strength < 1 else "no")
    assert (found.table["error"][-1] < 1e-3) == (strength < 1)


def test_radii_of_coefficients() -> None:
    for truth in (0.5, 2.0):
        for power in (0, -1, 1):
            found = radius_of([1.0, *((k**power) * truth**-k for k in range(1, 17))])
            assert found.value == pytest.approx(truth, rel=1e-6 if not power else 0.2)
            assert found.low <= truth * 1.01
            assert found.high >= truth * 0.99
    assert radius_of([1, 2, 1, *[0.0] * 8]).value == math.inf
    assert math.isnan(radius_of([1, 1, 1, 1, 0, 1, 0, 1]).value)


def test_a_network_of_linear_blocks_ends() -> None:
    model = Written(lambda m, x: m.end(x + m.f(x) + m.g(x + m.f(x))), f=dense(5, 5), g=dense(5, 5), end=dense(5, 2))
    found = unfrozen(model, torch.randn(3, 5, dtype=DOUBLE))
    assert found.radius.value == math.inf
    assert found.converges == "yes"
    assert found.table["error"][2] < 1e-14
    assert "at 1: yes" in str(found)


def test_what_has_no_series_is_refused() -> None:
    x = torch.randn(2, 5, dtype=DOUBLE)
    for bends in (
        torch.relu,
        F.leaky_relu,
        torch.abs,
        F.relu6,
        lambda v: v.clamp(min=0),
        lambda v: v.maximum(v.flip(-1)),
    ):
        with pytest.raises(RuleError, match="not analytic"):
            unfrozen(Residual(bends), x)
    with pytest.raises(RuleError, match="not analytic"):
        unfrozen(nets.resnet(8, width=4).double(), torch.randn(1, 3, 8, 8, dtype=DOUBLE))
    with pytest.raises(RuleError, match="no rule for Taylor series"):
        unfrozen(Residual(torch.special.i0), x)
    with pytest.raises(RuleError, match=r"computes in torch\.float32"):
        unfrozen(Residual(lambda v: v.float().tanh().double()), x)
    with pytest.raises(RuleError, match="reads a number"):
        unfrozen(Residual(lambda v: v * 2 if float(v.detach().sum()) > -1e9 else v), x)
    with pytest.raises(DataError, match="float64"):
        unfrozen(Residual(torch.tanh), x.float())
    with pytest.raises(UsageError, match="at least 8"):
        unfrozen(Residual(torch.tanh), x, order=3)
    with pytest.raises(UsageError, match="no residual blocks"):
        unfrozen(dense(5, 5), x)


def test_writes_that_are_not_followed_are_refused() -> None:
    def into_a_view(v: Tensor) -> Tensor:
        v = v.sin()
        v[:, 0].mul_(2)
        return v

    def into_a_buffer(v: Tensor) -> Tensor:
        buffer = torch.zeros(4, 6, dtype=DOUBLE)
        buffer.copy_(v)
        return buffer

    for run in (into_a_view, into_a_buffer):
        with pytest.raises(RuleError, match="not followed"):
            unfrozen(Residual(run), torch.randn(4, 5, dtype=DOUBLE))


def test_a_singular_start_is_refused() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v = 0 * x
        v = v + m.g(torch.tanh(m.f(x + v)))
        return v / v.norm(dim=-1, keepdim=True)

    with pytest.raises(ModelError, match="not finite"):
        unfrozen(Written(run, f=dense(5, 5), g=dense(5, 5)), torch.randn(2, 5, dtype=DOUBLE))


def test_a_jet_says_what_it_is() -> None:
    assert repr(Jet.constant(torch.zeros(2, 3, dtype=DOUBLE), 4)) == "Jet(shape=(2, 3), order=4)"
