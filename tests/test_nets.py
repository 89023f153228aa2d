"""The networks against published parameter counts, hand-counted depths and the shapes of their papers."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from termwise.errors import UsageError
from termwise.nets import DenseNet, ResNet, densenet, mlp, plain, resnet
from termwise.nets.resnet import Block


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def weight_layers(model: nn.Module) -> int:
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())


# Table 6 of He et al. 2015 and table 2 of Huang et al. 2016, in millions, with the digits that they print.
PUBLISHED = [
    ("ResNet-20", lambda: resnet(20), "0.27"),
    ("ResNet-32", lambda: resnet(32), "0.46"),
    ("ResNet-44", lambda: resnet(44), "0.66"),
    ("ResNet-56", lambda: resnet(56), "0.85"),
    ("ResNet-110", lambda: resnet(110), "1.7"),
    ("DenseNet-40, growth 12", lambda: densenet(40, 12), "1.0"),
    ("DenseNet-BC-100, growth 12", lambda: densenet(100, 12, bottleneck=True, compression=0.5), "0.8"),
]


@pytest.mark.parametrize(("make", "millions"), [case[1:] for case in PUBLISHED], ids=[c[0] for c in PUBLISHED])
def test_published_parameter_counts(make: Callable[[], nn.Module], millions: str) -> None:
    digits = len(millions.partition(".")[2])
    assert f"{parameters(make()) / 1e6:.{digits}f}" == millions


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
        (lambda: mlp([10]), r"give at least two"),
        (lambda: mlp([10, 0, 2]), r"sizes\[1\] is 0"),
    ],
)
def test_refusals(make: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()
