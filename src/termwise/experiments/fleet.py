"""Who runs the jobs of a grid: processes of this machine, or a cluster through submitit.

A job is a function at the top of a module and plain arguments; it writes its own result to a file and returns nothing
but the file's name, so that nothing large and nothing executable comes back.  Jobs end in any order.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from termwise.errors import RunError, UsageError, first_line

Executor = Literal["local", "slurm"]

_CLUSTER = "slurm"
_POLL = 5.0  # seconds between two looks at the jobs of a cluster


def dealt(
    job: Callable[..., str],
    arguments: Sequence[tuple[Any, ...]],
    *,
    executor: Executor = "local",
    jobs: int = 1,
    folder: Path,
    options: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, str]]:
    """Run a job for each tuple of arguments, and give its place and its name as each is done.

    Args:
        job: a function that can be imported by its name.
        arguments: of each job; they are pickled on their way there.
        executor: "local" for processes of this machine, "slurm" for a cluster.
        jobs: at most so many at once.
        folder: for what a cluster writes; nobody but its owner may enter it. All nodes must see it.
        options: of the cluster's scheduler, such as partition or time.

    Raises:
        UsageError: when the executor is unknown, there are no jobs at once, or options without a cluster.
        RunError: when submitit or the cluster is missing, or a job ended without a result.
    """
    if executor not in get_args(Executor):
        raise UsageError(f"executor={executor!r}: expected {' or '.join(map(repr, get_args(Executor)))}.")
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: give at least 1.")
    if executor == "slurm":
        return _on_cluster(job, arguments, jobs, folder, dict(options or {}))
    if options:
        raise UsageError(f"executor='local' has no scheduler to give {', '.join(options)} to; leave the options out.")
    return _here(job, arguments, jobs)


def _here(job: Callable[..., str], arguments: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[tuple[int, str]]:
    # Fresh processes: forked ones would inherit threads that do not run in them.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(jobs, len(arguments) or 1), context) as pool:
        running = {pool.submit(job, *each): place for place, each in enumerate(arguments)}
        try:
            for future in concurrent.futures.as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _on_cluster(
    job: Callable[..., str], arguments: Sequence[tuple[Any, ...]], jobs: int, folder: Path, options: dict[str, str]
) -> Iterator[tuple[int, str]]:
    try:
        import submitit
        from submitit.core.utils import UncompletedJobError
        from submitit.helpers import as_completed
    except ImportError as error:
        raise RunError("executor='slurm' needs submitit: pip install 'termwise[slurm]'.") from error
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    try:
        pool = submitit.AutoExecutor(folder / "%j", cluster=_CLUSTER)
    except RuntimeError as error:
        raise RunError(
            f"executor='slurm': {first_line(error)} Run it where sbatch is, or with executor='local'."
        ) from error
    scheduler = {f"slurm_{name}": value for name, value in options.items()}
    pool.update_parameters(name="termwise", cpus_per_task=1, slurm_array_parallelism=jobs, **scheduler)
    running = pool.map_array(job, *zip(*arguments, strict=True)) if arguments else []
    places = {each.job_id: place for place, each in enumerate(running)}
    for done in as_completed(running, poll_frequency=_POLL):
        try:
            yield places[done.job_id], done.result()
        except UncompletedJobError as error:
            raise RunError(
                f"job {done.job_id} ended without a result ({_raised(error)}). Its output is in "
                f"{done.paths.folder}; what other jobs finished is kept, and the same command goes on from there."
            ) from error


def _raised(error: Exception) -> str:
    """Of a report that quotes the job's own traceback: what was raised there."""
    lines = [line for line in str(error).splitlines() if line[:1].isalpha() and "Error" in line.partition(":")[0]]
    return lines[-1] if lines else first_line(error)
