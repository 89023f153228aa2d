"""Models larger than memory: every module's weights are read from their file when it runs, and let go of after it.

The model is built with its parameters on the meta device, where they have a shape and no numbers; its buffers, which
are small, are real, and those that the file holds are read at once.  Only .safetensors files can be read in parts.
A parameter is read in the file's type and converted to the model's: sixteen bits in the file are exact in float32.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from termwise.errors import DataError, ModelError, UsageError, first_line
from termwise.weights import fit_weights, stripped

INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_INSIDE = (nn.ParameterList, nn.ParameterDict)  # never run: who holds them takes their parameters

_log = logging.getLogger(__name__)


class FileWeights(Mapping[str, Tensor]):
    """The weights in .safetensors files by their key, each read anew whenever it is asked for.

    Attributes:
        shapes: of every weight, by its key, from the headers of the files alone.
        types: of every weight, as the format calls them ("BF16").
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers.

        Raises:
            UsageError: a file is of another format.
            DataError: a file is missing, damaged or cut short, or two hold the same key.
        """
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        for file in files:
            with _opened(file) as content:
                for key in content.keys():  # noqa: SIM118 (it is no dictionary)
                    if key in self._files:
                        raise DataError(f"{key!r} is in two files of weights, {self._files[key]} and {file}.")
                    part = content.get_slice(key)
                    self._files[key] = file
                    self.shapes[key], self.types[key] = tuple(part.get_shape()), part.get_dtype()

    def __getitem__(self, key: str) -> Tensor:
        """Read one weight.

        Raises:
            DataError: the file has changed since its header was read.
            ModelError: the weight holds NaN or infinite values.
        """
        file = self._files[key]
        with _opened(file) as content:
            tensor = content.get_tensor(key)
        if tuple(tensor.shape) != self.shapes[key]:
            raise DataError(f"{file} was changed while it was read: {key!r} has another shape. Load the model again.")
        # The least and the greatest value tell, and need no memory.
        bounds = tensor.aminmax() if tensor.is_floating_point() and tensor.numel() else ()
        if not all(bool(torch.isfinite(bound)) for bound in bounds):
            raise ModelError(
                f"'{key}' in {file} holds values that are NaN or infinite. The training may have diverged; load an "
                "earlier checkpoint."
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if not file.is_file():
        raise DataError(f"{file}: there is no such file of weights.")
    if file.suffix != ".safetensors":
        raise UsageError(f"{file}: --lazy-weights reads parts of a file, which only .safetensors files allow.")
    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except SafetensorError as error:
        raise DataError(f"{file}: not readable as weights ({first_line(error)}).") from error


def weight_files(directory: Path) -> list[Path]:
    """The files of weights in a directory that model.save_pretrained wrote: one, or those that its index names.

    Raises:
        DataError: there is none, or the index is damaged or names a file that is not there.
    """
    index = directory / INDEX
    if (single := directory / "model.safetensors").is_file():
        return [single]
    if not index.is_file():
        raise DataError(
            f"{directory} holds neither model.safetensors nor {INDEX}; give the file: --weights FILE.safetensors."
        )
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{index}: not readable as an index of weights ({first_line(error)}).") from error
    if strange := [name for name in names if not isinstance(name, str)]:
        raise DataError(f"{index}: not readable as an index of weights ({strange[0]!r} is no name of a file).")
    absent = [name for name in names if Path(name).name != name or not (directory / name).is_file()]
    if absent:
        raise DataError(
            f"{index} names {len(absent)} of {len(names)} files that are not in {directory} ({absent[0]}, ...); "
            "fetch them again."
        )
    return [directory / name for name in names]


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Whatever module is built meanwhile has its parameters on the meta device, shared ones shared; buffers are real.

    Building in `torch.device("meta")` would lose the buffers that no file holds (tables of positions, masks).
    """
    register = nn.Module.register_parameter
    blank: Any = WeakTensorKeyDictionary()  # what a parameter that is registered twice became the first time

    def registered(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            if param not in blank:
                blank[param] = nn.Parameter(param.detach().to("meta"), param.requires_grad)
            param = blank[param]
        register(self, name, param)

    nn.Module.register_parameter = registered
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def read_when_run(model: nn.Module, weights: FileWeights, spec: str, path: Path, *, base: str | None = None) -> None:
    """Have every module of a model that was built `without_weights` read its weights when it runs.

    Args:
        model: its buffers receive what the file holds of them at once.
        weights: the files.
        spec: the model's name in messages.
        path: the file's or the directory's name in messages.
        base: of a model of transformers, the name of the part that a file without a head begins in; such files may
            hold more than the model has use for, which is logged.

    Raises:
        ModelError: keys are missing, unexpected, of another shape or no floating-point numbers.
    """
    expected = model.state_dict()
    keys = stripped({key: key for key in weights}, expected, path)
    if base is not None:
        keys = {_under(name, base, expected): key for name, key in keys.items()}
        if unused := [name for name in keys if name not in expected]:
            _log.warning("%s has no use for %d of the weights (%s, ...).", spec, len(unused), unused[0])
        keys = {name: key for name, key in keys.items() if name in expected}
    _share(model, keys)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    _check_types(weights, [key for name, key in keys.items() if name in parameters], spec, path)
    # Parameters as shapes alone, buffers with their numbers: the model's own loading checks all of it.
    state = {
        name: weights[key] if name in expected and name not in parameters else _shape(weights.shapes[key])
        for name, key in keys.items()
    }
    fit_weights(model, state, spec, path)
    for prefix, module in model.named_modules():
        if places := list(_parameters_of(module, f"{prefix}." if prefix else "")):
            _Reader(places, weights, keys).attach(module)


def _under(name: str, base: str, expected: Mapping[str, Tensor]) -> str:
    """The model's name of a weight in a file of the bare model, or of the model with its head."""
    tried = (name, f"{base}.{name}", name.removeprefix(f"{base}."))
    return next((known for known in tried if known in expected), name)


def _share(model: nn.Module, keys: dict[str, str]) -> None:
    """Weights under several names are in most files once: give every name the key."""
    first: dict[int, str] = {}
    named = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in named:
        if name in keys:
            first.setdefault(id(parameter), keys[name])
    for name, parameter in named:
        if name not in keys and id(parameter) in first:
            keys[name] = first[id(parameter)]


def _check_types(weights: FileWeights, keys: Sequence[str], spec: str, path: Path) -> None:
    strange = [key for key in keys if weights.types[key] not in _FLOATS]
    if strange:
        raise ModelError(
            f"{path} does not fit {spec}: {len(strange)} of its weights are quantised or no floating-point numbers "
            f"({strange[0]} is {weights.types[strange[0]]}). Profile the model as it was before."
        )


def _shape(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta")


_Place = tuple[nn.Module, str, str]  # a module, the parameter's name in it, and its name in the model


def _parameters_of(module: nn.Module, prefix: str) -> Iterator[_Place]:
    """The parameters that a module uses when it runs: its own, and those of children that never run."""
    if isinstance(module, _INSIDE):
        return
    yield from ((module, name, prefix + name) for name, p in module._parameters.items() if p is not None)
    for label, child in module.named_children():
        if isinstance(child, _INSIDE) or isinstance(module, nn.MultiheadAttention):
            held = child.named_parameters(recurse=False)
            yield from ((child, name, f"{prefix}{label}.{name}") for name, _ in held)


class _Reader:
    """The hooks of one module: its weights are there while it runs, and at no other time."""

    def __init__(self, places: Sequence[_Place], weights: FileWeights, keys: Mapping[str, str]) -> None:
        self._places = [(owner, name, keys[full], owner.get_parameter(name)) for owner, name, full in places]
        self._weights = weights

    def attach(self, module: nn.Module) -> None:
        # Before all other hooks, some of which compute with the weights; and let go of after an error, too.
        module.register_forward_pre_hook(self._read, prepend=True)
        module.register_forward_hook(self._let_go, always_call=True)
        for owner, *_ in self._places:
            vars(owner)["_weights_in_file"] = True  # for `termwise.pinning`: no numbers yet is no fault here

    def _read(self, module: nn.Module, args: Any) -> None:
        for owner, name, key, blank in self._places:
            tensor = self._weights[key].to(blank.dtype)
            owner._parameters[name] = nn.Parameter(tensor, requires_grad=blank.requires_grad)

    def _let_go(self, module: nn.Module, args: Any, output: Any) -> None:
        for owner, name, _, blank in self._places:
            owner._parameters[name] = blank
