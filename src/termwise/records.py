"""Saved results: tables, records, the summary of a run.

A record is one zip: `record.json` (what it is, its version, its numbers), one parquet file a table, and dense arrays as
safetensors.  Nothing in it is ever executed: no pickle, no member name becomes a path, and sizes are checked before a
byte is unpacked.  Every file is written under a temporary name beside its place, synced, and renamed, so a reader sees
the old one or the new one and nothing between.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy

from termwise.errors import RecordError, first_line

VERSION = 1
_T = TypeVar("_T")
_LIMIT = 4 * 2**30  # bytes that one record may unpack to
# What the readers raise for bytes that are damaged, wherever the damage is.
_UNREADABLE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, msgspec.MsgspecError, pa.ArrowException),
    *(safetensors.SafetensorError, OSError, KeyError, EOFError, ValueError, NotImplementedError),
)


class Table:
    """Named columns of equal length, each with a unit.

    `t["depth"]` is a NumPy array (missing numbers are NaN); `t.where(origin="input")` selects rows; print it, or show
    it in a notebook.
    """

    def __init__(self, columns: Mapping[str, Any] | pa.Table, units: Mapping[str, str] | None = None) -> None:
        """Make a table of columns: sequences, arrays, or a pyarrow table that has units in its metadata."""
        table: pa.Table
        if isinstance(columns, pa.Table):
            table = columns
        else:
            table = pa.table({name: _column(values) for name, values in columns.items()})
        if units is not None:
            table = table.replace_schema_metadata({"units": msgspec.json.encode(dict(units))})
        self._arrow: pa.Table = table

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self._arrow.column_names)

    @property
    def units(self) -> dict[str, str]:
        """The unit of each column that has one."""
        return msgspec.json.decode((self._arrow.schema.metadata or {}).get(b"units", b"{}"))

    def __getitem__(self, name: str) -> np.ndarray:
        """One column; strings come as an object array, missing numbers as NaN."""
        if name not in self.columns:
            raise KeyError(f"{name!r}: the table has {', '.join(self.columns)}")
        column = self._arrow[name]
        if pa.types.is_integer(column.type) and column.null_count:
            column = column.cast(pa.float64())
        return column.to_numpy(zero_copy_only=False)

    def __len__(self) -> int:
        """The number of rows."""
        return self._arrow.num_rows

    def where(self, **equal: Any) -> Table:
        """The rows in which each named column has the given value (None: is missing)."""
        keep = np.ones(len(self), dtype=bool)
        for name, value in equal.items():
            keep &= np.array([cell == value for cell in self._arrow[name].to_pylist()], dtype=bool)
        return Table(self._arrow.filter(pa.array(keep)))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a row; missing values are None."""
        return self._arrow.to_pylist()

    def to_arrow(self) -> pa.Table:
        """The pyarrow table behind it."""
        return self._arrow

    def __repr__(self) -> str:
        """Aligned text, the unit under each name."""
        cells = [[_text(value) for value in row.values()] for row in self.rows()]
        head = [list(self.columns), [self.units.get(name, "") for name in self.columns]]
        lines = head + cells if any(head[1]) else [head[0], *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(
            f"<th>{html.escape(name)}<br><small>{html.escape(self.units.get(name, ''))}</small></th>"
            for name in self.columns
        )
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_text(value))}</td>" for value in row.values()) + "</tr>"
            for row in self.rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _column(values: Any) -> pa.Array:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return pa.array(values, from_pandas=True)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub":
        return pa.array(values)
    return pa.array([None if isinstance(v, float) and v != v else v for v in values])


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def concatenate(tables: Sequence[Table]) -> Table:
    """The rows of all tables, one after the other; they must have the same columns."""
    arrows = [table.to_arrow() for table in tables]
    return Table(pa.concat_tables(arrows, promote_options="permissive"))


class _Head(msgspec.Struct):
    format: str
    version: int
    kind: str
    metadata: dict[str, Any]
    tables: list[str]
    arrays: bool = False


class Record(msgspec.Struct):
    """What a record holds: numbers and texts, tables by name, dense arrays by name."""

    kind: str
    metadata: dict[str, Any]
    tables: dict[str, Table]
    arrays: dict[str, np.ndarray]


def write_record(path: str | os.PathLike[str], record: Record) -> Path:
    """Write a record atomically; returns its path."""
    head = _Head("termwise", VERSION, record.kind, record.metadata, list(record.tables), bool(record.arrays))

    def write(file: BinaryIO) -> None:
        # A fixed date keeps the bytes the same for the same content.
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, "record.json", msgspec.json.format(msgspec.json.encode(head), indent=1))
            for i, table in enumerate(record.tables.values()):
                _add(archive, f"table-{i}.parquet", _parquet(table))
            if record.arrays:
                contiguous = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
                _add(archive, "arrays.safetensors", safetensors.numpy.save(contiguous))

    return write_atomically(path, write)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


def _parquet(table: Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.to_arrow(), buffer)
    return buffer.getvalue()


def read_record(path: str | os.PathLike[str], kind: str) -> Record:
    """Read a record of the given kind.

    Raises:
        RecordError: when it is missing, corrupt, of another kind, too large, or of a newer version.
    """
    return _opened(Path(path), lambda archive: _read(archive, Path(path), kind))


def record_kind(path: str | os.PathLike[str]) -> str:
    """What kind of record a file holds; its tables are not looked at.

    Raises:
        RecordError: when it is missing, corrupt, too large, or of a newer version.
    """
    return _opened(Path(path), lambda archive: _read_head(archive, Path(path)).kind)


