"""A model and its inputs brought together, for the command: device, channels, and a first try with one sample.

Whether the shapes fit is known only by running the model, so that is what is done; what the model was made for, as far
as it or its library tells, then goes into the message.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from typing import Any

import torch
from torch import Tensor, nn

from termwise.data import DataSet
from termwise.errors import DataError, ModelError, TermwiseError, UsageError
from termwise.pinning import home, pinned

_AXES = {nn.Conv1d: ("length",), nn.Conv2d: ("height", "width"), nn.Conv3d: ("frames", "height", "width")}
Axes = tuple[int | str, ...]

_log = logging.getLogger(__name__)


def device_of(name: str) -> torch.device:
    """The device called cpu, cuda, cuda:1 or mps.

    Raises:
        UsageError: there is no such device on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device is None or device.type not in counts:
        raise UsageError(f"--device {name}: expected cpu, cuda, cuda:1 or mps.")
    if (device.index or 0) >= counts[device.type]:
        here = [f"{count} x cuda" if kind == "cuda" else kind for kind, count in counts.items() if count]
        raise UsageError(f"--device {name} is not available: PyTorch finds {' and '.join(here)} on this machine.")
    return device


def place(model: Any, device: torch.device) -> Any:
    """The model on that device, where `profile` then takes the batches.

    Raises:
        ModelError: it is no nn.Module, and cannot be moved.
    """
    if isinstance(model, nn.Module):
        return model.to(device)
    if device.type != "cpu":
        raise ModelError(f"--device {device}: a {type(model).__name__} cannot be moved there; return an nn.Module.")
    return model


def shaped(data: DataSet, channels: int | None) -> DataSet:
    """The data set with the one channel of its grey images repeated so often; None: as they come.

    Raises:
        UsageError: the inputs are no such images.
    """
    if channels is None:
        return data
    parts = {part: repeat_channels(getattr(data, part), channels) for part in ("train_inputs", "test_inputs")}
    return dataclasses.replace(data, **parts)


def repeat_channels(images: Tensor, channels: int) -> Tensor:
    """Single-channel images (N, 1, H, W) with that channel repeated.

    Raises:
        UsageError: the inputs are no such images.
    """
    if images.ndim != 4 or images.shape[1] != 1 or channels < 1:
        raise UsageError(
            f"--channels {channels}: the one channel of grey images can be repeated, and a sample here is "
            f"{_size(tuple(images.shape[1:]))}; omit it."
        )
    return images.expand(-1, channels, -1, -1)


def example(model: Any, spec: str, shape: str | None, device: torch.device) -> Any:
    """A made-up input of one sample for a dry run: noise, or tokens for a model of transformers that takes them.

    Args:
        model: the model.
        spec: its name, as in `termwise.models.load_model`.
        shape: of the sample, such as "3x224x224"; None for the one that the model was made for.
        device: where it is wanted.

    Raises:
        UsageError: the shape is none, or the model does not tell the one that it wants.
    """
    generator = torch.Generator().manual_seed(0)
    if shape is not None:
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
            raise UsageError(f"--shape {shape}: write the lengths of one sample's axes, such as 3x224x224.")
        return torch.randn(1, *map(int, shape.split("x")), generator=generator).to(device)
    if getattr(model, "main_input_name", None) == "input_ids":
        tokens = torch.randint(model.config.get_text_config().vocab_size, (1, 16), generator=generator).to(device)
        decoded = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        return {"input_ids": tokens, **decoded}
    wanted = _wanted(model, spec) or ()
    lengths = [length for length in wanted if isinstance(length, int)]
    if not lengths or len(lengths) < len(wanted):
        raise UsageError(
            f"{spec} does not tell the shape of its input. Say it: --shape 3x224x224 (one sample, without the batch)."
        )
    return torch.randn(1, *lengths, generator=generator).to(device)


def check_input(model: Any, sample: Tensor, spec: str, data: str) -> None:
    """Run one sample through the model as it is, and refuse what it cannot take with the shape that it wants.

    Args:
        model: left as found.
        sample: one sample with its batch axis.
        spec: the model's name.
        data: the data's name.

    Raises:
        DataError: the sample has another shape than the model wants.
        ModelError: the model fails on it, and the shape is not known to be why.
    """
    device = home(model)
    given = tuple(sample.shape[1:])
    # Tokens and other numbers without axes may meet a convolution on the way, but not as they are.
    wanted = _wanted(model, spec) if sample.is_floating_point() else None
    try:
        with pinned(model):
            model(sample if device is None else sample.to(device))
    except TermwiseError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {lines[0] if lines else ''}"
        if wanted is not None and not _matches(given, wanted):
            raise DataError(
                f"{spec} takes inputs of {_size(wanted)}, and a sample of {data} is {_size(given)}"
                f"{_advice(given, wanted)} ({why})"
            ) from error
        hint = "" if sample.is_floating_point() else ". Is the sequence too long for it? --size N shortens it."
        raise ModelError(f"{spec} fails on one sample of {data}, which is {_size(given)}: {why}{hint}") from error
    # It runs: where so much as the channels differ, that convolution is not what the input meets first.
    if wanted is not None and len(given) == len(wanted) and given[0] == wanted[0] and not _matches(given, wanted):
        given_and_made_for = (_size(given), _size(wanted))
        _log.warning(
            "%s is run on inputs of %s, but was made for %s%s", spec, *given_and_made_for, _advice(given, wanted)
        )


def _wanted(model: Any, spec: str) -> Axes | None:
    """The shape of a sample as the model tells it; names stand for lengths that are free or not known."""
    if not isinstance(model, nn.Module):
        return None
    first: Any = next((m for m in model.modules() if isinstance(m, tuple(_AXES))), None)
    axes = next((a for kind, a in _AXES.items() if isinstance(first, kind)), None)
    if first is None or axes is None:
        return None
    height, width = _pixels(model, spec)
    named = {"height": height, "width": width}
    return (first.in_channels, *(named.get(axis) or axis for axis in axes))


def _pixels(model: Any, spec: str) -> tuple[int | None, int | None]:
    """Height and width that the model was made for."""
    kind, _, name = spec.partition(":")
    if kind == "timm":
        return tuple(model.pretrained_cfg["input_size"][1:])
    size = None
    if kind == "torchvision":
        import torchvision

        preparation = torchvision.models.get_model_weights(name)["DEFAULT"].transforms
        size = getattr(preparation, "keywords", {}).get("crop_size")
    elif kind == "hf":
        config = model.config
        size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if isinstance(size, (tuple, list)):
        return size[0], size[-1]
    return (size, size) if isinstance(size, int) else (None, None)


def _matches(given: tuple[int, ...], wanted: Axes) -> bool:
    return len(given) == len(wanted) and all(isinstance(w, str) or g == w for g, w in zip(given, wanted, strict=True))


def _advice(given: tuple[int, ...], wanted: Axes) -> str:
    """What to type, for images."""
    if len(given) != 3 or len(wanted) != 3:
        return "."
    options = []
    if isinstance(wanted[1], int) and wanted[1] == wanted[2] and given[1:] != wanted[1:]:
        options.append(f"--size {wanted[1]}")
    if given[0] == 1 and wanted[0] != 1:
        options.append(f"--channels {wanted[0]}")
    return f": write {' '.join(options)}." if options else "."


def _size(shape: Axes) -> str:
    return "x".join(str(n) for n in shape) or "a single number"
