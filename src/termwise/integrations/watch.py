"""Watch: a Recorder in somebody else's training, which it must not break.

    watch = Watch(probe, directory="records", sinks=[...]).begin(model)
    for n, batch in enumerate(loader):
        ...                                        # the update
        watch.step(n + 1)
    watch.finish(n + 1)
    print(watch.timeline)

What fails while recording is a warning, once, and the training goes on; `strict=True` lets it fail.  Of several
processes the first one records alone: it measures the model inside of DistributedDataParallel, which speaks to no other
process, so the others wait at their next update and no longer.

A training that is resumed at step n goes on with the records up to n.  Later ones are of a course that was given up
there: they are moved to a folder beside, so that no timeline is made of two courses.  A training that starts anew (step
0, other weights or options) finds all earlier records moved.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import Tensor, nn

from termwise.budget import Spending, clock
from termwise.degree.repeated import DegreeOptions
from termwise.distributed import Group, leads
from termwise.errors import ModelError, RunError, TermwiseError, UsageError, first_line
from termwise.expand import Output
from termwise.integrations.sinks import Sink, Sinks
from termwise.pinning import bare
from termwise.program import Constants, Product
from termwise.recorder import Recorder
from termwise.steps import Unit
from termwise.timeline import Timeline

FOLDER = "termwise-records"  # in the folder of a training
_CALLED_ALONE = "If the model cannot be called with the probe's inputs alone, name its part that can: module='...'. "
_log = logging.getLogger(__name__)


class Options(TypedDict, total=False):
    """The options of `termwise.Recorder`, by its names; its docstring says what they mean."""

    unit: str | Sequence[str] | Unit
    constants: Constants
    product: Product
    output: Output
    schedule: Callable[[int], bool] | Collection[int] | None
    refine: float
    budget: float | None
    calibration: Tensor | Literal[False] | None
    batch_size: int | None
    replicates: int
    seed: int
    degrees: bool | DegreeOptions


class Watch:
    """A Recorder that cannot break the training around it.

    Args:
        probe: (inputs, targets), the fixed data, as for `termwise.Recorder`.
        directory: where records are kept; a training that is resumed goes on there.  None: in the folder of the
            training, where it has one.
        module: the name of the part of the model to record ("model", "encoder.head"), where the whole cannot be called
            with the probe's inputs alone; "" for the whole.
        sinks: trackers that are told what is recorded: see `termwise.integrations.sinks`.
        strict: let what fails while recording end the training.
        options: of the Recorder.

    Attributes:
        failures: what could not be recorded, a line each.

    Raises:
        UsageError: when an option is unknown, or the probe is no pair.
    """

    def __init__(
        self,
        probe: tuple[Tensor, Tensor],
        *,
        directory: str | os.PathLike[str] | None = None,
        module: str = "",
        sinks: Sequence[Sink] = (),
        strict: bool = False,
        **options: Any,
    ) -> None:
        known = set(Options.__annotations__)
        if unknown := sorted(set(options) - known):
            raise UsageError(f"{', '.join(unknown)}: no option of a Recorder; these are {', '.join(sorted(known))}.")
        if not (isinstance(probe, (tuple, list)) and len(probe) == 2 and all(isinstance(t, Tensor) for t in probe)):
            raise UsageError("probe: expected a pair of tensors, (inputs, targets): what every record is made on.")
        self._given = self._directory = None if directory is None else Path(directory)
        self.failures: list[str] = []
        self._probe, self._module, self._strict, self._options = probe, module, strict, options
        self._recorder: Recorder | None = None
        self._spending = Spending(None, Group())
        self._sinks = Sinks(sinks, strict)
        self._model: Any = None
        self._at = 0

    @property
    def timeline(self) -> Timeline:
        """Everything on record so far; what could not be recorded is in its `skipped`.

        Raises:
            UsageError: when there is nothing: before the training, in any process but the first, or after a failure.
        """
        if self._recorder is None or not self._recorder.recorded:
            told = self.failures or ["records are made by the first process, from the beginning of the training on"]
            raise UsageError(f"nothing is recorded: {told[0]}.")
        return Timeline(self._recorder.timeline.moments, self.failures)

    def begin(self, model: nn.Module, step: int = 0, *, folder: str | os.PathLike[str] | None = None) -> Watch:
        """Record the model before the next update.

        Args:
            model: in training; wrappers around it are taken off.
            step: updates made so far.
            folder: of the training; records are kept in it, unless a directory was given.

        Returns:
            This Watch.
        """
        self._directory = self._given if self._given is not None or folder is None else Path(folder) / FOLDER
        self.failures, self._recorder, self._at = [], None, step
        self._spending = Spending(None, Group())
        self._sinks.begin()
        if leads():
            with self._guarded(step):
                self._begin(model, step)
        return self

    def step(self, n: int, **scalars: Any) -> bool:
        """Record the model after `n` updates, if that is due; returns whether a record was made.

        Called again with the same number, as after a batch that is accumulated, it does nothing.
        """
        return n != self._at and self._record(n, False, scalars)

    def finish(self, n: int, **scalars: Any) -> bool:
        """Record the last step, unless it is on record, and close the sinks; returns whether a record was made."""
        with self._spending.inside():
            made = self._record(n, True, scalars)
            self.close()
        self._spending.warn()
        return made

    def close(self) -> None:
        """Give the sinks picture and tables, and close them: for a training whose last weights are not recorded."""
        if self._recorder is not None and self._recorder.recorded:
            with self._spending.inside(), self._guarded(self._at):
                self._sinks.finish(self.timeline)

    def _begin(self, model: nn.Module, step: int) -> None:
        began = clock()
        self._model = _part(model, self._module)
        self._set_aside(step)
        try:
            self._start(step, began)
        except RunError:
            if step or self._directory is None:
                raise
            self._set_aside(-1)
            self._start(step, began)

    def _start(self, step: int, began: float) -> None:
        spending = Spending(self._options.get("budget"), Group())
        with spending.inside(since=began):
            with _own_forward(self._model):
                options: dict[str, Any] = self._options | {"budget": spending}
                recorder = Recorder(self._model, self._probe, directory=self._directory, **options)
                made = recorder.step(step)
            self._recorder, self._spending = recorder, spending
            if made:
                self._tell(step)

    def _record(self, n: int, last: bool, scalars: dict[str, Any]) -> bool:
        made, self._at = False, n
        recorder = self._recorder
        if recorder is None or n in recorder.recorded:
            return False
        with self._guarded(n), self._spending.inside(), _own_forward(self._model):
            made = recorder.step(n, force=last, **scalars)
            if made:
                self._tell(n)
        return made

    def _tell(self, step: int) -> None:
        """Tell the sinks of the record that was made."""
        if self._sinks.told:
            (moment,) = (moment for moment in self.timeline.moments if moment.step == step)
            self._sinks.record(moment)

    @contextlib.contextmanager
    def _guarded(self, step: int) -> Iterator[None]:
        """Let nothing out that would end the training."""
        try:
            yield
        except Exception as error:
            if self._strict:
                raise
            self.failures.append(f"step {step}: {type(error).__name__}: {first_line(error)}")
            if len(self.failures) == 1:
                foreign = "" if isinstance(error, TermwiseError) else _CALLED_ALONE
                _log.warning(
                    "recording failed at step %d, and the training goes on without this record: %s: %s %sLater "
                    "failures are in the timeline's `skipped`. strict=True ends the training here, with a traceback.",
                    *(step, type(error).__name__, str(error).strip(), foreign),
                )

    def _set_aside(self, step: int) -> None:
        """Move the records of later steps to a folder of their own."""
        directory = self._directory
        paths = sorted(directory.glob("step-*.termwise")) if directory is not None else []
        later = [path for path in paths if (found := re.search(r"\d+", path.stem)) and int(found[0]) > step]
        if directory is None or not later:
            return
        aside = next(p for k in itertools.count(1) if not (p := directory / f"earlier-{k}").exists())
        aside.mkdir()
        for path in later:
            path.rename(aside / path.name)
        _log.info("%d records of a course that was given up after step %d are now in %s.", len(later), step, aside)


def _part(model: nn.Module, name: str) -> nn.Module:
    """The module that is recorded."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ModelError(
            "DeepSpeed keeps a piece of each weight in each process (stage 3), and a record is made by one process. "
            "Record the checkpoints after the training, put together with zero_to_fp32.py: termwise.trace."
        )
    inner = bare(model)
    try:
        return inner.get_submodule(name)
    except AttributeError as error:
        raise UsageError(f"module={name!r}: {type(inner).__name__} has no such part ({first_line(error)}).") from error


@contextlib.contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Without the forward that accelerate lays over a model's own for mixed precision.

    What is measured is the function of the weights as they are updated and saved, in their own precision.
    """
    held = vars(model)
    laid, own = held.get("forward"), held.get("_original_forward")
    if laid is None or own is None:
        yield
        return
    del held["forward"]
    if inspect.unwrap(getattr(own, "__func__", own)) is not inspect.unwrap(type(model).forward):
        held["forward"] = own
    try:
        yield
    finally:
        held["forward"] = laid
