"""Termwise beside its peers (`benchmarks.peers`, `benchmarks.jets`): times, agreement, and where they cannot go."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import termwise as tw
from benchmarks import peers
from benchmarks.measuring import Row, Run, images, medians, plain_pass
from termwise import data, nets
from termwise.nets.resnet import ResNet

ERROR = 0.01  # the relative standard error that sampling must reach
SLICE = 8  # the last blocks in which the enumerated paths differ
ROOT_SIZES, EXPAND_SIZES = (1, 2, 4), (8, 32)


def settled(model: ResNet, x: Tensor) -> ResNet:
    """The model in evaluation mode, its batch norms with the statistics of the batch `x`."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches seen
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def resnet(depth: int) -> ResNet:
    """A ResNet with seeded random weights and statistics of norms that fit them."""
    torch.manual_seed(0)
    return settled(nets.resnet(depth), images(32)(64))


def stacked(model: ResNet, x: Tensor) -> Tensor:
    """Termwise's terms by the number of residual branches, (blocks + 1, N, classes)."""
    return torch.stack(list(tw.expand(model, x, unit="blocks").terms.values()))


def difference(found: Tensor, terms: Tensor) -> float:
    """The largest |a_k - b_k| over the root of sum_k |a_k|^2, norms over samples and classes."""
    return float((found - terms).flatten(1).norm(dim=1).max() / terms.norm())


def _doubled(depth: int, samples: int = 2) -> tuple[ResNet, Tensor]:
    return resnet(depth).double(), images(32)(samples).double()


def _ours(model: nn.Module, sizes: tuple[int, ...] = EXPAND_SIZES) -> dict[str, Run]:
    return {
        "plain": Run(plain_pass(model), sizes),
        "expand": Run(lambda x: tw.expand(model, x), sizes),
    }


def _row(measure: str, network: str, best: dict[str, float], theirs: float, bar: float, note: str) -> Row:
    plain, expand = best["plain"], best["expand"]
    return Row(measure, network, expand / plain, theirs / plain, theirs / expand, bar, "at least", note=note)


# Every path, and the roots of unity.


def path_rows(repeats: int) -> Iterator[Row]:
    """Enumeration and roots of unity on ResNet-56, in one run."""
    model = resnet(56)
    blocks = len(peers.frozen(model, images(32)(1)).blocks)
    runs = _ours(model) | {
        "roots": Run(lambda x: peers.at_roots(peers.frozen(model, x)), ROOT_SIZES),
        "enumeration": Run(
            lambda x: peers.by_enumeration(peers.frozen(model, x), last=SLICE), (1, 4), 2.0 ** (SLICE - blocks)
        ),
    }
    best = medians(runs, images(32), repeats)
    small, x = _doubled(20)
    agrees = difference(peers.by_enumeration(peers.frozen(small, x)), stacked(small, x))
    yield _row(
        "enumeration of all paths / full expansion", f"ResNet-56, 2^{blocks} paths", best, best["enumeration"], 1e5,
        f"timed on the 2^{SLICE} paths that differ in the last {SLICE} blocks and extrapolated: time x 2^{blocks} / "
        f"2^{SLICE}; on ResNet-20, all 2^9 paths, it differs from Termwise by {agrees:.0e} (float64)",
    )  # fmt: skip
    model64, x = _doubled(56)
    exact = stacked(model64, x)
    agrees = difference(peers.at_roots(peers.frozen(model64, x)), exact)
    yield _row(
        "roots of unity / full expansion", "ResNet-56", best, best["roots"], 2.0,
        f"half of the {blocks + 1} roots, the others being conjugate; differs from Termwise by {agrees:.0e} (float64). "
        + _smallest(model, images(32)(2), exact),
    )  # fmt: skip


