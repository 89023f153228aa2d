"""Data sets by name, as tensors in memory.

`load("digits")` needs no download; the others are read from files that the user has.  Nothing is fetched and
nothing is unpickled; of the forms below only FILE.py:callable executes anything.

Integer inputs are pixels: images are resized if asked, then normalised, channel by channel, with the mean and
standard deviation of the training part.  Floating-point inputs are taken as they are, since their owner has
prepared them.  A DataSet checks itself when it is made, so one that exists is not empty, is finite, and has
its labels in range.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from termwise.datafiles import Arrays, load_callable, read_cifar10, read_fashion_mnist, read_npz, read_tokens
from termwise.errors import DataError, UsageError
from termwise.sequences import ALPHABET, induction, least_loss

FORMS = {
    "digits": "UCI handwritten digits, part of the installation",
    "fashion-mnist[:DIR]": "Fashion-MNIST, four IDX files, gzipped or not",
    "cifar10[:DIR]": "CIFAR-10, binary version",
    "induction": "synthetic sequences of tokens that repeat themselves; the next token is the target",
    "tokens:FILE": "token numbers: .npy, or .bin of unsigned 16-bit numbers; the next token is the target",
    "FILE.npz": "arrays inputs and targets (or x and y), perhaps test_inputs and test_targets",
    "FILE.py:callable": "runs that file; the function returns a DataSet, or (inputs, targets)",
}
"""What `load` understands, and in a few words what it is: for help and messages."""

TEST_SHARE = 0.2
INDUCTION = (4096, 512)  # sequences for training and for testing


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """Inputs and class numbers for training and testing, checked and hashed when made.

    Attributes:
        name: short, as in `load(name)`.
        title: for people.
        attribution: who made the data, and under which licence.
        train_inputs: float32, shape (N, C, H, W) for images or (N, features); or token numbers, int64, shape (N, T).
        train_targets: int64, shape (N,), from 0 to `classes` - 1; for tokens the next ones, shape (N, T).
        test_inputs: as train_inputs, of the same shape but for N.
        test_targets: as train_targets.
        classes: number of classes.
        sha256: hash of types, shapes and bytes of the four tensors, in hexadecimal.

    Raises:
        DataError: a part is empty, not finite, of the wrong type or shape, or has labels out of range.
    """

    name: str
    title: str
    attribution: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        """Refuse bad data, then hash them."""
        parts = {
            "training": (self.train_inputs, self.train_targets),
            "test": (self.test_inputs, self.test_targets),
        }
        for part, (inputs, targets) in parts.items():
            _check(f"{self.name}, {part} part", inputs, targets, self.classes)
        if self.classes < 2:
            raise DataError(f"{self.name}: there is a single class in the targets; give at least two.")
        _check_alike(self.name, self.train_inputs, self.test_inputs)
        digest = hashlib.sha256()
        for tensor in (tensor for pair in parts.values() for tensor in pair):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        object.__setattr__(self, "sha256", digest.hexdigest())

    def __repr__(self) -> str:
        """One line: never the tensors."""
        shape = "x".join(str(n) for n in self.train_inputs.shape[1:])
        return (
            f"DataSet({self.name}: {len(self.train_inputs)} + {len(self.test_inputs)} samples of {shape}, "
            f"{self.classes} classes, sha256 {self.sha256[:12]})"
        )


def load(spec: str, *, size: int | None = None) -> DataSet:
    """The data set that `spec` names.

    Args:
        spec: one of the forms in `FORMS`.  A folder that is not given is looked for in $TERMWISE_DATA
            (itself, or its subfolder of that name), then in /usr/share/datasets.
        size: side in pixels to which images are resized, bilinearly; None leaves them as they are, but the
            digits, which are 8x8, become 16x16.  Of tokens, the length of a sequence (128; induction 32).

    Returns:
        The same bits for the same files and arguments.

    Raises:
        UsageError: the form is unknown or not available yet, or `size` does not fit.
        DataError: files are missing, damaged, or hold bad data.
    """
    if size is not None and size < 1:
        raise UsageError(f"load: size is {size}; give the side of the images in pixels, such as 16.")
    if spec.lower().endswith(".npz"):
        path = Path(spec).expanduser()
        return _assemble(path.stem, read_npz(path), size, title=path.name, attribution=f"the file {path.name}")
    if re.search(r"\.py(:|$)", spec):
        return _call(spec, size)
    name, _, rest = spec.partition(":")
    directory = Path(rest).expanduser() if rest else None
    if spec == "digits":
        return _digits(16 if size is None else size)
    if name == "fashion-mnist":
        return _fashion_mnist(directory, size)
    if name == "cifar10":
        return _cifar10(directory, size)
    if spec == "induction":
        return _induction(32 if size is None else size)
    if name == "tokens" and directory is not None:
        return _tokens(directory, size)
    raise UsageError(_unknown(spec, name))


def _unknown(spec: str, name: str) -> str:
    if name == "images":
        return (
            f"data {spec!r}: folders of images are not available yet; write FILE.npz, or FILE.py:callable with a "
            f"function that reads them and returns inputs and targets."
        )
    known = "\n".join(f"  {form:<22}{meaning}" for form, meaning in FORMS.items())
    near = difflib.get_close_matches(name, [form.partition("[")[0] for form in FORMS], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"data {spec!r} is none of the known forms.{hint}\n{known}"


# --- the named ones ---


def _digits(size: int) -> DataSet:
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())
    return _assemble(
        "digits",
        Arrays(bunch.images.astype(np.uint8), bunch.target),
        size,
        title=f"UCI handwritten digits, {size}x{size}",
        attribution=(
            "E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning "
            "Repository (1998), doi 10.24432/C50P49, CC BY 4.0; the 1,797 images that scikit-learn ships"
        ),
        classes=10,
    )


def _fashion_mnist(directory: Path | None, size: int | None) -> DataSet:
    return _assemble(
        "fashion-mnist",
        read_fashion_mnist(directory),
        size,
        title="Fashion-MNIST",
        attribution="H. Xiao, K. Rasul, R. Vollgraf, Zalando Research (2017), arXiv 1708.07747, MIT licence",
        classes=10,
    )


def _cifar10(directory: Path | None, size: int | None) -> DataSet:
    return _assemble(
        "cifar10",
        read_cifar10(directory),
        size,
        title="CIFAR-10",
        attribution="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009)",
        classes=10,
    )


def _tokens(path: Path, size: int | None) -> DataSet:
    """Sequences with the next token as target; the last fifth of them is held back."""
    sequences = read_tokens(path, 128 if size is None else size)
    held = max(1, round(TEST_SHARE * len(sequences)))
    if len(sequences) < 2:
        raise DataError(f"{path}: {len(sequences)} sequence(s) are too few to hold a fifth back; give a longer file.")
    parts = _next_tokens(sequences, held)
    return DataSet(path.stem, path.name, f"the file {path.name}", *parts, int(sequences.max()) + 1)


def _induction(length: int) -> DataSet:
    parts = _next_tokens(induction(length, INDUCTION[0] + INDUCTION[1]), INDUCTION[1])
    title = f"Induction, {length} tokens; the least possible loss is {least_loss(length):.3f} nats a token"
    return DataSet("induction", title, "drawn by Termwise itself", *parts, 2 * ALPHABET)


def _next_tokens(sequences: np.ndarray, held: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and targets for training, and those of the last `held` sequences."""
    tokens = torch.from_numpy(sequences)
    train, test = tokens[:-held], tokens[-held:]
    x, y, x_test, y_test = (part.contiguous() for half in (train, test) for part in (half[:, :-1], half[:, 1:]))
    return x, y, x_test, y_test


