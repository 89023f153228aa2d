"""expand(): the output of a network by the depth of its paths, exactly.

The model is run once, on a `Series` in place of its input.  What comes out is the output as a sum of the parts born of
the input, one for each number of steps that some path has, and the part born of constants; with the gates held at the
values of the real forward pass.  The error of that sum against what the model really computes is the *closure*; it is
part of every result, unless some of the parts were not asked for: then what they leave is given, the *remainder*.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from termwise.blocks import find_blocks
from termwise.errors import ClosureWarning, DataError, ModelError, UsageError
from termwise.graph import Graph
from termwise.operators import OperatorUse, check_followed
from termwise.pinning import bare, pinned
from termwise.program import Constants, Product, Program
from termwise.series import Origin, Series, input_series, leaves_pytorch
from termwise.steps import BLOCKS, Unit, unit_of
from termwise.walks import UpTo, Walk, Within

Output = str | int | Callable[[Any], Tensor] | None
Forward = Callable[[Any, Any], Any] | None
# The closure promised for the coarsest dtype of any value in the run: rounding, and nothing else.
CLOSURE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 0.1, torch.float16: 2e-2}


@dataclasses.dataclass(frozen=True, eq=False)
class Expansion:
    """The output of one forward pass by depth; every tensor has the output's shape.

    total = constant + sum(terms.values()) up to `closure`, or plus `remainder` where not all was asked for.

    Attributes:
        terms: depth to the sum over all paths of exactly that many steps from the input; only depths that some path
            of the program has are there, so a plain network has one. With max_depth those up to it (none, where no path
            is that short), with tolerance those that were not small.
        constant: all that is born of constants, and of frozen values; with constants="by_depth" and max_depth, what
            constants bring in at most so many steps.
        constants: with constants="by_depth", the constant-born part by the number of steps since its birth.
        frozen: the share of `constant` that frozen values brought; None where there is none.
        total: what the model really computed, bit for bit (with attention in its mathematical form).
        paths: depth to the number of paths, as Python integers; of the depths in `terms`.
        closure: |constant + sum of terms - total| / |total|, over the whole batch; None where there is a remainder,
            which is had from that very sum, so that nothing is left to check.
        operators: how each operator was treated.
        unit: the unit of depth.
        weights: how many products by a weight (convolutions, linear layers) were called on what the input reaches.
        ideal_cost: the least that all terms cost, in plain forward passes: the width of the window of depths, plus one
            for the constants, at every convolution and matrix product, weighted by its FLOPs; of this run, as cut.
        remainder: with max_depth or tolerance, total - constant - sum of terms: all that was cut, and rounding.
        threshold: with tolerance, how small beside the value a term had to be to be dropped, wherever values join.
        dropped: with tolerance, the sum over all joins of the norms of what was dropped, relative to the value there.

    What a term means: with gates frozen, a term is what the network would give if only paths of that depth were open
    and every gate stood as it does in the whole network.  What it does not mean: that the term could be had without the
    rest, since the gates carry information from all of it; nor that a deep term is of high degree in the input.
    """

    terms: Mapping[int, Tensor]
    constant: Tensor
    constants: Mapping[int, Tensor]
    frozen: Tensor | None
    total: Tensor
    paths: Mapping[int, int]
    closure: float | None
    operators: tuple[OperatorUse, ...]
    unit: str
    weights: int
    ideal_cost: float
    remainder: Tensor | None = None
    threshold: float | None = None
    dropped: float | None = None

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths that some path has, ascending."""
        return tuple(self.terms)

    def __repr__(self) -> str:
        """One line: depths, closure or remainder, and what was not exact."""
        inexact = sorted({use.operator for use in self.operators if use.kind == "linearised"})
        span = "..".join(dict.fromkeys(map(str, (*self.depths[:1], *self.depths[-1:])))) or "none"
        check = (
            f"closure {self.closure:.1e}"
            if self.remainder is None
            else f"remainder {relative(self.remainder, self.total):.1e} of it"
        )
        return (
            f"Expansion(unit={self.unit!r}, depths {span} ({len(self.depths)}), output {tuple(self.total.shape)}, "
            f"{check}, linearised: {', '.join(inexact) or 'nothing'})"
        )


