"""The checkpoints that a training left: where they are, of which step each is, and the weights in it.

The step of a checkpoint is, in this order: the number that the user writes before it (1200:last.safetensors); the one
that was written into it by Termwise, by the Trainer of Hugging Face (trainer_state.json beside the weights) or by
Lightning (global_step in a .ckpt); the number after the word step, iter or epoch in its name; the last whole number in
its name.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from termwise.errors import UsageError, first_line
from termwise.lazy import INDEX, weight_files
from termwise.weights import SUFFIXES, read_weights

_PICKLED = "pytorch_model.bin"  # what transformers wrote before it wrote .safetensors
_SAVED = ("model.safetensors", INDEX, _PICKLED)  # what makes a directory one checkpoint
_STATE = "trainer_state.json"  # what the Trainer of Hugging Face knows of itself
_WORDS = ("step", "iter(?:ation)?", "epoch")
_SHOWN = 3  # names in a message


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
        given: files; directories of them (`checkpoints` inside of one is preferred), such as a Trainer of Hugging Face
            or of Lightning leaves; directories of one model that model.save_pretrained wrote; or STEP:FILE.

    Returns:
        The checkpoints, ascending, and one line for each that cannot be used: missing, damaged, or, found in a
        directory, of a step that nothing tells or that another one there is of.

    Raises:
        UsageError: nothing is given, a file is of another kind or of a step that nothing tells, or two are of one step.
    """
    if isinstance(given, (str, os.PathLike)) or not given:
        raise UsageError("trace: give the checkpoints: two files or more, or a directory that holds them.")
    found: list[Checkpoint] = []
    skipped: list[str] = []
    for spelled in given:
        number, path = _split(spelled)
        if path.is_dir() and _holds_several(path):
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
    """All checkpoints in a directory; what looks like one and cannot be used is told."""
    inner = directory / "checkpoints"
    place = inner if inner.is_dir() else directory
    paths = [path for path in sorted(place.iterdir()) if not path.name.startswith(".") and _is_one(path)]
    if _is_saved(place):  # the model that a Trainer saved at the end, around its checkpoints
        saved = {place / name for name in (*_SAVED, "training_args.bin")}
        shards = {path for path in paths if path.is_file() and re.search(r"-\d+-of-\d+$", path.stem)}
        paths = [path for path in paths if path not in saved | shards] + [place]
    if not paths:
        skipped.append(_nothing_in(place))
    here: list[Checkpoint] = []
    unnamed: list[Checkpoint] = []
    for path in paths:
        try:
            by_name = path != place and _named_step(_bare_name(path)) is not None
            _add(path, None, here if by_name else unnamed, skipped)
        except UsageError as error:
            skipped.append(str(error))
    known = {one.step: one.path.name for one in reversed(here)}
    for one in unnamed:  # "last.ckpt" is one of the others again
        if one.step in known:
            skipped.append(f"{one.path}: of step {one.step}, as {known[one.step]} is.")
        else:
            known[one.step] = one.path.name
            here.append(one)
    found += here


def _nothing_in(place: Path) -> str:
    """There is no checkpoint here; where there may be some."""
    folders = [path for path in sorted(place.glob("**/checkpoints")) if path.is_dir()]
    more = f" Give one of those that have: {', '.join(map(str, folders[:_SHOWN]))}." if folders else ""
    return f"{place}: there is no checkpoint in it ({', '.join(SUFFIXES)}, or directories of them).{more}"


def _is_one(path: Path) -> bool:
    return _is_saved(path) or _is_numbered(path) if path.is_dir() else path.suffix in SUFFIXES


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in _SAVED)


def _is_numbered(path: Path) -> bool:
    """Whether this is a directory that a trainer keeps one checkpoint in, to judge by its name."""
    return path.is_dir() and (re.fullmatch(r"checkpoint-\d+", path.name) is not None or path.suffix in SUFFIXES)


def _holds_several(directory: Path) -> bool:
    """Whether this is a directory of checkpoints, and none itself."""
    alone = _is_saved(directory) or _is_numbered(directory)
    return not alone or any(map(_is_numbered, directory.iterdir()))


def _bare_name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _add(path: Path, number: int | None, found: list[Checkpoint], skipped: list[str]) -> None:
    if path.is_dir() and not _is_saved(path):
        names = [child.name for child in sorted(path.iterdir())]
        shown = ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])]) or "nothing"
        skipped.append(
            f"{path}: the weights of a whole model are not in it ({_SAVED[0]}, or its parts with an index); it holds "
            f"{shown}. Weights that were saved in shards for each process, or as an adapter, must be put together "
            "first: save the whole state dictionary."
        )
        return
    try:
        step = number if number is not None else _written_step(path)
    except (SafetensorError, OSError) as error:
        skipped.append(f"{path}: not readable as weights ({first_line(error)}).")
        return
    if step is None:
        step = _named_step(_bare_name(path))
    if step is None:
        raise UsageError(f"{path}: its name tells no step. Write the step before it: STEP:FILE, as in 1200:{path}.")
    found.append(Checkpoint(step, path))


class _Note(msgspec.Struct):
    """What `termwise.rundir.write_weights` wrote along."""

    step: int


class _State(msgspec.Struct):
    """What the Trainer of Hugging Face wrote beside the weights."""

    global_step: Annotated[int, msgspec.Meta(ge=0)]


def _written_step(path: Path) -> int | None:
    """The step that was written into a checkpoint or beside it, without reading its weights."""
    if path.is_dir():
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            return msgspec.json.decode((path / _STATE).read_bytes(), type=_State).global_step
        return None
    if path.suffix == ".ckpt":
        # Mapped, so that only the names are read; what cannot be is told when the weights are.
        with contextlib.suppress(Exception):
            step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
            return step if type(step) is int else None
        return None
    if path.suffix != ".safetensors":
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
