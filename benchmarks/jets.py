"""`jax.experimental.jet` as a peer: the derivatives of the frozen network in eps, all orders in one pass.

The network is that of `benchmarks.peers`, in jax with the same weights and gates, and compiled.  Imported only where
jax is (the dependency group `bench`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from jax.experimental.jet import jet
from torch import Tensor

from benchmarks.peers import Convolution, FrozenResNet
from termwise.nets.resnet import PadShortcut

Array = jax.Array

# As many threads as PyTorch has; jax reads this when it first computes.
os.environ["NPROC"] = str(torch.get_num_threads())
if torch.get_num_threads() == 1:
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false " + os.environ.get("XLA_FLAGS", "")


def terms(net: FrozenResNet) -> Callable[[FrozenResNet], np.ndarray]:
    """A compiled function of a frozen network that gives all its terms (blocks + 1, N, classes).

    It serves every batch of this shape: gates are arguments, weights are compiled in.  A jet is a list of derivatives,
    so that a term is one of them over a factorial.

    Args:
        net: the network, at the gates of any batch.
    """
    order = len(net.blocks)
    convolutions = [
        (_convolution(block.conv1), _convolution(block.conv2), _shortcut(block.shortcut)) for block in net.blocks
    ]
    classifier = _array(net.classifier).T

    def at(eps: Array, v: Array, gates: list[tuple[Array, Array]]) -> Array:
        """The polynomial at `eps`, as `FrozenResNet.at` does it."""
        for (conv1, conv2, shortcut), (inner, outer) in zip(convolutions, gates, strict=True):
            v = (shortcut(v) + eps * conv2(conv1(v) * inner)) * outer
        return v.mean(axis=(2, 3)) @ classifier

    @jax.jit
    def derivatives(eps: Array, stem: Array, gates: list[tuple[Array, Array]]) -> list[Array]:
        series = [jnp.ones(()), *[jnp.zeros(())] * (order - 1)]
        value, rest = jet(lambda eps: at(eps, stem, gates), (eps,), (series,))
        return [value, *rest]

    def run(net: FrozenResNet) -> np.ndarray:
        gates = [(_array(block.inner), _array(block.gate)) for block in net.blocks]
        found = derivatives(jnp.zeros(()), _array(net.stem), gates)
        return np.stack([np.asarray(value) / math.factorial(k) for k, value in enumerate(found)])

    return run


def compiled(net: FrozenResNet) -> tuple[Callable[[FrozenResNet], np.ndarray], float]:
    """What `terms` gives, once called, and the seconds that the first call took."""
    run, start = terms(net), time.perf_counter()
    run(net)
    return run, time.perf_counter() - start


def _convolution(conv: Convolution) -> Callable[[Array], Array]:
    weight, stride, padding = _array(conv.weight), (conv.stride, conv.stride), [(conv.padding, conv.padding)] * 2
    return lambda v: lax.conv_general_dilated(v, weight, stride, padding)


def _shortcut(shortcut: object) -> Callable[[Array], Array]:
    if isinstance(shortcut, Convolution):
        return _convolution(shortcut)
    if isinstance(shortcut, PadShortcut):
        extra = shortcut.extra
        return lambda v: jnp.pad(v[:, :, ::2, ::2], ((0, 0), (0, extra), (0, 0), (0, 0)))
    return lambda v: v


def _array(tensor: Tensor) -> Array:
    return jnp.asarray(tensor.numpy())


def limits() -> str:
    """Which layers `jet` runs, and the first line of its error for those that it does not."""
    runs, fails = [], []
    for name, (layer, shape) in LAYERS.items():
        x = jnp.linspace(-1.0, 1.0, math.prod(shape)).reshape(shape)
        try:
            jet(layer, (x,), ([jnp.ones(shape), jnp.zeros(shape)],))
        except Exception as error:  # whatever it says is what is reported
            fails.append(f"{name} (`{type(error).__name__}: {str(error).splitlines()[0].partition('. ')[0]}`)")
        else:
            runs.append(name)
    return (
        f"`jax.experimental.jet` of jax {jax.__version__} runs {', '.join(runs)}; it does not run {'; '.join(fails)}."
    )


def _batch_norm(v: Array) -> Array:
    return (v - 0.5) * lax.rsqrt(jnp.full((1,), 2.0))


def _max_pool(v: Array) -> Array:
    return lax.reduce_window(v, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def _mean_pool(v: Array) -> Array:
    return lax.reduce_window(v, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4


def _attention(v: Array) -> Array:
    return jax.nn.softmax(v @ v.T) @ v


def _recurrent(v: Array) -> Array:
    return lax.scan(lambda state, row: (jnp.tanh(state + row), row), v[0], v)[0]


LAYERS: dict[str, tuple[Callable[[Array], Array], tuple[int, ...]]] = {
    "convolution": (lambda v: lax.conv(v, jnp.ones((2, 2, 3, 3)), (1, 1), "SAME"), (1, 2, 4, 4)),
    "batch norm": (_batch_norm, (1, 2, 4, 4)),
    "layer norm": (lambda v: (v - v.mean()) * lax.rsqrt(v.var() + 1e-5), (4, 4)),
    "mean pooling": (_mean_pool, (1, 2, 4, 4)),
    "max pooling": (_max_pool, (1, 2, 4, 4)),
    "ReLU": (jax.nn.relu, (4,)),
    "GELU": (jax.nn.gelu, (4,)),
    "SiLU": (jax.nn.silu, (4,)),
    "attention": (_attention, (3, 4)),
    "jax.nn.dot_product_attention": (lambda v: jax.nn.dot_product_attention(v, v, v), (1, 3, 1, 4)),
    "sorting": (jnp.sort, (4,)),
    "the largest k": (lambda v: lax.top_k(v, 2)[0], (4,)),
    "a scanned recurrent layer": (_recurrent, (3, 4)),
}
