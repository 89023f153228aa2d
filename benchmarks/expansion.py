"""What the expansion costs against the floor: time, growth with depth, memory.

The floor of time is the *ideal cost* of a program in plain passes: the sum over its convolutions and matrix products of
(width of the window of depths + 1 for the constants) x FLOPs, over the sum of FLOPs: what all terms cost were only
arithmetic paid.  Below it the expansion left out depths that no path has.

    python -m benchmarks.expansion NETWORK BATCH plain|expand      print the peak memory of one run, in bytes
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import termwise as tw
from benchmarks.measuring import Row, Run, images, medians, peak_bytes, plain_pass, print_peak
from termwise import nets

DEPTHS = (20, 56, 110, 218)
KEPT = 10  # the depths that a truncated expansion keeps


def _resnet50() -> nn.Module:
    import torchvision

    return torchvision.models.resnet50()


def _vit_tiny() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224")


def _gpt2() -> nn.Module:
    import transformers

    return transformers.GPT2LMHeadModel(transformers.GPT2Config())


def _tokens(n: int) -> torch.Tensor:
    return torch.randint(0, 50257, (n, 128), generator=torch.Generator().manual_seed(n))


# The network, its batches, and the batch sizes that are tried for it.
SUBJECTS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], tuple[int, ...]]] = {
    "ResNet-20, projections": (lambda: nets.resnet(20, shortcut="projection"), images(32), (8, 32)),
    "ResNet-56": (lambda: nets.resnet(56), images(32), (8, 32)),
    "ResNet-56, projections": (lambda: nets.resnet(56, shortcut="projection"), images(32), (8, 32)),
    "DenseNet-BC-100-12": (
        lambda: nets.densenet(100, 12, bottleneck=True, compression=0.5),
        images(32),
        (4, 16),
    ),
    "ResNet-50 at 224": (_resnet50, images(224), (1, 4)),
    "ViT-Ti at 224": (_vit_tiny, images(224), (1, 4)),
    "GPT-2, 128 tokens": (_gpt2, _tokens, (1,)),
}
TIMED = tuple(SUBJECTS)[1:]
# Samples for which the widest window x the largest activation exceeds 500 MB.
MEMORY = {"ResNet-20, projections": 640, "ResNet-56": 320, "ViT-Ti at 224": 20}


def subject(name: str) -> nn.Module:
    """The network with seeded random weights, in evaluation mode."""
    torch.manual_seed(0)
    return SUBJECTS[name][0]().eval()


def time_rows(name: str, repeats: int) -> Iterator[Row]:
    """Full expansion against ideal cost x plain pass, and the aligned depth against a plain pass."""
    model, (_, batch, sizes) = subject(name), SUBJECTS[name]
    aligned: Callable[..., object] | None = getattr(tw, "aligned_depth", None)
    runs = {
        "plain": Run(plain_pass(model), sizes),
        "expand": Run(lambda x: tw.expand(model, x), sizes),
    }
    if aligned is not None:
        runs["aligned"] = Run(lambda x: aligned(model, x), sizes)
    best = medians(runs, batch, repeats)
    ideal = tw.expand(model, batch(1)).ideal_cost
    passes = best["expand"] / best["plain"]
    yield Row("full expansion / floor", name, passes, ideal, passes / ideal, 1.0, "at most", 0.7)
    price = best["aligned"] / best["plain"] if aligned is not None else None
    yield Row(
        "aligned depth / plain pass", name, price, 1.0, price, 3.5, "at most", 2.5,
        note="" if price is not None else "termwise.aligned_depth is not there yet",
    )  # fmt: skip


def gradient_row(name: str, repeats: int) -> Row:
    """The gradient by depth, at the input and at all parameters, against forward and backward of autograd."""
    model, (_, batch, sizes) = subject(name), SUBJECTS[name]
    runs = {
        "plain": Run(lambda x: plain_gradient(model, x), sizes),
        "by depth": Run(lambda x: tw.expand_gradient(model, x, squared), sizes),
    }
    best = medians(runs, batch, repeats)
    kept = len(tw.expand_gradient(model, batch(1), squared, at=[]).input.depths)
    passes = best["by depth"] / best["plain"]
    note = "passes here are forward and backward; other is the number of coefficients at the input"
    return Row("gradient by depth / plain gradient", name, passes, kept, passes / kept, 1.2, "at most", note=note)


def squared(y: torch.Tensor) -> torch.Tensor:
    """A loss that every output has."""
    return y.square().mean()


def plain_gradient(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Forward and backward by autograd: the gradient at the input and at all parameters."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(squared(model(x)), [x, *model.parameters()])


def growth_rows(repeats: int, depths: tuple[int, ...] = DEPTHS, samples: int = 4) -> Iterator[Row]:
    """The exponent of time in the depth of a ResNet, from a line through the logarithms of all depths."""
    truncates = "max_depth" in inspect.signature(tw.expand).parameters
    kept: Any = {"max_depth": KEPT}
    runs: dict[str, Run] = {}
    for depth in depths:
        torch.manual_seed(0)
        model = nets.resnet(depth).eval()
        runs[f"full {depth}"] = Run(lambda x, model=model: tw.expand(model, x), (samples,))
        if truncates:
            runs[f"kept {depth}"] = Run(lambda x, model=model: tw.expand(model, x, **kept), (samples,))
    times = medians(runs, images(32), repeats)
    network = f"ResNet-{', -'.join(map(str, depths))}"
    full = exponent({depth: times[f"full {depth}"] for depth in depths})
    yield Row("growth of time with depth, full expansion", network, full, None, full, 2.1, "at most")
    short = exponent({depth: times[f"kept {depth}"] for depth in depths}) if truncates else None
    yield Row(
        f"growth of time with depth, max_depth={KEPT}", network, short, None, short, 1.1, "at most",
        note="" if truncates else "expand(..., max_depth=) is not there yet",
    )  # fmt: skip


def exponent(times: dict[int, float]) -> float:
    """The slope of log time over log depth, by least squares."""
    x, y = ([math.log(value) for value in values] for values in (times.keys(), times.values()))
    mean = sum(x) / len(x)
    return sum((a - mean) * b for a, b in zip(x, y, strict=True)) / sum((a - mean) ** 2 for a in x)


def memory_row(name: str, samples: int) -> Row:
    """Peak of a fresh process that expands, less that of one that runs the plain pass, in the least possible unit."""
    model, batch = subject(name), SUBJECTS[name][1]
    unit = samples * _widest_window(model, batch(1)) * _largest_activation(model, batch(1))
    plain, whole = (peak_bytes("-m", "benchmarks.expansion", name, str(samples), task) for task in ("plain", "expand"))
    ratio = (whole - plain) / unit
    note = f"{samples} samples: the unit is {unit / 1e6:.0f} MB"
    return Row("peak memory / (widest window x largest activation)", name, ratio, 1.0, ratio, 3.0, "at most", note=note)


def _largest_activation(model: nn.Module, x: Any) -> int:
    sizes: list[int] = []

    def note(module: nn.Module, args: Any, out: Any) -> None:
        if isinstance(out, torch.Tensor):
            sizes.append(out.numel() * out.element_size())

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    plain_pass(model)(x)
    for hook in hooks:
        hook.remove()
    return max(sizes)


def _widest_window(model: nn.Module, x: Any) -> int:
    """That of the output: it only grows on the way."""
    depths = tw.expand(model, x).depths
    return depths[-1] - depths[0] + 1


def main() -> None:
    """Run one of the two once, and print the peak."""
    name, samples, task = sys.argv[1:]
    torch.set_num_threads(1)
    model, x = subject(name), SUBJECTS[name][1](int(samples))
    if task == "plain":
        plain_pass(model)(x)
    else:
        tw.expand(model, x)
    print_peak()


if __name__ == "__main__":
    main()
