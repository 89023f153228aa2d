"""Trace: the timeline of a training that is over, from the checkpoints that it left; nothing is trained.

    timeline = trace(model, ["runs/checkpoints"], (inputs, targets))
    print(timeline)

Every record is what a `termwise.Recorder` of the same arguments would have made at that step, bit by bit: batch-norm
statistics are estimated anew there too.  What no checkpoint holds is missing: the steps between, and the training loss.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from termwise.checkpoints import Checkpoint, find_checkpoints
from termwise.degree.repeated import DegreeOptions
from termwise.errors import DataError, ModelError, first_line
from termwise.expand import Output
from termwise.pinning import bare
from termwise.program import Constants, Product
from termwise.steps import Unit
from termwise.timeline import Recorder, Timeline
from termwise.weights import fit_weights, stripped

_UNFIT = ("missing", "unexpected", "mismatched")
_log = logging.getLogger(__name__)


def trace(
    model: nn.Module,
    checkpoints: Collection[str | os.PathLike[str]],
    probe: tuple[Tensor, Tensor],
    *,
    unit: str | Sequence[str] | Unit = "layers",
    constants: Constants = "pooled",
    product: Product = "half",
    output: Output = None,
    calibration: Tensor | Literal[False] | None = None,
    directory: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    replicates: int = 200,
    seed: int = 0,
    degrees: bool | DegreeOptions = False,
    progress: Callable[[int, int], Any] | None = None,
) -> Timeline:
    """The timeline of a model over checkpoints of its training.

    Args:
        model: the network as it was built for the training; its weights do not matter, and it is left as found.
        checkpoints: .safetensors files, files of plain tensors (.pt, .pth, .bin, .ckpt), directories of either,
            directories that model.save_pretrained wrote, in one file or several, or the folder of a Trainer of Hugging
            Face or of Lightning.  The step of each is found as `termwise.checkpoints` says;
            "1200:FILE" spells it.
        probe: (inputs, targets), as for `Recorder`.
        unit: of depth, as for `Recorder`; so are constants, product, output, batch_size, replicates, seed and degrees.
        constants: "pooled" or "by_depth".
        product: "half" or "cauchy".
        output: which tensor of the model's result.
        calibration: inputs from which batch-norm statistics are estimated anew; by default the probe's.  False: those
            in the checkpoints, which early in a training lag behind the weights.
        directory: where each record is kept; those that are there already are not made again.
        batch_size: probe samples that are expanded at once, as for `Recorder`.
        replicates: of the bootstrap for the intervals.
        seed: of the bootstrap.
        degrees: also the degrees in the input.
        progress: called with the number of checkpoints done and their number, before the first and after each.

    Returns:
        The timeline of the checkpoints that could be used.  The others (missing, damaged, with weights that are NaN or
        infinite) are logged and listed in its `skipped`.

    Raises:
        UsageError: nothing is given, the step of a file is not known, or two are of one step.
        DataError: fewer than two checkpoints can be used, or the probe is bad.
        ModelError: weights do not fit the model, or the model cannot be copied or profiled.
        RunError, RecordError: the directory holds records of other weights or options, or a damaged one.
    """
    found, skipped = find_checkpoints(checkpoints)
    for line in skipped:
        _log.warning("left out: %s", line)
    _require_two(found, skipped)
    twin = _copied(model)
    recorder = Recorder(
        twin,
        probe,
        unit=unit,
        constants=constants,
        product=product,
        output=output,
        schedule=(),
        calibration=calibration,
        directory=directory,
        batch_size=batch_size,
        replicates=replicates,
        seed=seed,
        degrees=degrees,
    )
    used: list[Checkpoint] = []
    for done, checkpoint in enumerate(found):
        if progress is not None:
            progress(done, len(found))
        problem = _fitted(twin, checkpoint)
        if problem is None:
            _record(recorder, checkpoint)
            used.append(checkpoint)
        else:
            _log.warning("left out: %s", problem)
            skipped.append(problem)
    if progress is not None:
        progress(len(found), len(found))
    _require_two(used, skipped)
    steps = {checkpoint.step for checkpoint in used}
    return Timeline([moment for moment in recorder.timeline.moments if moment.step in steps], skipped)


def require_fit(model: nn.Module, checkpoints: Collection[str | os.PathLike[str]]) -> None:
    """Refuse what `trace` would refuse of the checkpoints' names and of the first that can be read.

    Raises:
        UsageError, DataError, ModelError: see `trace`.
    """
    found, skipped = find_checkpoints(checkpoints)
    _require_two(found, skipped)
    twin = _copied(model)
    for checkpoint in found:
        if _fitted(twin, checkpoint) is None:
            break


def network_at(model: nn.Module, checkpoints: Collection[str | os.PathLike[str]], step: int) -> nn.Module | None:
    """A copy of the model with the weights of the checkpoint of that step; None where there is none."""
    twin = _copied(model)
    found = [checkpoint for checkpoint in find_checkpoints(checkpoints)[0] if checkpoint.step == step]
    return twin if found and _fitted(twin, found[0]) is None else None


def _require_two(usable: Sequence[Checkpoint], skipped: Sequence[str]) -> None:
    if len(usable) > 1:
        return
    reasons = "".join(f"\n  {line}" for line in skipped)
    only = f"only {usable[0].path}" if usable else "none"
    raise DataError(
        f"trace: a timeline needs two checkpoints of different steps, and of those given {only} can be used.{reasons}\n"
        "Give others, or a directory that holds them; `termwise profile MODEL --weights FILE` measures a single one."
    )


def _copied(model: Any) -> nn.Module:
    """A copy to lay the weights into, so that the model keeps its own whatever happens."""
    inner = bare(model)
    if not isinstance(inner, nn.Module):
        raise ModelError(f"trace: a {type(model).__name__} takes no weights; give the torch.nn.Module itself.")
    try:
        return copy.deepcopy(inner)
    except Exception as error:
        raise ModelError(
            f"trace: the model cannot be copied ({first_line(error)}), and its own weights are not touched. Keep no "
            "computed tensors on its modules."
        ) from error


def _fitted(model: nn.Module, checkpoint: Checkpoint) -> str | None:
    """Lay the weights of a checkpoint into the model; why it cannot be used, if so."""
    try:
        weights = _renamed(model, checkpoint.weights(), checkpoint.path)
    except DataError as error:
        return str(error)
    path = checkpoint.path
    fit_weights(model, _untied(model, stripped(weights, model.state_dict(), path)), type(model).__name__, path)
    # A buffer may be infinite, as masks are.
    bad = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    bad += [name for name, value in model.named_buffers() if bool(torch.isnan(value).any())]
    if not bad:
        return None
    shown = ", ".join([*bad[:3], *(["..."] if len(bad) > 3 else [])])
    return f"{path}: NaN or infinite numbers in {len(bad)} of its weights ({shown}): had the training diverged?"


def _renamed(model: Any, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights under the names that the model has, where its library writes some of them under older ones.

    transformers does that for the models whose modules it has renamed; its own reader knows both names.
    """
    own = model.state_dict()
    if not path.is_dir() or own.keys() == _untied(model, weights).keys() or not hasattr(type(model), "from_pretrained"):
        return weights
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        with torch.random.fork_rng():
            twin, told = type(model).from_pretrained(path, config=copy.deepcopy(model.config), **options)
    except Exception as error:  # it cannot tell more than what fits and what does not
        _log.debug("%s: %s", path, first_line(error))
        return weights
    return weights if any(told.get(f"{kind}_keys") for kind in _UNFIT) else twin.state_dict()


def _untied(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the weights that modules share under each of their names: some writers keep them under one alone."""
    own = model.state_dict(keep_vars=True)
    kept = {id(own[name]): value for name, value in weights.items() if name in own}
    return {name: kept[id(value)] for name, value in own.items() if id(value) in kept} | dict(weights)


def _record(recorder: Recorder, checkpoint: Checkpoint) -> None:
    try:
        recorder.step(checkpoint.step, force=True)
    except ModelError as error:
        raise ModelError(f"{checkpoint.path}: {error}") from error
