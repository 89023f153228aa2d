"""One network under the expansion, against figures that are had without it.

What is compared, for one network with random weights and one input:

closure     the error of the sum of all parts against the output, |c + sum_k y_k - y| / |y|, in float32
bit_equal   whether the expansion's total is, bit for bit, the output of a plain pass
input_share what is born of the input in the output, |sum_k y_k| / |y|: a dead network would close for nothing
linearised  the calls of operators that no exact rule served, by operator
steps       the convolutions and matrix products by weights that the rules saw, against those that a plain pass ran

The plain pass shares no code with the package: `WeightCalls` watches the calls of PyTorch's functions, not its
operators, and follows by itself what is computed from the input and what from parameters alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from termwise import expand
from termwise.errors import TermwiseError

CLOSURE, ALIVE = 5e-6, 1e-3
# "open": it does not close; "failed": it ended in an error that is no refusal; "skipped": it could not be tried.
Status = Literal["closed", "open", "refused", "failed", "skipped"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is examined: how to build a network, what to give it, and which of its results is expanded.

    Attributes:
        name: unique within its library.
        build: makes the network and its input (a tensor, a tuple, or keyword arguments) with a seeded generator set.
        output: as in `termwise.expand`.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Any]]
    output: Any = None


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of one network; `reason` is empty unless it was not expanded."""

    name: str
    status: Status
    reason: str = ""
    closure: float = float("nan")
    input_share: float = float("nan")
    bit_equal: bool = False
    linearised: Mapping[str, int] = dataclasses.field(default_factory=dict)
    calls: int = 0
    steps_seen: int = 0
    steps_run: int = 0
    parameters: int = 0
    plain_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Closed and alive, bit-equal, nothing linearised and every step seen."""
        alive = self.status == "closed" and self.input_share > ALIVE
        return alive and self.bit_equal and not self.linearised and self.steps_seen == self.steps_run


def examine(subject: Subject, *, seed: int = 0, parameters: float = math.inf) -> Row:
    """Build, enliven, run plainly, expand, and compare; networks of more `parameters` are skipped."""
    torch.manual_seed(seed)
    try:
        model, x = subject.build()
        size = sum(p.numel() for p in model.parameters())
        if size > parameters:
            return Row(subject.name, "skipped", f"{size / 1e6:.0f} million parameters", parameters=size)
        enliven(model, x, torch.Generator().manual_seed(seed))
        start = time.perf_counter()
        plain, steps_run = plain_pass(model, x, subject.output, seed)
        plain_seconds = time.perf_counter() - start
    except Exception as error:  # whatever a library raises is its own affair, and a row
        return Row(subject.name, "skipped", f"the plain pass failed: {in_one_line(error)}")
    torch.manual_seed(seed)
    start = time.perf_counter()
    try:
        found = expand(model, x, output=subject.output)
    except TermwiseError as error:
        return Row(subject.name, "refused", in_one_line(error), parameters=size, plain_seconds=plain_seconds)
    except Exception as error:  # no refusal: a defect, to be listed as one
        status = "skipped" if "allocate memory" in str(error) else "failed"
        return Row(subject.name, status, in_one_line(error), parameters=size, plain_seconds=plain_seconds)
    assert found.closure is not None  # nothing was cut
    return Row(
        subject.name,
        "closed" if found.closure <= CLOSURE else "open",
        closure=found.closure,
        input_share=float((found.total - found.constant).norm() / found.total.norm().clamp(min=1e-30)),
        bit_equal=torch.equal(found.total, plain),
        linearised={use.operator: use.count for use in found.operators if use.kind == "linearised"},
        calls=sum(use.count for use in found.operators),
        steps_seen=found.weights,
        steps_run=steps_run,
        parameters=size,
        plain_seconds=plain_seconds,
        seconds=time.perf_counter() - start,
    )


def in_one_line(error: BaseException) -> str:
    """The kind of an error and its message, cut to what a table can hold."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


# Weights.


@torch.no_grad()
def enliven(model: nn.Module, x: Any, generator: torch.Generator) -> None:
    """Move every parameter and batch-norm statistic off its initial value, so that no path of the network is dead.

    Libraries start norms at one, biases, gates and positions at zero, layer scales as low as 1e-6, and weights so small
    that without a norm to lift them again the signal dies: terms would vanish, and shifts would be born of nothing.
    """

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    model.eval()
    for parameter in model.parameters():
        if not parameter.is_floating_point() or not parameter.numel() or not bool(torch.isfinite(parameter).all()):
            continue
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        level = float(parameter.mean())
        if spread > 1e-3:
            parameter += 0.1 * spread * noise(parameter)
        elif parameter.dim() > 1 and abs(level) < 1e-2:
            fan_in = parameter[0].numel()
            parameter.copy_(noise(parameter) * min(0.2, fan_in**-0.5))
        elif abs(level) < 1e-2:
            parameter.copy_(0.2 + 0.1 * noise(parameter))
        else:
            parameter *= 1 + 0.1 * noise(parameter)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            # A layer must not make its input smaller.
            weight = module.weight
            weight *= max(1.0, weight[0].numel() ** -0.5 / max(float(weight.std(correction=0)), 1e-12))
        scale = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and isinstance(scale, nn.Parameter):
            scale += float(abs(scale.mean()) < 0.1)
    statistics = [m for m in model.modules() if isinstance(getattr(m, "running_var", None), Tensor)]
    hooks = [m.register_forward_pre_hook(functools.partial(_measure, generator)) for m in statistics]
    try:
        run(model, x)
    finally:
        for hook in hooks:
            hook.remove()


