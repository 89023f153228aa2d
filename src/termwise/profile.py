"""profile(): which depth does the work, over a whole data set.

For each sample the logits are centred over the classes first.  With y the output, y_k its input-born terms, c what is
born of constants, t the true class and E the mean over samples:

    norm share      E|y_k| / sum_j E|y_j|        over the input-born terms; c is given against the same sum
    aligned share   E<y_k, y> / E<y, y>          signed; with c it sums to 1
    margin share    E y_k[t] / E y[t]            signed; with c it sums to 1
    cancellation    sum_k E|y_k| / E|y|          how much the norms overstate: they cannot see terms that cancel
    mean depth      sum_k k * norm share         the mean path length
    head, tail, alone    loss and accuracy of c + terms <= k, of terms >= k, and of the term by itself

The mean of k under a signed share is given only where its negative mass is below 10 % and its denominator is more than
3 standard errors from zero; else it is undefined.  All intervals are 95 % percentile intervals of a seeded Poisson
bootstrap over samples, on running sums: any number of batches, constant memory.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from termwise.batches import batches
from termwise.chunks import Chunks, Sizes
from termwise.distributed import Group, identity
from termwise.errors import DataError, ModelError, RecordError, UsageError
from termwise.expand import Expansion, Forward, Output
from termwise.operators import OperatorUse
from termwise.pinning import bare
from termwise.program import Constants, Product
from termwise.records import Record, Table, read_record, write_record
from termwise.steps import UNITS, Unit, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.distributed import ProcessGroup

KIND = "depth-profile"
IGNORED = -100  # PyTorch's cross-entropy leaves these targets out
_KEEP = 0.99  # of the full accuracy: what an effective depth must keep


class Estimate(NamedTuple):
    """A number with its 95 % interval over samples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Three significant places."""
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclasses.dataclass(frozen=True, eq=False)
class DepthProfile:
    """Shares, truncations and mean path length of a network on a data set; print it for a table.

    Attributes:
        share: a row per part: origin ("input", "constant", "frozen"), depth, paths, the three shares with intervals.
        truncated: a row per depth: accuracy and loss of head, tail and alone.
        mean_depth: the mean path length, under the norm share of the input-born terms, in steps.
        aligned_depth: the mean of k under the aligned share; None where it is undefined.
        effective_depth: the smallest depth from which every longer truncation keeps 99 % of the whole network's
            accuracy; None for regression.
        cancellation: sum of the terms' norms over the norm of the output.
        accuracy: of the whole network; without targets, None.
        loss: of the whole network: cross-entropy in nats, or the squared error.
        samples: how many samples were seen.
        closure: the worst relative error of the parts' sum over all batches.
        task: "classification", "regression", or "agreement" where no targets were given and the network's own
            prediction stands in for them.
        unit: the unit of depth.
        operators: how each operator was treated.
        chunk: how many samples were expanded at once; given to `profile` it gives the same bits. Where that changed on
            the way ((first sample, chunk), ...): memory ran out, in one of the processes or in all. None where no
            batch could be cut, and in older records.

    A share says what a depth contributes with all gates as they are, not what would be left without it.
    """

    share: Table
    truncated: Table
    mean_depth: Estimate
    aligned_depth: Estimate | None
    effective_depth: int | None
    cancellation: float
    accuracy: float | None
    loss: float
    samples: int
    closure: float
    task: str
    unit: str
    operators: tuple[OperatorUse, ...]
    chunk: Sizes | None = None

    @property
    def depths(self) -> tuple[int, ...]:
        """The depths that some path has."""
        return tuple(int(depth) for depth in self.share.where(origin="input")["depth"])

    @property
    def paths(self) -> dict[int, int]:
        """The number of paths of each depth."""
        terms = self.share.where(origin="input")
        return {int(k): int(n) for k, n in zip(terms["depth"], terms["paths"], strict=True)}

    def __str__(self) -> str:
        """The console table."""
        from termwise.report.text import profile_text

        return profile_text(self)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        from termwise.report.card import profile_card

        return profile_card(self)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw the depth spectrum: `termwise.figures.spectrum`."""
        from termwise.figures import spectrum

        return spectrum(self, ax=ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file; `DepthProfile.load` gives it back."""
        write_record(path, self.to_record())

    def to_record(self, arrays: Mapping[str, np.ndarray] | None = None, **metadata: Any) -> Record:
        """The record of this profile, with further metadata and arrays beside it."""
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("share", "truncated", "operators")
        }
        operators = [dataclasses.asdict(use) for use in self.operators]
        tables = {"share": self.share, "truncated": self.truncated}
        return Record(KIND, {**metadata, "profile": plain | {"operators": operators}}, tables, dict(arrays or {}))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> DepthProfile:
        """Read a saved profile.

        Raises:
            RecordError: when the file is no such record, corrupt, or of a newer version.
        """
        return DepthProfile.from_record(read_record(path, KIND), str(path))

    @staticmethod
    def from_record(record: Record, where: str = "record") -> DepthProfile:
        """The profile in a record.

        Raises:
            RecordError: when fields are missing.
        """
        try:
            plain = dict(record.metadata["profile"])
            uses = tuple(OperatorUse(**{**use, "modules": tuple(use["modules"])}) for use in plain.pop("operators"))
            aligned, chunk = plain.pop("aligned_depth"), plain.pop("chunk", None)
            return DepthProfile(
                share=record.tables["share"],
                truncated=record.tables["truncated"],
                mean_depth=Estimate(*plain.pop("mean_depth")),
                aligned_depth=None if aligned is None else Estimate(*aligned),
                operators=uses,
                chunk=tuple((start, size) for start, size in chunk) if isinstance(chunk, list | tuple) else chunk,
                **plain,
            )
        except (KeyError, TypeError) as error:
            raise RecordError(f"{where}: no depth profile is in it (missing or unknown field {error}).") from error


def profile(
    model: Any,
    data: Any,
    *,
    unit: str | Sequence[str] | Unit = "layers",
    constants: Constants = "pooled",
    product: Product = "half",
    output: Output = None,
    forward: Forward = None,
    strict: bool = False,
    batch_size: int = 32,
    chunk: Sizes | None = None,
    replicates: int = 200,
    seed: int = 0,
    group: ProcessGroup | None = None,
) -> DepthProfile:
    """Profile `model` by depth on `data`.

    It never speaks to other processes unless `group` says so: in a training of several processes each call without it
    profiles what it is given, alone.  With it, all processes of the group make the same call, **each with all of the
    data in the same order**; the batches are dealt out, and each process gets the same result, that of one process
    alone, bit by bit where all compute with as many threads and in the same chunks.  Shares of the data, as a
    DistributedSampler cuts them, are not taken: it pads them, so that samples would count twice.  Neither do other data
    in another process, nor another model, go unnoticed: fingerprints are compared.

    Args:
        model: an nn.Module or callable; run in evaluation mode and left as found.
        data: an iterable of batches, each a tensor, an (inputs, targets) pair, or a dictionary of keyword arguments
            whose "labels" or "targets" are the targets; or one tensor or pair, which is cut into batches.
            Integer targets are classes (-100 is left out), floating-point ones of the output's shape are regression.
        unit: "layers", "blocks", "activations", or names of modules.
        constants: "pooled" or "by_depth".
        product: "half" or "cauchy".
        output: which tensor of the model's result, as in `expand`.
        forward: how to call the model, as in `expand`; it is given the inputs of a batch.
        strict: refuse operators without a rule, as in `expand`.
        batch_size: samples a batch, where `data` is one tensor or pair.
        chunk: samples that are expanded at once, a power of two; None: as many as the memory holds, that of the process
            which has the least. Whatever it is, it is halved where memory runs out, and the result says what was used.
        replicates: bootstrap replicates.
        seed: of the bootstrap; the model's random state is not touched.
        group: processes to share the work with, such as torch.distributed.group.WORLD; all must make this call.  They
            speak by gloo: beside a training by NCCL give them torch.distributed.new_group(backend="gloo").

    Raises:
        DataError: when there is no data, it is not finite, targets do not fit, or processes hold different data.
        RunError: when a process of the group is lost, or fails with an error that is none of Termwise's.
        UsageError: see `expand`; when the chunk is no power of two; when the processes differ in model or options.
        ModelError: see `expand`; when a later batch has other depths than the first; when memory runs out with one
            sample; and when a batch has to be cut whose samples influence each other.
    """
    measures, processes = Measures(replicates=replicates, seed=seed), Group(group)

    def begin() -> Chunks:
        return Chunks(
            model,
            size=chunk,
            unit=unit_of(unit, bare(model)),
            constants=constants,
            product=product,
            output=output,
            forward=forward,
            strict=strict,
            group=processes,
        )

    chunks = processes.together(begin)
    options = f"{chunks.unit} {constants} {product} {strict} {batch_size} {chunk} {replicates} {seed}"
    processes.require_same(lambda: {**identity(model), "the options": options})
    for one in chunks.over(batches(data, batch_size), measured, Measured):
        measures.add(one)
    return measures.result(chunks.used)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What one expansion says of its samples: plain values and arrays, which can be sent to another process.

    Attributes:
        statistics: per-sample numbers, each of shape (P, N), (K, N) or (N,).
        parts: origin and depth of each of the P parts.
        paths: the number of paths of each of the K depths of the input-born terms; as text, for it has no bound.
        task: as in DepthProfile; likewise the rest.
    """

    statistics: dict[str, np.ndarray]
    parts: list[tuple[str, int | None]]
    paths: dict[int, str]
    task: str
    unit: str
    closure: float
    operators: tuple[OperatorUse, ...]


def measured(expansion: Expansion, targets: Tensor | None) -> Measured:
    """Measure every sample.

    Raises:
        DataError: when the targets do not fit the output.
        UsageError: when the expansion is not whole.
    """
    if expansion.closure is None:
        raise UsageError("a profile needs all terms: expand without max_depth and tolerance.")
    parts, task, statistics = _statistics(expansion, targets)
    paths = {depth: str(expansion.paths[depth]) for depth in expansion.depths}
    return Measured(statistics, parts, paths, task, expansion.unit, expansion.closure, expansion.operators)


class Measures:
    """Running sums of the measures, for every bootstrap replicate at once."""

    def __init__(self, *, replicates: int = 200, seed: int = 0) -> None:
        """No samples yet; replicate 0 is the data as they are."""
        check_replicates(replicates)
        self._draws = np.random.Generator(np.random.PCG64(seed))
        self._replicates = replicates
        self._sums: dict[str, np.ndarray] = {}
        self._first: Measured | None = None
        self._operators: dict[tuple[str, str, str], OperatorUse] = {}
        self._closure, self._samples = 0.0, 0

    def add(self, batch: Measured) -> None:
        """Add the samples of an expansion; the draws of the bootstrap go by the order of the samples alone.

        Raises:
            DataError: when some samples have targets and others have none.
            ModelError: when the depths are other than those of the first samples.
        """
        first = self._first = self._first or batch
        if batch.parts != first.parts:
            raise ModelError(
                "the depths of the paths changed between batches: the model's control flow depends on the data. "
                "Profile each case by itself."
            )
        if batch.task != first.task:
            raise DataError(
                f"one batch is {first.task}, another {batch.task}: give targets with all batches or with none."
            )
        count = next(iter(batch.statistics.values())).shape[-1]
        weights = resampled(count, self._replicates, self._draws)
        for name, values in batch.statistics.items():
            self._sums[name] = self._sums.get(name, 0.0) + values @ weights
        self._closure = max(self._closure, batch.closure)
        self._samples += count
        self._count_operators(batch.operators)

    def _count_operators(self, operators: Sequence[OperatorUse]) -> None:
        for use in operators:
            key = (use.operator, use.rule, use.kind)
            known = self._operators.get(key)
            modules = dict.fromkeys((*(known.modules if known else ()), *use.modules))
            total = use.count + (known.count if known else 0)
            self._operators[key] = dataclasses.replace(use, count=total, modules=tuple(modules))

    def result(self, chunk: Sizes | None = None) -> DepthProfile:
        """The profile of all samples so far, which were expanded in such chunks.

        Raises:
            DataError: when there was none.
        """
        first = self._first
        if first is None:
            raise DataError("the data set is empty: no batch was measured.")
        # A replicate of few samples may have drawn none of them: it says nothing.
        drawn = self._sums["weight"] > 0
        drawn[0] = True
        sums = {name: values[..., drawn] for name, values in self._sums.items()}
        is_input = np.array([origin == "input" for origin, _ in first.parts])
        norm = sums["norm"] / sums["norm"][is_input].sum(axis=0)
        aligned, margin = sums["dot"] / sums["square"], sums["margin"] / sums["full_margin"]
        depths = np.array(list(first.paths), dtype=float)
        correct = sums["full_correct"] / sums["weight"] if "full_correct" in sums else None
        shares = {"norm_share": norm, "aligned_share": aligned, "margin_share": margin}
        return DepthProfile(
            share=self._share_table(first, shares),
            truncated=self._truncated_table(first, sums),
            mean_depth=estimate(depths @ norm[is_input]),
            aligned_depth=_guarded_mean(depths, aligned[is_input]),
            effective_depth=self._effective_depth(first, sums),
            cancellation=float(sums["norm"][is_input].sum(axis=0)[0] / sums["full_norm"][0]),
            accuracy=None if correct is None or first.task == "agreement" else float(correct[0]),
            loss=float(sums["full_loss"][0] / sums["weight"][0]),
            samples=self._samples,
            closure=self._closure,
            task=first.task,
            unit=first.unit,
            operators=tuple(sorted(self._operators.values(), key=lambda use: (-use.count, use.operator))),
            chunk=chunk,
        )

    def _share_table(self, first: Measured, shares: dict[str, np.ndarray]) -> Table:
        columns: dict[str, Any] = {
            "origin": [origin for origin, _ in first.parts],
            "depth": [depth for _, depth in first.parts],
            "paths": [first.paths[d] if o == "input" and d is not None else None for o, d in first.parts],
        }
        for name, values in shares.items():
            columns |= _with_interval(name, values)
        return Table(columns, {"depth": first.unit if first.unit in UNITS else "modules"})

    def _truncated_table(self, first: Measured, sums: dict[str, np.ndarray]) -> Table:
        columns: dict[str, Any] = {"depth": np.array(list(first.paths))}
        for name in ("head", "tail", "alone"):
            if f"{name}_correct" in sums:
                columns |= _with_interval(f"{name}_accuracy", sums[f"{name}_correct"] / sums["weight"])
            columns |= _with_interval(f"{name}_loss", sums[f"{name}_loss"] / sums["weight"])
        unit = "nats" if first.task != "regression" else "squared error"
        return Table(columns, {name: unit for name in columns if "loss" in name})

    def _effective_depth(self, first: Measured, sums: dict[str, np.ndarray]) -> int | None:
        if "full_correct" not in sums:
            return None
        keeps = sums["head_correct"][:, 0] >= _KEEP * sums["full_correct"][0]
        # From the deep end: the longest run of truncations that all keep it.
        fails = np.flatnonzero(~keeps)
        at = 0 if not len(fails) else int(fails[-1]) + 1
        return list(first.paths)[min(at, len(keeps) - 1)]


def check_replicates(replicates: int) -> None:
    """Refuse a bootstrap that gives no interval.

    Raises:
        UsageError: for fewer than two replicates.
    """
    if replicates < 2:
        raise UsageError(f"replicates={replicates}: an interval needs at least 2, and 200 are usual.")


def resampled(samples: int, replicates: int, draws: np.random.Generator) -> np.ndarray:
    """How often a Poisson bootstrap takes each sample, (samples, 1 + replicates); at first the data as they are."""
    drawn = draws.poisson(1.0, size=(samples, replicates)).astype(np.float64)
    return np.concatenate([np.ones((samples, 1)), drawn], axis=1)


def estimate(values: np.ndarray) -> Estimate:
    """The first of the values, of the data as they are, with the interval of the others, of the replicates."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Estimate(float(values[0]), float(low), float(high))


def _with_interval(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    low, high = np.percentile(values[:, 1:], [2.5, 97.5], axis=1)
    return {name: values[:, 0], f"{name}_low": low, f"{name}_high": high}


def _guarded_mean(depths: np.ndarray, shares: np.ndarray) -> Estimate | None:
    """The mean of k under a signed share, or None where it means nothing."""
    total = shares.sum(axis=0)
    negative = -np.minimum(shares[:, 0], 0.0).sum()
    if is_uncertain(total) or negative >= 0.1 * np.abs(shares[:, 0]).sum():
        return None
    return estimate((depths @ shares) / total)


def is_uncertain(total: np.ndarray) -> bool:
    """Whether a denominator is within 3 standard errors of zero."""
    return bool(total[0] == 0 or abs(total[0]) <= 3 * total[1:].std())


def stack_parts(expansion: Expansion) -> tuple[list[tuple[str, int | None]], Tensor]:
    """All parts, the input-born ones first: labels, and shape (P, *output) in float64."""
    parts: list[tuple[str, int | None]] = [("input", depth) for depth in expansion.terms]
    tensors = list(expansion.terms.values())
    if expansion.constants:
        parts += [("constant", depth) for depth in expansion.constants]
        tensors += list(expansion.constants.values())
    else:
        frozen = expansion.frozen
        parts.append(("constant", None))
        tensors.append(expansion.constant if frozen is None else expansion.constant - frozen)
    if expansion.frozen is not None:
        parts.append(("frozen", None))
        tensors.append(expansion.frozen)
    return parts, torch.stack(tensors).cpu().double()


def _statistics(
    expansion: Expansion, targets: Tensor | None
) -> tuple[list[tuple[str, int | None]], str, dict[str, np.ndarray]]:
    """The labels of the parts, the task, and per-sample numbers, each of shape (P, N), (K, N) or (N,)."""
    parts, stack = stack_parts(expansion)
    y = expansion.total.cpu().double()  # not every device has float64
    targets = None if targets is None else targets.cpu()
    check_batched(y)
    inputs = len(expansion.depths)
    task = _task(y, targets)
    if task == "regression":
        assert targets is not None
        flat = [t.reshape(*t.shape[: t.dim() - y.dim() + 1], -1) for t in (stack, y, targets.double())]
        statistics = overlaps(flat[0], flat[1]) | _regression(flat[0], flat[1], flat[2], inputs)
    else:
        stack, y, labels = centred(stack, y, targets)
        statistics = _classified(stack, y, labels, inputs)
    return parts, task, {name: values.cpu().numpy() for name, values in statistics.items()}


def _task(y: Tensor, targets: Tensor | None) -> str:
    if targets is None:
        return "agreement"
    if not targets.is_floating_point():
        return "classification"
    if targets.shape != y.shape:
        raise DataError(
            f"floating-point targets of shape {tuple(targets.shape)} for an output of shape {tuple(y.shape)}: "
            "regression needs equal shapes; classes must be integers (targets.long())."
        )
    if not bool(torch.isfinite(targets).all()):
        raise DataError("the targets hold NaN or infinite values. Clean the data before profiling.")
    return "regression"


def check_batched(y: Tensor) -> None:
    """Refuse an output of which it cannot be said where a sample ends.

    Raises:
        ModelError: when it has no dimension but that of the samples.
    """
    if y.dim() < 2:
        dimensions = "one dimension" if y.dim() else "no dimension"
        raise ModelError(f"the output has {dimensions}: expected (samples, classes) or more. Keep the batch dimension.")


def centred(stack: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """`classes_last`, and then without the mean over the classes."""
    stack, y, labels = classes_last(stack, y, targets)
    return stack - stack.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True), labels


def classes_last(stack: Tensor, y: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Classes last, everything between batch and classes in one axis: (P, N, Q, C), (N, Q, C), (N, Q)."""
    axis = -1
    if targets is not None and y.dim() > 2:
        if targets.shape == (y.shape[0], *y.shape[2:]) and targets.shape != y.shape[:-1]:
            axis = 1
        elif targets.shape != y.shape[:-1]:
            raise _misfit(y, targets)
    elif targets is None and y.dim() == 4:
        axis = 1  # dense prediction, as convolutions lay it out
    y = y.movedim(axis, -1)
    stack = stack.movedim(axis if axis < 0 else axis + 1, -1)
    if y.shape[-1] == 1:
        raise ModelError(
            "the output has a single number a sample, so there are no classes to compare. Give floating-point targets "
            "of the output's shape, or two logits: output=lambda y: torch.cat([-y, y], dim=-1)."
        )
    labels = y.argmax(dim=-1) if targets is None else targets.long()
    if labels.shape != y.shape[:-1]:
        raise _misfit(y, labels)
    kept = labels[labels != IGNORED]
    if kept.numel() and (int(kept.min()) < 0 or int(kept.max()) >= y.shape[-1]):
        raise DataError(
            f"labels run from {int(kept.min())} to {int(kept.max())}, but the model has {y.shape[-1]} classes: "
            f"expected 0 to {y.shape[-1] - 1}, or {IGNORED} to leave one out. "
            "Renumber the labels, or check the model's head."
        )
    n, c = y.shape[0], y.shape[-1]
    return stack.reshape(len(stack), n, -1, c), y.reshape(n, -1, c), labels.reshape(n, -1)


def _misfit(y: Tensor, targets: Tensor) -> DataError:
    return DataError(f"targets of shape {tuple(targets.shape)} do not fit an output of shape {tuple(y.shape)}.")


def overlaps(stack: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Norms and products over everything but the sample: stack (P, N, ...), y (N, ...)."""
    stack, y = stack.flatten(2), y.flatten(1)
    return {
        "dot": torch.einsum("pnd,nd->pn", stack, y),
        "square": y.square().sum(dim=-1),
        "norm": stack.norm(dim=-1),
        "full_norm": y.norm(dim=-1),
    }


def _classified(stack: Tensor, y: Tensor, labels: Tensor, inputs: int) -> dict[str, Tensor]:
    valid = labels != IGNORED
    weight = valid / valid.sum(dim=-1, keepdim=True).clamp_min(1)
    at = labels.clamp_min(0)[..., None]

    def per_sample(values: Tensor) -> Tensor:
        return (values * weight).sum(dim=-1)

    statistics = overlaps(stack * valid[..., None], y * valid[..., None])
    # A sample of which nothing is asked does not count, not even as a right answer.
    statistics["weight"] = valid.any(dim=-1).double()
    statistics["margin"] = per_sample(stack.gather(-1, at.expand(len(stack), *at.shape)).squeeze(-1))
    statistics["full_margin"] = per_sample(y.gather(-1, at).squeeze(-1))
    for name, logits in itertools.chain([("full", y[None])], _truncations(stack, inputs)):
        correct = (logits.argmax(dim=-1) == labels).double()
        loss = logits.logsumexp(dim=-1) - logits.gather(-1, at.expand(len(logits), *at.shape)).squeeze(-1)
        statistics[f"{name}_correct"], statistics[f"{name}_loss"] = per_sample(correct), per_sample(loss)
    return {name: v[0] if name in ("full_correct", "full_loss") else v for name, v in statistics.items()}


def _regression(stack: Tensor, y: Tensor, targets: Tensor, inputs: int) -> dict[str, Tensor]:
    statistics = {"margin": (stack * targets).sum(dim=-1), "full_margin": (y * targets).sum(dim=-1)}
    statistics["weight"] = torch.ones(y.shape[0], dtype=y.dtype, device=y.device)
    for name, outputs in itertools.chain([("full", y[None])], _truncations(stack, inputs)):
        statistics[f"{name}_loss"] = (outputs - targets).square().mean(dim=-1)
    statistics["full_loss"] = statistics["full_loss"][0]
    return statistics


def _truncations(stack: Tensor, inputs: int) -> Iterator[tuple[str, Tensor]]:
    """One after another: each takes the memory of all terms."""
    terms = stack[:inputs]
    yield "head", terms.cumsum(dim=0).add_(stack[inputs:].sum(dim=0))
    yield "tail", terms.flip(0).cumsum(dim=0).flip(0)
    yield "alone", terms