def expand(
    model: Callable[..., Any],
    x: Any,
    *,
    unit: str | Sequence[str] | Unit = "layers",
    constants: Constants = "pooled",
    product: Product = "half",
    max_depth: int | None = None,
    tolerance: float | None = None,
    threshold: float | None = None,
    output: Output = None,
    forward: Forward = None,
    strict: bool = False,
) -> Expansion:
    """Expand the output of `model` at the input `x` by the depth of its paths.

    Args:
        model: an nn.Module or any callable; it is run in evaluation mode and left exactly as found.
        x: a tensor, or a tuple of positional or a dictionary of keyword arguments; all floating-point tensors in it are
            inputs, integer ones start at their embedding. Beside others, one that holds -inf is an attention mask.
        unit: "layers", "blocks", "activations", or names of modules (see `termwise.steps`), as they are inside of
            torch.compile, DataParallel and DistributedDataParallel.
        constants: "pooled" keeps the constant-born part in one; "by_depth" splits it by steps since its birth.
        product: how a product of two values that are both no gates is split: "half" to each, or "cauchy", in which
            depths add.
        max_depth: only the terms of at most so many steps, at the price of as many; with constants="by_depth" the
            constants, too. What is deeper is in the `remainder`.
        tolerance: leave out what is small, as long as |remainder| <= tolerance * |total|, in the 2-norm over all
            entries of the batch, between 0 and 1. See below.
        threshold: with tolerance, the first threshold to try; by default a quarter of the tolerance. That of an
            earlier result repeats its last run, and spares those before it.
        output: which tensor of the model's result to expand: a key or attribute, an index, or a function of the result.
            By default the result itself, or its "logits".
        forward: how to call the model where it is not model(x): a function of the model and of x as given, such as
            lambda model, x: model.decode(x["tokens"], mask=x["mask"]).
        strict: refuse an operator without a rule of its own instead of linearising it.

    Returns:
        The Expansion.

    With a tolerance, terms are dropped from both ends of the window wherever values are added or concatenated, while
    the norms of what goes at an end sum to at most a threshold times the norm of the value there. Then the remainder is
    measured at the output, and the run repeated with a quarter of the threshold until it is as small as was asked for.
    The bound is one on the sum of all that was left out, over the batch as a whole. It does not say that each term, or
    each sample, is as exact: a term that is kept lacks the paths that lead through a dropped one, and such errors may
    cancel in the remainder. In `dropped`, beside it, nothing cancels, but it does not know what later layers make of
    what was dropped before them. Neither bounds the error of a single term.

    Raises:
        DataError: when the input is empty or not finite.
        ModelError: when the model is in a state that hides its operators or weights (see `termwise.pinning.bare`), when
            weights or output are not finite, when the output is frozen (a softmax), does not depend on the
            input, or is not one tensor.
        UsageError: for an unknown unit or option; for a tolerance finer than rounding allows, or beside a max_depth
            (the remainder would be that of both, and say nothing of either).
        RuleError: when operators can neither be followed nor linearised (with strict, when they have no rule); it
            names all of them.
    """
    check_options(constants, product)
    _check_limits(max_depth, tolerance, threshold)
    located = unit_of(unit, bare(model))
    walks = _walks(max_depth, tolerance, threshold, product)
    while True:
        walk = next(walks)
        program = functools.partial(_program, model, constants, product, walk, strict=strict)
        series, ran, located = traverse(program, model, x, located, output, forward)
        found = _read(series, ran, located, max_depth, cut=max_depth is not None or tolerance is not None)
        if tolerance is None or found.remainder is None or not isinstance(walk, Within):
            return found
        left = relative(found.remainder, found.total)
        if left <= tolerance:
            return dataclasses.replace(found, threshold=walk.threshold, dropped=walk.dropped)
        _check_attainable(tolerance, left, walk, found.total.dtype)


def _walks(max_depth: int | None, tolerance: float | None, threshold: float | None, product: Product) -> Iterator[Walk]:
    """The walk to take, and those to take if the one before left out too much."""
    if max_depth is not None:
        # In a Cauchy product a deep constant is a factor of shallow terms: all of them are needed to the end.
        yield UpTo(max_depth, constants=product == "half")
    elif tolerance is not None:
        local = tolerance / 4 if threshold is None else threshold
        yield from (Within(local / 4**i) for i in itertools.count())
    else:
        yield Walk()


def _program(model: Any, constants: Constants, product: Product, walk: Walk, unit: Unit, *, strict: bool) -> Program:
    return Program(bare(model), unit, constants, product, walk=walk, strict=strict)