def _measure(generator: torch.Generator, norm: Any, inputs: tuple[Any, ...]) -> None:
    """Running statistics near those of what goes through, as a trained network has them, each channel its own."""
    spread = float(inputs[0].std().clamp(min=1e-3)) if inputs[0].numel() > 1 else 1.0
    norm.running_mean.copy_(0.1 * spread * torch.randn(norm.running_mean.shape, generator=generator))
    norm.running_var.copy_(spread**2 * (0.5 + torch.rand(norm.running_var.shape, generator=generator)))


# The plain pass.


def plain_pass(model: nn.Module, x: Any, output: Any, seed: int) -> tuple[Tensor, int]:
    """The output of the model in evaluation mode, and the number of weight calls on the way from the input to it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    calls = WeightCalls(x)
    torch.manual_seed(seed)
    try:
        attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with torch.no_grad(), attention, undiverted(), calls:
            result = run(model, x)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return _picked(result, output), calls.count


def _picked(result: Any, output: Any) -> Any:
    if callable(output):
        return output(result)
    if isinstance(output, int):
        return result[output]
    if output is not None:
        return result[output] if isinstance(result, Mapping) else getattr(result, output)
    return result if isinstance(result, Tensor) else result["logits"]


def run(model: nn.Module, x: Any) -> Any:
    """Call the model on a tensor, a tuple of arguments or a dictionary of keywords."""
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


@contextlib.contextmanager
def undiverted() -> Iterator[None]:
    """PyTorch's functions written in Python do not stop at a mode, so that it sees what they call inside."""
    with contextlib.ExitStack() as stack:
        for place in (torch.nn.functional, torch.functional, importlib.import_module("torch._tensor")):
            for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
                if hasattr(place, name):
                    stack.enter_context(mock.patch.object(place, name, lambda *_: False))
        yield


_CONVOLUTIONS = {f"{kind}{n}d" for kind in ("conv", "conv_transpose") for n in (1, 2, 3)} | {"convolution"}
_PRODUCTS = {
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "einsum"),
    *("bilinear", "grouped_mm", "_grouped_mm"),
}
_SUM_PRODUCTS = {"addmm", "baddbmm", "addmv", "addbmm", "addr"}  # their first operand is only added
_SHAPES_ALONE = {f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")} | {
    f"new_{kind}" for kind in ("zeros", "ones", "empty", "full", "tensor", "empty_strided")
}


class WeightCalls(TorchFunctionMode):
    """Counts the calls that multiply something computed from `x` by something computed from parameters alone."""

    def __init__(self, x: Any) -> None:
        super().__init__()
        self.count = 0
        self._from_input: Any = WeakTensorKeyDictionary()
        self._from_weights: Any = WeakTensorKeyDictionary()
        for leaf in pytree.tree_leaves(x):
            if isinstance(leaf, Tensor):
                self._from_input[leaf] = True

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function, count it, and hand on where its result comes from."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        operands = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in _SHAPES_ALONE or not operands:
            return out
        if name == "__getitem__" and self._is_weight(args[0]) and _is_number(args[1]):
            self._mark(self._from_weights, name, args, kwargs, out)  # one expert of many, wherever its number is from
        elif any(operand in self._from_input for operand in operands):
            self.count += self._products(name, args, operands)
            self._mark(self._from_input, name, args, kwargs, out)
        elif any(self._is_weight(operand) for operand in operands):
            self._mark(self._from_weights, name, args, kwargs, out)
        return out

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor not in self._from_input and (isinstance(tensor, nn.Parameter) or tensor in self._from_weights)

    def _products(self, name: str, args: tuple[Any, ...], operands: list[Tensor]) -> int:
        if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
            return _recurrent(name, args)
        if name == "scaled_dot_product_attention":
            # Learned queries multiply the keys of an input, its pattern multiplies learned values.
            sides = [operand in self._from_input for operand in operands[:3]]
            learned = [self._is_weight(operand) for operand in operands[:3]]
            scores = sides[0] != sides[1] and any(learned[:2])
            return int(scores) + int(any(sides[:2]) and learned[2])
        if name in _CONVOLUTIONS or name == "linear":
            operands = operands[:2]
        elif name in _SUM_PRODUCTS:
            operands = operands[1:3]
        elif name not in _PRODUCTS or (name == "einsum" and not _contracts(args[0])):
            return 0
        factors = any(operand in self._from_input for operand in operands)
        return int(factors and any(self._is_weight(operand) for operand in operands))

    def _mark(self, marks: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        written = [out, kwargs.get("out")]
        if name == "__setitem__" or (name.endswith("_") and (not name.endswith("__") or name.startswith("__i"))):
            written.append(args[0])
            if isinstance(args[0], Tensor) and args[0]._base is not None:
                written.append(args[0]._base)
        for leaf in pytree.tree_leaves(written):
            if isinstance(leaf, Tensor):
                marks[leaf] = True


def _is_number(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dim() == 0


def _contracts(equation: Any) -> bool:
    """Whether an einsum sums over an index that two operands share; if none, it is an element-wise product."""
    if not isinstance(equation, str):
        return True
    inputs, _, result = equation.replace(" ", "").partition("->")
    letters = [set(part) - {"."} for part in inputs.split(",")]
    return any(index not in result for a, b in itertools.pairwise(letters) for index in a & b)


def _recurrent(name: str, args: tuple[Any, ...]) -> int:
    """A recurrent layer multiplies every time step by two matrices; its first hidden state is a constant zero."""
    x, layers, bidirectional, batch_first = args[0], args[4], args[7], args[8]
    steps = x.shape[1 if batch_first else 0]
    passes = layers * (2 if bidirectional else 1)
    # An LSTM's layer is taken apart step by step; the others multiply the whole input at once.
    return passes * ((steps if name == "lstm" else 1) + steps - 1)
