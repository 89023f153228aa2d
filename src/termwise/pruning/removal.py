"""The network with its members really gone: a plain module, and what is written of it.

In the place of a member stands an nn.Identity; where the model calls its members in a way that an nn.Identity does not
take, and in models of transformers, they are deleted from their nn.Sequential or nn.ModuleList, and what counts layers
is told (the configuration, its lists of one entry a layer, the numbers by which caches find a layer).  Nothing is taken
on trust: the result is run, and must give what the network gave in which the members were passed by.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from termwise.errors import ModelError, TermwiseError, UsageError, first_line
from termwise.expand import Output, call, pick_output
from termwise.pinning import pinned
from termwise.pruning import rebuild
from termwise.pruning.members import Member
from termwise.records import write_atomically
from termwise.seeds import owned_random

_EQUAL = 1e-6  # of the largest output
_PLAN = "plan.json"


def removed(
    whole: nn.Module, members: Sequence[Member], example: Any, expected: Tensor, *, output: Output = None
) -> tuple[nn.Module, bool]:
    """A copy of a network without some of its members.

    Args:
        whole: the network with all of its members.
        members: that are to go.
        example: an input.
        expected: the output for it of the network in which they were passed by.
        output: which tensor of the model's result.

    Returns:
        The copy, and whether an nn.Identity stands in the place of each member.

    Raises:
        ModelError: when neither way gives the expected output.
    """
    names = [member.name for member in members]
    told = []
    for identity in (False,) if _is_pretrained(whole) else (True, False):
        model = copy.deepcopy(whole)
        try:
            rebuild.take_out(model, names, identity=identity)
            _check(model, example, expected, output)
            if _is_pretrained(model):
                _check(_from_config(model, names), example, expected, output)
        except TermwiseError as error:
            told.append(str(error))
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
        else:
            return model, identity
    raise ModelError(
        f"prune: {', '.join(names)} cannot be taken out of the model's own code, which counts on them ({told[-1]}). "
        "Name others with blocks=."
    )


def _check(model: nn.Module, example: Any, expected: Tensor, output: Output) -> None:
    with pinned(model):
        y = pick_output(call(model, example), output)
    if y.shape != expected.shape:
        raise ModelError(f"the output is of shape {tuple(y.shape)}, not {tuple(expected.shape)}")
    off = float((y.double() - expected.double()).abs().max()) / max(float(expected.double().abs().max()), 1e-300)
    if not off <= _EQUAL:
        raise ModelError(f"the output is off by {off:.1e} of the largest")


def _is_pretrained(model: nn.Module) -> bool:
    return hasattr(model, "save_pretrained") and hasattr(model, "config")


def _from_config(model: Any, names: Sequence[str]) -> nn.Module:
    """What transformers makes of the configuration, with the weights of the model, which lacks the members `names`."""
    type(model.config).from_dict(model.config.to_dict())  # as it will be read
    with owned_random(0), torch.device("cpu"):
        twin = type(model)(copy.deepcopy(model.config))
    # A head that the model was made without is missing; whether it matters is seen in the output.
    found = twin.load_state_dict(model.state_dict(), strict=False)
    if found.unexpected_keys:
        raise ModelError(f"the configuration has no place for {found.unexpected_keys[0]}")
    containers = tuple(f"{name.rpartition('.')[0]}." for name in names)
    if more := [key for key in found.missing_keys if key.startswith(containers)]:
        raise ModelError(f"the configuration still counts the layer of {more[0]}")
    return twin.to(device=model.device, dtype=model.dtype).eval()


def check_place(directory: Path) -> None:
    """Refuse a place where a model cannot be written, or would be written over something else.

    Raises:
        UsageError: it is a file, or a directory that holds other things than an earlier plan.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: give the directory that the shortened model is to be written to.")
    if directory.is_dir() and any(directory.iterdir()) and not (directory / _PLAN).is_file():
        raise UsageError(f"{directory} holds other files, which might be overwritten: give a new or empty directory.")


def write(model: nn.Module, directory: Path, plan: dict[str, Any]) -> None:
    """The model and what is needed to build it: by transformers alone, or with the architecture that it was made of.

    Args:
        model: without its members.
        directory: is made.
        plan: what `plan.json` says; for `rebuild` at least the names "removed" and whether "identity" stands there.

    Raises:
        UsageError: see `check_place`; or the directory cannot be made.
    """
    check_place(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory} cannot be made ({first_line(error)}): give another place.") from error
    text = json.dumps(plan, indent=1) + "\n"
    write_atomically(directory / _PLAN, lambda file: file.write(text.encode()))
    if _is_pretrained(model):
        saved: Any = model
        saved.save_pretrained(directory)
        return
    save_model(model, str(directory / "model.safetensors"))
    shutil.copyfile(rebuild.__file__, directory / "rebuild.py")
