"""Several processes at one data set; nothing else in the package knows `torch.distributed`.

Every process is given the same model and all of the data.  The batches are dealt out in turn, each process measures its
own, and what it measured of a batch goes to all of them, in the order of the batches.  So every process adds the same
numbers in the same order as one process alone would: the results are the same, bit by bit, however many there are.

All that is exchanged is small and on the CPU, so it goes by Gloo, through process 0.  Each exchange waits for everyone:
a process that fails is heard by all, which then fail with its message; one that ends or hangs is missed, and the others
fail.  There is never a result from a part of the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from termwise import errors
from termwise.batches import fingerprint
from termwise.errors import DataError, RunError, TermwiseError, UsageError, first_line

_PATIENCE = timedelta(minutes=30)  # with a process that does not answer; one that has ended is missed at once

_T = TypeVar("_T")
_END = object()
_SHOWN = 3  # names in a message
_TAG = 7301  # of messages: none of the training's gets between them


class _Said(msgspec.Struct):
    """What one process has to say: a value, or why there is none."""

    value: bytes = b""
    failure: tuple[str, str] | None = None  # the exception's class and message


class _Reply(msgspec.Struct):
    """What process 0 tells the others: all that was said, or whom it missed."""

    said: list[_Said]
    missed: dict[int, str]


class Group:
    """The processes of one work, of which this is one.  All of them must make the same calls in the same order.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are; 1 without a process group: then nothing is sent.
    """

    def __init__(self, processes: dist.ProcessGroup | None = None) -> None:
        """Join.

        Args:
            processes: a process group of which this process is one, or None for this process alone.  An exchange waits
                for a process that does not answer as long as the group's timeout says.

        Raises:
            UsageError: when this process is not in it, or it cannot carry what is exchanged.
        """
        self.rank, self.size, self._link = 0, 1, processes
        if processes is None:
            return
        self.rank, self.size = dist.get_rank(processes), dist.get_world_size(processes)
        if self.rank < 0:
            raise UsageError("group: this process is not in that process group. Call it in the processes that are.")
        if "gloo" not in dist.get_backend_config(processes):
            raise UsageError(
                f"group: its backend is {dist.get_backend(processes)}, and what the processes say to each other goes "
                'by gloo. Make a group for it, in every process: torch.distributed.new_group(backend="gloo").'
            )

    def exchange(self, work: Callable[[], _T], kind: Any) -> list[_T]:
        """What `work` gives in every process, in order; it fails in all of them if it fails in one.

        Args:
            work: gives a value of plain types, arrays, and dataclasses of these.
            kind: the type of that value.

        Raises:
            RunError: when a process is missing, or failed with an error that is none of Termwise's.
            TermwiseError: the error of the first process that failed with one.
        """
        if self.size == 1:
            return [work()]
        own: Exception | None = None
        try:
            mine = _Said(msgspec.msgpack.encode(work(), enc_hook=_plain))
        except Exception as error:
            own, mine = error, _Said(failure=(type(error).__name__, str(error)))
        try:
            said = self._gather(mine)
        except RunError:
            if own is None:
                raise
            raise own from None  # the likelier cause
        if own is not None:
            raise own
        for rank, one in enumerate(said):
            if one.failure is not None:
                raise self._heard(rank, *one.failure)
        return [msgspec.msgpack.decode(one.value, type=kind, dec_hook=_array) for one in said]

    def together(self, work: Callable[[], _T]) -> _T:
        """What `work` gives in this process; it fails in all of them if it fails in one.

        Raises:
            RunError, TermwiseError: see `exchange`.
        """
        found: list[_T] = []
        self.exchange(lambda: found.append(work()), type(None))
        return found[0]

    def require_same(self, facts: Callable[[], dict[str, str]]) -> None:
        """Refuse to go on where the processes are not alike; `facts` is not called in a process alone.

        Raises:
            UsageError: says in what they differ.
        """
        if self.size == 1:
            return
        found = self.exchange(facts, dict[str, str])
        for rank, other in enumerate(found):
            names = [name for name in {**found[0], **other} if found[0].get(name) != other.get(name)]
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                raise UsageError(
                    f"process {rank} is not like process 0; they differ in {', '.join(names[:_SHOWN])}{more}. All must "
                    "make the same call with the same model: seed it, or load one file; and buffers that each process "
                    "keeps for itself (the running statistics of batch norms) must be brought together first, with "
                    "torch.distributed.broadcast(buffer, 0)."
                )

    def dealt(self, items: Iterable[Any], work: Callable[[Any], _T], kind: Any) -> Iterator[_T]:
        """What `work` gives for each item, in order; the items are dealt out, and every process gets all results.

        Args:
            items: trees that hold tensors, the same in every process; each process goes through all of them.
            work: what to do with an item; in each process it is called for every `size`-th.
            kind: the type of what it gives.

        Raises:
            DataError: when the processes do not hold the same items.
            RunError, TermwiseError: see `exchange`.
        """
        if self.size == 1:
            yield from map(work, items)
            return
        source, before = iter(items), 0
        while True:
            turn = self.exchange(lambda: self._turn(source, work), tuple[list[str], kind | None])
            hands = [hand for hand, _ in turn]
            for rank, hand in enumerate(hands):
                if hand != hands[0]:
                    raise _different(before, rank, hands[0], hand)
            yield from (result for _, result in turn if result is not None)
            before += len(hands[0])
            if len(hands[0]) < self.size:
                return

    def _turn(self, source: Iterator[Any], work: Callable[[Any], _T]) -> tuple[list[str], _T | None]:
        """The fingerprints of the next items, one for each process, and what came of this process's own."""
        hand: list[str] = []
        mine: Any = _END
        while len(hand) < self.size and (item := next(source, _END)) is not _END:
            if len(hand) == self.rank:
                mine = item
            hand.append(_fingerprint(item))
        return hand, None if mine is _END else work(mine)

    # Messages: a length, then so many bytes.

    def _gather(self, mine: _Said) -> list[_Said]:
        if self.rank == 0:
            reply = self._collect(mine)
        else:
            try:
                self._send(msgspec.msgpack.encode(mine), 0)
                reply = msgspec.msgpack.decode(self._receive(0), type=_Reply)
            except RuntimeError as error:
                raise self._missed({0: _reason(error)}) from error
        if reply.missed:
            raise self._missed(reply.missed)
        return reply.said

    def _collect(self, mine: _Said) -> _Reply:
        reply = _Reply([mine], {})
        for rank in range(1, self.size):
            try:
                reply.said.append(msgspec.msgpack.decode(self._receive(rank), type=_Said))
            except RuntimeError as error:
                reply.missed[rank] = _reason(error)
        content = msgspec.msgpack.encode(reply if not reply.missed else _Reply([], reply.missed))
        for rank in range(1, self.size):
            # One that ended since it spoke is missed at the next exchange.
            with contextlib.suppress(RuntimeError):
                self._send(content, rank)
        return reply

    def _send(self, content: bytes, rank: int) -> None:
        length = torch.tensor([len(content)], device="cpu")
        for part in (length, torch.frombuffer(bytearray(content), dtype=torch.uint8)):
            dist.send(part, group=self._link, group_dst=rank, tag=_TAG)

    def _receive(self, rank: int) -> bytes:
        length = torch.zeros(1, dtype=torch.int64, device="cpu")
        dist.recv(length, group=self._link, group_src=rank, tag=_TAG)
        content = torch.empty(int(length), dtype=torch.uint8, device="cpu")
        dist.recv(content, group=self._link, group_src=rank, tag=_TAG)
        return content.numpy().tobytes()

    def _missed(self, ranks: dict[int, str]) -> RunError:
        lost = ", ".join(f"process {rank} ({reason})" for rank, reason in ranks.items())
        return RunError(
            f"lost, of {self.size} processes: {lost}. There is no result without all of them. What a lost process "
            "printed last, or its exit code (torchrun lists these), says why; process 0, through which the others "
            "speak, may have given up for want of another. Then start all of them again."
        )

    def _heard(self, rank: int, name: str, message: str) -> TermwiseError:
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, TermwiseError):
            return kind(message)
        return RunError(f"process {rank} of {self.size} failed with {name}: {message}")


