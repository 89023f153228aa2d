"""Files of the user, read with care: IDX, CIFAR-10's binary format, .npz, and functions in Python files.

Readers return plain arrays; what they mean is told by `termwise.data`.  Nothing is fetched and nothing is
unpickled; only `load_callable` executes anything.  A file that is not as long as it says is refused by name,
with the bytes expected and the bytes found.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from termwise.errors import DataError, UsageError

CHUNK = 1 << 20
SYSTEM_FOLDER = Path("/usr/share/datasets")
CIFAR_IMAGES = 10_000  # in each of the six files
CIFAR_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes


class Arrays(NamedTuple):
    """Inputs and targets as a file holds them, and perhaps a test part."""

    inputs: Any
    targets: Any
    tests: tuple[Any, Any] | None = None


class Source(NamedTuple):
    """A data set that comes as files in a folder."""

    name: str
    title: str
    page: str  # where it can be downloaded
    inner: str  # the folder in which its archive, or another library, puts the files
    files: tuple[tuple[str, ...], ...]  # each under one of its names


FASHION_MNIST = Source(
    "fashion-mnist",
    "Fashion-MNIST",
    "https://github.com/zalandoresearch/fashion-mnist",
    "FashionMNIST/raw",
    tuple(
        (f"{stem}-ubyte.gz", f"{stem}-ubyte")
        for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ),
)
CIFAR10 = Source(
    "cifar10",
    "CIFAR-10 (binary version)",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    "cifar-10-batches-bin",
    (*((f"data_batch_{n}.bin",) for n in range(1, 6)), ("test_batch.bin",)),
)


def find_files(source: Source, directory: Path | None = None) -> list[Path]:
    """The files of `source`, from the first folder that holds any of them.

    Args:
        source: what is looked for.
        directory: the only place to look in; without it, $TERMWISE_DATA, its subfolder of the source's name,
            then that subfolder of /usr/share/datasets.

    Raises:
        DataError: no folder holds any, or the one that does lacks some.
    """
    places = _places(source.name, directory)
    for folder in (folder for place in places for folder in (place, place / source.inner)):
        found = [next((folder / n for n in names if (folder / n).is_file()), None) for names in source.files]
        missing = [names[0] for names, path in zip(source.files, found, strict=True) if path is None]
        if any(found) and missing:
            raise DataError(
                f"{folder}: {len(missing)} of the {len(found)} files of {source.title} are missing: "
                f"{', '.join(missing)}. Get them from {source.page}"
            )
        if not missing:
            return [path for path in found if path is not None]
    raise DataError(
        f"{source.title} is not in {' or '.join(str(place) for place in places)}. Download its files from "
        f"{source.page} and name their folder: {source.name}:DIR, or TERMWISE_DATA=DIR."
    )


def _places(name: str, directory: Path | None) -> list[Path]:
    if directory is not None:
        return [directory]
    root = os.environ.get("TERMWISE_DATA")
    given = [Path(root).expanduser(), Path(root).expanduser() / name] if root else []
    return [*given, SYSTEM_FOLDER / name]


def _wrong_size(path: Path, expected: int, found: int | str, why: str = "") -> str:
    return f"{path}: {expected} bytes expected, {found} found{why}: the file is damaged, get it again."


def read_fashion_mnist(directory: Path | None = None) -> Arrays:
    """Images (N, 28, 28) and labels (N,), bytes.

    Raises:
        DataError: files are missing or damaged.
    """
    images, labels, test_images, test_labels = (
        read_idx(path, axes) for path, axes in zip(find_files(FASHION_MNIST, directory), (3, 1, 3, 1), strict=True)
    )
    return Arrays(images, labels, (test_images, test_labels))


def read_idx(path: Path, axes: int) -> np.ndarray:
    """An IDX file of unsigned bytes (the format of MNIST), gzipped where its name ends in .gz.

    Args:
        path: the file.
        axes: how many it must have: 3 for images (N, H, W), 1 for labels (N,).

    Raises:
        DataError: the file is no such thing, or not as long as its header says.
    """
    content, damage = bytearray(), ""
    header = expected = 4 + 4 * axes
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # read1 hands out what is there before it complains about the rest: the message can count it
            while len(content) <= expected and (piece := file.read1(CHUNK)):
                content += piece
                if len(content) >= header:
                    expected = header + math.prod(_idx_shape(path, content, axes))
    except (OSError, EOFError, zlib.error) as error:
        damage = f" ({error})"
    if damage or len(content) != expected:
        found = f"more than {expected}" if len(content) > expected else len(content)
        raise DataError(_wrong_size(path, expected, found, damage))
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(_idx_shape(path, content, axes))


def _idx_shape(path: Path, content: bytearray, axes: int) -> list[int]:
    """The lengths of the axes, which follow two zeros, the type (8: bytes) and the number of axes."""
    begins, wanted = bytes(content[:4]), bytes([0, 0, 8, axes])
    if begins != wanted:
        raise DataError(
            f"{path}: an IDX file of bytes with {axes} axes begins with {wanted.hex(' ')}, this one with "
            f"{begins.hex(' ')}: get it again."
        )
    return np.frombuffer(bytes(content[4 : 4 + 4 * axes]), dtype=">u4").tolist()


def read_cifar10(directory: Path | None = None) -> Arrays:
    """Images (N, 3, 32, 32) and labels (N,), bytes.

    Raises:
        DataError: files are missing or damaged.
    """
    records = []
    for path in find_files(CIFAR10, directory):
        expected, found = CIFAR_IMAGES * CIFAR_RECORD, path.stat().st_size
        if found != expected:
            raise DataError(_wrong_size(path, expected, found))
        records.append(np.fromfile(path, dtype=np.uint8).reshape(-1, CIFAR_RECORD))
    (x, y), tests = (
        (part[:, 1:].reshape(-1, 3, 32, 32), part[:, 0]) for part in (np.concatenate(records[:-1]), records[-1])
    )
    return Arrays(x, y, tests)


TRAIN_KEYS = (("inputs", "targets"), ("x", "y"), ("train_inputs", "train_targets"), ("x_train", "y_train"))
TEST_KEYS = (("test_inputs", "test_targets"), ("x_test", "y_test"))


def read_npz(path: Path) -> Arrays:
    """The arrays of an .npz file, under any of the pairs of names in TRAIN_KEYS and TEST_KEYS.

    Raises:
        DataError: there is no such file, it is damaged, holds objects, or lacks an array.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the path of an .npz file.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no .npz file (or a damaged one): save it again with numpy.savez.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            train, test = (_keys(path, archive.files, pairs) for pairs in (TRAIN_KEYS, TEST_KEYS))
            if train is None:
                raise DataError(
                    f"{path} holds {', '.join(archive.files) or 'nothing'}; it needs the arrays inputs and "
                    f"targets, or x and y."
                )
            tests = (archive[test[0]], archive[test[1]]) if test else None
            return Arrays(archive[train[0]], archive[train[1]], tests)
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}): save it again with numpy.savez."
        ) from error


