"""A multilayer perceptron: the plainest plain network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from termwise.errors import UsageError
from termwise.nets.parts import require_positive


def mlp(
    sizes: Sequence[int],
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    bias: bool = True,
    norm: bool = False,
) -> nn.Sequential:
    """Linear layers with an activation between them.

    Args:
        sizes: features of the input, of each hidden layer, and of the output: at least two numbers.  Inputs
            of more than two axes are flattened to (N, sizes[0]).
        activation: makes the activation that follows each hidden layer, for example `torch.nn.GELU`.
        bias: whether the linear layers have biases, zero at first.
        norm: whether a batch norm stands before each activation.

    Weights are drawn from N(0, 2 / fan in) (He et al. 2015, arXiv 1502.01852, eq. 10), the last layer's,
    which no activation follows, from N(0, 1 / fan in).

    Raises:
        UsageError: fewer than two sizes, or a size below 1.
    """
    if len(sizes) < 2:
        raise UsageError(f"mlp: sizes is {list(sizes)}; give at least two, such as [64, 128, 10].")
    require_positive("mlp", **{f"sizes[{index}]": size for index, size in enumerate(sizes)})
    layers: list[nn.Module] = [nn.Flatten()]
    for index, (before, after) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        linear = nn.Linear(before, after, bias=bias)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear" if last else "relu")
        if bias:
            nn.init.zeros_(linear.bias)
        layers.append(linear)
        if not last:
            layers += [nn.BatchNorm1d(after)] if norm else []
            layers.append(activation())
    return nn.Sequential(*layers)