def _check_attainable(tolerance: float, left: float, walk: Within, dtype: torch.dtype) -> None:
    if not walk.dropped or walk.threshold < torch.finfo(dtype).eps:
        raise UsageError(
            f"tolerance={tolerance}: in this precision all parts together miss the whole by {left:.1e} of it. Ask for "
            "more than that, or profile in float64: model.double(), x.double()."
        )


def input_of(tensor: Tensor) -> Tensor:
    """A mask is a constant of the model; all else is what it is computed from."""
    return tensor.clone() if _is_mask(tensor) else input_series(tensor)


def traverse(
    program: Callable[[Unit], Program],
    model: Any,
    x: Any,
    unit: Unit,
    output: Output,
    forward: Forward,
    lift: Callable[[Tensor], Tensor] = input_of,
) -> tuple[Series, Program, Unit]:
    """Run the model in a program of the unit that is meant, and give what stands for the output.

    `lift` makes what stands for a tensor of the input.

    Returns:
        The output, a polynomial whose value and parts are finite; the program that ran; and the unit as located.

    Raises:
        DataError, ModelError, UsageError, RuleError: see `expand`.
    """
    located = unit
    for _ in range(2):
        located = locate(located, model, x, output=output, forward=forward)
        ran = program(located)
        result = follow(ran, model, x, output, forward, lift)
        if located.blocks is None or ran.wiring == located.wiring:
            return _finite(polynomial(result)), ran, located
        # The blocks were found in a program that took another way: look for them in this one.
        located = dataclasses.replace(located, blocks=None)
    raise ModelError(
        "expand: the model takes another way through its code each time that it is run on the same input, so that its "
        "blocks cannot be found. Fix what it depends on (a counter, a random choice), or use another unit."
    )


def locate(
    unit: str | Sequence[str] | Unit, model: object, x: Any, *, output: Output = None, forward: Forward = None
) -> Unit:
    """The unit that the user means, with the residual branches of the program at `x` where these are its steps.

    It costs a run with a single term; give what it returns to `expand` to look for the branches once.
    """
    network = bare(model)
    resolved = unit_of(unit, network)
    if resolved.name != BLOCKS or resolved.blocks is not None:
        return resolved
    graph = Graph()
    program = Program(network, Unit("nothing"), graph=graph)
    series = follow(program, model, x, output, forward)
    blocks = find_blocks(graph, series.born) if isinstance(series, Series) else ()
    return dataclasses.replace(resolved, blocks=blocks, route=program.route, wiring=program.wiring)


def follow(
    program: Program,
    model: Any,
    x: Any,
    output: Output,
    forward: Forward,
    lift: Callable[[Tensor], Tensor] = input_of,
) -> Tensor:
    """Run the model on Series in place of its input, and give what stands for the output.

    Raises:
        DataError, ModelError, RuleError: see `expand`.
    """
    check_input(x)
    check_weights(bare(model))
    lifted = program.lifted(_detached(x), lift)
    with pinned(model):
        try:
            with program.running():
                series = program.series_of(pick_output(call(model, lifted, forward), output))
        except Exception as error:
            check_followed(program.unsupported)  # the likelier cause, and the better message
            explain(error)
            raise
        if isinstance(series, Series):
            series.rows = series.rows  # what still waits is computed here, where all is pinned
    check_followed(program.unsupported)
    program.check_modules()
    return series


def call(model: Callable[..., Any], x: Any, forward: Forward = None) -> Any:
    """What the model returns for the input `x`, called as `expand` calls it."""
    if forward is not None:
        return forward(model, x)
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, (tuple, list)) else model(x)


# What PyTorch says where a Series is handed to code that wants its memory.
_MEMORY_READ = ("data is not allocated yet", "on an invalid python storage")


