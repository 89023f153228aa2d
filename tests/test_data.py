"""Data sets: their formats written here by hand, and everything that can be wrong with them."""

import gzip
import hashlib
import itertools
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from termwise import datafiles
from termwise.data import DataSet, load
from termwise.datafiles import load_callable, read_idx
from termwise.errors import DataError, UsageError
from termwise.sequences import induction, least_loss

FASHION = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data set of this machine is found by accident."""
    monkeypatch.delenv("TERMWISE_DATA", raising=False)
    monkeypatch.setattr(datafiles, "SYSTEM_FOLDER", tmp_path / "system")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, zipped: bool = True, train: int = 40, test: int = 20) -> dict[str, np.ndarray]:
    """A tiny Fashion-MNIST of random pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(1)
    arrays = {
        FASHION[0]: random.randint(0, 256, (train, 28, 28)),
        FASHION[1]: np.arange(train) % 10,
        FASHION[2]: random.randint(0, 256, (test, 28, 28)),
        FASHION[3]: np.arange(test) % 10,
    }
    for stem, array in arrays.items():
        content = idx(array)
        path = folder / f"{stem}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return arrays


def write_cifar(folder: Path, images: int) -> None:
    folder.mkdir(parents=True)
    random = np.random.RandomState(2)
    for name in [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]:
        labels = (np.arange(images) % 10)[:, None]
        planes = random.randint(0, 256, (images, 3072))
        (folder / name).write_bytes(np.hstack([labels, planes]).astype(np.uint8).tobytes())


def data_set(**changes: Any) -> DataSet:
    fields: dict[str, Any] = {
        "name": "mine",
        "title": "Mine",
        "attribution": "me",
        "train_inputs": torch.randn(6, 1, 4, 4),
        "train_targets": torch.tensor([0, 1, 2, 0, 1, 2]),
        "test_inputs": torch.randn(3, 1, 4, 4),
        "test_targets": torch.tensor([0, 1, 2]),
        "classes": 3,
    }
    return DataSet(**(fields | changes))


# --- the embedded one ---


def test_digits() -> None:
    data = load("digits")
    assert data.train_inputs.shape == (1438, 1, 16, 16) and data.test_inputs.shape == (359, 1, 16, 16)
    assert data.train_inputs.dtype == torch.float32 and data.train_targets.dtype == torch.int64
    assert data.classes == 10 and "Alpaydin" in data.attribution and data.name == "digits"
    assert data.train_inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.train_inputs.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.bincount(data.test_targets).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_digits_are_those_of_scikit_learn_each_once() -> None:
    raw: Any = load_digits()
    data = load("digits", size=8)
    pixels = torch.cat([data.train_inputs, data.test_inputs]).flatten(1)
    # Undo the normalisation: pixels are whole numbers from 0 to 16.
    low, high = pixels.min(), pixels.max()
    pixels = ((pixels - low) / (high - low) * 16).round().long()
    labels = torch.cat([data.train_targets, data.test_targets])
    found = sorted((*row.tolist(), label) for row, label in zip(pixels, labels.tolist(), strict=True))
    expected = sorted((*row.astype(int).tolist(), int(label)) for row, label in zip(raw.data, raw.target, strict=True))
    assert found == expected


def test_digits_have_the_same_bits_every_time() -> None:
    first, second = load("digits"), load("digits")
    assert first.sha256 == second.sha256
    assert first.sha256 != load("digits", size=8).sha256
    # What the manifest of a run compares: a change of split, resizing or normalisation must be deliberate.
    assert first.sha256 == "9d7d8167c2417b60c9b0c72bc127760f8014bfe3504daa0956f938d1d3a2f113"


def test_hash_is_that_of_types_shapes_and_bytes() -> None:
    data = data_set()
    digest = hashlib.sha256()
    for tensor in (data.train_inputs, data.train_targets, data.test_inputs, data.test_targets):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode() + tensor.numpy().tobytes())
    assert data.sha256 == digest.hexdigest()


