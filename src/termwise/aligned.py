"""The aligned depth alone, by a series of two terms.

With y(eps) = c + sum_k y_k eps^k the output, c all that is born of constants or frozen, and logits centred over the
classes, the mean of k under the aligned share is

    sum_k k E<y_k, y> / sum_k E<y_k, y>   =   E<y, y'(1)> / E<y, y - c>,

so that no term is needed by itself: the value and the derivative in eps at eps = 1 go through the same rules, gates
frozen as ever.  (A forward-mode derivative of the model would not freeze them.)  The price is that of three rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from termwise.expand import Forward, Output, check_options, traverse
from termwise.pinning import bare
from termwise.profile import (
    Estimate,
    centred,
    check_batched,
    check_replicates,
    estimate,
    is_uncertain,
    overlaps,
    resampled,
)
from termwise.program import Product, Program
from termwise.series import Series
from termwise.steps import Unit, unit_of
from termwise.walks import DERIVATIVE, AroundOne


def aligned_depth(
    model: Any,
    x: Any,
    *,
    unit: str | Sequence[str] | Unit = "layers",
    product: Product = "half",
    output: Output = None,
    forward: Forward = None,
    strict: bool = False,
    replicates: int = 200,
    seed: int = 0,
) -> Estimate | None:
    """The mean depth of the output of `model` at `x` under the aligned share, without expanding it.

    It is the `aligned_depth` of a `profile` without targets, and costs a few forward passes whatever the depth.
    What a profile also looks at cannot be seen without the terms: that no more than a tenth of the share is negative.
    Where terms of opposite sign cancel, the mean can lie outside the network, and here nothing warns of it.

    Args:
        model: an nn.Module or callable; run in evaluation mode and left as found.
        x: its input, a batch of samples, as in `expand`.
        unit: "layers", "blocks", "activations", or names of modules.
        product: "half" or "cauchy", as in `expand`.
        output: which tensor of the model's result, as in `expand`; of shape (samples, classes) or (samples, ...,
            classes), or (samples, classes, height, width).
        forward: how to call the model, as in `expand`.
        strict: refuse operators without a rule, as in `expand`.
        replicates: bootstrap replicates.
        seed: of the bootstrap; the model's random state is not touched.

    Returns:
        The mean in steps, with its 95 % interval over the samples of this batch; None where it is undefined, the share
        of what is born of the input being within 3 standard errors of zero.

    Raises:
        DataError: see `expand`.
        ModelError: see `expand`; and when the output has no classes.
        UsageError: for an unknown unit or option, or fewer than two replicates.
        RuleError: see `expand`.
    """
    check_options("pooled", product)
    check_replicates(replicates)
    network = bare(model)

    def program(located: Unit) -> Program:
        times = "half" if product == "half" else "leibniz"
        return Program(network, located, "pooled", times, walk=AroundOne(), strict=strict)

    series, _, _ = traverse(program, model, x, unit_of(unit, network), output, forward)
    check_batched(series.value)
    return _mean(series, replicates, seed)


def _mean(series: Series, replicates: int, seed: int) -> Estimate | None:
    rows, value = series.rows.cpu().double(), series.value.cpu().double()  # not every device has float64
    derivative, born = torch.zeros_like(value), value
    for part, row in zip(series.parts, rows, strict=True):
        if part == DERIVATIVE:
            derivative = row
        else:
            born = born - row
    stack, y, _ = centred(torch.stack([derivative, born]), value, None)
    sums = {name: values.numpy() for name, values in overlaps(stack, y).items()}
    weights = resampled(len(y), replicates, np.random.Generator(np.random.PCG64(seed)))
    drawn = weights.sum(axis=0) > 0
    weights = weights[:, drawn]  # a replicate of few samples may have drawn none of them
    steps, share = (sums["dot"] @ weights) / (sums["square"] @ weights)
    return None if is_uncertain(share) else estimate(steps / share)