def _call(spec: str, size: int | None) -> DataSet:
    make = load_callable(spec)
    try:
        made = make()
    except Exception as error:
        raise DataError(f"{spec} fails when it is called: {type(error).__name__}: {error}") from error
    if isinstance(made, DataSet):
        if size is not None:
            raise UsageError(f"{spec} returns a DataSet, which is taken as it is: omit size.")
        return made
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise DataError(f"{spec} returns {type(made).__name__}; return a termwise.data.DataSet, or (inputs, targets).")
    name = spec.rpartition(":")[2]
    origin = f"the function {Path(spec).name}"
    return _assemble(name, Arrays(made[0], made[1]), size, title=name, attribution=origin)


# --- from arrays to a data set ---


def _assemble(
    name: str, arrays: Arrays, size: int | None, *, title: str, attribution: str, classes: int | None = None
) -> DataSet:
    """Split where there is no test part, resize, normalise; without `classes`, the largest label tells."""
    x, y = _inputs(name, arrays.inputs), _targets(name, arrays.targets)
    if len(x) != len(y):
        raise DataError(f"{name}: {len(x)} inputs and {len(y)} targets; give one class number a sample.")
    if len(x) == 0:
        raise DataError(f"{name} is empty: give at least one sample of each class.")
    if arrays.tests is None:
        train, test = _split(y)
        if len(test) == 0:
            raise DataError(
                f"{name}: {len(x)} samples are too few to hold a fifth of each class back; give a test part."
            )
        x, y, x_test, y_test = x[train], y[train], x[test], y[test]
    else:
        where = f"{name}, test part"
        x_test, y_test = _inputs(where, arrays.tests[0]), _targets(where, arrays.tests[1])
    x, x_test = _prepare(name, x, x_test, size)
    classes = int(y.max()) + 1 if classes is None else classes
    return DataSet(name, title, attribution, x, y, x_test, y_test, classes)