def test_a_data_set_prints_one_line() -> None:
    assert repr(load("digits")).startswith("DataSet(digits: 1438 + 359 samples of 1x16x16, 10 classes, sha256 ")


# --- directories ---


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_from_a_directory(tmp_path: Path, zipped: bool) -> None:
    arrays = write_fashion(tmp_path / "f", zipped)
    data = load(f"fashion-mnist:{tmp_path / 'f'}")
    raw, raw_test = (torch.from_numpy(arrays[FASHION[part]]).double() for part in (0, 2))
    expected = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(data.train_inputs[:, 0].double(), expected, rtol=0, atol=1e-6)
    test = (raw_test - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(data.test_inputs[:, 0].double(), test, rtol=0, atol=1e-6)
    assert data.train_targets.tolist() == arrays[FASHION[1]].tolist()
    assert "MIT" in data.attribution


def test_images_are_resized(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    assert load(f"fashion-mnist:{tmp_path}", size=16).test_inputs.shape == (20, 1, 16, 16)
    with pytest.raises(UsageError, match="size is 0"):
        load("digits", size=0)


@pytest.mark.parametrize("inner", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_directories_are_found_through_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    write_fashion(tmp_path / "root" / inner)
    monkeypatch.setenv("TERMWISE_DATA", str(tmp_path / "root"))
    assert len(load("fashion-mnist").train_inputs) == 40


def test_the_system_folder_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion(tmp_path / "system" / "fashion-mnist", train=10)
    assert len(load("fashion-mnist").train_inputs) == 10
    write_fashion(tmp_path / "mine", train=30)
    monkeypatch.setenv("TERMWISE_DATA", str(tmp_path / "mine"))
    assert len(load("fashion-mnist").train_inputs) == 30
    with pytest.raises(DataError, match=r"Fashion-MNIST is not in .*elsewhere"):
        load(f"fashion-mnist:{tmp_path / 'elsewhere'}")


@pytest.mark.parametrize(
    ("spec", "page"),
    [("fashion-mnist", "zalandoresearch/fashion-mnist"), ("cifar10", "cs.toronto.edu/~kriz")],
)
def test_absent_data_name_the_download_page(spec: str, page: str) -> None:
    with pytest.raises(DataError, match=f"{page}.*{spec}:DIR, or TERMWISE_DATA=DIR"):
        load(spec)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"2 of the 4 files.*train-labels.*t10k-labels.*zalandoresearch"):
        load(f"fashion-mnist:{tmp_path}")


def test_half_an_idx_file(tmp_path: Path) -> None:
    write_fashion(tmp_path, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"train-images.*{16 + 40 * 784} bytes expected, {len(content) // 2} found"):
        load(f"fashion-mnist:{tmp_path}")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_gzip(tmp_path: Path, share: float) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"t10k-images.*bytes expected, \d+ found"):
        load(f"fashion-mnist:{tmp_path}")


def test_a_truncated_gzip_counts_what_could_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    pixels = np.random.RandomState(0).randint(0, 256, (4000, 28, 28))  # more than one piece
    packed = gzip.compress(idx(pixels), compresslevel=1)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError) as caught:
        read_idx(path, 3)
    expected, found = (int(word) for word in str(caught.value).split() if word.isdigit())
    assert expected == 16 + pixels.size
    assert 0.3 * expected < found < 0.7 * expected


def test_a_corrupt_gzip(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"train-images.*damaged"):
        load(f"fashion-mnist:{tmp_path}")


def test_bytes_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(idx(np.arange(5)) + b"x")
    with pytest.raises(DataError, match="13 bytes expected, more than 13 found"):
        read_idx(path, 1)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    write_fashion(tmp_path, zipped=False)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.arange(100)))
    with pytest.raises(DataError, match="begins with 00 00 08 03, this one with 00 00 08 01"):
        load(f"fashion-mnist:{tmp_path}")


def test_images_and_labels_of_different_number(tmp_path: Path) -> None:
    write_fashion(tmp_path, zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(39) % 10))
    with pytest.raises(DataError, match="40 inputs and 39 targets"):
        load(f"fashion-mnist:{tmp_path}")


