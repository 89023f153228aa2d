"""What people would use instead of the expansion, written as well as its user would write it.

All of them work on the same object, a residual network of `termwise.nets` whose gates are held at their values for one
batch of inputs, and want the same numbers: its terms by the number of residual branches on a path, without what is born
of constants.  Batch norms are folded into the convolutions, gates are saved as floats, and whatever can be batched is.

- `by_enumeration`: every path by itself, paths that begin alike sharing their beginning.
- `by_sampling`: random paths of one length (A. Veit, M. Wilber, S. Belongie, *Residual networks behave like ensembles
  of relatively shallow networks*, 2016, arXiv 1605.06431, section 4).
- `at_roots`: the polynomial at the complex roots of unity, then an inverse Fourier transform.
- `by_nested_jvp`: its derivatives at 0 by nested forward-mode differentiation.

They share no code with the expansion: `tests/test_benchmarks.py` holds each against it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from termwise.nets.resnet import Block, ProjectionShortcut, ResNet


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution without a bias, with the scale of the batch norm behind it in its weight."""

    weight: Tensor
    stride: int
    padding: int

    def __call__(self, v: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        return F.conv2d(v, self.weight, stride=self.stride, padding=self.padding)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenBlock:
    """v -> gate (shortcut(v) + conv2(inner (conv1(v)))); rows of v are copies of the batch, one behind the other."""

    conv1: Convolution
    inner: Tensor
    conv2: Convolution
    shortcut: Callable[[Tensor], Tensor]
    gate: Tensor

    def branch(self, v: Tensor) -> Tensor:
        """The residual branch of (rows x N, C, H, W)."""
        return self.conv2(gated(self.conv1(v), self.inner))


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenResNet:
    """A residual network at the gates of one batch, without constants.

    Attributes:
        stem: the input (N, C, H, W) behind the first convolution and its gate.
        blocks: what follows.
        classifier: the weights (classes, C) behind the pooling by means.
    """

    stem: Tensor
    blocks: tuple[FrozenBlock, ...]
    classifier: Tensor

    def head(self, v: Tensor) -> Tensor:
        """(rows x N, C, H, W) to logits (rows, N, classes)."""
        return (v.mean(dim=(2, 3)) @ self.classifier.T).unflatten(0, (-1, len(self.stem)))

    def at(self, eps: Tensor) -> Tensor:
        """The polynomial (N, classes) at the number `eps`, every residual branch times it."""
        v = self.stem
        for block in self.blocks:
            v = (_Linear.apply(block.shortcut, v) + eps * _Linear.apply(block.branch, v)) * block.gate
        return self.head(v)[0]


class _Linear(torch.autograd.Function):
    """A linear map, whose derivative is itself: without this each nested jvp also differentiates by the weight."""

    @staticmethod
    def forward(f: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """f(v), in a new tensor."""
        out = f(v)
        return out.clone() if out is v else out

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the map."""
        ctx.f = inputs[0]

    @staticmethod
    def jvp(ctx: Any, f: None, v: Tensor) -> Any:
        """The map, of the tangent."""
        return _Linear.apply(ctx.f, v)


def gated(v: Tensor, gate: Tensor) -> Tensor:
    """(rows x N, ...) times the gates (N, ...) of each row, in place."""
    v.unflatten(0, (-1, len(gate))).mul_(gate)
    return v


@torch.no_grad()
def frozen(model: ResNet, x: Tensor) -> FrozenResNet:
    """The network in evaluation mode with its gates at the batch `x` (N, C, H, W)."""
    stem, shift = _folded(model.conv, model.norm)
    born = stem(x)
    gate, v = _relu(born + shift)
    blocks = []
    for block in _blocks(model):
        (conv1, shift1), (conv2, shift2) = _folded(block.conv1, block.norm1), _folded(block.conv2, block.norm2)
        inner, branch = _relu(conv1(v) + shift1)
        shortcut = block.shortcut
        if isinstance(shortcut, ProjectionShortcut):
            shortcut, shift3 = _folded(*shortcut)
            shift2 = shift2 + shift3
        outer, v = _relu(shortcut(v) + conv2(branch) + shift2)
        blocks.append(FrozenBlock(conv1, inner, conv2, shortcut, outer))
    return FrozenResNet(born * gate, tuple(blocks), model.classifier.weight.detach())


def _blocks(model: ResNet) -> Iterator[Block]:
    return (module for module in model.modules() if isinstance(module, Block))


def _relu(u: Tensor) -> tuple[Tensor, Tensor]:
    gate = (u > 0).to(u.dtype)
    return gate, u * gate


def _folded(conv: Any, norm: Any) -> tuple[Convolution, Tensor]:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = (conv.weight * scale[:, None, None, None]).detach()
    return Convolution(weight, conv.stride[0], conv.padding[0]), shift.detach()[:, None, None]


# Enumeration.


@torch.no_grad()
def by_enumeration(net: FrozenResNet, *, last: int | None = None, rows: int = 64) -> Tensor:
    """The terms (blocks + 1, N, classes) from every path, each walked by itself from where it parts from the others.

    A path costs about one residual branch, since half of all paths part from their sisters in the last block.  Only
    beginnings are shared: sharing ends too would mean to add paths of equal length, which is the expansion.

    Args:
        net: the frozen network.
        last: only the paths that differ in this many last blocks, and go past all others: 2^last of them.
        rows: how many paths are walked at once.
    """
    n = len(net.blocks)
    start = 0 if last is None else n - last
    v = net.stem
    for block in net.blocks[:start]:
        v = gated(block.shortcut(v).clone(), block.gate)
    pooled = torch.zeros(n + 1, len(v), net.classifier.shape[1], dtype=v.dtype)

    def walk(at: int, v: Tensor, lengths: Tensor) -> None:
        if at == n:
            pooled.index_add_(0, lengths, v.mean(dim=(2, 3)).unflatten(0, (len(lengths), -1)))
            return
        block = net.blocks[at]
        past, through = gated(block.shortcut(v).clone(), block.gate), gated(block.branch(v), block.gate)
        if 2 * len(lengths) <= rows:
            walk(at + 1, torch.cat([past, through]), torch.cat([lengths, lengths + 1]))
        else:
            walk(at + 1, past, lengths)
            walk(at + 1, through, lengths + 1)

    walk(start, v, torch.zeros(1, dtype=torch.long))
    return pooled @ net.classifier.T


# Sampling.


@torch.no_grad()
def by_sampling(net: FrozenResNet, length: int, count: int, generator: torch.Generator) -> Tensor:
    """The outputs (count, N, classes) of random paths through exactly `length` residual branches.

    Their mean times binom(blocks, length) estimates the term without bias.  All paths are walked at once; a branch is
    computed only for the paths that go through it.
    """
    order = torch.rand(count, len(net.blocks), generator=generator).argsort(dim=1)
    through = order < length
    v = net.stem.repeat(count, 1, 1, 1)
    for at, block in enumerate(net.blocks):
        chosen = through[:, at]
        past = block.shortcut(v).clone().unflatten(0, (count, -1))
        if bool(chosen.any()):
            inside = v.unflatten(0, (count, -1))[chosen].flatten(0, 1)
            past[chosen] = block.branch(inside).unflatten(0, (-1, len(net.stem)))
        v = gated(past.flatten(0, 1), block.gate)
    return net.head(v)


def samples_needed(relative_variance: float, population: int, error: float) -> float:
    """How many of `population` paths, drawn without replacement, give a mean of this relative standard error.

    W. G. Cochran, *Sampling Techniques*, 1977, equation 4.4: n = n0 / (1 + n0 / population) with
    n0 = variance / (error x mean)^2.

    Args:
        relative_variance: E|y - mean|^2 / |mean|^2 over the paths.
        population: how many paths there are.
        error: the relative standard error that is wanted.
    """
    needed = relative_variance / error**2
    return max(1.0, needed / (1 + needed / population))


# Roots of unity.


@torch.no_grad()
def at_roots(net: FrozenResNet) -> Tensor:
    """The terms (blocks + 1, N, classes) from the values at the n = blocks + 1 roots of unity.

    The polynomial is real, so its values at conjugate roots are conjugate: only the upper half of the circle is
    evaluated, all roots in one batch.  A real linear map acts on real and imaginary parts alike; they are rows of the
    batch, first the real parts at angles 0 to pi, then the imaginary parts of those that are not real.
    """
    n = len(net.blocks) + 1
    half = n // 2 + 1
    complex_roots = slice(1, (n + 1) // 2)  # 1, and -1 where n is even, have no imaginary part
    angles = 2 * math.pi * torch.arange(half, dtype=torch.float64) / n
    shape = (-1, *[1] * net.stem.dim())
    cos, sin = (part.to(net.stem.dtype).view(shape) for part in (angles.cos(), angles.sin()))
    v = torch.zeros(n, *net.stem.shape, dtype=net.stem.dtype)
    v[:half] = net.stem
    v = v.flatten(0, 1)
    for block in net.blocks:
        branch = block.branch(v).unflatten(0, (n, -1))
        out = block.shortcut(v).clone().unflatten(0, (n, -1))
        real, imaginary = out[:half], out[half:]
        real.addcmul_(cos, branch[:half])
        real[complex_roots].addcmul_(sin[complex_roots], branch[half:], value=-1)
        imaginary.addcmul_(cos[complex_roots], branch[half:]).addcmul_(sin[complex_roots], branch[complex_roots])
        v = gated(out.flatten(0, 1), block.gate)
    logits = net.head(v)
    values = torch.complex(logits[:half], torch.zeros_like(logits[:half]))
    values.imag[complex_roots] = logits[half:]
    return torch.fft.irfft(values.conj(), n=n, dim=0)


# Nested forward mode.


def by_nested_jvp(net: FrozenResNet, order: int) -> Tensor:
    """The first `order` + 1 terms (order + 1, N, classes): Taylor coefficients at 0, torch.func.jvp inside of itself.

    Each level hands on what it was given beside its derivative, so one run gives all lower orders as well.
    """

    def derivatives(f: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def run(eps: Tensor) -> tuple[Tensor, ...]:
            values, tangents, *_ = torch.func.jvp(f, (eps,), (torch.ones_like(eps),))
            return (*values, tangents[-1])

        return run

    f: Callable[[Tensor], tuple[Tensor, ...]] = lambda eps: (net.at(eps),)  # noqa: E731
    for _ in range(order):
        f = derivatives(f)
    with torch.no_grad():
        found = f(torch.zeros((), dtype=net.stem.dtype))
    return torch.stack([value / math.factorial(k) for k, value in enumerate(found)])
