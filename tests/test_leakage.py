"""The parallel network against hand-written ones; the leakage where there is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks_at_hand import images
from programs import DOUBLE, Written, dense
from residual import Net
from termwise import nets
from termwise.errors import DataError, UsageError
from termwise.leakage import EVALUATED, FROZEN, FROZEN_THROUGHOUT, WHOLE, Leakage, leakage, parallel
from test_causal import shaken


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def of_resnet(model: Any, x: Tensor) -> Tensor:
    z = p = model.relu(model.norm(model.conv(x)))
    for block in (block for stage in model.stages for block in stage):
        brought = block.norm2(block.conv2(block.relu(block.norm1(block.conv1(z)))))
        p = F.relu(block.shortcut(p) + brought)
        z = F.relu(block.shortcut(z))
    return model.classifier(model.pool(p).flatten(1))


def of_densenet(model: Any, x: Tensor) -> Tensor:
    z = p = model.conv(x)
    for stage in model.stages:
        if "Transition" in type(stage).__name__:
            z, p = stage(z), stage(p)
            continue
        for layer in stage:
            brought = layer.branch(z)
            z, p = torch.cat([z, torch.zeros_like(brought)], 1), torch.cat([p, brought], 1)
    return model.classifier(model.pool(model.relu(model.norm(p))).flatten(1))


def of_preact(model: Any, x: Tensor) -> Tensor:
    z = p = model.stem(x)
    for block in (block for stage in model.stages for block in stage.blocks):
        brought = block.norm1(z)
        brought = block.conv3(block.norm3(block.conv2(block.norm2(block.conv1(brought)))))
        z, p = (v if block.downsample is None else block.downsample(block.norm1(v)) for v in (z, p))
        p = p + brought
    return model.head(model.norm(p))


def of_vit(model: Any, x: Tensor) -> Tensor:
    z = model._pos_embed(model.patch_embed(x))
    p = z + sum(block.attn(block.norm1(z)) + block.mlp(block.norm2(z)) for block in model.blocks)
    return model.head(model.norm(p)[:, 0])


def of_timm(name: str, **options: Any) -> Any:
    return lambda: pytest.importorskip("timm").create_model(name, **options)


BY_HAND: dict[str, tuple[Any, Tensor, Any]] = {
    "resnet": (lambda: nets.resnet(14, width=4), images(8), of_resnet),
    "resnet-projection": (lambda: nets.resnet(14, width=4, shortcut="projection"), images(8), of_resnet),
    "densenet": (lambda: nets.densenet(13, 4), images(8), of_densenet),
    "preact": (of_timm("resnetv2_50", layers=(1, 2, 1, 1), channels=(8, 16, 16, 16)), images(32), of_preact),
    "vit": (of_timm("vit_tiny_patch16_224", depth=3, img_size=32), images(32), of_vit),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_parallel_network_written_by_hand(name: str) -> None:
    make, x, by_hand = BY_HAND[name]
    model = shaken(make()).double()
    x = x.double().repeat(2, 1, 1, 1) * torch.tensor([1.0, -0.5], dtype=DOUBLE)[:, None, None, None]
    with torch.no_grad():
        expected, whole = by_hand(model, x), model(x)
    found = parallel(model, x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert float((found - whole).norm()) > 1e-3 * float(whole.norm())


def test_a_block_inside_of_a_block_does_not_contribute() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        inner = m.f(x)
        inner = inner + m.g(torch.tanh(inner))
        v = x + m.h(inner)
        return m.end(v + m.k(v))

    model: Any = Written(run, f=dense(4, 4), g=dense(4, 4), h=dense(4, 4), k=dense(4, 4), end=dense(4, 3))
    x = torch.randn(2, 4, dtype=DOUBLE)
    with torch.no_grad():
        expected = model.end(x + model.h(model.f(x)) + model.k(x))
    torch.testing.assert_close(parallel(model, x), expected)


def table(found: Leakage) -> dict[tuple[int | None, str], dict[str, Any]]:
    return {(row["blocks_at_most"], row["network"]): row for row in found.scores.rows()}


def test_without_gates_nothing_leaks() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        v = m.start(x)
        for f in (m.f, m.g, m.h):
            v = v + f(v)
        return m.end(v)

    model = Written(run, start=dense(5, 4), f=dense(4, 4), g=dense(4, 4), h=dense(4, 4), end=dense(4, 3))
    data = torch.randn(30, 5, dtype=DOUBLE), torch.randint(3, (30,))
    found = leakage(model, data, batch_size=7)
    for row in found.gaps.rows():
        assert row["accuracy"] == row["accuracy_low"] == row["accuracy_high"] == 0
        assert abs(row["loss"]) < 1e-12
    rows = table(found)
    assert rows[1, FROZEN]["loss"] != pytest.approx(rows[1, EVALUATED]["loss"], rel=1e-6)  # constants of all depths


def test_the_table_holds_what_its_rows_say() -> None:
    net = Net().eval()
    x, y = torch.randn(50, 6, dtype=DOUBLE), torch.randint(3, (50,))
    found = leakage(net, (x, y), batch_size=16)
    rows = table(found)
    with torch.no_grad():
        z = net.stem(x)
        evaluated = net.head(z + net.blocks[0](z) + net.blocks[1](z))
        expected = {(None, WHOLE): net(x), (0, EVALUATED): net.head(z), (1, EVALUATED): evaluated}
        # No gate is on the shortcut, so of the paths through one block only those through the second have other gates.
        expected[0, FROZEN_THROUGHOUT] = net.head(z)
        second: Any = net.blocks[1]
        v = z + net.blocks[0](z)
        held = second[1](second[0](v))
        inside = second[1](second[0](z)) * F.gelu(held) / held
        expected[1, FROZEN_THROUGHOUT] = net.head(z + net.blocks[0](z) + second[4](inside))
    for key, logits in expected.items():
        losses = F.cross_entropy(logits, y, reduction="none")
        assert rows[key]["loss"] == pytest.approx(float(losses.mean()), rel=1e-9)
        assert rows[key]["loss_high"] - rows[key]["loss"] == pytest.approx(1.96 * float(losses.std()) / 50**0.5)
        assert rows[key]["accuracy"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    (gap,) = found.gaps.where(blocks_at_most=1).rows()
    assert gap["loss"] == pytest.approx(rows[1, FROZEN_THROUGHOUT]["loss"] - rows[1, EVALUATED]["loss"])
    assert abs(gap["loss"]) > 1e-6
    assert len(rows) == 7


def test_it_is_saved_and_read(tmp_path: Path) -> None:
    net = Net().eval()
    found = leakage(net, (torch.randn(6, 6, dtype=DOUBLE), torch.randint(3, (6,))))
    read = Leakage.load(found.save(tmp_path / "leakage.termwise"))
    assert str(read) == str(found)
    assert read.metadata == {"blocks": ["blocks.0", "blocks.1"], "samples": 6}


def test_what_has_no_blocks_or_no_classes_is_refused() -> None:
    x = torch.randn(3, 4, dtype=DOUBLE)
    with pytest.raises(UsageError, match="no residual blocks"):
        parallel(dense(4, 4), x)
    with pytest.raises(UsageError, match="no residual blocks"):
        leakage(nn.Sequential(dense(4, 4)), (x, torch.zeros(3, dtype=torch.long)))
    with pytest.raises(DataError, match="no class numbers"):
        leakage(Net().eval(), torch.randn(3, 6, dtype=DOUBLE))
