"""Which networks of whole libraries the expansion covers; random weights, no downloads.

    python -m benchmarks.coverage --results DIR [--jobs 2]       sweep all of them, then write docs/coverage.md
    python -m benchmarks.coverage --results DIR --library timm [--models 520] [--every 10]      one of them
    python -m benchmarks.coverage --results DIR --write          the page again, from the rows in DIR

Run from the root of the repository.  Networks are examined by --jobs worker processes with a limit of memory, and of
time for each network; one that dies takes one row with it.  Rows are appended to DIR/<library>.jsonl as they come, and
networks that have a row are not run again: give the next version of the code a folder of its own.

timm: the smallest member of every module first, then all others, smallest first, until there are --models of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import multiprocessing
import multiprocessing.connection
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import libraries
from benchmarks.examine import Row, Subject, examine
from benchmarks.table import page

LIBRARIES = ("timm", "torchvision", "transformers")
PARAMETERS = 700_000_000  # larger members of timm and torchvision are skipped, and the table says so


def subject_of(library: str, name: str) -> Subject:
    """The network of that name."""
    if library == "timm":
        return libraries.timm_subject(name)
    if library == "torchvision":
        return libraries.torchvision_subject(name)
    from benchmarks.architectures import ARCHITECTURES

    return ARCHITECTURES[name]


def names_of(library: str, models: int, results: Path) -> list[str]:
    """What is to be examined, in order."""
    if library == "torchvision":
        return libraries.torchvision_names()
    if library == "transformers":
        from benchmarks.architectures import ARCHITECTURES

        return list(ARCHITECTURES)
    sizes = results / "timm-sizes.json"
    if not sizes.exists():
        print("timm: counting the parameters of every member (a few minutes, once)", flush=True)
        sizes.write_text(json.dumps(libraries.timm_sizes()))
    order = libraries.timm_order(json.loads(sizes.read_text()))
    return [name for _, name in order[:models]]


# Workers.


def work(connection: multiprocessing.connection.Connection, library: str, memory: int) -> None:
    """In a process of its own: names come in, rows go out."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    while True:
        name = connection.recv()
        try:
            row = examine(subject_of(library, name), parameters=PARAMETERS)
        except Exception as error:  # the description of the network is at fault
            row = Row(name, "failed", f"{type(error).__name__}: {error}")
        connection.send(dataclasses.asdict(row))


class Worker:
    """A process that examines networks one after another, and is started again when it dies or takes too long."""

    _CONTEXT = multiprocessing.get_context("spawn")
    _RENEWED_AFTER = 25  # networks, so that no process hoards memory

    def __init__(self, library: str, seconds: float, memory: int) -> None:
        self._library, self._seconds, self._memory = library, seconds, memory
        self._process: Any = None
        self._done = 0

    def examine(self, name: str) -> dict[str, Any]:
        """The row of one network, as a dictionary."""
        if self._process is None:
            self._start()
        self._connection.send(name)
        try:
            if self._connection.poll(self._seconds):
                row = self._connection.recv()
                self._done += 1
                if self._done >= self._RENEWED_AFTER:
                    self.stop()
                return row
            reason = f"not done within {self._seconds:.0f} s"
        except (EOFError, ConnectionError):
            reason = "the process that ran it ended (out of memory, or a crash)"
        self.stop()
        return dataclasses.asdict(Row(name, "skipped", reason))

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _start(self) -> None:
        self._connection, theirs = self._CONTEXT.Pipe()
        arguments = (theirs, self._library, self._memory)
        self._process = self._CONTEXT.Process(target=work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._done = 0


def sweep(library: str, names: Iterable[str], file: Path, jobs: int, new_worker: Callable[[], Worker]) -> None:
    """Examine all names that have no row in `file` yet."""
    rows = rows_of(file)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))  # without a line that was cut
    done = {row["name"] for row in rows}
    waiting = iter([name for name in names if name not in done])
    lock = threading.Lock()

    def serve() -> None:
        worker = new_worker()
        try:
            while (name := _next(waiting, lock)) is not None:
                row = worker.examine(name) | {"versions": versions(library)}
                with lock, file.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                print(f"{library} {name}: {row['status']} {row['reason']}".rstrip(), flush=True)
        finally:
            worker.stop()

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(serve) for _ in range(jobs)]:
            future.result()


def _next(names: Iterator[str], lock: threading.Lock) -> str | None:
    with lock:
        return next(names, None)


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows written so far; a half-written last line is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def versions(library: str) -> dict[str, str]:
    """The versions of PyTorch and of the library."""
    return {name: importlib.metadata.version(name) for name in ("torch", library)}


def main() -> int:
    """Sweep one library, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--library", choices=LIBRARIES, help="sweep this one alone, and write no page")
    parser.add_argument("--results", type=Path, required=True, help="where rows are kept, one file for each library")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--models", type=int, default=520, help="how many members of timm")
    parser.add_argument("--every", type=int, default=1, help="examine every n-th network only")
    parser.add_argument("--seconds", type=float, default=1200, help="the limit for one network")
    parser.add_argument("--memory", type=float, default=20, help="the limit for one process, in GiB")
    parser.add_argument("--write", action="store_true", help="write the page alone, from the rows that are there")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    memory = int(options.memory * 2**30)
    for library in () if options.write else (options.library,) if options.library else LIBRARIES:
        names = names_of(library, options.models, options.results)[:: options.every]
        new_worker = functools.partial(Worker, library, options.seconds, memory)
        sweep(library, names, options.results / f"{library}.jsonl", options.jobs, new_worker)
    if not options.library:
        found = {library: rows_of(options.results / f"{library}.jsonl") for library in LIBRARIES}
        limits = {"seconds": options.seconds, "memory": options.memory, "parameters": PARAMETERS}
        Path("docs/coverage.md").write_text(page({k: v for k, v in found.items() if v}, limits))
    return 0


if __name__ == "__main__":
    sys.exit(main())
