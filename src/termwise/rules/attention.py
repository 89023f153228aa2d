"""Attention: the pattern is frozen, the value path carries the series.

A softmax is a gate; the product of the pattern and the values is then linear in the values alone.  PyTorch's fused
attention is taken in its mathematical form (see `termwise.pinning.pinned`), so nothing else is needed here.
"""

from __future__ import annotations

from typing import Any

from termwise.rules.elementwise import frozen
from termwise.rules.registry import Call, as_series, existing, register
from termwise.series import FROZEN, INPUT, Series


def log_softmax(call: Call) -> Any:
    """x - logsumexp(x): the normaliser is frozen, one number a sample; centred logits do not see it."""
    call.kind = "frozen"
    series = as_series(call.args[0])
    value = call.clean()
    return Series(value, series.rows.to(value.dtype), series.parts, series.paths).plus(
        value - series.value, value, part=FROZEN
    )


def embedding(call: Call) -> Any:
    """The look-up of integer inputs: this is where their series starts, at depth 0; by computed ones it is frozen."""
    table, indices = call.args[0], call.args[1]
    value = call.clean()
    if isinstance(indices, Series) and not isinstance(table, Series) and indices.is_input:
        return Series(value, value[None], (INPUT,), {0: 1})
    return frozen(call) if isinstance(indices, Series) else _looked_up(call, table, indices, value)


def _looked_up(call: Call, table: Series, indices: Any, value: Any) -> Any:
    # A table computed from the input, read at constant places: structural.
    return table.mapped(lambda rows: rows[:, indices], value, gate=table.gate)


def embedding_bag(call: Call) -> Any:
    """A sum, mean or maximum of look-ups: where the series of integer inputs starts, too."""
    if not call.args[1].is_input:
        return frozen(call)
    value, *rest = call.clean()
    return (Series(value, value[None], (INPUT,), {0: 1}), *rest)


register("softmax", frozen, existing("_softmax _safe_softmax softmax logsumexp"))
register("softmax", log_softmax, existing("_log_softmax"))
register("embedding", embedding, existing("embedding"))
register("embedding", embedding_bag, existing("_embedding_bag _embedding_bag_forward_only"))
