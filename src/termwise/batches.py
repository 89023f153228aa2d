"""Any of the forms in which people hold their data, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from termwise.errors import DataError, UsageError


def batches(data: Any, batch_size: int) -> Iterator[tuple[Any, Tensor | None]]:
    """Inputs and targets, batch by batch, from any of the forms that `profile` takes.

    Raises:
        DataError: when there is nothing in it, or a batch is of an unknown form.
    """
    if isinstance(data, Tensor) or _is_pair(data):
        yield from _cut(data, batch_size)
        return
    if not isinstance(data, Iterable):
        raise DataError(f"data is a {type(data).__name__}: expected a tensor, an (inputs, targets) pair, or batches.")
    empty = True
    for batch in data:
        empty = False
        yield _split(batch)
    if empty:
        raise DataError(
            "the data set is empty: it gave no batch. Check the path and the split; an iterator is used up once."
        )


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and all(isinstance(t, Tensor) for t in data) and data[1].dim() > 0


def _cut(data: Any, batch_size: int) -> Iterator[tuple[Any, Tensor | None]]:
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give at least 1.")
    inputs, targets = data if isinstance(data, tuple) else (data, None)
    if not len(inputs):
        raise DataError("the data set is empty: its first dimension is 0. Check the path and the split.")
    if targets is not None and len(targets) != len(inputs):
        raise DataError(f"{len(inputs)} inputs but {len(targets)} targets: they must pair up.")
    for start in range(0, len(inputs), batch_size):
        stop = start + batch_size
        yield inputs[start:stop], None if targets is None else targets[start:stop]


def _split(batch: Any) -> tuple[Any, Tensor | None]:
    if isinstance(batch, Mapping):
        rest = dict(batch)
        targets = next((rest.pop(name) for name in ("labels", "targets") if name in rest), None)
        return rest, targets
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Tensor):
        return batch, None
    raise DataError(
        f"a batch is a {type(batch).__name__}{f' of {len(batch)}' if isinstance(batch, (tuple, list)) else ''}: "
        "expected a tensor, an (inputs, targets) pair, or a dictionary with 'labels'."
    )


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """The SHA-256 of tensors: of their dtypes, shapes and bits, in order."""
    found = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
