"""The rivals of pruning by expansion: each against its formula, written out in NumPy."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import termwise as tw
from termwise import nets
from termwise.pruning import METHODS
from termwise.pruning.bench import Bench
from termwise.pruning.frozen import predict
from termwise.pruning.members import find_members, without_members
from termwise.pruning.methods import MethodName


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def shaken(model: nn.Module) -> nn.Module:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor += 0.2 * torch.rand(tensor.shape, generator=g) - 0.1
    return model.eval()


def resnet() -> nn.Module:
    return shaken(nets.resnet(20, width=4, channels=1, classes=4))


def images(samples: int = 20) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    return torch.randn(samples, 1, 8, 8, generator=g), torch.randint(4, (samples,), generator=g)


def watched(model: nn.Module, names: list[str], run: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Input and output of each block in a run."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    by_module = {model.get_submodule(name): name for name in names}

    def note(module: nn.Module, args: Any, out: Any) -> None:
        plain = out if isinstance(out, Tensor) else out[0]
        found[by_module[module]] = args[0].double().numpy(), plain.double().numpy()

    hooks = [module.register_forward_hook(note) for module in by_module]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return found


def streams(model: nn.Module, x: Tensor) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Input and output of each block of a ResNet, (places, channels)."""
    found = watched(model, FREE, lambda: model(x))
    return {name: (_rows(a), _rows(b)) for name, (a, b) in found.items()}


def _rows(v: np.ndarray) -> np.ndarray:
    return np.moveaxis(v, 1, -1).reshape(-1, v.shape[1])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    sizes = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(-1), sizes, out=np.zeros_like(sizes), where=sizes > 0)  # as PyTorch has it


def order(method: str, model: nn.Module, data: Any, seed: int = 0) -> list[tuple[str, ...]]:
    """The blocks that are out, step by step."""
    bench = Bench(model, data, calibration=False)
    found = []
    for gone in METHODS[method](bench, seed):
        bench.take_out(gone)
        found.append(tuple(sorted(member.name for member in gone)))
    return found


def nested(names: list[str]) -> list[tuple[str, ...]]:
    return [tuple(sorted(names[: i + 1])) for i in range(len(names))]


FREE = ["stages.0.0", "stages.0.1", "stages.0.2", "stages.1.1", "stages.1.2", "stages.2.1", "stages.2.2"]


def test_block_influence() -> None:
    model, data = resnet(), images()
    influence = {name: 1 - cosines(a, b).mean() for name, (a, b) in streams(model, data[0]).items()}
    assert order("block-influence", model, data) == nested(sorted(FREE, key=influence.__getitem__))


def test_angles_of_spans() -> None:
    model, data = resnet(), images()
    states = streams(model, data[0])
    runs = [FREE[:3], FREE[3:5], FREE[5:]]

    def distance(span: tuple[str, ...]) -> float:
        return float(np.arccos(cosines(states[span[0]][0], states[span[-1]][1])).mean() / np.pi) if span else 0.0

    spans = [[(), *(tuple(run[i:j]) for i in range(len(run)) for j in range(i + 1, len(run) + 1))] for run in runs]
    choices = [*itertools.product(*spans)]
    for count, gone in enumerate(order("angular", model, data), 1):
        fitting = [choice for choice in choices if sum(map(len, choice)) == count]
        best = min(fitting, key=lambda choice: sum(map(distance, choice)))
        assert gone == tuple(sorted(itertools.chain.from_iterable(best)))


def test_magnitude() -> None:
    model, data = resnet(), images()

    def size(name: str) -> float:
        block: Any = model.get_submodule(name)
        weights = [conv.weight.detach().double().numpy().ravel() for conv in (block.conv1, block.conv2)]
        return float(np.abs(np.concatenate(weights)).mean())

    assert order("magnitude", model, data) == nested(sorted(FREE, key=size))


def test_last_and_random() -> None:
    model, data = resnet(), images()
    assert order("last", model, data) == nested(FREE[::-1])
    drawn = np.random.default_rng(3).permutation(7)
    assert order("random", model, data, seed=3) == nested([FREE[i] for i in drawn])


def test_exhaustive_is_greedy_by_what_is_measured() -> None:
    model, (x, targets) = resnet(), images()

    def loss(gone: tuple[str, ...]) -> float:
        hooks = [model.get_submodule(n).register_forward_hook(lambda m, args, out: args[0]) for n in gone]
        with torch.no_grad():
            found = float(nn.functional.cross_entropy(model(x), targets))
        for hook in hooks:
            hook.remove()
        return found

    gone: tuple[str, ...] = ()
    for found in order("exhaustive", model, (x, targets)):
        gone = min(((*gone, name) for name in FREE if name not in gone), key=loss)
        assert found == tuple(sorted(gone))
    plan = tw.prune(model, (x, targets), keep=0.5, method="exhaustive", calibration=False)
    assert plan.table["passes"][-1] == 7 + 6 + 5 + 4


def test_the_expansion_looks_at_one_part_after_another() -> None:
    model, (x, targets) = resnet(), images(800)  # three parts of 256 samples and more
    gone: list[str] = []
    for step, found in enumerate(order("expansion", model, (x, targets))):
        left = [name for name in FREE if name not in gone]
        part = [(a[step % 3 :: 3], b[step % 3 :: 3]) for a, b in zip(x.split(256), targets.split(256), strict=True)]
        with without(model, gone):
            losses = predict(model, part, [(name,) for name in left]).sets.mean()
        gone.append(left[int(np.argmin(losses))])
        assert found == tuple(sorted(gone))


@contextlib.contextmanager
def without(model: nn.Module, names: list[str]) -> Iterator[None]:
    members = [member for member in find_members(model, images(1)[0]).free if member.name in names]
    with without_members(model, members):
        yield


def test_expansion_costs_half_a_pass_a_block() -> None:
    model, data = resnet(), images()
    bench = Bench(model, data, calibration=False)
    bench.predicted(bench.left)
    # Blocks cost alike but for those that change the shape: a row for each of the seven from its output on.
    assert bench.passes == pytest.approx(1 + (8 + 7 + 6 + 4 + 3 + 1) / 9, abs=0.3)


def test_tokens_that_are_padding_do_not_count() -> None:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "vocab_size": 32}
    config = transformers.BertConfig(num_attention_heads=2, **sizes)
    model = shaken(transformers.BertModel(config, add_pooling_layer=False))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    batch = {"input_ids": torch.randint(32, (2, 5)), "attention_mask": mask}
    names = [f"encoder.layer.{i}" for i in range(4)]
    states = watched(model, names, lambda: model(**batch))
    tokens, last = mask.bool().numpy(), np.array([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]], dtype=bool)
    influence = {name: 1 - cosines(a, b)[tokens].mean() for name, (a, b) in states.items()}
    bench = Bench(model, [batch], output="last_hidden_state")
    steps = [[member.name for member in gone] for gone in METHODS["block-influence"](bench, 0)]
    assert steps[-1] == sorted(names, key=influence.__getitem__)
    angles = {
        (i, j): np.arccos(cosines(states[names[i]][0], states[names[j]][1])[last]).mean()
        for i in range(4)
        for j in range(i, 4)
    }
    for count, gone in enumerate(METHODS["angular"](bench, 0), 1):
        i, j = min((span for span in angles if span[1] - span[0] + 1 == count), key=angles.__getitem__)
        assert [member.name for member in gone] == names[i : j + 1]


def test_every_method_can_be_named() -> None:
    assert get_args(MethodName) == tuple(METHODS)