def read_tokens(path: Path, length: int) -> np.ndarray:
    """Sequences of token numbers, int64, shape (N, length + 1), of which neighbours share one token.

    A file of two dimensions holds sequences already and is taken as it is; what is left of a stream is dropped.

    Raises:
        DataError: there is no such file, it is damaged, too short, or holds no whole numbers.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give an .npy file of token numbers, or a .bin file of 16-bit ones.")
    try:
        tokens = np.fromfile(path, dtype="<u2") if path.suffix == ".bin" else np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an .npy file ({error}): save it again with numpy.save.") from error
    if not isinstance(tokens, np.ndarray) or tokens.dtype.kind not in "iu" or tokens.ndim not in (1, 2):
        raise DataError(f"{path}: expected whole numbers of one dimension (a stream) or two (sequences, tokens).")
    tokens = tokens.astype(np.int64)
    if tokens.ndim == 2:
        return tokens
    count = (len(tokens) - 1) // length
    if count < 1:
        raise DataError(f"{path}: {len(tokens)} tokens are too few for one sequence of {length} and its next token.")
    return np.stack([tokens[i * length : (i + 1) * length + 1] for i in range(count)])


def _keys(path: Path, present: Sequence[str], pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The first pair of which anything is there, which must then be both."""
    for pair in pairs:
        missing = [key for key in pair if key not in present]
        if len(missing) == 1:
            raise DataError(f"{path} holds {', '.join(present)}: the array {missing[0]} is missing, add it.")
        if not missing:
            return pair
    return None


def load_callable(spec: str) -> Callable[..., Any]:
    """Run the file of FILE.py:callable and return what it calls `callable`.

    The file is executed as a module of its own, with its folder first on the import path meanwhile.

    Raises:
        UsageError: the form is wrong, there is no such file or callable, or the file fails when run.
    """
    match = re.fullmatch(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)", spec)
    if match is None:
        raise UsageError(f"{spec!r} names no function: write FILE.py:callable, such as mine.py:build.")
    path, name = Path(match["file"]).expanduser(), match["name"]
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give the path of a Python file in {spec!r}.")
    # A name that no import can reach, so that a user's json.py hides nothing.
    module_name = f"termwise file {path.resolve()}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec is not None and module_spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise UsageError(f"{path} fails when it is run: {type(error).__name__}: {error}") from error
    finally:
        if folder in sys.path:  # unless the file itself took it away
            sys.path.remove(folder)
    made = getattr(module, name, None)
    if not callable(made):
        found = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
        raise UsageError(f"{path} has no function {name!r}; it has {', '.join(found) or 'none'}.")
    return cast(Callable[..., Any], made)
