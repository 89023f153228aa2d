"""What is left without a block: the same as cutting it out by hand."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks_at_hand import X, blocks_of, chained, images, language_models, made_of
from programs import DOUBLE
from termwise import nets
from termwise.causal import without
from termwise.errors import UsageError


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


class Off(nn.Module):
    def forward(self, v: Tensor, **_: Any) -> Tensor:
        return torch.zeros_like(v)


def bare_resnet(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.stages for block in stage][chosen]
    block.norm2 = Off()
    return model


def bare_densenet(model: Any, chosen: int) -> nn.Module:
    layers = [m for m in model.modules() if type(m).__name__ == "DenseLayer"]
    layers[chosen].branch.append(Off())
    return model


def bare_timm_stages(model: Any, chosen: int) -> nn.Module:
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    blocks[chosen].bn2 = nn.Sequential(blocks[chosen].bn2, Off())
    return model


def bare_vit(model: Any, chosen: int) -> nn.Module:
    block = model.blocks[chosen // 2]
    setattr(block, "mlp" if chosen % 2 else "attn", Off())
    return model


def bare_convnext(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.stages for block in stage.blocks][chosen]
    block.mlp = Off()
    return model


def bare_preact(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.stages for block in stage.blocks][chosen]
    block.conv3 = nn.Sequential(block.conv3, Off())
    return model


def bare_selective(model: Any, chosen: int) -> nn.Module:
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    blocks[chosen].conv2 = nn.Sequential(blocks[chosen].conv2, Off())
    return model


def bare_swin(model: Any, chosen: int) -> nn.Module:
    block = [block for stage in model.layers for block in stage.blocks][chosen // 2]
    setattr(block, "mlp" if chosen % 2 else "attn", Off())
    return model


def bare_gpt2(model: Any, chosen: int) -> nn.Module:
    layer = model.transformer.h[chosen // 2]
    for parameter in (layer.mlp if chosen % 2 else layer.attn).c_proj.parameters():
        parameter.data.zero_()
    return model


def bare_llama(model: Any, chosen: int) -> nn.Module:
    layer = model.model.layers[chosen // 2]
    (layer.mlp.down_proj if chosen % 2 else layer.self_attn.o_proj).weight.data.zero_()
    return model


def bare_t5(model: Any, chosen: int) -> nn.Module:
    encoder, decoder = model.encoder.block, model.decoder.block
    layers = [*(layer for block in encoder for layer in block.layer), *(la for block in decoder for la in block.layer)]
    branch = layers[chosen]
    name = next(n for n in ("SelfAttention", "EncDecAttention", "DenseReluDense") if hasattr(branch, n))
    module = getattr(branch, name)
    (module.wo if name == "DenseReluDense" else module.o).weight.data.zero_()
    return model


def lesioned() -> dict[str, tuple[Callable[[], Any], Any, Callable[[Any, int], nn.Module]]]:
    def of_timm(name: str, **options: Any) -> Callable[[], Any]:
        return lambda: pytest.importorskip("timm").create_model(name, **options)

    return {
        "resnet": (lambda: nets.resnet(14, width=4), images(8), bare_resnet),
        "resnet-projection": (lambda: nets.resnet(14, width=4, shortcut="projection"), images(8), bare_resnet),
        "densenet": (lambda: nets.densenet(10, 4), images(8), bare_densenet),
        "timm-resnet": (of_timm("resnet10t"), images(32), bare_timm_stages),
        "timm-seresnet": (of_timm("seresnet18", channels=(8, 8, 16, 16)), images(32), bare_timm_stages),
        "timm-preact": (of_timm("resnetv2_50", layers=(1, 2, 1, 1), channels=(8, 16, 16, 16)), images(32), bare_preact),
        "timm-sknet": (of_timm("skresnet18", channels=(16, 16, 32, 32)), images(32), bare_selective),
        "swin": (
            of_timm("swin_tiny_patch4_window7_224", depths=(1, 2), num_heads=(2, 2), embed_dim=16, img_size=28 * 2),
            images(28 * 2),
            bare_swin,
        ),
        "gpt2": (*language_models()["gpt2"][:2], bare_gpt2),
        "vit": (of_timm("vit_tiny_patch16_224", depth=3, img_size=32), images(32), bare_vit),
        "convnext": (of_timm("convnext_atto", depths=(1, 1, 2, 1)), images(32), bare_convnext),
        "llama": (*language_models()["llama"][:2], bare_llama),
        "t5": (*language_models()["t5"][:2], bare_t5),
    }


NAMES = ["resnet", "resnet-projection", "densenet", "timm-resnet", "timm-preact", "timm-seresnet", "timm-sknet"]
NAMES += ["vit", "swin", "convnext", "gpt2", "llama", "t5"]


def shaken(model: nn.Module) -> nn.Module:
    """Every parameter away from the zeros and ones of an initialisation, so that no branch is silent."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_block_is_the_network_with_the_block_cut_out(name: str) -> None:
    make, x, cut = lesioned()[name]
    torch.manual_seed(0)
    model = shaken(make())
    count = len(blocks_of(model, x))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    whole = without(model, x, [])
    assert count > 1
    for chosen in range(count):
        left = without(model, x, [chosen])
        by_hand = cut(copy.deepcopy(model), chosen)
        with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            expected = by_hand(**x) if isinstance(x, dict) else by_hand(x)
        expected = expected if isinstance(expected, Tensor) else expected.logits
        torch.testing.assert_close(left, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert float((left - whole).norm()) > 1e-3 * float(whole.norm())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


JOINED_WITHIN: dict[str, tuple[Callable[[Any, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "addcmul": (lambda m, x: torch.addcmul(x, m.p(x), torch.full((4,), 2.0, dtype=DOUBLE)), lambda x: x),
    "addmm": (lambda m, x: torch.addmm(x, torch.tanh(m.f(x)), m.g.weight), lambda x: x),
    "lerp": (lambda m, x: torch.lerp(x, m.p(x), 0.5), lambda x: x),
    "computed-bias": (lambda m, x: F.linear(torch.tanh(x[:1]), m.g.weight, x[0]), lambda x: x[:1]),
}


@pytest.mark.parametrize("name", JOINED_WITHIN)
def test_without_a_block_that_joins_within_an_operator(name: str) -> None:
    run, left = JOINED_WITHIN[name]
    model = made_of(run)
    assert len(blocks_of(model, X)) == 1
    assert torch.equal(without(model, X, [0]), left(X))


def test_without_all_branches_only_the_shortcuts_are_left() -> None:
    model = made_of(chained)
    assert torch.equal(without(model, X, range(2)), X)
    assert torch.equal(without(model, X, blocks_of(model, X)), X)
    with pytest.raises(UsageError, match="none of the 2 blocks"):
        without(model, X, [2])
