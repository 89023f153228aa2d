"""Sinks: what is recorded, shown where a training is watched: TensorBoard, Weights & Biases, trackio, MLflow.

    TermwiseCallback(probe, sinks=[TensorBoardSink("runs/first"), WandbSink(mode="offline")])

After each record a sink is told its numbers (loss, accuracy, mean path length as mean_depth, effective_depth, closure,
...), all under "termwise/"; at the end it is given one picture, when which depths carried the output, and the tables of
the timeline.  A sink that fails is left out from there on, with one warning.  A run that is under way already is used;
otherwise a sink starts one of its own, and ends it.

A sink of one's own is any object with the methods of `Sink`.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow.csv

from termwise.errors import UsageError, first_line
from termwise.moments import Moment, steps_table
from termwise.timeline import Timeline

ROOM = "termwise"  # before each name that a tracker shows
_log = logging.getLogger(__name__)


class Sink(Protocol):
    """What a tracker is told."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one record."""

    def picture(self, step: int, path: Path) -> None:
        """A PNG file, which is gone afterwards; its stem is its name."""

    def table(self, path: Path) -> None:
        """A CSV file, which is gone afterwards; its stem is its name."""

    def close(self) -> None:
        """The training is over."""


class Sinks:
    """Several sinks, each left out as soon as it fails.

    Args:
        sinks: to be told.
        strict: let what fails end the training.

    Attributes:
        told: those that have not failed, and are not closed.
    """

    def __init__(self, sinks: Sequence[Sink], strict: bool) -> None:
        if not isinstance(sinks, Sequence):
            raise UsageError(f"sinks: expected a list of them, [{type(sinks).__name__}(...)], not one alone.")
        self._all, self._strict = tuple(sinks), strict
        self.begin()

    def begin(self) -> None:
        """A training begins: all are to be told."""
        self.told = list(self._all)

    def record(self, moment: Moment) -> None:
        """Tell the numbers of a record."""
        row = steps_table([moment]).rows()[0] | {"effective_depth": moment.profile.effective_depth}
        values = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
        self._each(lambda sink: sink.scalars(moment.step, values))

    def finish(self, timeline: Timeline) -> None:
        """Give picture and tables, and close."""
        if not self.told:
            return
        try:
            with tempfile.TemporaryDirectory() as folder:
                for name, table in {"spectrum": timeline.spectrum, "steps": timeline.table}.items():
                    path = Path(folder) / f"{name}.csv"
                    pyarrow.csv.write_csv(table.to_arrow(), path)
                    self._each(lambda sink, path=path: sink.table(path))
                picture = _drawn(timeline, Path(folder) / "depth-map.png")
                self._each(lambda sink: sink.picture(timeline.steps[-1], picture))
        except Exception as error:  # no matplotlib, no room for files: there are the numbers still
            if self._strict and not isinstance(error, UsageError):
                raise
            _log.warning("the trackers get no picture, or no tables: %s: %s", type(error).__name__, first_line(error))
        finally:
            self._each(lambda sink: sink.close())
            self.told = []

    def _each(self, tell: Callable[[Sink], None]) -> None:
        for sink in list(self.told):
            try:
                tell(sink)
            except Exception as error:
                if self._strict:
                    raise
                self.told.remove(sink)
                _log.warning(
                    "%s is told no more, and the training goes on: %s: %s. The records themselves are kept.",
                    *(type(sink).__name__, type(error).__name__, first_line(error)),
                )


def _drawn(timeline: Timeline, path: Path) -> Path:
    from termwise.figures import heat_map, save

    return save(heat_map(timeline), path)


class TensorBoardSink:
    """TensorBoard; the tables are laid beside its event file.

    Args:
        log: the directory of the event file, or the SummaryWriter of the training.
    """

    def __init__(self, log: str | os.PathLike[str] | Any) -> None:
        self._own = isinstance(log, (str, os.PathLike))
        self._log, self._writer = log, None if self._own else log

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        for name, value in values.items():
            self._begun().add_scalar(f"{ROOM}/{name}", value, step)

    def picture(self, step: int, path: Path) -> None:
        """See `Sink`."""
        from matplotlib.image import imread

        self._begun().add_image(f"{ROOM}/{path.stem}", imread(path), step, dataformats="HWC")

    def table(self, path: Path) -> None:
        """See `Sink`."""
        writer = self._begun()
        copy = shutil.copy(path, Path(writer.log_dir) / f"{ROOM}-{path.name}")
        writer.add_text(f"{ROOM}/{path.stem}", f"The table is in {Path(copy).name}, beside the event file.")

    def close(self) -> None:
        """See `Sink`."""
        if self._own:
            self._begun().close()
            self._writer = None
        else:
            self._begun().flush()

    def _begun(self) -> Any:
        if self._writer is None:
            self._writer = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter(os.fspath(self._log))
        return self._writer