def _tensor(where: str, values: Any) -> Tensor:
    """Any array of real numbers as a tensor on the CPU; its type is kept, since integers mean pixels."""
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
    else:
        try:
            array = np.asarray(values)
            # torch shares memory only with arrays that are writable and of this machine's byte order
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            tensor = torch.from_numpy(np.require(native, requirements=["C", "W"]))
        except (TypeError, ValueError) as error:
            raise DataError(f"{where} are no array of numbers ({error}).") from error
    if tensor.is_complex():
        raise DataError(f"{where} are complex; give real numbers.")
    return tensor


def _inputs(where: str, values: Any) -> Tensor:
    """Raw inputs, (N, C, H, W) or (N, features); grey images (N, H, W) get their channel axis."""
    tensor = _tensor(f"{where}: inputs", values)
    shape = tuple(tensor.shape)
    if tensor.ndim < 2:
        raise DataError(f"{where}: inputs have the shape {shape}; give (N, C, H, W) or (N, features).")
    if tensor.ndim == 4 and shape[3] in (1, 3, 4) and shape[1] == shape[2] > 4:
        raise DataError(
            f"{where}: inputs of shape {shape} have their channels last; transpose them to (N, C, H, W) with "
            f"inputs.transpose(0, 3, 1, 2)."
        )
    return tensor.unsqueeze(1) if tensor.ndim == 3 else tensor


def _targets(where: str, values: Any) -> Tensor:
    """Class numbers as int64, (N,)."""
    tensor = _tensor(f"{where}: targets", values)
    if tensor.ndim != 1:
        raise DataError(f"{where}: targets have the shape {tuple(tensor.shape)}; give one class number a sample, (N,).")
    whole = tensor.to(torch.int64)
    if tensor.is_floating_point() and not torch.equal(whole.to(tensor.dtype), tensor):
        raise DataError(f"{where}: targets are not whole numbers; give class numbers.")
    return whole