def test_labels_out_of_range(tmp_path: Path) -> None:
    write_fashion(tmp_path, zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(40)))
    with pytest.raises(DataError, match=r"label 10 of sample 10 is out of range, and so are 29 more.*0 to 9"):
        load(f"fashion-mnist:{tmp_path}")


def test_an_empty_idx_file(tmp_path: Path) -> None:
    write_fashion(tmp_path, train=0)
    with pytest.raises(DataError, match="fashion-mnist is empty"):
        load(f"fashion-mnist:{tmp_path}")
    write_fashion(tmp_path, test=0)
    with pytest.raises(DataError, match="test part is empty"):
        load(f"fashion-mnist:{tmp_path}")


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datafiles, "CIFAR_IMAGES", 20)
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar(folder, 20)
    data = load(f"cifar10:{tmp_path}")
    assert data.train_inputs.shape == (100, 3, 32, 32) and data.test_inputs.shape == (20, 3, 32, 32)
    assert data.train_targets.tolist() == [n % 10 for n in range(20)] * 5
    # The planes are red, green, blue, and every channel has its own moments.
    second = np.fromfile(folder / "data_batch_2.bin", np.uint8).reshape(20, 3073)[3, 1:].reshape(3, 32, 32)
    deviation = second[1].std()
    ours = data.train_inputs[23, 1].double().numpy()
    np.testing.assert_allclose((ours - ours.mean()) / ours.std(), (second[1] - second[1].mean()) / deviation, atol=1e-5)
    torch.testing.assert_close(data.train_inputs.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert load(f"cifar10:{folder}").sha256 == data.sha256


def test_half_a_cifar_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datafiles, "CIFAR_IMAGES", 20)
    write_cifar(tmp_path / "c", 20)
    path = tmp_path / "c" / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[: 10 * 3073])  # whole records, and still half a file
    with pytest.raises(DataError, match=rf"data_batch_4.*{20 * 3073} bytes expected, {10 * 3073} found"):
        load(f"cifar10:{tmp_path / 'c'}")


def test_real_fashion_mnist(fashion_mnist: Path) -> None:
    data = load(f"fashion-mnist:{fashion_mnist}")
    assert data.train_inputs.shape == (60_000, 1, 28, 28) and data.test_inputs.shape == (10_000, 1, 28, 28)
    assert torch.bincount(data.train_targets).tolist() == [6000] * 10
    assert torch.bincount(data.test_targets).tolist() == [1000] * 10
    # The moments that everyone uses, 0.2860 and 0.3530 of 255, give black pixels this value.
    assert data.train_inputs.min().item() == pytest.approx(-0.2860 / 0.3530, abs=1e-3)


# --- arrays ---


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(("x", "y"), [("inputs", "targets"), ("x", "y"), ("x_train", "y_train")])
def test_npz_is_split_by_class(tmp_path: Path, x: str, y: str) -> None:
    inputs = np.random.RandomState(0).randn(100, 1, 4, 4).astype(np.float32)
    labels = np.array([0] * 50 + [1] * 30 + [2] * 20)
    data = load(save(tmp_path / "mine.npz", **{x: inputs, y: labels}))
    assert torch.bincount(data.train_targets).tolist() == [40, 24, 16]
    assert torch.bincount(data.test_targets).tolist() == [10, 6, 4]
    assert data.name == "mine" and data.classes == 3
    rows = torch.cat([data.train_inputs, data.test_inputs]).flatten(1).tolist()
    assert sorted(rows) == sorted(inputs.reshape(100, -1).tolist())  # floating-point values: taken as they are


