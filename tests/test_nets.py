"""The networks against published parameter counts, hand-counted depths and the shapes of their papers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise.data import load
from termwise.errors import UsageError
from termwise.loop import Optimiser, Training, train_network
from termwise.nets import (
    DenseNet,
    ResNet,
    densenet,
    lstm,
    mlp,
    plain,
    preact_resnet,
    resnet,
    se_resnet,
    sk_resnet,
    transformer,
    vit,
)
from termwise.nets.resnet import Block
from termwise.nets.senet import SqueezeExcite
from termwise.nets.sknet import SelectiveKernel


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def weight_layers(model: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())


# Table 6 of He et al. 2015, table 2 of Huang et al. 2016 and (for the pre-activation ResNet) table 5 of Zagoruyko &
# Komodakis 2016 (arXiv 1605.07146), in millions, with the digits that they print.
PUBLISHED = [
    ("ResNet-20", lambda: resnet(20), "0.27"),
    ("ResNet-32", lambda: resnet(32), "0.46"),
    ("ResNet-44", lambda: resnet(44), "0.66"),
    ("ResNet-56", lambda: resnet(56), "0.85"),
    ("ResNet-110", lambda: resnet(110), "1.7"),
    ("pre-activation ResNet-110", lambda: preact_resnet(110), "1.7"),
    ("DenseNet-40, growth 12", lambda: densenet(40, 12), "1.0"),
    ("DenseNet-BC-100, growth 12", lambda: densenet(100, 12, bottleneck=True, compression=0.5), "0.8"),
]


@pytest.mark.parametrize(("make", "millions"), [case[1:] for case in PUBLISHED], ids=[c[0] for c in PUBLISHED])
def test_published_parameter_counts(make: Callable[[], nn.Module], millions: str) -> None:
    digits = len(millions.partition(".")[2])
    assert f"{parameters(make()) / 1e6:.{digits}f}" == millions


def test_the_units_of_published_networks() -> None:
    """Those of the authors' ImageNet networks, built of our units and of a count by hand of everything else."""
    with torch.device("meta"):
        # Hu et al. 2017, section 4: SE-ResNet-50 has about 2.5 million parameters more than ResNet-50.
        widths = {256: 3, 512: 4, 1024: 6, 2048: 3}
        more = sum(n * parameters(SqueezeExcite(c, 16)) for c, n in widths.items())
        assert f"{more / 1e6:.1f}" == "2.5"
        # Li et al. 2019, table 2: SKNet-50 has 27.5 million.  Blocks: 1x1 to m, the unit in 32 groups, 1x1 to 2m.
        total, before = 3 * 64 * 49 + 2 * 64, 64
        for m, n in {128: 3, 256: 4, 512: 6, 1024: 3}.items():
            unit = parameters(SelectiveKernel(m, m, stride=1, groups=32, reduction=16))
            blocks = [before * m, *[2 * m * m] * (n - 1)]  # the convolutions that lead into them
            total += sum(blocks) + n * (2 * m + unit + 2 * m * m + 4 * m) + before * 2 * m + 4 * m
            before = 2 * m
        assert f"{(total + 1000 * before + 1000) / 1e6:.1f}" == "27.5"


