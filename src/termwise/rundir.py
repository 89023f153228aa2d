"""A run directory: what a rerun must match, who is writing, and where everything is.

    manifest.json                                       all that determines the result
    lock                                                who is writing: flock, and process, host and time as JSON
    networks/SLUG/state.pt                              the resume state
    networks/SLUG/checkpoints/step-00000123.safetensors weights
    networks/SLUG/records/step-00000123.termwise        records
    networks/SLUG/ending.termwise                       what was measured when the training was over
    tables/*.parquet, summary.json, report.html         the results

The lock belongs to the open file and so ends with the process, however that ends.  Names come from people and are
shown as they are; only their slugs (a to z, digits, hyphens) become paths.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import importlib.metadata
import os
import pickle
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from termwise.errors import RunError
from termwise.records import write_atomically

VERSION = 1
STATE_VERSION = 1
_ABSENT = object()


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What determines the result of a run; `name` and `created` are for people and are not compared.

    Attributes:
        name: of the run.
        created: ISO time of the first start.
        termwise: version that computes.
        torch: version that computes.
        data_sha256: of all data (see `termwise.data.DataSet`).
        probe_sha256: of the probe's inputs and targets.
        config: networks with their arguments, optimiser, steps, batch size, seed, threads, unit, constants, schedule.
    """

    name: str
    created: str
    termwise: str
    torch: str
    data_sha256: str
    probe_sha256: str
    config: dict[str, Any]
    format: str = "termwise-manifest"
    version: int = VERSION

    def differences(self, other: Manifest) -> list[tuple[str, Any, Any]]:
        """(field, value here, value there) for each field that determines the result and differs."""
        here, there = (dict(_flat(msgspec.to_builtins(manifest))) for manifest in (self, other))
        return [
            (field, _shown(here.get(field, _ABSENT)), _shown(there.get(field, _ABSENT)))
            for field in dict.fromkeys([*here, *there])
            if field not in ("name", "created") and here.get(field, _ABSENT) != there.get(field, _ABSENT)
        ]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with dotted names: networks[0].arguments.depth."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)) and value:
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}[{index}]")
    else:
        yield prefix, value


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else repr(value)


def slugs(names: Iterable[str]) -> list[str]:
    """A safe folder name for each name, all different: "ResNet-20" gives "resnet-20"."""
    made: list[str] = []
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower())[:60].strip("-") or "network"
        numbered = (f"{base}-{number}" for number in range(2, len(made) + 3))
        made.append(base if base not in made else next(slug for slug in numbered if slug not in made))
    return made


def termwise_version() -> str:
    """Of the installed package; where it runs from its source alone, "source"."""
    try:
        return importlib.metadata.version("termwise")
    except importlib.metadata.PackageNotFoundError:
        return "source"