def explain(error: Exception) -> None:
    """Raise what an error of PyTorch's means for the model, where that is known."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    if "inference tensor" in text:
        raise ModelError(
            "expand: the model enters torch.inference_mode() in its forward, which hides its operators. "
            "Use torch.no_grad() there."
        ) from error
    if any(words in text for words in _MEMORY_READ):
        raise leaves_pytorch("their memory is read, as by torch.tensor([...]) or a compiled extension") from error


def check_options(constants: str, product: str) -> None:
    """Refuse unknown options.

    Raises:
        UsageError: naming those that there are.
    """
    if constants not in ("pooled", "by_depth"):
        raise UsageError(f"constants={constants!r}: expected 'pooled' or 'by_depth'.")
    if product not in ("half", "cauchy"):
        raise UsageError(f"product={product!r}: expected 'half' or 'cauchy'.")


def _check_limits(max_depth: Any, tolerance: Any, threshold: Any) -> None:
    if max_depth is not None and (not isinstance(max_depth, int) or isinstance(max_depth, bool) or max_depth < 0):
        raise UsageError(f"max_depth={max_depth!r}: expected a whole number of steps, 0 or more.")
    for name, size in (("tolerance", tolerance), ("threshold", threshold)):
        if size is not None and not (isinstance(size, (int, float)) and 0 < size < 1):
            raise UsageError(f"{name}={size!r}: expected a part of the whole, between 0 and 1.")
    if threshold is not None and tolerance is None:
        raise UsageError("threshold: it is where a tolerance starts. Give tolerance= as well.")
    if max_depth is not None and tolerance is not None:
        raise UsageError(
            "max_depth and tolerance: the remainder of both would bound neither. Ask for one, or run expand twice."
        )


@torch.no_grad()
def check_input(x: Any) -> None:
    """Refuse an input that is empty, not finite or not dense.

    Raises:
        DataError: saying which.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]
    if any(tensor.layout is not torch.strided or tensor.is_nested for tensor in tensors):
        raise DataError("expand: the input is a sparse or nested tensor. Pass it dense (.to_dense()), or padded.")
    if not tensors:
        raise DataError("expand: x holds no tensor. Pass the model's input: a tensor, a tuple, or a dictionary.")
    masks = [_is_mask(tensor) for tensor in tensors]
    for tensor, mask in zip(tensors, masks, strict=True):
        if not tensor.numel():
            raise DataError(f"expand: the input is empty, of shape {tuple(tensor.shape)}. Pass at least one sample.")
        if mask and not all(masks):
            continue
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"expand: the input holds {_describe(tensor)}. Clean the data before profiling it.")


@torch.no_grad()
def check_weights(model: object) -> None:
    """Refuse a model with weights that are not finite.

    Raises:
        ModelError: naming the first.
    """
    if isinstance(model, nn.Module):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            # Infinite buffers are masks and open bounds; only a parameter has no business to be infinite.
            fine = torch.isfinite if isinstance(tensor, nn.Parameter) else _is_number
            if not tensor.is_floating_point() or tensor.is_meta or bool(torch.isfinite(tensor.sum())):
                continue  # one pass over the memory tells that all is well
            if not bool(fine(tensor).all()):
                raise ModelError(
                    f"expand: '{name}' of the model holds {_describe(tensor)}. The training may have diverged; "
                    "load an earlier checkpoint."
                )


def _is_number(tensor: Tensor) -> Tensor:
    return ~torch.isnan(tensor)


def _is_mask(tensor: Tensor) -> bool:
    """Whether this can only be a mask that is added to the scores of an attention: it holds -inf, and no NaN or inf."""
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    return float(tensor.amin()) == -torch.inf and float(tensor.amax()) < torch.inf


def _describe(tensor: Tensor) -> str:
    bad = int((~torch.isfinite(tensor)).sum())
    return (
        f"{bad} value{'s' if bad != 1 else ''} that {'are' if bad != 1 else 'is'} NaN or infinite (of {tensor.numel()})"
    )


def _detached(x: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach(), x)


def pick_output(result: Any, output: Output) -> Tensor:
    """The tensor to expand in what a model returned.

    Raises:
        ModelError: when there is no such tensor, or several and none is named.
    """
    if callable(output):
        result = output(result)
    elif output is not None:
        result = _member(result, output)
    elif not isinstance(result, Tensor):
        result = _logits(result)
    if not isinstance(result, Tensor):
        raise ModelError(f"expand: the output is a {type(result).__name__}, not a tensor. Name one with output=.")
    return result


def _member(result: Any, name: str | int) -> Any:
    try:
        return result[name] if isinstance(name, int) or isinstance(result, Mapping) else getattr(result, name)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise ModelError(
            f"expand: output={name!r} is not in what the model returned ({_contents(result)}). Name one of these."
        ) from error