def _smallest(model: ResNet, x: Tensor, exact: Tensor) -> str:
    """How many terms either way leaves right in float32: the Fourier sum loses those that are small."""
    right = []
    for found in (peers.at_roots(peers.frozen(model.float(), x)), stacked(model, x)):
        errors = (found.double() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
        right.append(int((errors < 0.01).sum()))
    return f"In float32 it gets {right[0]} of {len(exact)} terms right to 1 %, Termwise {right[1]}"


# Sampling.


def sampling_row(repeats: int, updates: int, count: int = 32) -> Row:
    """Veit et al.'s protocol against the full expansion, on a network that has learned something."""
    model, digits = _on_digits(56, updates)
    accuracy = float((plain_pass(model)(digits.test_inputs).argmax(dim=1) == digits.test_targets).double().mean())  # pyright: ignore
    x = digits.test_inputs[:4]
    net = peers.frozen(model, x[:1])
    blocks, generator = len(net.blocks), torch.Generator().manual_seed(0)
    lengths = (blocks // 4, 3 * blocks // 4)
    runs = _ours(model)
    for length in lengths:
        runs[str(length)] = Run(lambda _, k=length: peers.by_sampling(net, k, count, generator), (1,), count)
    best = medians(runs, lambda n: digits.test_inputs[:n], repeats)
    slope = (best[str(lengths[1])] - best[str(lengths[0])]) / (lengths[1] - lengths[0])
    needed = _paths_needed(peers.frozen(model, x), torch.stack(list(tw.expand(model, x).terms.values())), generator)
    price = sum(n * max(best[str(lengths[0])] + slope * (k - lengths[0]), 0.0) for k, n in enumerate(needed))
    return _row(
        f"sampled paths, {ERROR:.0%} standard error of each term / full expansion",
        f"ResNet-56 on digits, {updates} updates", best, price, 100.0,
        f"(accuracy {accuracy:.2f}) {sum(needed):.1e} paths needed of {2**blocks:.1e}, extrapolated from the variance "
        f"of {COUNT} paths of each length, drawn without replacement; time per path linear in its length, from lengths "
        f"{lengths[0]} and {lengths[1]}",
    )  # fmt: skip


COUNT = 128  # paths of each length whose variance is measured


def _paths_needed(net: peers.FrozenResNet, terms: Tensor, generator: torch.Generator) -> list[float]:
    """For each length the paths that bring the standard error of the coherent sum down to `ERROR`.

    The mean is taken from the exact term, so that only the variance is estimated: terms nearly cancel, and a mean of a
    few paths would be noise.
    """
    needed = []
    for length, term in enumerate(terms):
        population = math.comb(len(net.blocks), length)
        mean = term / population
        outputs = peers.by_sampling(net, length, min(COUNT, population), generator)
        variance = float((outputs - mean).double().pow(2).sum(dim=(1, 2)).mean() / mean.double().pow(2).sum())
        needed.append(peers.samples_needed(variance, population, ERROR))
    return needed


def _on_digits(depth: int, updates: int) -> tuple[ResNet, data.DataSet]:
    """A ResNet after a short training on the embedded digits."""
    torch.manual_seed(0)
    digits = data.load("digits")
    model = nets.resnet(depth, channels=1)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(updates):
        chosen = torch.randint(len(digits.train_inputs), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(digits.train_inputs[chosen]), digits.train_targets[chosen]).backward()
        optimiser.step()
    return settled(model, digits.train_inputs[:512]), digits


# Derivatives of higher order.


def nested_rows(repeats: int, depth: int = 20, orders: tuple[int, int] = (3, 5)) -> Iterator[Row]:
    """torch.func.jvp inside of itself: all orders of a shallow ResNet; a few of ResNet-56, the rest extrapolated."""
    model = resnet(depth)
    blocks = len(peers.frozen(model, images(32)(1)).blocks)
    runs = _ours(model) | {"jvp": Run(lambda x: peers.by_nested_jvp(peers.frozen(model, x), blocks), (2,))}
    best = medians(runs, images(32), repeats)
    small, x = _doubled(depth, 1)
    agrees = difference(peers.by_nested_jvp(peers.frozen(small, x), blocks), stacked(small, x))
    yield _row(
        "nested torch.func.jvp / full expansion", f"ResNet-{depth}, all {blocks} orders", best, best["jvp"], 1.0,
        f"on a network whose gates were frozen by hand; differs from Termwise by {agrees:.0e} (float64)",
    )  # fmt: skip
    deep = resnet(56)
    runs = _ours(deep) | {
        str(order): Run(lambda x, order=order: peers.by_nested_jvp(peers.frozen(deep, x), order), (2,))
        for order in orders
    }
    best = medians(runs, images(32), repeats)
    blocks = len(peers.frozen(deep, images(32)(1)).blocks)
    growth = (best[str(orders[1])] / best[str(orders[0])]) ** (1 / (orders[1] - orders[0]))
    yield _row(
        "nested torch.func.jvp / full expansion", f"ResNet-56, all {blocks} orders", best,
        best[str(orders[1])] * growth ** (blocks - orders[1]), 1.0,
        f"timed up to order {orders[1]}, which takes {best[str(orders[1])] / best['expand']:.0f} full expansions; "
        f"each further order takes {growth:.1f} times as long, extrapolated",
    )  # fmt: skip


def jet_rows(repeats: int, depths: tuple[int, ...]) -> Iterator[Row]:
    """jax.experimental.jet on ResNets of these depths, compiled; a line that says so where jax is not installed."""
    measure = "jax.experimental.jet / full expansion"
    try:
        from benchmarks import jets
    except ModuleNotFoundError as error:
        for depth in depths:
            yield Row(measure, f"ResNet-{depth}", None, None, None, 1.0, "at least", note=f"not installed: {error}")
        return
    for depth in depths:
        model = resnet(depth)
        sizes = (1, 4, 16) if depth <= 20 else (4,)  # each is compiled by itself
        run, seconds = jets.compiled(peers.frozen(model, images(32)(sizes[0])))
        call: Callable[[Any], object] = lambda x, model=model, run=run: run(peers.frozen(model, x))  # noqa: E731
        best = medians(_ours(model) | {"jet": Run(call, sizes)}, images(32), repeats)
        x = images(32)(sizes[0])
        agrees = difference(torch.from_numpy(run(peers.frozen(model, x))), stacked(model, x))
        yield _row(
            measure, f"ResNet-{depth}, all orders", best, best["jet"], 1.0,
            f"written again in jax with its gates frozen by hand; compiled in {seconds / best['expand']:.0f} times a "
            f"full expansion of one sample, not counted; differs from Termwise by {agrees:.0e} (float32)",
        )  # fmt: skip


def limits() -> str:
    """What the peers that differentiate cannot run, in one sentence."""
    try:
        from benchmarks import jets
    except ModuleNotFoundError:
        return ""
    return jets.limits()