def _opened(path: Path, read: Callable[[zipfile.ZipFile], _T]) -> _T:
    if not path.is_file():
        raise RecordError(f"{path}: there is no such record. Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            return read(archive)
    except RecordError:
        raise
    except _UNREADABLE as error:
        raise _corrupt(path, error) from error


def _corrupt(path: Path, error: Exception) -> RecordError:
    return RecordError(
        f"{path}: not a readable Termwise record ({first_line(error)}). It may be cut off; write it again."
    )


def _read_head(archive: zipfile.ZipFile, path: Path) -> _Head:
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > _LIMIT:
        raise RecordError(
            f"{path}: would unpack to {unpacked / 2**30:.1f} GiB, more than {_LIMIT / 2**30:.0f} GiB; refused."
        )
    raw = archive.read("record.json")
    version = msgspec.json.decode(raw, type=dict[str, Any]).get("version")
    if isinstance(version, int) and version > VERSION:
        raise RecordError(
            f"{path}: written in format version {version}; this Termwise reads up to {VERSION}. "
            "Upgrade it: pip install --upgrade termwise."
        )
    return msgspec.json.decode(raw, type=_Head)


def _read(archive: zipfile.ZipFile, path: Path, kind: str) -> Record:
    head = _read_head(archive, path)
    if head.format != "termwise" or head.kind != kind:
        raise RecordError(f"{path}: holds a {head.format} {head.kind}, not a {kind}. Open it with what wrote it.")
    tables = {
        name: Table(pq.read_table(io.BytesIO(archive.read(f"table-{i}.parquet")))) for i, name in enumerate(head.tables)
    }
    arrays = safetensors.numpy.load(archive.read("arrays.safetensors")) if head.arrays else {}
    return Record(head.kind, head.metadata, tables, arrays)


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> Path:
    """Write a file so that no reader and no crash ever sees half of it: temporary name, sync, rename.

    Raises:
        OSError: naming `path`, where nothing can be written there.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_directory(path.parent)
    return path


def _sync_directory(directory: Path) -> None:
    # Without it the rename itself may be lost when the power goes.
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_parquet(path: str | os.PathLike[str], table: Table) -> Path:
    """Write one tidy table atomically."""
    return write_atomically(path, lambda file: file.write(_parquet(table)))


def read_parquet(path: str | os.PathLike[str]) -> Table:
    """Read one tidy table.

    Raises:
        RecordError: when it is missing or corrupt.
    """
    try:
        return Table(pq.read_table(path))
    except FileNotFoundError as error:
        raise RecordError(
            f"{path}: missing. The run may not have finished; run it again in the same directory."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(Path(path), error) from error


class DataSummary(msgspec.Struct):
    """The data that a run used."""

    name: str
    title: str
    sha256: str
    attribution: str
    train: int
    probe: int
    classes: int


class NetworkSummary(msgspec.Struct):
    """One network of a run, at its last record unless a field says otherwise."""

    name: str
    slug: str
    parameters: int
    steps: int
    accuracy: float
    loss: float
    mean_depth: tuple[float, float]  # first and last record, norm share of the input-born terms
    mean_depth_interval: tuple[tuple[float, float], tuple[float, float]]
    mean_depth_with_constants: (
        tuple[float, float] | None
    )  # the same with the constants' paths; None if these are pooled
    effective_depth: int | None
    shortest: int
    longest: int
    depths: list[int]
    closure: float  # the worst of all records
    constant_share: float
    frozen_share: float
    cancellation: float
    credit_closure: float | None
    credit_drift: float | None
    training_seconds: float | None  # None: not recorded while it was trained, but traced from checkpoints
    recording_seconds: float  # with what is measured once at the end
    operators: list[dict[str, Any]]
    recipe: str | None = None  # a hash of all that determined it but the seed; None: traced, or written by an older one


class Finding(msgspec.Struct):
    """What the sentence of a run is made of, beside the numbers of its networks.

    Attributes:
        difference: mean path length at the end of the first of two networks less that of the second, and its interval.
        hypotheses: those that a run like this bears on, such as H1.
        checkpoints: the steps of the first and the last one, where it was traced from these.
    """

    difference: tuple[float, float, float] | None
    hypotheses: list[str]
    checkpoints: tuple[int, int] | None = None


class RunSummary(msgspec.Struct):
    """summary.json of a run directory."""

    name: str
    created: str
    termwise: str
    torch: str
    python: str
    threads: int
    seed: int | None  # None: traced from checkpoints
    unit: str
    constants: str
    data: DataSummary
    verdict: str
    networks: list[NetworkSummary]
    modules: list[str] = []  # that are the steps, where the unit is these
    reestimated: bool = True  # batch-norm statistics, on a copy; else as the model had them
    finding: Finding | None = None  # None: written before there was one; the verdict is all there is
    skipped: list[str] = []  # checkpoints that could not be used, and why
    format: str = "termwise-run"
    version: int = VERSION


def write_summary(directory: str | os.PathLike[str], summary: RunSummary) -> Path:
    """Write summary.json atomically."""
    content = msgspec.json.format(msgspec.json.encode(summary), indent=2)
    return write_atomically(Path(directory) / "summary.json", lambda file: file.write(content))


def read_summary(directory: str | os.PathLike[str]) -> RunSummary:
    """Read the summary of a run directory.

    Raises:
        RecordError: when it is missing, corrupt or of a newer version.
    """
    path = Path(directory) / "summary.json"
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("version")
        if isinstance(version, int) and version > VERSION:
            raise RecordError(
                f"{path}: format version {version}; this Termwise reads up to {VERSION}. Upgrade Termwise."
            )
        return msgspec.json.decode(raw, type=RunSummary)
    except FileNotFoundError as error:
        raise RecordError(f"{path}: missing. Give the directory of a finished run, or finish this one.") from error
    except msgspec.MsgspecError as error:
        raise _corrupt(path, error) from error