def _logits(result: Any) -> Any:
    if isinstance(result, Mapping) and "logits" in result:
        return result["logits"]
    logits = getattr(result, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise ModelError(
        f"expand: the model returned {_contents(result)}, and none of it is called 'logits'. "
        "Say which tensor to expand: output='name', output=0, or output=lambda result: ..."
    )


def _contents(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"a {type(result).__name__} with {', '.join(repr(key) for key in result) or 'nothing'}"
    if isinstance(result, (tuple, list)):
        return f"a {type(result).__name__} of {len(result)}"
    return f"a {type(result).__name__}"


def polynomial(result: Tensor) -> Series:
    """What stands for the output, as the polynomial that it must be.

    Raises:
        ModelError: when it does not depend on the input, or is frozen.
    """
    if not isinstance(result, Series):
        raise ModelError(
            "expand: the output does not depend on the input through any operator that was seen. "
            "If the model leaves PyTorch (NumPy, a compiled extension) on the way, it cannot be expanded."
        )
    if not result.has_input:
        raise ModelError(
            "expand: the output is frozen: it is a plain gate (a softmax, a norm, a comparison), and no polynomial of "
            "the input any more. Profile what goes into it, for a softmax the logits. "
            "Integers that are no tokens (images as bytes) must be passed as floating point."
        )
    return result


def _finite(series: Series) -> Series:
    """Refuse what would be no answer."""
    if not bool(torch.isfinite(series.value).all()):
        raise ModelError(f"expand: the model's output holds {_describe(series.value)}. Check the data and the weights.")
    if not bool(torch.isfinite(series.rows).all()):
        raise ModelError(
            "expand: the output is finite, but its terms are not: an infinite value is held at zero somewhere (a "
            "ReLU of -inf, a product of a mask of -inf with zero). Use a large finite number there."
        )
    return series


def _read(series: Series, program: Program, unit: Unit, max_depth: int | None, *, cut: bool) -> Expansion:
    """Take the result apart."""
    by_origin: dict[Origin, dict[int, Tensor]] = {origin: {} for origin in Origin}
    for part, row in zip(series.parts, series.rows, strict=True):
        if max_depth is None or part.depth <= max_depth:
            by_origin[part.origin][part.depth] = row
    terms, constants, frozen = by_origin[Origin.INPUT], by_origin[Origin.CONSTANT], by_origin[Origin.FROZEN].get(0)
    born = [*constants.values(), *([frozen] if frozen is not None else [])]
    return Expansion(
        terms=terms,
        constant=torch.stack(born).sum(dim=0) if born else torch.zeros_like(series.value),
        constants=constants if program.constants == "by_depth" else {},
        frozen=frozen,
        total=series.value,
        paths={depth: series.paths[depth] for depth in terms},
        closure=None if cut else _checked(closure_of(series), program.coarsest or series.dtype),
        operators=program.operators,
        unit=str(unit),
        weights=program.weights,
        ideal_cost=program.ideal_cost,
        remainder=_remainder(series.value, [*terms.values(), *born]) if cut else None,
    )


def adding_up(closure: float) -> str:
    """What a closure says, in words, by what float32 promises: a saved result does not say its precision."""
    limit = CLOSURE[torch.float32]
    if closure <= limit:
        return "the parts add up to the whole"
    return f"the parts miss the whole by more than float32 should ({limit:.0e})"


def _checked(closure: float, dtype: torch.dtype) -> float:
    """Warn of a closure that is not as promised."""
    # What was once rounded to sixteen bits adds up no better in thirty-two.
    limit = CLOSURE.get(dtype, 1e-2)
    if not closure <= limit:
        warnings.warn(
            f"the parts add up to the whole only within {closure:.1e}, not {limit:.0e}: terms that nearly cancel lose "
            "their digits in this precision. Profile in float64: model.double(), x.double().",
            ClosureWarning,
            stacklevel=4,
        )
    return closure


def _remainder(value: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """What the parts leave of the value; the sum is taken in float64."""
    left = _exact(value)
    for part in parts:
        left = left - _exact(part)
    return left.to(value.device, value.dtype)


def closure_of(series: Series) -> float:
    """|sum of parts - value| / |value| in the 2-norm over everything; the sum is taken in float64."""
    return relative(_exact(series.rows).sum(dim=0) - _exact(series.value), series.value)


def relative(part: Tensor, whole: Tensor) -> float:
    """|part| / |whole| in the 2-norm over everything; |part| where the whole is zero."""
    size, norm = float(_exact(part).norm()), float(_exact(whole).norm())
    return size / norm if norm else size


def _exact(tensor: Tensor) -> Tensor:
    """In double precision; not every device has it."""
    tensor = tensor.cpu() if tensor.device.type == "mps" else tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float64))