def _split(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (train, test), in the order of the data: a fifth of every class, drawn, is for testing."""
    # RandomState and not default_rng: only the legacy stream is promised to stay the same in every numpy.
    random = np.random.RandomState(0)
    held = torch.zeros(len(targets), dtype=torch.bool)
    for label in targets.unique().tolist():
        members = (targets == label).nonzero()[:, 0]
        order = torch.from_numpy(random.permutation(len(members)))
        held[members[order[: round(TEST_SHARE * len(members))]]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def _prepare(where: str, train: Tensor, test: Tensor, size: int | None) -> tuple[Tensor, Tensor]:
    """Resize and, where the values are integers, normalise with the training part's moments."""
    pixels = not train.is_floating_point()
    if pixels == test.is_floating_point():
        raise DataError(
            f"{where}: training inputs are {train.dtype} and test inputs {test.dtype}; give both as integers "
            f"(pixels) or both as floating-point numbers."
        )
    _check_alike(where, train, test)
    train, test = (_resize(where, part.float(), size) for part in (train, test))
    if pixels and train.numel():
        mean, deviation = _moments(train)
        for part in (train, test):
            part.sub_(mean).div_(deviation)
    return train, test


def _resize(where: str, images: Tensor, size: int | None) -> Tensor:
    if size is None or images.shape[2:] == (size, size) or images.numel() == 0:
        return images
    if images.ndim != 4:
        raise UsageError(f"{where}: size is for images, and a sample has the shape {tuple(images.shape[1:])}: omit it.")
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def _moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, shapes (C, 1, ...), a constant channel's deviation being 1.

    Sums are taken in float64, where those of pixels are exact, so that their order cannot show in the result.
    """
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    total = torch.zeros(inputs.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in inputs.split(4096):
        values = chunk.double()
        total += values.sum(axes)
        squares += values.square_().sum(axes)
    count = inputs.numel() // inputs.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    deviation[deviation == 0] = 1.0
    shape = (-1, *(1 for _ in axes[1:]))
    return mean.float().view(shape), deviation.float().view(shape)


# --- checks ---


def _check(where: str, inputs: Tensor, targets: Tensor, classes: int) -> None:
    """Types, shapes, values and labels of one part of a DataSet."""
    if inputs.dtype == torch.int64 and targets.shape == inputs.shape:
        _check_tokens(where, inputs, targets, classes)
        return
    if inputs.dtype != torch.float32 or targets.dtype != torch.int64:
        raise DataError(
            f"{where}: inputs are {inputs.dtype} and targets {targets.dtype}; make them float32 and int64 "
            f"with .float() and .long()."
        )
    if inputs.ndim < 2 or targets.shape != inputs.shape[:1]:
        raise DataError(
            f"{where}: inputs have the shape {tuple(inputs.shape)} and targets {tuple(targets.shape)}; "
            f"they must be (N, ...) and (N,), one class number a sample."
        )
    if inputs.numel() == 0:
        raise DataError(f"{where} is empty (shape {tuple(inputs.shape)}): give at least one sample.")
    # A sum is finite only if all summands are, and in float64 it cannot overflow: no mask is needed.
    if not math.isfinite(inputs.sum(dtype=torch.float64).item()):
        bad = ~inputs.isfinite().flatten(1).all(1)
        raise DataError(
            f"{where}: {int(bad.sum())} of {len(inputs)} inputs hold NaN or infinity, the first is number "
            f"{int(bad.nonzero()[0])}: repair them or leave them out."
        )
    wrong = ((targets < 0) | (targets >= classes)).nonzero()[:, 0]
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{where}: label {int(targets[first])} of sample {first} is out of range, and so are "
            f"{len(wrong) - 1} more: class numbers go from 0 to {classes - 1}."
        )


def _check_tokens(where: str, inputs: Tensor, targets: Tensor, classes: int) -> None:
    if inputs.numel() == 0:
        raise DataError(f"{where} is empty (shape {tuple(inputs.shape)}): give at least one sequence.")
    low, high = (int(f(torch.stack((inputs, targets)))) for f in (torch.min, torch.max))
    if low < 0 or high >= classes:
        raise DataError(f"{where}: token numbers run from {low} to {high}; they must go from 0 to {classes - 1}.")


def _check_alike(where: str, train: Tensor, test: Tensor) -> None:
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{where}: a training input has the shape {tuple(train.shape[1:])} and a test input "
            f"{tuple(test.shape[1:])}; give both the same."
        )
