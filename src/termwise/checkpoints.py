"""The checkpoints that a training left: where they are, of which step each is, and the weights in it.

The step of a checkpoint is, in this order: the number that the user writes before it (1200:last.safetensors); what
Termwise wrote into it; the number after the word step, iter or epoch in its name; the last whole number in its name.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from termwise.errors import UsageError, first_line
from termwise.lazy import INDEX, weight_files
from termwise.weights import SUFFIXES, read_weights

_PICKLED = "pytorch_model.bin"  # what transformers wrote before it wrote .safetensors
_SAVED = ("model.safetensors", INDEX, _PICKLED)  # what makes a directory one checkpoint
_WORDS = ("step", "iter(?:ation)?", "epoch")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        step: updates made before it was written, or whatever else its number counts.
        path: the file, or the directory that model.save_pretrained wrote.
    """

    step: int
    path: Path

    def weights(self) -> dict[str, Tensor]:
        """Its state dictionary, on the CPU; nothing but tensors is read.

        Raises:
            DataError: it is damaged, or holds something else.
        """
        if not self.path.is_dir():
            return read_weights(self.path)
        if (self.path / _PICKLED).is_file() and not any((self.path / name).is_file() for name in _SAVED[:2]):
            return read_weights(self.path / _PICKLED)
        return {key: value for file in weight_files(self.path) for key, value in read_weights(file).items()}


def find_checkpoints(given: Collection[str | os.PathLike[str]]) -> tuple[list[Checkpoint], list[str]]:
    """The checkpoints that are meant, by step, and what was left out.

    Args:
        given: files; directories of them (`checkpoints` inside of one is preferred), or of one model that
            model.save_pretrained wrote; or STEP:FILE.

    Returns:
        The checkpoints, ascending, and one line for each that cannot be used: missing, damaged, or, found in a
        directory, of a step that nothing tells.

    Raises:
        UsageError: nothing is given, a file is of another kind or of a step that nothing tells, or two are of one step.
    """
    if isinstance(given, (str, os.PathLike)) or not given:
        raise UsageError("trace: give the checkpoints: two files or more, or a directory that holds them.")
    found: list[Checkpoint] = []
    skipped: list[str] = []
    for spelled in given:
        number, path = _split(spelled)
        if path.is_dir() and not _is_saved(path):
            if number is not None:
                raise UsageError(f"{spelled}: one step cannot be that of a whole directory; give STEP:FILE for each.")
            _search(path, found, skipped)
        elif not path.exists():
            skipped.append(f"{path}: there is no such file or directory.")
        elif path.is_file() and path.suffix not in SUFFIXES:
            raise UsageError(f"{path}: expected a file of weights: {', '.join(SUFFIXES)}.")
        else:
            _add(path, number, found, skipped)
    return _by_step(found), skipped


def _split(spelled: str | os.PathLike[str]) -> tuple[int | None, Path]:
    """1200:FILE as number and file."""
    text = os.fspath(spelled)
    match = re.fullmatch(r"(\d+):(.+)", text)
    number, name = (None, text) if match is None else (int(match[1]), match[2])
    return number, Path(name).expanduser()


def _search(directory: Path, found: list[Checkpoint], skipped: list[str]) -> None:
    """All checkpoints in a directory; of those whose step is not known it is said so."""
    inner = directory / "checkpoints"
    place = inner if inner.is_dir() else directory
    paths = [path for path in sorted(place.iterdir()) if not path.name.startswith(".") and _is_one(path)]
    if not paths:
        skipped.append(f"{place}: there is no checkpoint in it ({', '.join(SUFFIXES)}, or directories of them).")
    for path in paths:
        try:
            _add(path, None, found, skipped)
        except UsageError as error:
            skipped.append(str(error))


def _is_one(path: Path) -> bool:
    return _is_saved(path) if path.is_dir() else path.suffix in SUFFIXES


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in _SAVED)


def _add(path: Path, number: int | None, found: list[Checkpoint], skipped: list[str]) -> None:
    try:
        step = number if number is not None else _written_step(path)
    except (SafetensorError, OSError) as error:
        skipped.append(f"{path}: not readable as weights ({first_line(error)}).")
        return
    if step is None:
        step = _named_step(path.name if path.is_dir() else path.stem)
    if step is None:
        raise UsageError(f"{path}: its name tells no step. Write the step before it: STEP:FILE, as in 1200:{path}.")
    found.append(Checkpoint(step, path))


class _Note(msgspec.Struct):
    """What `termwise.rundir.write_weights` wrote along."""

    step: int


def _written_step(path: Path) -> int | None:
    """The step in the metadata of a checkpoint of Termwise's own, without reading its weights."""
    if path.suffix != ".safetensors" or path.is_dir():
        return None
    with safe_open(path, framework="pt") as content:
        metadata = content.metadata() or {}
    with contextlib.suppress(KeyError, msgspec.MsgspecError):
        return msgspec.json.decode(metadata["termwise"], type=_Note).step
    return None


def _named_step(name: str) -> int | None:
    """1200 of "epoch=3-step=1200", 500 of "checkpoint-500"; None of "last" and of "loss=0.25"."""
    for word in _WORDS:
        after = re.findall(rf"{word}s?[-_= ]?(\d+)", name, flags=re.IGNORECASE)
        if after:
            return int(after[-1])
    numbers = re.findall(r"\d+(?:\.\d+)*", name)
    return int(numbers[-1]) if numbers and numbers[-1].isdecimal() else None


def _by_step(found: Sequence[Checkpoint]) -> list[Checkpoint]:
    ordered = sorted(set(found), key=lambda one: (one.step, str(one.path)))
    for first, second in itertools.pairwise(ordered):
        if first.step == second.step:
            raise UsageError(
                f"{first.path} and {second.path} are both of step {first.step}: give one of them, or write the step of "
                f"each before it, as in {first.step}:{first.path}."
            )
    return ordered
