"""How many samples are expanded at once: a batch is cut into chunks that the memory holds.

The terms of a batch take many times the memory of the batch.  So it goes through the expansion in chunks over its
samples, of one size, a power of two: the whole batch where its estimated need fits into half of the memory that is
free, else the largest that does.  Where memory runs out all the same the chunk is halved and done again.

A chunk is as good as a batch only if no sample of a batch influences another.  That is tried, not assumed: the outputs
of the first chunks are compared with what a plain pass over all of them together computes.

Several processes choose one chunk together, the least that any of them would.  What runs out of memory is halved by the
process that ran out, and nobody has to be asked: it goes on by itself, and what comes back says how it was cut.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import logging
import platform
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from termwise.distributed import Group
from termwise.errors import ModelError, UsageError, first_line
from termwise.expand import Expansion, Forward, Output, call, expand, locate, pick_output
from termwise.pinning import bare, home, pinned
from termwise.program import Constants, Product
from termwise.steps import Unit
from termwise.support import support

_T = TypeVar("_T")
_Piece = tuple[int | None, int, _T]  # the chunk, if the batch can be cut; how many samples of it; what was read
Sizes = int | tuple[tuple[int, int], ...]  # a chunk, or the chunk from each sample on: ((0, 32), (320, 16))

_SHARE = 0.5  # of the free memory that a chunk may be expected to take
# The peak over what `support` counts, which is a lower bound: with float32 on a CPU a fresh process peaked at 1.1 times
# it (DenseNet-40), 1.7 (a GPT-2 of 4 blocks), 1.8 (ViT-Ti/16), 2.5 (an MLP), 2.7 (ResNet-18), 3.1 (plain-20), 3.4 to
# 3.8 (ResNet-20) and 4.9 (ResNet-56).
_PEAK = 5.0
# Times as much again where constants are kept by depth: 2.1 to 2.7 times (DenseNet-40, ResNet-20, ViT-Ti/16, plain-20),
# 3.3 (an MLP) and 4.0 (ResNet-56).  And at the least with Cauchy products, which are computed even where the result is
# frozen: ViT-Ti/16 peaked at 8.8 times what is counted.
_BY_DEPTH, _CAUCHY = 4.0, 2.0
_READ = 8.0  # times the terms of the output while they are measured, in float64: a language model took 7.6
_LIVE = 64  # bytes for each number of an activation, in a bound that need not be tight
_TOGETHER = 4  # chunks in the plain pass: even without any shortcuts it takes about what a chunk is allowed

# What PyTorch, its allocators and its libraries say; oneDNN no more than that it lacks something.
_NO_MEMORY = (
    *("can't allocate memory", "out of memory", "bad_alloc", "_STATUS_ALLOC_FAILED"),
    *("could not create a primitive", "could not create a memory"),
)

_log = logging.getLogger(__name__)


class Chunks:
    """Expands the batches of one data set, chunk by chunk.

    Args:
        model: an nn.Module or callable, as in `termwise.expand`, and so are unit, constants, product, output, forward
            and strict.
        size: samples a chunk; None: chosen at the first batch.  What `used` returned gives the same chunks again.
        group: the processes that share the work.

    Attributes:
        unit: the unit; once a chunk was expanded, with its residual branches where these are its steps.
    """

    def __init__(
        self,
        model: Any,
        *,
        size: Sizes | None,
        unit: Unit,
        constants: Constants,
        product: Product,
        output: Output,
        forward: Forward = None,
        strict: bool = False,
        group: Group,
    ) -> None:
        self.unit = unit
        self._model, self._output, self._forward = model, output, forward
        self._options: dict[str, Any] = {"constants": constants, "product": product, "strict": strict}
        self._group, self._sharing = group, 1
        self._sizes = _as_sizes(size)
        self._at = 0  # samples before the next chunk, of this process
        self._compared = False
        self._used: list[tuple[int, int]] = []

    @property
    def used(self) -> Sizes | None:
        """The chunk so far; where it changed on the way, ((first sample, chunk), ...); None: no batch could be cut.

        Samples are counted over all batches that can be cut, whichever process expanded them.
        """
        return self._used[0][1] if len(self._used) == 1 else tuple(self._used) or None

    def over(
        self, data: Iterable[tuple[Any, Tensor | None]], read: Callable[[Expansion, Any], _T], kind: Any
    ) -> Iterator[_T]:
        """What `read` says of the expansion of each chunk and its targets, once for each sample, in order.

        Args:
            data: inputs and targets, batch by batch. Inputs are a tensor, or a tuple or dictionary of them; a batch is
                cut along the first dimension where all its tensors have the same, else taken whole.
            read: may run out of memory too, and is then called again; so it must change nothing.
            kind: the type of what it gives, as in `Group.exchange`: every process gets what all of them read.

        Raises:
            ModelError: memory runs out with one sample, or with a batch that cannot be cut; or the samples of a batch
                that has to be cut influence each other.
            DataError, RunError, UsageError: see `Group.dealt`.
        """
        if self._group.size > 1 and not self._sizes:
            data = self._agreed(data)

        def work(batch: tuple[int, Any, Tensor | None]) -> list[_Piece[_T]]:
            before, inputs, targets = batch
            return self._measured(before, inputs, targets, read)

        counted = 0
        for pieces in self._group.dealt(_numbered(data), work, list[_Piece[kind]]):
            for size, samples, result in pieces:
                if size is not None and (not self._used or self._used[-1][1] != size):
                    self._used.append((counted, size))
                counted += samples
                yield result

    def _agreed(self, data: Iterable[tuple[Any, Tensor | None]]) -> Iterable[tuple[Any, Tensor | None]]:
        """The same data, once the processes have chosen by the first batch."""
        source, first = iter(data), []

        def choose() -> int | None:
            first.extend(itertools.islice(source, 1))
            count = _samples(first)
            return self._choose(first[0][0], count) if count else None

        self._sharing = self._group.exchange(platform.node, str).count(platform.node())
        sizes = [size for size in self._group.exchange(choose, int | None) if size is not None]
        if sizes:
            self._sizes = [(0, min(sizes))]
        return itertools.chain(first, source)

    def _measured(
        self, before: int, inputs: Any, targets: Any, read: Callable[[Expansion, Any], _T]
    ) -> list[_Piece[_T]]:
        """The pieces of a batch, in order; so many samples are in the batches before it."""
        count = _samples((inputs, targets))
        if count and not self._sizes:
            self._sizes = [(0, self._choose(inputs, count))]
        self._at, pieces, together = before, list[_Piece[_T]](), None
        while self._at < before + (count or 0) or not pieces:
            start = self._at - before
            size = self.size if count else None
            stop = min(start + size, count) if size and count else None
            try:
                if size and count and size < count and start == 0 and not self._compared:
                    together = self._together(_part(inputs, 0, _TOGETHER * size))
                expansion = self._expand(_part(inputs, start, stop))
                if together is not None and start < len(together):
                    _compare(expansion, together[start:stop])
                result = read(expansion, self._placed(_part(targets, start, stop)))
            except Exception as error:
                if not ran_out(error):
                    raise
                _require_divisible(size, count, error)
                result = expansion = None
                together = together if start else None
            else:
                del expansion
                samples = 0 if stop is None else stop - start
                pieces.append((size, samples, result))
                self._at += samples
                continue
            # Only here, when the error is gone, is the memory of the failed chunk free.
            self._halve()
        self._compared = self._compared or together is not None
        return pieces

    @property
    def size(self) -> int:
        """The chunk that comes next, once one was given or chosen."""
        return next(size for start, size in reversed(self._sizes) if start <= self._at)

    def _halve(self) -> None:
        size = self.size // 2
        earlier = [(s, held) for s, held in self._sizes if s < self._at]
        later = [(s, held) for s, held in self._sizes if s > self._at and held < size]
        self._sizes = [*earlier, (self._at, size), *later]
        _release()
        _log.warning("memory ran out: from sample %d on, %d at a time", self._at, size)

    def _placed(self, tree: Any) -> Any:
        device = home(self._model)
        return tree if device is None else pytree.tree_map_only(Tensor, lambda t: t.to(device), tree)

    def _expand(self, inputs: Any) -> Expansion:
        placed = self._placed(inputs)
        way: dict[str, Any] = {"output": self._output, "forward": self._forward}
        self.unit = locate(self.unit, self._model, placed, **way)
        return expand(self._model, placed, unit=self.unit, **way, **self._options)

    def _together(self, inputs: Any) -> Tensor:
        """The output of a plain pass, the samples first."""
        with pinned(self._model):
            output = pick_output(call(self._model, self._placed(inputs), self._forward), self._output)
        if output.dim() == 0 or len(output) != _samples(inputs):
            raise _dependent(f"of {_samples(inputs)} samples together the output has the shape {tuple(output.shape)}")
        return output

    # The choice.

    def _choose(self, inputs: Any, count: int) -> int:
        """The whole batch where it fits, else the largest power of two that does."""
        whole = 1 << (count - 1).bit_length()
        first = next(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
        device = home(self._model) or first.device
        free = free_memory(device)
        if free is not None and device.type == "cpu":
            free //= self._sharing
        if count == 1 or free is None or self._is_small(inputs, free):
            return whole
        each = self._need(_part(inputs, 0, 2)) / 2
        size = whole
        while size > 1 and min(size, count) * each > _SHARE * free:
            size //= 2
        if size < whole:
            _log.info("%d samples at a time: each takes about %.0f MiB", size, each / 2**20)
        return size

    def _is_small(self, inputs: Any, free: int) -> bool:
        """Whether the batch is so small that the dry run can be spared.

        No activation of a usual network is wider than its input times the largest dimension of its weights, and no path
        is longer than it has weights.
        """
        network = bare(self._model)
        weights = [w.shape for w in network.parameters() if w.dim() > 1] if isinstance(network, nn.Module) else []
        if not weights:
            return False
        numbers = sum(leaf.numel() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))
        return numbers * max(max(shape) for shape in weights) * (len(weights) + 2) * _LIVE < _SHARE * free

    def _need(self, inputs: Any) -> float:
        """Bytes that the expansion of these samples will probably take; 0 where that cannot be told."""
        sizes: list[int] = []

        def output(result: Any) -> Tensor:
            picked = pick_output(result, self._output)
            sizes.append(picked.numel() * picked.element_size())
            return picked

        try:
            found = support(self._model, self._placed(inputs), unit=self.unit, output=output, forward=self._forward)
            parts = wide = len(found.paths) + 1
            if self._options["product"] == "cauchy":  # depths add in it, which a dry run does not see
                wide = max(parts, len(self._expand(inputs).paths) + 1)
        except Exception:
            return 0.0  # what is wrong with model or data the run itself will say better
        more = _BY_DEPTH if self._options["constants"] == "by_depth" else 1.0
        more *= max(_CAUCHY, wide / parts) if self._options["product"] == "cauchy" else 1.0
        return more * (_PEAK * found.memory + _READ * parts * max(sizes, default=0))


def _as_sizes(size: Sizes | None) -> list[tuple[int, int]]:
    """The chunk from each sample on.

    Raises:
        UsageError: no chunk is a power of two, or the samples do not ascend from 0.
    """
    if size is None:
        return []
    pairs = list(size) if isinstance(size, tuple) else [(0, size)]
    starts = [start for start, _ in pairs]
    ascending = starts[:1] == [0] and starts == sorted(set(starts))
    if not ascending or not all(isinstance(held, int) and held.bit_count() == 1 and held > 0 for _, held in pairs):
        raise UsageError(
            f"chunk={size!r}: expected a power of two (1, 2, 4, ...), how many samples are expanded at once, or None. "
            "A chunk that was halved on the way is given as it was recorded: ((0, 32), (320, 16))."
        )
    return pairs


# Cutting.


def _numbered(data: Iterable[tuple[Any, Tensor | None]]) -> Iterator[tuple[int, Any, Tensor | None]]:
    """Each batch, after the number of samples in those before it that can be cut."""
    before = 0
    for inputs, targets in data:
        yield before, inputs, targets
        before += _samples((inputs, targets)) or 0


def _samples(tree: Any) -> int | None:
    """How many samples a batch holds; None where it cannot be cut: its tensors do not share their first dimension."""
    leaves = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    if any(leaf.layout is not torch.strided or leaf.is_nested or not leaf.dim() for leaf in leaves):
        return None
    lengths = {len(leaf) for leaf in leaves}
    return lengths.pop() if len(lengths) == 1 else None


def _part(tree: Any, start: int, stop: int | None) -> Any:
    """The samples start..stop of every tensor; everything where there is no stop."""
    return tree if stop is None else pytree.tree_map_only(Tensor, lambda t: t[start:stop], tree)


def _compare(expansion: Expansion, together: Tensor) -> None:
    """Refuse a chunk whose output is another than the one that the same samples have in company.

    The outputs may differ by rounding, as much as the parts do or in half of their digits.
    """
    own = expansion.total
    if own.shape != together.shape:
        raise _dependent(f"alone the output has the shape {tuple(own.shape)}, together {tuple(together.shape)}")
    left, right = (t.detach().cpu().double().reshape(len(t), -1) for t in (own, together))
    scale, error = float(right.norm(dim=1).max()), float((left - right).norm(dim=1).max())
    assert expansion.closure is not None  # nothing was left out
    tolerance = max(torch.finfo(own.dtype).eps ** 0.5, 4 * expansion.closure)
    if not error <= tolerance * scale:
        raise _dependent(f"the outputs differ by {error / scale if scale else error:.1e} of their size")


def _dependent(how: str) -> ModelError:
    return ModelError(
        "the batch has to be cut to be expanded in the memory there is (or in the chunk that was given), but the "
        f"samples of a batch influence each other in this model: {how}, so its parts would be those of another "
        "function. Give batches of as few samples as you mean to be run together, or a chunk= (--chunk) at least as "
        "large as a batch. A model that draws random numbers in evaluation mode looks the same: switch that off."
    )


# Running out.


def ran_out(error: BaseException | None) -> bool:
    """Whether an error says that memory ran out, or was raised because of one that does."""
    while error is not None:
        # What cannot be allocated inside of a rule is told in the words of a refusal.
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error) for w in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def _release() -> None:
    """Give back what nobody uses: cycles around the error, and what the allocators hold in reserve."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it, and else keeps pieces under the limit
        ctypes.CDLL(None).malloc_trim(0)


