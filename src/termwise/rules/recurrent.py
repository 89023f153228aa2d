"""Fused recurrent layers are taken apart first: one layer of an LSTM, time step by time step.

    i, f, g, o = x W_ih^T + b_ih + h W_hh^T + b_hh          (input, forget, cell, output; PyTorch's order)
    c' = sigmoid(f) c + sigmoid(i) tanh(g),    h' = sigmoid(o) tanh(c')

Gated recurrent units and plain ones arrive from PyTorch already taken apart; on the CPU, that is.
"""

from __future__ import annotations

from typing import Any

import torch

from termwise.errors import RuleError
from termwise.rules.registry import Call, existing, register

_LSTM = 2  # the mode's number in ATen's enumeration (relu, tanh, lstm, gru)


def lstm_layer(call: Call) -> Any:
    """mkldnn_rnn_layer in its LSTM mode: one layer, one direction, time first.

    Raises:
        RuleError: for another mode, or for packed sequences.
    """
    if call.argument("mode") != _LSTM or call.argument("batch_sizes"):
        raise RuleError("mkldnn_rnn_layer: only unpacked LSTM layers are taken apart; pad the sequences instead.")
    x, w_ih, w_hh, b_ih, b_hh, h, c = call.args[:7]
    reverse = call.argument("reverse")
    output, last_h, last_c, workspace = call.clean()
    biases = (b_ih, b_hh) if call.argument("has_biases") else (None, None)
    hidden = []
    with call.replay:
        h, c = h.reshape(last_h.shape), c.reshape(last_c.shape)
        steps = list(torch.unbind(x, 0))
        for step in reversed(steps) if reverse else steps:
            gates = torch.nn.functional.linear(step, w_ih, biases[0])
            gates = gates + torch.nn.functional.linear(h.reshape(gates.shape[0], -1), w_hh, biases[1])
            i, f, g, o = torch.chunk(gates, 4, dim=-1)
            c = torch.sigmoid(f) * c.reshape(i.shape) + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            hidden.append(h)
        stacked = torch.stack(hidden[::-1] if reverse else hidden, 0)
        h, c = h.reshape(last_h.shape), c.reshape(last_c.shape)
    # The clean values are the fused operator's own; they differ from the loop's by rounding alone.
    return call.with_value((stacked, h, c, workspace), (output, last_h, last_c, workspace))


def whole(call: Call) -> Any:
    """Kernels that run all layers, or all of a cell, at once, as on a GPU: nothing is known of their steps.

    Raises:
        RuleError: always.
    """
    raise RuleError(
        f"{call.func}: recurrent layers on a GPU are one kernel, whose steps cannot be told apart. "
        "Profile the model on the CPU: model.cpu(), with inputs on the CPU."
    )


register("recurrent", whole, existing("_cudnn_rnn miopen_rnn _thnn_fused_lstm_cell _thnn_fused_gru_cell"))
register("taken apart", lstm_layer, existing("mkldnn_rnn_layer"))
