"""The live display of a run: one line a network, and no more than the terminal can show.

Where the output is no terminal (a log, a pipe) one line is printed for each record instead.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from termwise.loop import Progress


class Display:
    """Shows training progress; use as a context, and pass `show` as the progress callback."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Show where a network stands."""
        if not self._console.is_terminal:
            if progress.recorded:
                line = f"{progress.network}  step {progress.step}/{progress.steps}  {_numbers(progress)}"
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)
            return
        if progress.network not in self._tasks:
            name = progress.network.replace("[", r"\[")
            self._tasks[progress.network] = self._bars.add_task(name, total=progress.steps, numbers="")
        task = self._tasks[progress.network]
        self._bars.update(task, completed=progress.step, numbers=_numbers(progress))


def _numbers(progress: Progress) -> str:
    """Loss, accuracy, mean path length, and the recorder's time over the rest of the run's."""
    parts = [f"loss {progress.loss:.3f}" if progress.loss is not None else "loss -"]
    if progress.accuracy is not None:
        parts.append(f"accuracy {progress.accuracy:.3f}")
    if progress.mean_depth is not None:
        parts.append(f"mean path {progress.mean_depth:.2f}")
    if progress.training_seconds:
        parts.append(f"recorder {progress.recording_seconds / progress.training_seconds:.0%}")
    return "  ".join(parts)
