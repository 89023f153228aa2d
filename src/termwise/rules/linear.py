"""Operators that are linear in their value: applied to every part, the constant-born ones included.

`structural` ones only move numbers about (or turn their sign), so a gate stays a gate; `reducing` ones mix numbers, and
`mixing` ones those of one position with others'; `joint` ones are linear in several operands together (sum,
concatenation), where plain operands join the constant part.
What an operator adds of its own (a pad value, a fill) joins the constant part too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from termwise.deferred import Deferred, empty_rows, read, waits
from termwise.errors import RuleError
from termwise.rules.fallback import linearise
from termwise.rules.registry import Call, apply_to_rows, as_series, each_row, existing, leaves_of, plain, register
from termwise.series import (
    CONSTANT,
    Series,
    add_paths,
    add_rows,
    align_rows,
    carries,
    frozen_series,
    merge_parts,
    place_rows,
)


def structural(call: Call) -> Any:
    """Views, copies and reorderings: y_k = P x_k; provenance survives."""
    return _linear(call, keep_gate=True)


def reducing(call: Call) -> Any:
    """Means, sums, pooling, interpolation, differences along an axis: y_k = A x_k."""
    return _linear(call, keep_gate=False)


def mixing(call: Call) -> Any:
    """Pooling, running sums, Fourier transforms: where they keep the shape they mix positions, without a weight."""
    out = _linear(call, keep_gate=False)
    if isinstance(out, Series) and out.shape == call.args[0].shape:
        call.event = "mixer"
    return out


def _linear(call: Call, *, keep_gate: bool) -> Any:
    series, *rest = call.args
    for leaf in pytree.tree_leaves((rest, call.kwargs)):
        if isinstance(leaf, Series) and carries(leaf):
            call.freeze(leaf)  # places that are computed
    if not isinstance(series, Series):
        # A constant read at computed places is a function of them, and no polynomial.
        return pytree.tree_map_only(Tensor, frozen_series, call.clean())
    rest, kwargs = plain(rest), plain(call.kwargs)
    value = call.clean()
    tensors = [value] if isinstance(value, Tensor) else list(value)
    outputs = []
    for i, clean in enumerate(tensors):
        if not carries(clean):
            outputs.append(frozen_series(clean))
            continue
        pick = _picker(call.func, rest, kwargs, None if isinstance(value, Tensor) else i)
        gate, view = keep_gate and series.gate, call.is_view
        # Numbers that are seen as others (pairs as complex ones) are not merely moved.
        moves = (view or call.func in _VIEWS) and clean.dtype == series.dtype
        uses = leaves_of(rest, kwargs)
        outputs.append(series.mapped(pick, clean, gate=gate, view=view, moves=moves, uses=uses))
    return outputs[0] if isinstance(value, Tensor) else type(value)(outputs)


def _picker(func: Any, rest: list[Any], kwargs: dict[str, Any], which: int | None) -> Callable[[Tensor], Tensor]:
    direct = _VIEWS.get(func) if not kwargs else None

    def apply(rows: Tensor) -> Tensor:
        if direct is not None and rows.shape[0] and rows.dim() > 1:
            return direct(rows, *rest)
        if func in _RESHAPES:
            return each_row(lambda row: row.reshape(rest[0]), rows)
        if which is None:
            return apply_to_rows(func, lambda row: func(row, *rest, **kwargs), rows)
        return apply_to_rows(func, lambda row: func(row, *rest, **kwargs)[which], rows)

    return apply


def _behind(rows: Tensor, dim: int, *, extra: int = 0) -> int:
    """The axis of the rows that is dimension `dim` of each of them, or of what has `extra` more dimensions."""
    return dim % (rows.dim() - 1 + extra) + 1


def _reshaped(rows: Tensor, shape: list[int]) -> Tensor:
    return rows.reshape(rows.shape[0], *shape)


def _expanded(rows: Tensor, shape: list[int]) -> Tensor:
    missing = len(shape) - (rows.dim() - 1)
    return rows.reshape(rows.shape[0], *(1,) * missing, *rows.shape[1:]).expand(-1, *shape)


def _sliced(rows: Tensor, dim: int = 0, *bounds: Any) -> Tensor:
    return torch.ops.aten.slice.Tensor(rows, _behind(rows, dim), *bounds)


# A view of the value may be none of the rows, which are laid out by themselves: reshape copies where it must.
_RESHAPES = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default, torch.ops.aten._reshape_alias.default}

# The views that attention is full of, without the price of vmap.
_VIEWS: dict[Any, Callable[..., Tensor]] = {
    torch.ops.aten.view.default: _reshaped,
    torch.ops.aten._unsafe_view.default: _reshaped,
    torch.ops.aten.permute.default: lambda rows, dims: rows.permute(0, *(_behind(rows, d) for d in dims)),
    torch.ops.aten.transpose.int: lambda rows, a, b: rows.transpose(_behind(rows, a), _behind(rows, b)),
    torch.ops.aten.expand.default: _expanded,
    torch.ops.aten.unsqueeze.default: lambda rows, dim: rows.unsqueeze(_behind(rows, dim, extra=1)),
    torch.ops.aten.select.int: lambda rows, dim, index: rows.select(_behind(rows, dim), index),
    torch.ops.aten.slice.Tensor: _sliced,
}


def duplicate(call: Call) -> Any:
    """Copies, to another type or device too; of parts only those that lie where the value does, and may change with it.

    Nobody writes into parts, so that the copy may share all others.
    """
    series, value = call.args[0], call.clean()
    if not carries(value):
        return frozen_series(value)
    if value.dtype == series.dtype and value.device == series.device:
        held = series.held
        if isinstance(held, Tensor) and held.untyped_storage().data_ptr() == series.value.untyped_storage().data_ptr():
            held = held.clone()
        return Series(value, held, series.parts, series.paths, gate=series.gate)
    return series.mapped(lambda rows: rows.to(value.device, value.dtype), value, gate=series.gate, uses=[])


# PyTorch sets a bit on the tensor alone and leaves the rest to whoever reads it; below a dispatch mode nobody looks at
# that bit, so here the numbers are written at once.
_LAZY = {
    torch.ops.aten._conj.default: torch.ops.aten._conj_physical,
    torch.ops.aten._conj_physical.default: torch.ops.aten._conj_physical,
    torch.ops.aten._neg_view.default: torch.neg,
}


def lazy_view(call: Call) -> Any:
    """The complex conjugate, and the negative of its imaginary part; a write into one of them is refused."""
    series, written_out = call.args[0], _LAZY[call.func]
    return series.mapped(written_out, written_out(series.value), gate=series.gate, view=call.is_view)


def packed(call: Call) -> Any:
    """_pack_padded_sequence: reorders; how many are in each step steers the program, as a plain tensor."""
    if not isinstance(call.args[0], Series):
        call.kind = "frozen"
        return call.clean()
    data, _ = reducing(call)
    return data, call.clean()[1]


def segmented(call: Call) -> Any:
    """segment_reduce: sums and means are linear; what it chooses or multiplies has no rule."""
    return reducing(call) if call.argument("reduce") in ("sum", "mean") else linearise(call)


def counted(call: Call) -> Any:
    """Bincount: linear in the weights that it adds up; without them it is a count, and frozen like its places."""
    if isinstance(call.args[0], Series):
        call.kind = "frozen"
    value = call.clean()
    if not carries(value) or not isinstance(call.argument("weights"), Series):
        return frozen_series(value)
    return jointly(call, value, [("weights", None)])


def shape_only(call: Call) -> Any:
    """Operators that read the shape alone (zeros_like, new_empty, random fills): the result is a constant."""
    return call.clean()


def add(call: Call) -> Any:
    """x + alpha y; a plain operand joins the constant part, and a gate plus a constant is still a gate."""
    left, right, alpha = call.args[0], call.args[1], call.argument("alpha", 1)
    return _sum(call, left, right, 1, alpha)


def sub(call: Call) -> Any:
    """x - alpha y."""
    return _sum(call, call.args[0], call.args[1], 1, -call.argument("alpha", 1))


def rsub(call: Call) -> Any:
    """The same with the operands exchanged: y - alpha x."""
    return _sum(call, call.args[0], call.args[1], -call.argument("alpha", 1), 1)


def _sum(call: Call, left: Any, right: Any, a: float, b: float) -> Series:
    value = call.clean()
    if not carries(value):
        return frozen_series(value)
    operands = [(left, a), (right, b)]
    series = [(operand, factor) for operand, factor in operands if isinstance(operand, Series)]
    if len(series) == 1:
        constant, scale = next((o, f) for o, f in operands if not isinstance(o, Series))
        only, factor = series[0]
        scaled = only if factor == 1 else only.mapped(lambda rows: rows * factor, only.value, gate=only.gate)
        if not isinstance(constant, Tensor):
            constant = torch.as_tensor(constant, dtype=value.dtype, device=value.device)
        return scaled.plus(constant * scale, value)
    call.event = "join"
    carried = [(carrying(s, value), factor) for s, factor in series]
    paths = add_paths(s.paths for s, _ in carried)

    held = [(s.held, s.parts, factor) for s, factor in carried]

    def summed() -> Tensor:
        summands = [(read(rows), parts, factor) for rows, parts, factor in held]
        return add_rows(value, [(rows if factor == 1 else rows * factor, parts) for rows, parts, factor in summands])[0]

    waiting = all(waits(rows) for rows, _, _ in held)
    rows = Deferred(summed, uses=[rows for rows, _, _ in held]) if waiting else summed()
    return Series(value, rows, merge_parts(parts for _, parts, _ in held), paths)


def carrying(series: Series, value: Tensor) -> Series:
    """An integer or boolean that joins floats is frozen, and joins them as such."""
    return series if carries(series) else frozen_series(series.value.to(value.dtype))


def joint(call: Call) -> Any:
    """Linear in all its tensor operands together (cat, stack, where, scatters); indices and conditions are plain."""
    if call.argument("reduce") == "multiply":  # scatter; by numbers it is linear, by values a product without a rule
        brought = call.argument("src", call.argument("value"))
        return linearise(call) if isinstance(brought, Series) else reducing(call)
    if any(a.name == "value" for a in call.func._schema.arguments):
        return filling(call)  # the overloads that scatter one number
    value = call.clean()
    if not carries(value):
        return frozen_series(value)
    return jointly(call, value, _operands(call))


def jointly(call: Call, value: Tensor, operands: list[tuple[str, int | None]]) -> Series:
    """Apply the operator to all parts of the named operands at once; `value` is its (first) result."""
    bound = {a.name: call.argument(a.name) for a in call.func._schema.arguments}
    given = [bound[name] if i is None else bound[name][i] for name, i in operands]
    dtype = value.real.dtype if operands[0][0] == "real" else value.dtype  # torch.complex takes two real tensors
    lifted = [carrying(x, value) if isinstance(x, Series) else as_series(x.to(dtype)) for x in given]
    parts = merge_parts(s.parts for s in lifted)
    if call.func._schema.name.split("::")[1] in _ADDING:
        call.event = "join"
    stacks = [align_rows(s.rows, s.parts, parts).to(dtype) for s in lifted]

    def apply(*rows: Tensor) -> Tensor:
        filled = {name: list(x) if isinstance(x, (list, tuple)) else x for name, x in plain(bound).items()}
        for (name, i), row in zip(operands, rows, strict=True):
            if i is None:
                filled[name] = row
            else:
                filled[name][i] = row
        positional = [filled[a.name] for a in call.func._schema.arguments if not a.kwarg_only]
        keyword = {a.name: filled[a.name] for a in call.func._schema.arguments if a.kwarg_only}
        out = call.func(*positional, **keyword)
        return out if isinstance(out, Tensor) else out[0]

    # Sums of gates are none, as with +.
    mixes = call.argument("accumulate") or call.func._schema.name.split("::")[1] in _MIXING
    gate = not mixes and all(s.gate for s, x in zip(lifted, given, strict=True) if isinstance(x, Series))
    rows = apply_to_rows(call.func, apply, *stacks)
    return Series(value, rows, parts, add_paths(s.paths for s in lifted), gate=gate)


def cat(call: Call) -> Any:
    """Concatenation: each operand's parts go straight to their place, with zeros where it has none."""
    operands, value = call.args[0], call.clean()
    if not carries(value) or any(operand.dim() != value.dim() for operand in operands):
        return joint(call)  # an empty one-dimensional operand, which cat ignores
    series = [carrying(s, value) if isinstance(s, Series) else as_series(s.to(value.dtype)) for s in operands]
    parts = merge_parts(s.parts for s in series)
    axis = call.argument("dim") % value.dim() + 1
    call.event = "join"
    out = empty_rows(len(parts), value, max((s.rows for s in series), key=torch.numel))
    start = 0
    for s in series:
        place = out.narrow(axis, start, s.shape[axis - 1])
        start += s.shape[axis - 1]
        place_rows(s.rows, s.parts, place, parts)
    gate = all(s.gate for s, operand in zip(series, operands, strict=True) if isinstance(operand, Series))
    return Series(value, out, parts, add_paths(s.paths for s in series), gate=gate)