def test_npz_with_a_test_part_and_pixels(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (12, 8, 8)).astype(np.uint8)
    labels = np.arange(12) % 3
    spec = save(tmp_path / "p.npz", x=pixels, y=labels, x_test=pixels[:6], y_test=labels[:6])
    data = load(spec, size=4)
    assert data.train_inputs.shape == (12, 1, 4, 4)
    assert torch.equal(data.train_inputs[:6], data.test_inputs)
    assert data.train_inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_npz_features_stay_rows_and_a_constant_pixel_is_no_nan(tmp_path: Path) -> None:
    features = np.stack([np.arange(10), np.full(10, 7)], axis=1)
    data = load(save(tmp_path / "f.npz", x=features, y=np.arange(10) % 2, x_test=features, y_test=np.arange(10) % 2))
    assert data.train_inputs.shape == (10, 2)
    assert torch.equal(data.train_inputs[:, 1], torch.zeros(10))
    with pytest.raises(UsageError, match="size is for images"):
        load(str(tmp_path / "f.npz"), size=4)


def test_npz_of_foreign_byte_order(tmp_path: Path) -> None:
    inputs = np.random.RandomState(0).randn(20, 3)
    ours = load(save(tmp_path / "a.npz", x=inputs, y=np.arange(20) % 2))
    theirs = load(save(tmp_path / "b.npz", x=inputs.astype(">f8"), y=(np.arange(20) % 2).astype(">i2")))
    assert ours.sha256 == theirs.sha256