def _require_divisible(size: int | None, count: int | None, error: Exception) -> None:
    """Refuse to go on where a chunk cannot be halved."""
    advice = "fewer tokens or smaller images, or keep constants='pooled'"
    if size is None:
        raise ModelError(
            f"memory ran out ({first_line(error)}), and the batch cannot be cut: its tensors, or the targets, do not "
            f"share their first dimension. Give batches of fewer samples, {advice}."
        ) from error
    if size == 1:
        raise ModelError(
            f"memory ran out ({first_line(error)}) with one sample at a time (chunk=1, --chunk 1), so there is nothing "
            f"left to halve. Give {advice}; `termwise support` (tw.support) says what a sample takes."
        ) from error


# What is free.


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that this process can still allocate there; None where it cannot be told.

    On a CPU the least of: what the machine has available, what the memory limits of its control groups leave, and what
    the limits of the process leave.  `root` is the root of the file system.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    found = [*_of_machine(root), *_of_groups(root), *_of_process(root)]
    return max(min(found), 0) if found else None


def _of_machine(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        yield 1024 * _fields(root / "proc/meminfo")["MemAvailable:"]


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group around the process leaves; files that were read, and can be forgotten, are not in use."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":  # version 2
                mount, files = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                mount = root / "sys/fs/cgroup/memory"
                files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            inner = mount / path.strip("/")
            for group in (inner, *inner.parents):
                if group == mount or mount in group.parents:
                    yield from _of_group(group, *files)


def _of_group(group: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):  # no such group from in here, or "max"
        left = int((group / limit).read_text()) - int((group / usage).read_text())
        yield left + _fields(group / "memory.stat").get(cache, 0)


def _of_process(root: Path) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = (root / "proc/self/statm").read_text().split()
        for limit, in_use in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
            most, _ = resource.getrlimit(limit)
            if most != resource.RLIM_INFINITY:
                yield most - int(in_use) * resource.getpagesize()


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of names and numbers."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
