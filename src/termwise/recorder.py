"""Recorder: the depth expansion of a network, recorded while it learns.

Batch-norm running statistics lag behind the weights early in training, which alone can fake "shallow first".
So a record is made on a copy of the model whose statistics are estimated anew, unless `calibration=False`.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from termwise.batches import batches, fingerprint
from termwise.budget import Spending
from termwise.chunks import Chunks
from termwise.credit import cross_entropy
from termwise.degree.repeated import DegreeOptions, Repeated
from termwise.distributed import Group, identity
from termwise.errors import DataError, ModelError, RunError, UsageError
from termwise.expand import Expansion, Output, pick_output
from termwise.moments import STEPS, Moment, read_directory, require_alike, require_settings
from termwise.pinning import bare, home, pinned
from termwise.profile import IGNORED, Measured, Measures, classes_last, measured, stack_parts
from termwise.program import Constants, Product
from termwise.records import write_record
from termwise.steps import Unit, unit_of
from termwise.support import support

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from termwise.timeline import Timeline

_ROOT2 = 2**0.5
_LARGEST = 2**30  # bytes of terms that one record may hold
# How many samples are expanded at once, and how many bytes their terms may take (as `support` counts them) for that to
# be more than the fewest.  Of two cores that share 32 MiB of cache 128 samples of a ResNet-20 took a sixth less time at
# once (80 MiB) than in batches of 32 (20 MiB), those of a ResNet-44 a third more (200 MiB, and 50 MiB).
_FEWEST, _MOST, _CACHED = 32, 128, 96 * 2**20
_Norm = nn.modules.batchnorm._BatchNorm


def log_spaced(ratio: float = _ROOT2) -> Callable[[int], bool]:
    """The schedule that is due at 0 and at the powers of `ratio`, rounded: 0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, ...

    It needs no total: a run that goes on stays on the same grid.

    Raises:
        UsageError: when the ratio is not above 1.
    """
    if not 1 < ratio < math.inf:
        raise UsageError(f"log_spaced: ratio={ratio}: expected a number above 1, such as 2 ** 0.5.")

    def due(n: int) -> bool:
        if n < 2:
            return n >= 0
        near = round(math.log(n, ratio))
        # Powers that are closer than one step round to the same one.
        return any(round(ratio**power) == n for power in (near - 1, near, near + 1))

    return due


def reestimated(model: nn.Module, inputs: Tensor, batch_size: int = 128) -> nn.Module:
    """A copy of the model in evaluation mode whose batch-norm statistics are estimated anew over `inputs`.

    The statistics are the cumulative averages over batches of equal size, each normalised by its own statistics as in
    training; every other module is in evaluation mode meanwhile.  A batch norm that stands in evaluation mode inside a
    model in training mode is frozen on purpose and keeps its own.  The model, its random state and its gradients are
    left as found; without a batch norm the result is a plain copy.

    Raises:
        DataError: when the inputs are fewer than two, or not finite.
        ModelError: when the model cannot be copied.
    """
    twin = _copied(model)
    norms = [module for module in twin.modules() if _is_live(module, model.training)]
    twin.eval()
    reestimate(twin, norms, inputs, batch_size)
    return twin


def reestimate(model: nn.Module, norms: Sequence[nn.Module], inputs: Tensor, batch_size: int = 128) -> None:
    """Estimate the statistics of batch norms anew, in place; `model` is in evaluation mode.  See `reestimated`."""
    if not norms:
        return
    if len(inputs) < 2 or (inputs.is_floating_point() and not bool(torch.isfinite(inputs).all())):
        raise DataError(
            f"batch-norm statistics need at least two finite samples; got {len(inputs)}"
            f"{'' if len(inputs) < 2 else ' with NaN or infinite values'}. Give others as calibration=, or False."
        )
    live = [norm for norm in norms if isinstance(norm, _Norm)]
    momenta = [norm.momentum for norm in live]
    count = min(math.ceil(len(inputs) / batch_size), len(inputs) // 2)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            for norm in live:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # None: the cumulative average
                if isinstance(norm, nn.SyncBatchNorm):  # would wait for other processes; here each has all inputs
                    vars(norm).update(forward=functools.partial(_Norm.forward, norm))
            for batch in inputs.tensor_split(count):
                model(batch.to(home(model)))
    finally:
        for norm, momentum in zip(live, momenta, strict=True):
            norm.momentum, norm.training = momentum, False
            vars(norm).pop("forward", None)


def live_norms(model: nn.Module) -> tuple[str, ...]:
    """The names of the batch norms whose statistics `reestimated` estimates."""
    return tuple(name for name, module in model.named_modules() if _is_live(module, model.training))


def _is_live(module: nn.Module, training: bool) -> bool:
    """Whether this is a batch norm with running statistics that are not frozen by its owner."""
    return isinstance(module, _Norm) and module.running_mean is not None and (module.training or not training)


def _copied(model: nn.Module) -> Any:
    inner = bare(model)  # a copy that is compiled anew, or waits for other processes, is of no use
    if inner is not model and (model._forward_hooks or model._forward_pre_hooks):
        raise ModelError(
            f"the {type(model).__name__} around the model has hooks of its own, which a copy of the model lacks. "
            "Register them on the model inside, or record with calibration=False."
        )
    try:
        return copy.deepcopy(inner)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({error}), so its batch-norm statistics cannot be estimated anew without "
            "touching it. Record with calibration=False, or keep no computed tensors on its modules."
        ) from error


class Recorder:
    """Records the depth expansion of a model while it is trained; the model is left as found.

    In a training of several processes (DistributedDataParallel) there are two ways.  Without `group` a Recorder speaks
    to no other process: have one, and call it, in process 0 alone; the others wait at their next update.  With `group`
    every process has one, of the same probe, and makes the same calls; the probe's batches are dealt out, every process
    then has the whole record, and process 0 writes it.  The numbers are those of one process.

    Args:
        model: the nn.Module in training (or any callable, of which no copy is made).
        probe: (inputs, targets), tensors of equal length: the fixed data.  Samples whose targets are all -100 are left
            out.  Loss credit needs one integer class a sample and outputs (N, C); all else works without.
        unit: "layers", "blocks", "activations", or names of modules.
        constants: "pooled" or "by_depth".
        product: "half" or "cauchy".
        output: which tensor of the model's result, as in `termwise.expand`.
        schedule: whether a step is due, or the steps that are (`timeline.steps` replays those of another run); by
            default `log_spaced()`, refined where the learning is.
        refine: between two ticks of the default schedule the loss on the probe is looked at, on the tick of
            `log_spaced(2 ** 0.25)` there, and recorded if it has moved since the last record by more than this fraction
            of the largest loss on record.  So there are at most twice as many records.  0: never.
        budget: the fraction of the training time that recording may take, such as 0.05; the training time is what
            passes between the calls of step(), and what the Recorder takes to be made is recording.  Of the schedule 19
            ticks are taken in any case; any later one, and any look between ticks, only if the budget holds it.  The
            last record and those that are forced are always made.  Which steps are recorded then depends on the clock:
            every record says what was spent, and by what its step was chosen.  None: the schedule as it is, the same
            steps each time.  A `termwise.budget.Spending` is an account that others write to as well.
        calibration: inputs from which batch-norm statistics are estimated anew; by default the probe's.  False: the
            statistics as they are.
        directory: where each record is written as soon as it is made, one file each.  Records that are there already
            are taken over: a training that is resumed goes on, and a step that is there is not recorded again.
        batch_size: probe samples that are expanded at once. None: 128, 64 or 32, the most whose terms take no more than
            96 MiB by a dry run; fewer calls of operators cost less, as long as a CPU's cache holds most of what they
            work on; in a group 32. Where memory runs out they are halved from there on, and the profile of a record
            says it.
        replicates: of the bootstrap for the intervals.
        seed: of the bootstrap; the random state of the training is not touched.
        degrees: True: every record also holds the degrees in the input of the network that is measured, batch-norm
            statistics included, on Gaussian inputs with the mean and covariance of the calibration inputs (of the
            probe's where there are none), and on the same ones at every record.  A dictionary says otherwise, with the
            arguments of `termwise.degrees`: `{"inputs": "standard", "samples": 1000, "target": f}`; see
            `termwise.degree.repeated.DegreeOptions`.  A record then costs some 90 runs of the model for each of the 256
            circles; fewer `samples` cost less.  With a group process 0 does this alone.
        group: processes to share the work with, as in `termwise.profile`.  Whether a step is due is for process 0 to
            say, its clock counts for the budget, and scalars are taken from it.  A directory must be one that all can
            read.

    Raises:
        DataError: when the probe is empty, not finite, or inputs and targets do not pair up.
        DataError, ModelError: when degrees are asked for and the inputs or the model have none.
        UsageError: when an option is unknown, or the processes of the group differ in one.
        RunError: when the directory holds records of another probe, unit or option.
        RecordError: when one of them is corrupt or of a newer version.
    """

    def __init__(
        self,
        model: Any,
        probe: tuple[Tensor, Tensor],
        *,
        unit: str | Sequence[str] | Unit = "layers",
        constants: Constants = "pooled",
        product: Product = "half",
        output: Output = None,
        schedule: Callable[[int], bool] | Collection[int] | None = None,
        refine: float = 0.05,
        budget: float | Spending | None = None,
        calibration: Tensor | Literal[False] | None = None,
        directory: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        replicates: int = 200,
        seed: int = 0,
        degrees: bool | DegreeOptions = False,
        group: ProcessGroup | None = None,
    ) -> None:
        self._model, self._output, self._group = model, output, Group(group)
        self._spending = budget if isinstance(budget, Spending) else Spending(budget, self._group)
        self._unit, probed = self._group.together(lambda: (unit_of(unit, bare(model)), _checked(probe)))
        self._inputs, self._targets = probed
        self._constants: Constants = constants
        self._product: Product = product
        self._calibration = self._inputs if calibration is None else calibration
        if not (self._calibration is False or isinstance(self._calibration, Tensor)):
            raise UsageError(
                f"calibration={calibration!r}: expected a tensor of inputs, None for the probe's, or False."
            )
        self._schedule = schedule if schedule is None or callable(schedule) else frozenset(schedule).__contains__
        self._refine = refine if schedule is None else 0.0
        self._tick, self._look = log_spaced(), log_spaced(_ROOT2**0.5)
        self._batch_size, self._replicates, self._seed = batch_size, replicates, seed
        self._chunk: int | None = None
        self._directory = None if directory is None else Path(directory)
        with self._spending.inside(begun=False):
            self._degrees = self._group.together(lambda: self._repeated(degrees))
            self._settings = self._describe()
            self._moments = self._group.together(self._found)
        if self._degrees is not None:
            for moment in self._moments.values():
                self._degrees.go_on_from(moment.degrees)
        own = {"records": self.recorded, "batch_size": batch_size, "refine": self._refine}
        own |= {"budget": self._spending.budget}
        self._group.require_same(lambda: {name: repr(value) for name, value in (self._settings | own).items()})
        self._last = 0
        timings = [moment.timing for moment in self._moments.values() if moment.timing is not None]
        if timings:
            self._spending.resume(timings[-1], len(self._moments))

    def _found(self) -> dict[int, Moment]:
        """The records that are in the directory already."""
        directory = self._directory
        if directory is None or not directory.exists():
            return {}
        if not directory.is_dir():
            raise UsageError(f"directory={str(directory)!r} is a file: name a directory to write records to.")
        moments = {moment.step: moment for moment in read_directory(directory)}
        for moment in moments.values():
            require_settings(moment, self._settings, str(directory))
        return moments

    def _repeated(self, degrees: bool | DegreeOptions) -> Repeated | None:
        """What measures degrees, tried out; None where nobody asks for them."""
        if degrees is False:
            return None
        if not (degrees is True or isinstance(degrees, Mapping)):
            raise UsageError(f"degrees={degrees!r}: expected True, False, or a dictionary of options.")
        inputs = self._calibration if isinstance(self._calibration, Tensor) else self._inputs
        options = {} if degrees is True else degrees
        common: dict[str, Any] = {"output": self._output, "replicates": self._replicates, "seed": self._seed}
        return Repeated(self._network(), options, data=inputs, **common)

    def _describe(self) -> dict[str, Any]:
        """What must be the same for all records of a timeline."""
        modules = self._model.modules() if isinstance(self._model, nn.Module) else ()
        calibration, kept = self._calibration, "not needed"
        if any(isinstance(module, _Norm) for module in modules):
            kept = fingerprint([calibration]) if isinstance(calibration, Tensor) else "off"
        degrees = {} if self._degrees is None else {"degrees": self._degrees.settings}
        return {
            "probe": fingerprint([self._inputs, self._targets]),
            "calibration": kept,
            "unit": str(self._unit),
            "constants": self._constants,
            "product": self._product,
            "output": "a function" if callable(self._output) else self._output,
            "replicates": self._replicates,
            "seed": self._seed,
            **degrees,
        }

    @property
    def seconds(self) -> float:
        """The time spent inside so far."""
        return self._spending.seconds

    @property
    def recorded(self) -> tuple[int, ...]:
        """The steps on record, ascending, those found in the directory included."""
        return tuple(sorted(self._moments))

    @property
    def timeline(self) -> Timeline:
        """Everything on record so far.

        Raises:
            UsageError: when there is nothing.
        """
        from termwise.timeline import Timeline

        if not self._moments:
            raise UsageError("nothing is recorded yet: call step(0) before the first update.")
        return Timeline([self._moments[step] for step in self.recorded])

    def step(self, n: int, *, force: bool = False, **scalars: Any) -> bool:
        """Record the model after `n` updates, if that is due and not on record yet.

        Args:
            n: the number of updates made so far; never smaller than at the last call.
            force: record whether it is due or not.
            scalars: numbers to store along, such as train_loss=...; None where there is none.

        Returns:
            Whether a record was made.

        Raises:
            UsageError: when steps go backwards, a scalar has the name of a measure, or the processes of the group
                differ in step or weights.
            RunError: when the step is on record with other weights, the record is of another network, or a process of
                the group is lost.
            DataError, ModelError: see `termwise.profile`.
        """
        self._spending.enter()
        made = False
        try:
            made = self._step(self._number(n), force, scalars)
        finally:
            self._spending.leave(made)
        return made

    def finish(self, n: int, **scalars: Any) -> bool:
        """Record the last step, unless it is on record; returns whether a record was made."""
        made = self.step(n, force=True, **scalars)
        self._spending.warn()
        return made

    def _number(self, n: int) -> int:
        try:
            number = operator.index(n)
        except TypeError as error:
            raise UsageError(f"step({n!r}): expected the number of updates made so far, an integer.") from error
        if number < self._last:
            raise UsageError(
                f"step({number}) after step({self._last}): steps go forwards, from 0. Pass the step of the run."
            )
        self._last = number
        return number

    def _step(self, n: int, force: bool, scalars: dict[str, Any]) -> bool:
        _require_free(scalars)
        if n in self._moments:
            self._require_same_weights(self._moments[n])
            return False
        tick = force or self._due(n)
        if tick and not force and not self._spending.allows(len(self._moments)):
            return False
        before = [] if tick else self._looked_at(n)
        if not tick and not before:
            return False
        network = self._shared(self._group.together(self._network))
        self._group.require_same(lambda: {"step": str(n), **identity(network)})
        if not tick and not self._moved(before, network):
            return False
        moment = self._measure(n, network, scalars, force)
        require_alike([*list(self._moments.values())[:1], moment], str(self._directory or "this recorder"))
        self._group.together(lambda: self._write(moment))
        self._moments[n] = moment
        return True

    def _due(self, n: int) -> bool:
        schedule = self._schedule
        # What is no function of the step alone (a clock, say) may tell each process something else.
        return self._tick(n) if schedule is None else self._group.exchange(lambda: bool(schedule(n)), bool)[0]

    def _write(self, moment: Moment) -> None:
        if self._directory is not None and self._group.rank == 0:
            write_record(self._directory / f"step-{moment.step:08d}.termwise", moment.to_record())

    def _weights(self) -> str:
        model = self._model
        return fingerprint([*model.parameters(), *model.buffers()]) if isinstance(model, nn.Module) else ""

    def _require_same_weights(self, moment: Moment) -> None:
        if moment.weights != self._group.exchange(self._weights, str)[0]:
            raise RunError(
                f"{self._directory or 'this recorder'}: step {moment.step} is on record with other weights than the "
                "model has now: the record is of another run, the step was counted twice, or the training did not "
                f"repeat itself bit by bit. Use another directory, or delete the records from step {moment.step} on."
            )

    def _network(self) -> Any:
        """What is measured: the copy with its batch-norm statistics estimated anew, or the model where none are."""
        model, calibration = self._model, self._calibration
        if not isinstance(calibration, Tensor) or not isinstance(model, nn.Module):
            return model
        live = any(_is_live(module, model.training) for module in model.modules())
        return reestimated(model, calibration) if live else model

    def _measure(self, n: int, network: Any, scalars: dict[str, Any], forced: bool) -> Moment:
        # Buffers that each process keeps for itself are process 0's: it writes the checkpoints too.
        note = self._group.exchange(lambda: (self._weights(), _numbers(scalars)), tuple[str, dict[str, float | None]])
        weights, numbers = note[0]
        measures = Measures(replicates=self._replicates, seed=self._seed)
        terms: list[np.ndarray] = []
        data = self._batches(network)
        chunks = Chunks(
            network,
            size=self._chunk,
            unit=self._unit,
            constants=self._constants,
            product=self._product,
            output=self._output,
            group=self._group,
        )
        for one, some in chunks.over(data, self._read, tuple[Measured, np.ndarray]):
            measures.add(one)
            terms.append(some)
        self._unit, self._chunk = chunks.unit, chunks.size
        all_terms = np.concatenate(terms, axis=1)
        classes = self._targets.cpu().long().numpy() if all_terms.ndim == 3 and _are_classes(self._targets) else None
        profile = measures.result(chunks.used)
        degrees = None if self._degrees is None else self._degrees(network, self._group)
        timing = self._spending.timing(len(self._moments), forced)
        return Moment(n, numbers, self._settings, weights, profile, all_terms, classes, timing, degrees)

    def _shared(self, network: Any) -> Any:
        """The network with the batch-norm statistics that process 0 estimated: another machine may round otherwise."""
        if network is self._model or self._group.size == 1:
            return network
        kept = [buffer for module in network.modules() if isinstance(module, _Norm) for buffer in module.buffers()]
        found = self._group.exchange(lambda: [buffer.cpu().double().numpy() for buffer in kept], list[np.ndarray])
        for buffer, values in zip(kept, found[0], strict=True):
            buffer.copy_(torch.from_numpy(values.copy()))
        return network

    def _batches(self, network: Any) -> Iterator[tuple[Tensor, Tensor | None]]:
        if self._batch_size is None:
            self._batch_size = _FEWEST if self._group.size > 1 else self._at_once(network)
        if self._chunk is None:
            self._chunk = 1 << max(self._batch_size - 1, 0).bit_length()
        return batches((self._inputs, self._targets), self._batch_size)

    def _at_once(self, network: Any) -> int:
        """How many samples are expanded at once, by the memory that the terms of two of them take."""
        two = self._inputs[:2].to(home(network) or self._inputs.device)
        each = support(network, two, unit=self._unit, output=self._output).memory / len(two)
        size = _MOST
        while size > _FEWEST and size * each > _CACHED:
            size //= 2
        return size

    def _read(self, expansion: Expansion, targets: Tensor) -> tuple[Measured, np.ndarray]:
        found, terms = measured(expansion, targets), _terms(expansion, targets)
        if terms.nbytes / len(targets) * len(self._inputs) > _LARGEST:
            raise UsageError(
                f"one record would hold the terms of {len(self._inputs)} outputs of shape "
                f"{tuple(expansion.total.shape[1:])}, more than 1 GiB. Take a smaller probe."
            )
        return found, terms

    def _looked_at(self, n: int) -> list[Moment]:
        """The records before `n`, where the loss is to be compared with theirs; else none.

        Later records are not looked at, so that a training that is resumed decides as it did before.
        """
        if not self._refine or not self._look(n) or not self._spending.room:
            return []
        before = [self._moments[step] for step in self.recorded if step < n]
        return before if before and before[-1].targets is not None else []

    def _moved(self, before: list[Moment], network: Any) -> bool:
        """Whether the loss has moved since the last of these records."""
        device = home(network)

        def lost(batch: tuple[Tensor, Tensor]) -> float:
            inputs, targets = batch if device is None else (part.to(device) for part in batch)
            logits = pick_output(network(inputs), self._output).double().cpu().numpy()
            return float(cross_entropy(logits, targets.cpu().numpy()) * len(logits))

        with pinned(network):
            total = sum(self._group.dealt(self._batches(network), lost, float))
        moved = abs(total / len(self._inputs) - before[-1].profile.loss)
        return moved > self._refine * max(moment.profile.loss for moment in before)


def _checked(probe: Any) -> tuple[Tensor, Tensor]:
    """Copies of the inputs and targets, without the samples that are left out."""
    pair = isinstance(probe, (tuple, list)) and len(probe) == 2 and all(isinstance(t, Tensor) for t in probe)
    if not pair or not all(t.dim() for t in probe):
        raise UsageError("probe: expected a pair of tensors, (inputs, targets): the data that every record is made on.")
    inputs, targets = (tensor.detach().clone() for tensor in probe)
    next(batches((inputs, targets), len(inputs) or 1))  # refuses what is empty or does not pair up
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        raise DataError("the probe's inputs hold NaN or infinite values. Clean the data before recording.")
    if _are_classes(targets):
        kept = (targets != IGNORED).flatten(1).any(dim=1) if targets.dim() > 1 else targets != IGNORED
        if not bool(kept.any()):
            raise DataError(f"every target of the probe is {IGNORED}, which leaves a sample out: nothing to measure.")
        inputs, targets = inputs[kept], targets[kept]
    return inputs, targets


def _are_classes(targets: Tensor) -> bool:
    return not targets.is_floating_point()


def _require_free(scalars: Iterable[str]) -> None:
    taken = sorted(set(scalars) & (set(STEPS) - {"train_loss"}))
    if taken:
        raise UsageError(f"step: {', '.join(taken)} would hide what is measured. Give it another name.")


def _numbers(scalars: dict[str, Any]) -> dict[str, float | None]:
    """Scalars as floats; None for what is missing or not finite."""
    plain = {name: value.item() if isinstance(value, Tensor) else value for name, value in scalars.items()}
    floats = {name: None if value is None else float(value) for name, value in plain.items()}
    return {name: value if value is None or math.isfinite(value) else None for name, value in floats.items()}


def _terms(expansion: Expansion, targets: Tensor) -> np.ndarray:
    """The parts as they are kept: logits centred over the classes; float32, shape (P, N, ...)."""
    _, stack = stack_parts(expansion)
    if _are_classes(targets):
        stack, _, labels = classes_last(stack, expansion.total, targets)
        stack = (stack - stack.mean(dim=-1, keepdim=True)) * (labels != IGNORED)[..., None]
        if expansion.total.dim() == 2:
            stack = stack.squeeze(2)
    return stack.float().cpu().contiguous().numpy()