def test_the_parameters_that_gates_add_to_a_resnet() -> None:
    # Hu et al. 2017, equation 5: 2 C^2 / r in each block.
    assert parameters(se_resnet(20)) - parameters(resnet(20)) == sum(3 * 2 * c * c // 16 for c in (16, 32, 64))
    # A second 3x3 convolution with its norm; C to d, a norm, d to C twice, with d = 32 for all of 16 to 64 channels.
    seconds = [16 * 16, *[16 * 16] * 2, 16 * 32, *[32 * 32] * 2, 32 * 64, *[64 * 64] * 2]
    added = 9 * sum(seconds) + 3 * sum(2 * c + c * 32 + 2 * 32 + 2 * c * 32 for c in (16, 32, 64))
    assert parameters(sk_resnet(20)) - parameters(resnet(20)) == added
    # In groups, each output channel sees so much less; both convolutions of every unit.
    assert parameters(sk_resnet(20)) - parameters(sk_resnet(20, groups=4)) == 2 * 9 * sum(seconds) * 3 // 4
    # A larger network has more hidden units than the least: 4 * 192 channels / 16 = 48.
    hidden = sk_resnet(8, width=192).get_parameter("stages.2.0.select.select.weight").shape[1]
    assert hidden == 48


def test_the_parameters_of_a_preactivation_network() -> None:
    # The norms are those of what goes in: of a widening block its input's width, and at the end 64 for the stem's 16.
    norms = 2 * (6 * 16 + (16 + 5 * 32) + (32 + 5 * 64) + 64)
    convolutions = 9 * (3 * 16 + 6 * 256 + 512 + 5 * 1024 + 2048 + 5 * 4096)
    assert parameters(preact_resnet(20)) == convolutions + norms + 650
    assert parameters(preact_resnet(20, norm=False)) == convolutions + 650


def test_published_transformers() -> None:
    with torch.device("meta"):
        # DeiT, Touvron et al. 2020 (arXiv 2012.12877), table 1, in whole millions: 5, 22 and 86.
        sizes = [(192, 3, 5), (384, 6, 22), (768, 12, 86)]
        for width, heads, millions in sizes:
            model = vit(12, width, heads=heads, patch=16, size=224, classes=1000)
            assert parameters(model) // 1_000_000 == millions
        # GPT-2, in the authors' release of it: 124 million (the paper's 117 is corrected there).
        gpt2 = transformer(12, 768, vocabulary=50257, length=1024, heads=12)
        assert parameters(gpt2) // 1_000_000 == 124


def test_the_parameters_of_transformers_and_lstm_by_hand() -> None:
    # Of width w a block has two norms of 2w, attention 4 w^2 + 4w, and two layers 8 w^2 + 5w.
    block = 12 * 32**2 + 13 * 32
    of_tokens = parameters(transformer(3, 32, vocabulary=11, length=7))
    assert of_tokens == 3 * block + (11 + 7 + 2) * 32
    assert parameters(transformer(3, 32, vocabulary=11, length=7, tied=False)) == of_tokens + 11 * 32
    of_images = parameters(vit(3, 32, size=8, patch=2, channels=1))
    assert of_images == 3 * block + (4 + 1) * 32 + 16 * 32 + 32 + 32 + 2 * 32 + 330
    assert parameters(vit(3, 32, size=8, patch=2, channels=1, pool="mean")) == of_images - 2 * 32
    # Four gates, each of input, state and two biases.
    one = 4 * 16 * (8 + 16 + 2) + 10 * 17
    assert parameters(lstm(16, channels=1, size=8)) == one
    assert parameters(lstm(16, layers=2, channels=1, size=8)) == one + 4 * 16 * (16 + 16 + 2)


def test_the_pair_that_the_demo_compares() -> None:
    # By hand.  ResNet-20, width 16, grey, option B: convolutions 144 + 6 * 2304 + (4608 + 5 * 9216)
    # + (18432 + 5 * 36864), norms 2 * (7 * 16 + 6 * 32 + 6 * 64), projections 16 * 32 + 64 + 32 * 64 + 128,
    # classifier 650.
    by_hand = 144 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 2 * (112 + 192 + 384) + 2752 + 650
    assert parameters(resnet(20, shortcut="projection", channels=1)) == by_hand == 272_186
    # DenseNet-22, growth 12: a layer on c channels has 2c + 108c; transitions at 88 and 160 have 2c + c^2;
    # 232 channels in the end.
    inputs = [*range(16, 88, 12), *range(88, 160, 12), *range(160, 232, 12)]
    by_hand = 144 + 110 * sum(inputs) + 88 * 90 + 160 * 162 + 2 * 232 + 2330
    assert parameters(densenet(22, 12, channels=1)) == by_hand == 270_418


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_weight_layers(depth: int) -> None:
    assert weight_layers(resnet(depth)) == depth
    assert weight_layers(plain(depth)) == depth
    assert weight_layers(resnet(depth, shortcut="projection")) == depth + 2


@pytest.mark.parametrize(("depth", "bottleneck"), [(7, False), (22, False), (10, True), (40, True)])
def test_depth_counts_weight_layers_of_a_densenet(depth: int, bottleneck: bool) -> None:
    assert weight_layers(densenet(depth, 4, bottleneck=bottleneck)) == depth


def test_plain_is_the_resnet_without_what_the_shortcuts_add() -> None:
    assert parameters(plain(20)) == parameters(resnet(20))


@pytest.mark.parametrize("size", [8, 12, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_for_every_size(size: int, channels: int) -> None:
    x = torch.randn(2, channels, size, size)
    models = [
        resnet(8, classes=7, channels=channels),
        resnet(8, classes=7, channels=channels, width=4, shortcut="projection"),
        plain(8, classes=7, channels=channels),
        densenet(7, 4, classes=7, channels=channels),
        densenet(10, 4, bottleneck=True, compression=0.5, classes=7, channels=channels),
        mlp([channels * size * size, 16, 7]),
        preact_resnet(8, classes=7, channels=channels),
        preact_resnet(8, classes=7, channels=channels, width=4, norm=False, gain=0.2),
        se_resnet(8, classes=7, channels=channels),
        sk_resnet(8, classes=7, channels=channels, groups=2),
        vit(2, 16, classes=7, channels=channels, size=size),
        vit(1, 16, classes=7, channels=channels, size=size, patch=2, pool="mean"),
        lstm(8, classes=7, channels=channels, size=size),
    ]
    for model in models:
        logits = model.eval()(x)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()


def test_resolution_is_halved_twice_and_channels_doubled() -> None:
    model = resnet(8)
    assert isinstance(model, ResNet)
    shapes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _module, _args, out: shapes.append(tuple(out.shape[1:])))
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_the_padded_shortcut_subsamples_and_appends_zeros() -> None:
    block = Block(2, 4, "pad").eval()
    nn.init.zeros_(block.conv2.weight)  # the branch is then zero
    x = torch.rand(1, 2, 4, 4)
    out = block(x)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert not out[:, 2:].any()


def test_squeeze_and_excitation_is_equations_2_to_4() -> None:
    unit, u = SqueezeExcite(8, 4).double(), torch.randn(3, 8, 5, 5, dtype=torch.float64)
    out = unit(u)
    for n in range(3):
        z = u[n].sum(dim=(1, 2)) / 25
        s = torch.sigmoid(unit.excite.weight @ torch.clamp(unit.squeeze.weight @ z, min=0))
        assert torch.allclose(out[n], torch.stack([s[c] * u[n, c] for c in range(8)]))


def test_a_selective_kernel_is_split_fuse_and_select() -> None:
    unit = SelectiveKernel(4, 6, stride=1, groups=2, reduction=16).double().eval()
    v = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    narrow, wide = unit.narrow(v), unit.wide(v)
    # A 3x3 kernel of dilation 2 is a 5x5 one with holes.
    holes = torch.zeros(6, 2, 5, 5, dtype=torch.float64)
    holes[:, :, ::2, ::2] = unit.get_parameter("wide.0.weight").detach()
    norm = unit.wide[1]
    assert torch.allclose(wide, F.relu(norm(F.conv2d(v, holes, padding=2, groups=2))))
    z = unit.fuse((narrow + wide).mean(dim=(2, 3)))
    assert z.shape == (2, 32)  # d = max(6 / 16, 32)
    first, second = unit.select.weight[:6], unit.select.weight[6:]
    share = torch.exp(z @ first.T) / (torch.exp(z @ first.T) + torch.exp(z @ second.T))
    expected = share[..., None, None] * narrow + (1 - share)[..., None, None] * wide
    assert torch.allclose(unit(v), expected)


def test_a_preactivation_block_leaves_the_stream_as_it_is() -> None:
    model = preact_resnet(8, width=4, gain=0.5).eval()
    first = model.get_submodule("stages.0.0")
    v = torch.randn(2, 4, 8, 8)
    nn.init.zeros_(first.get_submodule("conv2").weight)  # type: ignore[arg-type]
    assert torch.equal(first(v), v)


def test_without_norms_the_stream_grows_as_is_divided_by() -> None:
    """The mean square, in the mean over seeds: within a factor of two over eight blocks, where it grows 256 times."""
    ratios = []
    for seed in range(8):
        torch.manual_seed(seed)
        model = preact_resnet(50, width=64, channels=8, norm=False)
        stage = model.get_submodule("stages.0")
        v = torch.randn(2, 64, 8, 8)
        with torch.no_grad():
            ratios.append(float(stage(v).square().mean() / v.square().mean()))
    assert math.log2(sum(ratios) / len(ratios)) == pytest.approx(8, abs=1)
    assert model.growth == pytest.approx(2**12)
    assert preact_resnet(50, norm=False, gain=0.5).growth == pytest.approx(1.25**12)
    assert preact_resnet(50).growth == 1


def test_zero_init_leaves_the_shortcuts_alone() -> None:
    torch.manual_seed(0)
    model, x = resnet(8, width=4, zero_init=True), torch.rand(4, 3, 8, 8)
    v = model.relu(model.norm(model.conv(x)))
    expected = F.pad(v[:, :, ::4, ::4], (0, 0, 0, 0, 0, 12))  # two padded shortcuts
    assert torch.equal(model.stages(v), expected)
    F.cross_entropy(model(x), torch.arange(4)).backward()
    scales = [m.norm2.weight.grad for m in model.modules() if isinstance(m, Block)]
    assert all(grad is not None and grad.any() for grad in scales)  # and yet they learn


def test_a_class_token_reads_and_positions_tell_patches_apart() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    swapped = torch.cat([x[..., 4:], x[..., :4]], dim=-1)
    model = vit(2, 16, size=8, pool="mean")
    assert not torch.allclose(model(x), model(swapped), atol=1e-6)
    nn.init.zeros_(model.positions)
    assert torch.allclose(model(x), model(swapped), atol=1e-6)


def test_no_token_sees_a_later_one() -> None:
    torch.manual_seed(0)
    model, tokens = transformer(2, 16, vocabulary=9, length=6), torch.randint(9, (3, 6))
    other = tokens.clone()
    other[:, 4] = (other[:, 4] + 1) % 9
    assert torch.allclose(model(tokens)[:, :4], model(other)[:, :4], atol=1e-6)
    assert not torch.allclose(model(tokens)[:, 4], model(other)[:, 4], atol=1e-6)
    assert torch.allclose(model(tokens[:, :3]), model(tokens)[:, :3], atol=1e-6)
    with pytest.raises(UsageError, match="sequences of 7 tokens, and only 6 positions"):
        model(torch.zeros(1, 7, dtype=torch.long))


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention = vit(1, 8, heads=2, size=8).get_submodule("blocks.0.attention").double()
    v = torch.randn(2, 5, 8, dtype=torch.float64)
    weight, bias = attention.get_parameter("qkv.weight"), attention.get_parameter("qkv.bias")
    heads = []
    for h in range(2):
        q, k, u = (
            v @ weight[8 * i + 4 * h : 8 * i + 4 * h + 4].T + bias[8 * i + 4 * h : 8 * i + 4 * h + 4] for i in range(3)
        )
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ u)
    out = torch.cat(heads, dim=-1) @ attention.get_parameter("out.weight").T + attention.get_parameter("out.bias")
    assert torch.allclose(attention(v), out)


def test_an_lstm_reads_rows_from_the_top() -> None:
    torch.manual_seed(0)
    model, x = lstm(6, channels=2, size=4), torch.randn(3, 2, 5, 4)
    rows = torch.stack([torch.cat([x[:, 0, i], x[:, 1, i]], dim=1) for i in range(5)], dim=1)
    assert torch.equal(model(x), model(rows))
    last, _ = model.memory(rows)
    assert torch.allclose(model(x), model.classifier(last[:, -1]))
    of_vectors = lstm(6, channels=3, size=1)
    assert of_vectors(torch.randn(2, 7, 3)).shape == (2, 10)


class Silent:
    """A recorder that records nothing."""

    seconds = 0.0
    recorded: tuple[int, ...] = ()

    def step(self, n: int, **scalars: Any) -> bool:
        return False

    def finish(self, n: int, **scalars: Any) -> None:
        return None


NEW = {
    "preact": (lambda: preact_resnet(8, channels=1, width=8), 0.1),
    "unnormalised": (lambda: preact_resnet(8, channels=1, width=8, norm=False), 0.01),
    "small gain": (lambda: preact_resnet(8, channels=1, width=8, norm=False, gain=0.2), 0.01),
    "zero init": (lambda: resnet(8, channels=1, width=8, zero_init=True), 0.1),
    "se": (lambda: se_resnet(8, channels=1, width=8, reduction=4), 0.1),
    "sk": (lambda: sk_resnet(8, channels=1, width=8), 0.1),
    "vit": (lambda: vit(2, 32, channels=1, size=8, patch=2), 0.1),
    "vit, mean": (lambda: vit(2, 32, channels=1, size=8, patch=2, pool="mean"), 0.1),
    "lstm": (lambda: lstm(32, channels=1, size=8), 0.1),
}


@pytest.mark.parametrize("name", NEW)
def test_an_epoch_on_the_digits(name: str) -> None:
    make, rate = NEW[name]
    data = load("digits", size=8)
    torch.manual_seed(0)
    model = make()

    def loss() -> float:
        # In training mode: the running statistics lag behind after so short a time.
        with torch.no_grad():
            return float(F.cross_entropy(model(data.train_inputs[:256]), data.train_targets[:256]))

    before = loss()
    train_network(model, data, Silent(), settings=Training(epochs=1, optimiser=Optimiser(learning_rate=rate)))
    assert all(p.isfinite().all() for p in model.parameters())
    assert loss() < before


def test_a_transformer_learns_which_alphabet_is_next() -> None:
    """An epoch on sequences that repeat themselves: better than nothing known, and not better than is possible."""
    data = load("induction")
    torch.manual_seed(0)
    model = transformer(1, 16, vocabulary=data.classes, length=32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    for x, y in zip(data.train_inputs.split(64), data.train_targets.split(64), strict=True):
        optimiser.zero_grad()
        loss(x, y).backward()
        optimiser.step()
    with torch.no_grad():
        after = float(loss(data.test_inputs, data.test_targets))
    assert 0.478 < after < (math.log(8) + math.log(16)) / 2


def test_a_dense_layer_keeps_its_input() -> None:
    model = densenet(7, 4)
    assert isinstance(model, DenseNet)
    first_layer = next(iter(next(iter(model.stages)).children()))
    v = torch.randn(2, 16, 8, 8)
    out = first_layer(v)
    assert out.shape == (2, 20, 8, 8)
    assert torch.equal(out[:, :16], v)


def test_compression_is_that_of_the_paper() -> None:
    # DenseNet-BC-100, growth 12: 24 + 16 * 12 = 216 -> 108 -> 300 -> 150 -> 342
    model = densenet(100, 12, bottleneck=True, compression=0.5)
    assert model.conv.out_channels == 24
    assert model.classifier.in_features == 342


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    for model in (resnet(20), plain(20), densenet(22, 12)):
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert not any(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))


def test_same_seed_same_weights() -> None:
    torch.manual_seed(3)
    first = densenet(7, 4)
    torch.manual_seed(3)
    second = densenet(7, 4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_mlp_layout() -> None:
    layers = [type(m) for m in mlp([64, 32, 10], activation=nn.GELU, norm=True)]
    assert layers == [nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.GELU, nn.Linear]
    bare = mlp([64, 32, 10], bias=False)
    assert parameters(bare) == 64 * 32 + 32 * 10
    assert [type(m) for m in bare] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: resnet(18), r"6n \+ 2 .* 18 is not: try 14 or 20"),
        (lambda: resnet(2), r"6n \+ 2 .* 2 is not: try 8\."),
        (lambda: resnet(-4), r"try 8\."),
        (lambda: plain(21), r"plain: .* try 20 or 26"),
        (lambda: densenet(23, 12), r"3n \+ 4 .* try 22 or 25"),
        (lambda: densenet(22 + 3, 12, bottleneck=True), r"6n \+ 4 .* try 22 or 28"),
        (lambda: densenet(22, 0), r"growth is 0; it must be at least 1"),
        (lambda: densenet(22, 12, compression=1.5), r"compression is 1\.5"),
        (lambda: densenet(22, 12, compression=0.0), r"compression is 0\.0"),
        (lambda: densenet(7, 1, compression=0.01), r"leaves no channel"),
        (lambda: resnet(20, classes=0), r"classes is 0"),
        (lambda: resnet(20, shortcut="identity"), r"'identity' is unknown; choose one of pad, projection"),  # type: ignore[arg-type]
        (lambda: preact_resnet(18), r"preact_resnet: .* try 14 or 20"),
        (lambda: preact_resnet(20, gain=0.0), r"gain is 0\.0; it must be above 0"),
        (lambda: preact_resnet(20, gain=math.nan), r"gain is nan"),
        (lambda: se_resnet(20, width=8), r"reduction 16 leaves no hidden unit of 8 channels"),
        (lambda: se_resnet(20, reduction=0), r"reduction is 0"),
        (lambda: sk_resnet(20, groups=3), r"3 groups do not divide the width 16"),
        (lambda: sk_resnet(21), r"sk_resnet: .* try 20 or 26"),
        (lambda: vit(2, 30), r"vit: 4 heads cannot share a width of 30"),
        (lambda: vit(2, 32, size=9), r"patches of 4 pixels do not fill a side of 9"),
        (lambda: vit(2, 32, pool="max"), r"pool 'max' is unknown; choose one of token, mean"),  # type: ignore[arg-type]
        (lambda: vit(0, 32), r"depth is 0"),
        (lambda: transformer(2, 30, vocabulary=5, length=5), r"transformer: 4 heads cannot share"),
        (lambda: transformer(2, 32, vocabulary=0, length=5), r"vocabulary is 0"),
        (lambda: lstm(0), r"hidden is 0"),
        (lambda: mlp([10]), r"give at least two"),
        (lambda: mlp([10, 0, 2]), r"sizes\[1\] is 0"),
    ],
)
def test_refusals(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()