@contextlib.contextmanager
def launched() -> Iterator[dist.ProcessGroup | None]:
    """The group of the processes that torchrun started, or None for a process that was started by itself.

    Raises:
        RunError: when the others do not come.
    """
    if not _is_launched():
        yield None
        return
    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the {os.environ['WORLD_SIZE']} processes that WORLD_SIZE speaks of did not come together "
            f"({first_line(error)}). Start them with torchrun, or unset WORLD_SIZE and RANK for a single process."
        ) from error
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def _is_launched() -> bool:
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def speaks() -> bool:
    """Whether this process prints: the first of those that torchrun started, or one that was started by itself."""
    return not _is_launched() or int(os.environ["RANK"]) == 0


def leads() -> bool:
    """Whether this process is the first of a training, or alone in it, however the training was started."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def require_single(what: str) -> None:
    """Refuse to do in several processes what each would do over again.

    Raises:
        UsageError: when torchrun started several.
    """
    if _is_launched():
        raise UsageError(f"{what}: a training is the work of one process. Start it without torchrun.")


def own_device(name: str) -> str:
    """The name of this process's device: that of its number on its machine, where several share the name "cuda"."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" and _is_launched() else name


def identity(model: object) -> dict[str, str]:
    """The fingerprint of each parameter and buffer, by name."""
    if not isinstance(model, nn.Module):
        return {}
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {f"'{name}'": fingerprint([tensor]) for name, tensor in tensors if not tensor.is_meta}


def _fingerprint(item: Any) -> str:
    """Of the dense tensors and arrays in it, and of its numbers and words; others are refused by who expands them."""
    found = hashlib.sha256()
    for leaf in pytree.tree_leaves(item):
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            found.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
        elif isinstance(leaf, Tensor) and leaf.layout is torch.strided and not leaf.is_nested:
            found.update(fingerprint([leaf]).encode())
        elif isinstance(leaf, (str, int, float)):
            found.update(repr(leaf).encode())
    return found.hexdigest()


def _different(before: int, rank: int, first: list[str], other: list[str]) -> DataError:
    same = 0
    while first[same : same + 1] and first[same : same + 1] == other[same : same + 1]:
        same += 1
    return DataError(
        f"the processes hold different data: batch {before + same} of process {rank} is not that of process 0. Give "
        "every process all of the data in the same order, without DistributedSampler, shuffling or random "
        "augmentation: the batches are dealt out here."
    )


def _reason(error: RuntimeError) -> str:
    return "no answer within the timeout" if "imed out" in str(error) else "its connection is closed"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # The order of the axes in memory as well: it decides how a product by the array is rounded.
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        return value.dtype.str, value.shape, order, value.tobytes(order)
    raise NotImplementedError(f"a {type(value).__name__} cannot be sent")


def _array(kind: type, value: Any) -> Any:
    if kind is not np.ndarray:
        raise NotImplementedError(f"a {kind.__name__} cannot be received")
    dtype, shape, order, content = value
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape, order=order)