X, Y = np.zeros((10, 1, 4, 4), np.float32), np.arange(10) % 2
ZEROS = torch.zeros(10, dtype=torch.int64)
BAD_ARRAYS = {
    "nan": (
        {"x": np.where(np.arange(10)[:, None, None, None] == 4, np.nan, X), "y": Y},
        "1 of .* NaN or infinity",
    ),
    "overflow": ({"x": X.astype(np.float64) + 1e300, "y": Y}, "hold NaN or infinity, the first is number 0"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "empty"),
    "no pixels": ({"x": X[:, :, :0], "y": Y}, "empty"),
    "negative label": ({"x": X, "y": Y - 1}, "label -1 of sample 0 is out of range"),
    "one class": ({"x": X, "y": 0 * Y}, "single class"),
    "lengths": ({"x": X, "y": Y[:9]}, "10 inputs and 9 targets"),
    "no rows": ({"x": X[:, 0, 0, 0], "y": Y}, r"inputs have the shape \(10,\)"),
    "one hot": ({"x": X, "y": np.eye(2)[Y]}, r"targets have the shape \(10, 2\)"),
    "fractions": ({"x": X, "y": Y + 0.5}, "not whole numbers"),
    "words": ({"x": X, "y": np.array(["a", "b"] * 5)}, "targets are no array of numbers"),
    "complex": ({"x": X + 1j, "y": Y}, "complex"),
    "objects": ({"x": np.array([None] * 10), "y": Y}, "cannot be read as an .npz file of plain arrays"),
    "channels last": ({"x": np.zeros((10, 8, 8, 3)), "y": Y}, "channels last; transpose"),
    "other names": ({"images": X, "y": Y}, "the array x is missing"),
    "no names": ({"a": X, "b": Y}, "holds a, b; it needs the arrays inputs and targets"),
    "half a test": ({"x": X, "y": Y, "x_test": X}, "the array y_test is missing"),
    "test of another shape": (
        {"x": X, "y": Y, "x_test": X[:, :, 1:], "y_test": Y},
        r"\(1, 4, 4\).*\(1, 3, 4\)",
    ),
    "test of another type": ({"x": X, "y": Y, "x_test": X.astype(int), "y_test": Y}, "give both as integers"),
    "test with a new class": ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "test part: label 2 .* 0 to 1"),
    "too few": ({"x": X[:2], "y": Y[:2]}, "2 samples are too few"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    arrays, says = BAD_ARRAYS[case]
    with pytest.raises(DataError, match=says):
        load(save(tmp_path / "bad.npz", **arrays))


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.random.RandomState(0).randn(100, 3), y=np.arange(100) % 2)
    content = path.read_bytes()
    for damaged in (b"", content[:200], content[:100] + bytes(100) + content[200:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"d\.npz .*save it again with numpy.savez"):
            load(str(path))
    with pytest.raises(DataError, match="no such file"):
        load(str(tmp_path / "absent.npz"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_inputs": torch.randn(6, 1, 4, 4).double()}, "make them float32 and int64"),
        ({"test_targets": torch.tensor([0, 1])}, r"\(3, 1, 4, 4\) and targets \(2,\)"),
        ({"train_targets": torch.tensor([0, 1, 2, 0, 1, 3])}, "label 3 of sample 5 is out of range"),
        ({"test_inputs": torch.randn(3, 1, 4, 5)}, "give both the same"),
        ({"test_inputs": torch.full((3, 1, 4, 4), float("inf"))}, "test part: 3 of 3 inputs"),
        ({"classes": 1, "train_targets": ZEROS[:6], "test_targets": ZEROS[:3]}, "single class"),
    ],
)
def test_a_bad_data_set_cannot_be_made(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        data_set(**changes)


# --- functions in files ---

FILE = """
from dataclasses import dataclass

import numpy as np
import torch
from helper import CLASSES
from termwise.data import load

@dataclass
class Settings:
    n: int = 30

def arrays():
    targets = np.arange(Settings().n) % CLASSES
    return np.random.RandomState(0).randn(len(targets), 2, 4, 4), targets

def tensors():
    x, y = arrays()
    return torch.from_numpy(x), torch.from_numpy(y)

def whole():
    return load("digits", size=8)

def wrong():
    return 7

def fails():
    raise RuntimeError("no luck")

NUMBER = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "helper.py").write_text("CLASSES = 3\n")
    (tmp_path / "mine.py").write_text(FILE)
    return str(tmp_path / "mine.py")


def test_functions_return_arrays_tensors_or_data_sets(file: str) -> None:
    arrays, tensors = load(f"{file}:arrays"), load(f"{file}:tensors")
    assert arrays.train_inputs.shape == (24, 2, 4, 4) and arrays.classes == 3 and arrays.name == "arrays"
    assert arrays.sha256 == tensors.sha256
    assert load(f"{file}:whole").sha256 == load("digits", size=8).sha256


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("wrong", DataError, "returns int; return a termwise.data.DataSet, or"),
        ("fails", DataError, "fails when it is called: RuntimeError: no luck"),
        ("absent", UsageError, "has no function 'absent'; it has .*arrays"),
        ("NUMBER", UsageError, "has no function 'NUMBER'"),
        ("a b", UsageError, "write FILE.py:callable"),
    ],
)
def test_bad_functions(file: str, name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load(f"{file}:{name}")


def test_bad_files(tmp_path: Path, file: str) -> None:
    with pytest.raises(UsageError, match="names no function"):
        load(file)
    with pytest.raises(UsageError, match="no such file"):
        load(f"{tmp_path}/absent.py:f")
    for text, says in (
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
    ):
        Path(file).write_text(text)
        with pytest.raises(UsageError, match=f"fails when it is run: {says}"):
            load(f"{file}:f")
    with pytest.raises(UsageError, match="omit size"):
        Path(file).write_text(FILE)
        load(f"{file}:whole", size=8)


def test_load_callable_returns_the_function(file: str) -> None:
    arrays: Callable[[], tuple[Tensor, Tensor]] = load_callable(f"{file}:arrays")
    assert len(arrays()[1]) == 30


# --- forms ---


@pytest.mark.parametrize("spec", ["images:some/folder"])
def test_forms_to_come(spec: str) -> None:
    with pytest.raises(UsageError, match=r"not available yet; write FILE\.npz, or FILE\.py:callable"):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "near"), [("digit", "digits"), ("fashionmnist", "fashion-mnist"), ("cifar-10", "cifar10")]
)
def test_unknown_forms(spec: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean '{near}'") as caught:
        load(spec)
    assert "FILE.npz" in str(caught.value)


# --- tokens ---


def test_a_stream_of_tokens_becomes_sequences_with_the_next_token_as_target(tmp_path: Path) -> None:
    stream = np.arange(1000) % 17
    np.save(tmp_path / "t.npy", stream)
    stream.astype("<u2").tofile(tmp_path / "t.bin")
    for name in ("t.npy", "t.bin"):
        data = load(f"tokens:{tmp_path / name}", size=9)
        assert data.classes == 17 and data.train_inputs.dtype == torch.int64
        both = torch.cat([data.train_inputs, data.test_inputs])
        assert both.shape == (111, 9) and torch.equal(both.flatten(), torch.from_numpy(stream[:999]))
        assert torch.equal(torch.cat([data.train_targets, data.test_targets]).flatten(), torch.from_numpy(stream[1:]))
        assert len(data.test_inputs) == 22


def test_sequences_of_tokens_are_taken_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.arange(50).reshape(10, 5))
    data = load(f"tokens:{tmp_path / 't.npy'}")
    assert torch.equal(data.train_inputs[1], torch.tensor([5, 6, 7, 8]))
    assert torch.equal(data.train_targets[1], torch.tensor([6, 7, 8, 9]))


def test_bad_tokens_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros(300))
    np.save(tmp_path / "n.npy", np.arange(300) - 1)
    np.save(tmp_path / "s.npy", np.arange(10))
    (tmp_path / "d.npy").write_bytes(b"no array")
    for name, message in {
        "f.npy": "expected whole numbers",
        "n.npy": "run from -1",
        "s.npy": "10 tokens are too few",
        "d.npy": "cannot be read",
        "none.npy": "no such file",
    }.items():
        with pytest.raises(DataError, match=message):
            load(f"tokens:{tmp_path / name}")


# --- sequences that repeat themselves ---


def test_induction_alternates_and_repeats_its_segment() -> None:
    data = load("induction")
    assert data.train_inputs.shape == data.train_targets.shape == (4096, 32) and data.test_inputs.shape == (512, 32)
    assert data.classes == 16 and "0.478 nats" in data.title
    whole = torch.cat([data.train_inputs, data.train_targets[:, -1:]], dim=1)
    assert torch.equal(whole[:, 1:], data.train_targets)
    counts: dict[int, int] = {}
    for sequence in whole.tolist():
        period = sequence.index(sequence[0], 1)
        counts[period] = counts.get(period, 0) + 1
        assert len(set(sequence[:period])) == period
        assert all(sequence[i] == sequence[i % period] for i in range(33))
        assert all((a < 8) != (b < 8) for a, b in itertools.pairwise(sequence))
    assert sorted(counts) == [6, 8, 10, 12] and all(924 < n < 1124 for n in counts.values())  # 1024, and 3.6 deviations
    assert torch.bincount(whole[:, 0], minlength=16).min() > 200  # of 256
    assert load("induction").sha256 == data.sha256 != load("induction", size=24).sha256


@pytest.mark.parametrize("length", [24, 32])
def test_the_least_loss_of_induction_is_that_of_the_best_predictor(length: int) -> None:
    """Bayes' rule over the periods, on the sequences themselves: its loss must be the entropy in the mean."""
    sequences = induction(length, 4000, seed=1)
    losses = [-math.log(chance) for sequence in sequences.tolist() for chance in best_chances(sequence)]
    per_sequence = np.array(losses).reshape(len(sequences), length).mean(axis=1)
    error = per_sequence.std() / len(sequences) ** 0.5
    assert abs(per_sequence.mean() - least_loss(length)) < 4 * error < 0.01


def best_chances(sequence: list[int]) -> list[float]:
    """What is expected of each symbol after the first, knowing how sequences are made."""
    weights = dict.fromkeys((6, 8, 10, 12), 0.25)
    chances = []
    for i in range(1, len(sequence)):
        given = {}
        for period in weights:
            if i >= period:
                given[period] = float(sequence[i] == sequence[i - period])
            else:
                alphabet = range(8) if sequence[i - 1] >= 8 else range(8, 16)
                left = set(alphabet) - set(sequence[:i])
                given[period] = 1 / len(left) if sequence[i] in left else 0.0
        joint = {period: weight * given[period] for period, weight in weights.items()}
        chances.append(sum(joint.values()))
        weights = {period: weight / chances[-1] for period, weight in joint.items()}
    return chances


def test_too_short_sequences_of_induction_are_refused() -> None:
    with pytest.raises(UsageError, match="sequences of 23 tokens are too short; give at least 24"):
        load("induction", size=23)