_MIXING = {"bincount", "scatter_add", "index_add", "scatter_reduce", "index_reduce"}

# The operands in which a joint operator is linear, by name in its schema.
_JOINT = {
    "cat": ("tensors",),
    "stack": ("tensors",),
    "where": ("self", "other"),
    "slice_scatter": ("self", "src"),
    "select_scatter": ("self", "src"),
    "diagonal_scatter": ("self", "src"),
    "scatter": ("self", "src"),
    "scatter_add": ("self", "src"),
    "index_put": ("self", "values"),
    "index_add": ("self", "source"),
    "index_copy": ("self", "source"),
    "masked_scatter": ("self", "source"),
    "put": ("self", "source"),
    "complex": ("real", "imag"),
}

# Those that add or concatenate; the others choose, place by place, which operand is read or is written over.
_ADDING = {"cat", "stack", "scatter_add", "index_add"}


def _operands(call: Call) -> list[tuple[str, int | None]]:
    names = _JOINT[call.func._schema.name.split("::")[1]]
    found: list[tuple[str, int | None]] = []
    for name in names:
        operand = call.argument(name)
        if isinstance(operand, (list, tuple)):
            found.extend((name, i) for i in range(len(operand)))
        elif isinstance(operand, Tensor):
            found.append((name, None))
    return found


