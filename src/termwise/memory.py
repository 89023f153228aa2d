"""Plain tensors that a program writes into.

A program may make a buffer and fill it (`out = torch.zeros(...); out[t] = h`).  The buffer is a plain tensor and stays
one, but its memory now holds values computed from the input; whatever reads that memory later, through whichever
tensor, must get their parts.  So the parts are kept here by memory, flat, and handed out as views.

It may write into the model's own parameters, too; these get back what they held.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from termwise.errors import RuleError
from termwise.series import (
    CONSTANT,
    Born,
    Parts,
    Paths,
    Series,
    add_paths,
    carries,
    constant_series,
    frozen_series,
    merge_parts,
)

Place = tuple[torch.Size, tuple[int, ...], int]


class _Written(NamedTuple):
    """What the last write into a place brought."""

    parts: Parts
    paths: Paths
    gate: bool
    born: Born


@dataclasses.dataclass
class _Block:
    """One block of memory: the parts of all of it, flat, and what was written where."""

    series: Series
    written: dict[Place, _Written] = dataclasses.field(default_factory=dict)

    def touched(self, place: Place) -> Tensor:
        """Which elements a place is made of, flat."""
        touched = torch.zeros(self.series.numel(), dtype=torch.bool)
        touched.as_strided(*place).fill_(True)
        return touched


class Memory:
    """The memory of plain tensors that holds values computed from the input."""

    def __init__(self) -> None:
        # By address; each block holds its memory, so that no address is used again.
        self._blocks: dict[int, _Block] = {}

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def adopt(self, target: Tensor) -> Series:
        """The Series of a plain tensor that is about to be written into."""
        memory = target.untyped_storage()
        if memory.data_ptr() not in self._blocks:
            flat = target.new_empty(0).set_(memory)
            # The memory itself will be written; what it held until now must be kept apart.
            series = (constant_series if carries(flat) else frozen_series)(flat.clone())
            series.value = flat
            self._blocks[memory.data_ptr()] = _Block(series)
        lifted = self.lift(target)
        assert isinstance(lifted, Series)
        return lifted

    def lift(self, tensor: Tensor) -> Tensor:
        """The Series behind a plain tensor, or the tensor itself where nothing was written into its memory.

        Raises:
            RuleError: when the memory is read as another type than it was written.
        """
        block = self._block(tensor)
        if block is None:
            return tensor
        if block.series.dtype != tensor.dtype:
            raise RuleError(
                f"memory that values computed from the input were written into as {block.series.dtype} is read as "
                f"{tensor.dtype}. Convert with .to() instead of .view()."
            )
        size, stride, offset = place = _place(tensor)

        def placed(rows: Tensor) -> Tensor:
            return rows.as_strided((rows.shape[0], *size), (rows.stride(0), *stride), rows.storage_offset() + offset)

        touched = block.touched(place)
        inside = [write for other, write in block.written.items() if bool(touched.as_strided(*other).any())]
        series = block.series.mapped(placed, tensor, gate=bool(inside) and all(w.gate for w in inside), view=True)
        # Parts that were written elsewhere in the memory are zero here: nobody brought them.
        series.keep(merge_parts([(CONSTANT,), *(write.parts for write in inside)]))
        series.paths = add_paths(write.paths for write in inside)
        series.born = tuple(dict.fromkeys(call for write in inside for call in write.born))
        return series

    def note(self, target: Tensor, new: Series) -> None:
        """Remember what a write into a plain tensor brought; what it covers whole is forgotten."""
        block = self._block(target)
        if block is None:
            return
        here = _place(target)
        touched = block.touched(here)
        covered = [place for place in block.written if bool(touched.as_strided(*place).all())]
        for place in covered:
            del block.written[place]
        block.written[here] = _Written(new.parts, new.paths, new.gate, new.born)

    def _block(self, tensor: Tensor) -> _Block | None:
        if isinstance(tensor, Series) or tensor.layout is not torch.strided:
            return None
        return self._blocks.get(tensor.untyped_storage().data_ptr())


def physical(tensor: Tensor) -> Tensor:
    """The tensor of all members that vmap shows one of."""
    functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


class Parameters:
    """The parameters of a model, and what those that the program writes into held before."""

    def __init__(self) -> None:
        self._met: set[int] = set()
        self._owners: dict[int, Tensor] = {}  # by the address of their memory
        self._before: dict[int, Tensor] = {}

    def meet(self, module: nn.Module) -> None:
        """Note where the parameters of a module, and of all inside it, are in memory."""
        if id(module) in self._met:
            return
        self._met |= {id(inner) for inner in module.modules()}
        for parameter in module.parameters():
            if parameter.layout is torch.strided and not parameter.is_meta:
                self._owners[_address(parameter)] = parameter

    def spare(self, written: Iterable[object]) -> None:
        """Keep what is about to be written, where it is a parameter's."""
        for tensor in written:
            if isinstance(tensor, Tensor) and not isinstance(tensor, Series) and tensor.layout is torch.strided:
                owner = self._owners.get(address := _address(tensor))
                if owner is not None and address not in self._before:
                    self._before[address] = owner.detach().clone()

    def written(self) -> list[Tensor]:
        """The parameters that the program wrote into."""
        return [self._owners[address] for address in self._before]

    def put_back(self) -> None:
        """Every parameter as it was: the model is left as found."""
        for address, content in self._before.items():
            self._owners[address].detach().copy_(content)


def _address(tensor: Tensor) -> int:
    return physical(tensor).untyped_storage().data_ptr()


def _place(tensor: Tensor) -> Place:
    return tensor.size(), tuple(tensor.stride()), int(tensor.storage_offset())
