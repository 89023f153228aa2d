"""Weights in files: read without unpickling anything but tensors, and laid into a model key by key.

What tools wrap around a state dictionary (a checkpoint that holds it beside other things, a prefix before every key,
the mark of a compiled module) is taken off and said so; anything else that does not fit is refused in a few lines.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from termwise.errors import DataError, ModelError, UsageError, first_line

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLED)
_COMPILED = "_orig_mod."  # what torch.compile puts into names
_SHOWN = 3  # keys of each kind in a message

_Value = TypeVar("_Value")
_log = logging.getLogger(__name__)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a file, on the CPU.

    Args:
        path: .safetensors, or one of PICKLED, of which only plain tensors and containers are read.

    Raises:
        UsageError: for another suffix.
        DataError: there is no such file, it is damaged, or holds something else.
    """
    path = path.expanduser()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file of weights.")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: expected a .safetensors file, or {', '.join(PICKLED)} with plain tensors.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not readable as weights ({first_line(error)}).") from error
    except Exception as error:
        # torch.load raises pickle's own error for anything beyond plain tensors; it has not been executed.
        raise DataError(
            f"{path}: damaged, or holds more than plain tensors; save model.state_dict() as .safetensors."
        ) from error
    return _unnested(loaded, path)


def _unnested(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The state dictionary itself, where a checkpoint holds it beside an epoch or an optimiser."""
    if not isinstance(loaded, Mapping):
        raise DataError(f"{path} holds a {type(loaded).__name__}; expected a state dictionary: model.state_dict().")
    inner = [key for key, value in loaded.items() if isinstance(value, Mapping) and _is_state(value)]
    usual = [key for key in ("state_dict", "model_state_dict", "model") if key in inner]
    if not usual and any(isinstance(v, Tensor) for v in loaded.values()) and all(isinstance(k, str) for k in loaded):
        return dict(loaded)
    chosen = usual[:1] or inner
    if len(chosen) != 1:
        raise DataError(
            f"{path} holds {_some([str(key) for key in loaded]) or 'nothing'}, and "
            f"{'several' if chosen else 'none'} of it could be the model's weights; save model.state_dict() alone."
        )
    _log.warning("%s: the weights are what it holds under %r.", path, chosen[0])
    return dict(loaded[chosen[0]])


def _is_state(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(key, str) and isinstance(v, Tensor) for key, v in value.items())


def fit_weights(model: nn.Module, state: Mapping[str, Tensor], spec: str, path: Path) -> None:
    """Load a state dictionary into a model, every key of it.

    Heads that a model has in training alone (torchvision calls them aux...) are left out where the model has none.

    Args:
        model: receives the weights.
        state: as `read_weights` gives it.
        spec: the model's name in messages.
        path: the file's name in messages.

    Raises:
        ModelError: keys are missing, unexpected, or of another shape.
    """
    expected = model.state_dict()
    found = stripped(state, expected, path)
    auxiliary = [key for key in found if key not in expected and key.lower().startswith("aux")]
    if auxiliary:
        _log.warning("%s: %s belong to heads used in training only; left out.", path, _some(auxiliary))
        found = {key: value for key, value in found.items() if key not in auxiliary}
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        shapes = [
            (key, tuple(found[key].shape), tuple(value.shape))
            for key, value in expected.items()
            if isinstance(value, Tensor) and isinstance(found.get(key), Tensor) and found[key].shape != value.shape
        ]
        missing, unexpected = ([k for k in a if k not in b] for a, b in ((expected, found), (found, expected)))
        raise misfit(spec, path, missing, unexpected, shapes) from error


def stripped(state: Mapping[str, _Value], expected: Collection[str], path: Path) -> dict[str, _Value]:
    """The same weights under the model's own names, where all of them stand behind one prefix.

    Raises:
        ModelError: the whole model is there behind several prefixes, as where an average is kept beside it.
    """
    compiled = not any(_COMPILED in key for key in expected) and any(_COMPILED in key for key in state)
    bare = {key.replace(_COMPILED, "") if compiled else key: value for key, value in state.items()}
    modules = [key.split(".")[:-1] for key in bare] or [[]]
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(modules), max(modules), strict=False))
    prefixes = ["", *itertools.accumulate(f"{part}." for part, _ in shared)]
    # The shortest of those under which most keys are the model's.
    prefix = max(prefixes, key=lambda p: sum(key.removeprefix(p) in expected for key in bare))
    if not any(key.removeprefix(prefix) in expected for key in bare):
        prefix, bare = _inner(bare, expected, path)
    removed = ([_COMPILED] if compiled else []) + ([prefix] if prefix else [])
    if removed:
        _log.warning("%s: taken off the keys: %s.", path, ", ".join(map(repr, removed)))
    return {key.removeprefix(prefix): value for key, value in bare.items()}


def _inner(state: Mapping[str, _Value], expected: Collection[str], path: Path) -> tuple[str, dict[str, _Value]]:
    """The prefix behind which the whole model is, beside other modules with a state, and what stands behind it."""
    first = next(iter(expected), "")
    prefixes = [key.removesuffix(first) for key in state if first and key.endswith(f".{first}")]
    whole = [prefix for prefix in prefixes if all(prefix + key in state for key in expected)]
    if len(whole) > 1:
        raise ModelError(
            f"{path}: the weights are there {len(whole)} times, behind {_some([repr(prefix) for prefix in whole])}. "
            "Save those that are meant alone: model.state_dict()."
        )
    if not whole:
        return "", dict(state)
    kept = {key: value for key, value in state.items() if key.startswith(whole[0])}
    others = [key for key in state if key not in kept]
    _log.warning("%s: %d keys beside the model's are left out: %s.", path, len(others), _some(others))
    return whole[0], kept


def misfit(
    spec: str,
    path: Path | str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Sequence[tuple[str, Sequence[int], Sequence[int]]],
) -> ModelError:
    """Weights that do not fit, in a few lines; `shapes` are (key, in the file, in the model)."""
    told = [
        f"{len(keys)} {kind} ({_some(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if shapes:
        pairs = [f"{key} {tuple(theirs)} where the model has {tuple(ours)}" for key, theirs, ours in shapes]
        told.append(f"{len(shapes)} of another shape ({_some(pairs)})")
    return ModelError(
        f"{path} does not fit {spec}. Of its keys, {'; '.join(told) or 'some cannot be loaded'}. Build the model as it "
        "was trained, with its number of classes and its sizes: FILE.py:callable can return any."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