def filling(call: Call) -> Any:
    """constant_pad_nd, masked_fill, fill: linear with a fill of zero, and the fill itself joins the constant part.

    A fill that is computed from the input brings its own parts to the places that it fills.
    """
    series = call.args[0]
    value = call.clean()
    if not carries(value):
        return frozen_series(value)
    if isinstance(call.argument("value"), Series):
        return jointly(call, value, [("self", None), ("value", None)])
    series = as_series(series)
    rest, kwargs = plain(call.args[1:]), plain(call.kwargs)
    empty = series.value.new_zeros(series.value.shape)
    zero_rest, zero_kwargs = _zero_fill(call, rest, kwargs)

    def emptied(rows: Tensor) -> Tensor:
        return each_row(lambda row: call.func(row, *zero_rest, **zero_kwargs), rows)

    out = series.mapped(emptied, value, gate=series.gate)
    fill = call.argument("value")
    if isinstance(fill, Tensor) or fill:
        return out.plus(call.func(empty, *rest, **kwargs), value, part=CONSTANT)
    return out


def _zero_fill(call: Call, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    declared = [a.name for a in call.func._schema.arguments[1:]]
    at = declared.index("value")
    fill = call.argument("value")
    zero = torch.zeros_like(plain(fill)) if isinstance(fill, Tensor) else 0
    if "value" in kwargs:
        return rest, {**kwargs, "value": zero}
    return (*rest[:at], zero, *rest[at + 1 :]), kwargs


def copy(call: Call) -> Any:
    """copy(self, src): the source, in the destination's shape and dtype."""
    value = call.clean()
    source = call.args[1]
    if not carries(value):
        return frozen_series(value)
    if not isinstance(source, Series):
        return as_series(value)
    return source.mapped(lambda rows: _broadcast_copy(rows, value), value, gate=source.gate)


def _broadcast_copy(rows: Tensor, value: Tensor) -> Tensor:
    out = value.new_empty((rows.shape[0], *value.shape))
    extra = value.dim() - (rows.dim() - 1)
    return out.copy_(rows.reshape(rows.shape[0], *(1,) * extra, *rows.shape[1:]) if extra > 0 else rows)


def as_strided(call: Call) -> Any:
    """A view by memory geometry: the rows are first laid out in memory as the value is.

    Raises:
        RuleError: when the value does not fill its memory without gaps or overlaps.
    """
    series, size, stride = call.args[0], call.args[1], call.args[2]
    offset = call.argument("storage_offset")
    value, whole = call.clean(), series.value
    if not torch.ops.aten.is_non_overlapping_and_dense(whole):
        raise RuleError("as_strided on a tensor with gaps or overlaps: call .contiguous() on it first.")
    start = 0 if offset is None else offset - whole.storage_offset()

    def placed(rows: Tensor) -> Tensor:
        if whole.is_contiguous() and rows.is_contiguous():
            return rows.as_strided((rows.shape[0], *size), (whole.numel(), *stride), rows.storage_offset() + start)
        memory = rows.new_empty(rows.shape[0] * whole.numel())
        memory.as_strided(rows.shape, (whole.numel(), *whole.stride())).copy_(rows)
        return memory.as_strided((rows.shape[0], *size), (whole.numel(), *stride), start)

    return series.mapped(placed, value, gate=series.gate, view=True)


register(
    "structural",
    structural,
    existing(
        """view _unsafe_view reshape _reshape_alias t transpose permute expand squeeze unsqueeze select slice narrow
        alias detach view_as split split_with_sizes unsafe_split
        unsafe_split_with_sizes chunk unbind flip roll repeat repeat_interleave diagonal diag_embed index index_select
        gather take unfold pixel_shuffle pixel_unshuffle channel_shuffle im2col reflection_pad1d reflection_pad2d
        reflection_pad3d replication_pad1d replication_pad2d replication_pad3d movedim flatten swapaxes rot90
        take_along_dim upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_nearest_exact3d tril triu _unsafe_index
        masked_select view_as_real view_as_complex
        view_copy permute_copy expand_copy transpose_copy slice_copy select_copy squeeze_copy unsqueeze_copy"""
    ),
)
register(
    "linear",
    reducing,
    existing(
        """mean sum _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d
        col2im upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
        _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa trace diff real imag nansum
        grid_sampler_2d grid_sampler_3d"""
    ),
)
register("linear", mixing, existing("avg_pool1d avg_pool2d avg_pool3d cumsum fft_fft _fft_r2c _fft_c2c _fft_c2r"))
register(
    "shape",
    shape_only,
    existing(
        """zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full
        new_empty_strided sym_size sym_numel sym_stride zero uniform normal_functional exponential
        cauchy geometric log_normal random randint_like"""
    ),
)
register("linear", structural, existing("neg"))
register("structural", duplicate, existing("clone contiguous lift_fresh _to_copy to"))
register("structural", as_strided, existing("as_strided"))
register("structural", lazy_view, existing("_conj _conj_physical _neg_view"))
register("structural", packed, existing("_pack_padded_sequence"))
register("linear", counted, existing("bincount"))
register("linear", segmented, existing("segment_reduce"))
register("sum", add, [torch.ops.aten.add])
register("sum", sub, [torch.ops.aten.sub])
register("sum", rsub, [torch.ops.aten.rsub])
register("joint", cat, [torch.ops.aten.cat])
register("joint", joint, existing(" ".join(name for name in _JOINT if name != "cat")))
register("fill", filling, existing("constant_pad_nd masked_fill fill index_fill"))
register("copy", copy, existing("copy"))