class WandbSink:
    """Weights & Biases; the tables are artifacts.

    Args:
        run: of the training; by default the one that is under way, or a new one.
        options: of wandb.init, for a new one: mode="offline", project=..., dir=...
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        self._given, self._options = run, options
        self._run: Any = None
        self._own = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`; the steps are an axis of their own, for a run counts what it is told by itself."""
        self._begun().log({f"{ROOM}/step": step} | {f"{ROOM}/{name}": value for name, value in values.items()})

    def picture(self, step: int, path: Path) -> None:
        """See `Sink`."""
        import wandb

        self._begun().log({f"{ROOM}/step": step, f"{ROOM}/{path.stem}": wandb.Image(os.fspath(path))})

    def table(self, path: Path) -> None:
        """See `Sink`."""
        import wandb

        run = self._begun()
        artifact = wandb.Artifact(f"{ROOM}-{path.stem}-{run.id}", type="table")
        artifact.add_file(os.fspath(path))
        run.log_artifact(artifact)

    def close(self) -> None:
        """See `Sink`."""
        if self._own:
            self._run.finish()
            self._run = None

    def _begun(self) -> Any:
        if self._run is None:
            wandb = _library("wandb", "wandb")
            run = self._given if self._given is not None else wandb.run
            self._own = run is None
            self._run = wandb.init(**self._options) if run is None else run
            self._run.define_metric(f"{ROOM}/*", step_metric=f"{ROOM}/step")
        return self._run


class TrackioSink:
    """Trackio; the tables are artifacts.

    Args:
        run: of the training; by default the one that is under way, or a new one.
        project: of a new one.
        options: of trackio.init, for a new one.
    """

    def __init__(self, run: Any = None, *, project: str = ROOM, **options: Any) -> None:
        self._given, self._options = run, {"project": project, "embed": False, **options}
        self._run: Any = None
        self._own = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._begun().log({f"{ROOM}/{name}": value for name, value in values.items()}, step=step)

    def picture(self, step: int, path: Path) -> None:
        """See `Sink`."""
        import trackio

        self._begun().log({f"{ROOM}/{path.stem}": trackio.Image(os.fspath(path))}, step=step)

    def table(self, path: Path) -> None:
        """See `Sink`."""
        self._begun().log_artifact(path, name=f"{ROOM}-{path.stem}", type="table")

    def close(self) -> None:
        """See `Sink`."""
        if self._own:
            from trackio.context_vars import current_run

            self._run.finish()
            if current_run.get() is self._run:  # else it is ended again when the process ends
                current_run.set(None)
            self._run = None

    def _begun(self) -> Any:
        if self._run is None:
            trackio = _library("trackio", "trackio")
            # A second init would end the run that is under way.
            run = self._given if self._given is not None else trackio.context_vars.current_run.get()
            self._own = run is None
            self._run = trackio.init(**self._options) if run is None else run
        return self._run


class MlflowSink:
    """MLflow; picture and tables are artifacts.

    A server that does not answer holds the training until MLflow gives up, which takes four minutes unless the
    environment variable MLFLOW_HTTP_REQUEST_MAX_RETRIES (7) is lower.

    Args:
        run_id: of the training's run; by default the one that is under way, or a new one.
        experiment: of a new one.
        tracking_uri: of the server or store; by default MLflow's own setting.
    """

    def __init__(self, run_id: str | None = None, *, experiment: str = ROOM, tracking_uri: str | None = None) -> None:
        self._run_id, self._experiment, self._uri = run_id, experiment, tracking_uri
        self._client: Any = None
        self._own = False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink`."""
        for name, value in values.items():
            self._begun().log_metric(self._run_id, f"{ROOM}/{name}", value, step=step)

    def picture(self, step: int, path: Path) -> None:
        """See `Sink`."""
        self._begun().log_artifact(self._run_id, os.fspath(path), ROOM)

    def table(self, path: Path) -> None:
        """See `Sink`."""
        self._begun().log_artifact(self._run_id, os.fspath(path), ROOM)

    def close(self) -> None:
        """See `Sink`."""
        if self._own:
            self._client.set_terminated(self._run_id)
            self._client = self._run_id = None

    def _begun(self) -> Any:
        if self._client is None:
            mlflow = _library("mlflow", "mlflow")
            client = mlflow.MlflowClient(self._uri)
            active = mlflow.active_run()
            if self._run_id is None and active is not None:
                self._run_id = active.info.run_id
            elif self._run_id is None:
                found = client.get_experiment_by_name(self._experiment)
                place = client.create_experiment(self._experiment) if found is None else found.experiment_id
                self._run_id, self._own = client.create_run(place).info.run_id, True
            self._client = client
        return self._client


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"{name} cannot be imported ({error}). Install it: pip install 'termwise[{extra}]'") from error