def now() -> str:
    """The time as the records write it: UTC, in seconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Writer(msgspec.Struct):
    """Who is writing, in `lock`."""

    pid: int
    host: str
    started: str

    def __str__(self) -> str:
        """For a message."""
        return f"process {self.pid} on {self.host}, since {self.started}"


class RunDirectory:
    """A run directory that this process writes; a context manager that holds the lock.

    Entering makes the directory, takes the lock, and writes the manifest or compares it with the one that is there.

    Attributes:
        path: where it is.
        manifest: as it stands in the directory; its `created` is that of the first start.
    """

    def __init__(self, path: str | os.PathLike[str], manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest
        self._lock: int | None = None

    def __enter__(self) -> RunDirectory:
        """Take it.

        Raises:
            RunError: it is no run directory, another process writes it, or its manifest is another's.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            self._lock = _locked(self.path / "lock")
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written ({error.strerror or error}). Give a directory that can."
            ) from error
        try:
            self._match()
            self._remove_leftovers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock; what was written stays."""
        if self._lock is not None:
            # The file stays: were it unlinked, two processes could hold locks on two files of that name.
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def network(self, slug: str) -> Path:
        """The folder of one network."""
        return self.path / "networks" / slug

    @property
    def tables(self) -> Path:
        """The folder of the parquet tables."""
        return self.path / "tables"

    def _refuse_foreign(self) -> None:
        if (self.path / "manifest.json").exists():
            return
        names = sorted(entry.name for entry in self.path.iterdir())
        foreign = [name for name in names if name != "lock" and not _is_leftover(name)]
        if foreign:
            raise RunError(
                f"{self.path}: holds files ({', '.join(foreign[:3])}{', ...' if foreign[3:] else ''}) but no "
                "manifest.json, so it is no run directory. Give an empty or a new directory."
            )

    def _match(self) -> None:
        path = self.path / "manifest.json"
        if not path.exists():
            content = msgspec.json.format(msgspec.json.encode(self.manifest), indent=2)
            write_atomically(path, lambda file: file.write(content))
            return
        there = read_manifest(self.path)
        differences = there.differences(self.manifest)
        if differences:
            listed = "\n".join(f"  {field}: {old} there, {new} now" for field, old, new in differences)
            raise RunError(
                f"{self.path}: holds a run of other settings:\n{listed}\n"
                "Give another directory, or the same settings to resume this run."
            )
        self.manifest = there

    def _remove_leftovers(self) -> None:
        """Remove what a killed process had not renamed yet; only our own folders are searched."""
        folders = [self.path, self.tables, *(self.path / "networks").rglob("*")]
        for folder in (folder for folder in folders if folder.is_dir()):
            for entry in folder.iterdir():
                # The report may be written by a process of its own, which holds no lock.
                if _is_leftover(entry.name) and not entry.name.startswith(".report"):
                    entry.unlink(missing_ok=True)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """The manifest of a run directory.

    Raises:
        RunError: when it is missing, corrupt or of a newer version.
    """
    path = Path(directory) / "manifest.json"
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("version")
        if isinstance(version, int) and version > VERSION:
            raise RunError(f"{path}: format version {version}; this Termwise reads up to {VERSION}. Upgrade Termwise.")
        return msgspec.json.decode(raw, type=Manifest)
    except FileNotFoundError as error:
        raise RunError(f"{path}: missing. Give the directory of a run.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not a readable manifest ({error}). Give another directory.") from error


def _locked(path: Path) -> int:
    """An open, locked file that says who we are.

    Raises:
        RunError: another process holds it, or the file system has no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        writer = _Writer(os.getpid(), socket.gethostname(), now())
        os.ftruncate(handle, 0)
        os.pwrite(handle, msgspec.json.encode(writer) + b"\n", 0)
    except OSError as error:
        holder = _holder(handle)
        os.close(handle)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RunError(
                f"{path.parent}: is being written by {holder}. Wait until it ends, stop it, or give another directory."
            ) from error
        raise
    except BaseException:
        os.close(handle)
        raise
    return handle


def _holder(handle: int) -> str:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return str(msgspec.json.decode(os.pread(handle, 4096, 0), type=_Writer))
    return "another process"


def write_state(path: Path, state: Mapping[str, Any]) -> Path:
    """Write a resume state atomically: plain containers and tensors only, so that reading it executes nothing."""
    content = {"format": "termwise-state", "version": STATE_VERSION, **state}
    return write_atomically(path, lambda file: torch.save(content, file))


def read_state(path: Path) -> dict[str, Any] | None:
    """The resume state, or None where none was written yet.

    Raises:
        RunError: when it is corrupt, no such state, or of a newer version.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        raise _unreadable(path, str(error).partition("\n")[0] or type(error).__name__) from error
    if not isinstance(state, dict) or state.get("format") != "termwise-state":
        raise _unreadable(path, "it holds something else")
    if state["version"] > STATE_VERSION:
        raise RunError(
            f"{path}: format version {state['version']}; this Termwise reads up to {STATE_VERSION}. Upgrade Termwise."
        )
    return state


def _unreadable(path: Path, reason: str) -> RunError:
    return RunError(
        f"{path}: not a readable resume state ({reason}). Delete this file: the network is trained again from its "
        "start, with the same result, and its records are kept."
    )


def write_weights(path: Path, weights: Mapping[str, Tensor], **about: str | int) -> Path:
    """Write a checkpoint of weights alone, as safetensors, atomically; `about` goes to its metadata as JSON."""
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    # One key, because safetensors writes several in an order that changes from process to process.
    content = safetensors.torch.save(tensors, {"termwise": msgspec.json.encode(about).decode()})
    return write_atomically(path, lambda file: file.write(content))
