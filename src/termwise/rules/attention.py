"""Attention: the pattern is frozen, the value path carries the series.

A softmax is a gate; the product of the pattern and the values is then linear in the values alone.  PyTorch's fused
attention is taken in its mathematical form (see `termwise.pinning.pinned`), so nothing else is needed here.
"""

from __future__ import annotations

from typing import Any

import torch

from termwise.rules.elementwise import frozen
from termwise.rules.fallback import linearise
from termwise.rules.linear import jointly
from termwise.rules.registry import Call, as_series, existing, plain, register
from termwise.series import FROZEN, INPUT, Series, frozen_series


def log_softmax(call: Call) -> Any:
    """x - logsumexp(x): the normaliser is frozen, one number a sample; centred logits do not see it."""
    call.kind = "frozen"
    series = as_series(call.args[0])
    value = call.clean()
    normaliser = torch.logsumexp(series.value.to(value.dtype), call.args[1], keepdim=True)
    return Series(value, series.rows.to(value.dtype), series.parts, series.paths).plus(-normaliser, value, part=FROZEN)


def embedding(call: Call) -> Any:
    """The look-up of integer inputs: this is where their series starts, at depth 0; by computed ones it is frozen.

    A table that is computed from the input is read at frozen places.
    """
    table, indices = call.args[0], call.args[1]
    value = call.clean()
    if isinstance(indices, Series) and not isinstance(table, Series) and indices.is_input:
        return Series(value, value[None], (INPUT,), {0: 1})
    if not isinstance(table, Series):
        return frozen(call)
    places = plain(indices)
    return table.mapped(lambda rows: rows[:, places], value, gate=table.gate)


_MAXIMUM = 2  # the mode's number (sum, mean, max)


def embedding_bag(call: Call) -> Any:
    """A sum, mean or maximum of look-ups: where the series of integer inputs starts, too."""
    indices = call.args[1]
    computed = [name for name in ("weight", "per_sample_weights") if isinstance(call.argument(name), Series)]
    if len(computed) == 2 or (computed and call.argument("mode") == _MAXIMUM):
        return linearise(call)
    value, *rest = call.clean()
    if computed:  # linear in the table and in the weights of the look-ups
        return (jointly(call, value, [(computed[0], None)]), *map(frozen_series, rest))
    if not indices.is_input:
        return frozen(call)
    return (Series(value, value[None], (INPUT,), {0: 1}), *rest)


register("softmax", frozen, existing("_softmax _safe_softmax softmax logsumexp"))
register("softmax", log_softmax, existing("_log_softmax"))
register("embedding", embedding, existing("embedding"))
register("embedding", embedding_bag, existing("_embedding_bag _embedding_bag_forward_only"))
