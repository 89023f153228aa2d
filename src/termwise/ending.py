"""What is measured once, when a training is over: lesions, routes, tiles.

    lesions   accuracy and loss without k residual blocks, drawn at random (`termwise.deletion`)
    routes    the share of each path by the blocks that it passes, where there are at most 4 (`termwise.routes`)
    tiles     how fast the term of each depth varies over the inputs, where degrees are recorded (`termwise.degree`)

The network is the one that the last record was made of: batch-norm statistics are estimated anew on a copy where the
records have them so, and stay those of the whole network while blocks are removed.  A network without residual blocks
has no lesions and no routes.  Nothing is drawn from the random states of the training.

It is kept beside the records, so that a run that is called again does not measure it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from termwise.batches import fingerprint
from termwise.degree.terms import depth_degrees
from termwise.degree.tiles import DepthDegrees
from termwise.deletion import deletion
from termwise.errors import RecordError, TermwiseError, first_line
from termwise.expand import Output, locate
from termwise.recorder import live_norms, reestimated
from termwise.records import Record, Table, concatenate, read_record, write_record
from termwise.routes import routes
from termwise.seeds import untouched_random
from termwise.steps import BLOCKS, Unit
from termwise.timeline import named

KIND = "ending"
TABLES = ("lesions", "routes", "tiles", "trends")
"""The names of its tables, and of the files in which those of all networks stand together."""

MOST_ROUTES = 4
"""Residual blocks of a network whose routes are told apart: the cost doubles with each."""

FREQUENCIES: tuple[tuple[int, int | None], ...] = ((0, 1), (2, 2), (3, 4), (5, 8), (9, 15), (16, None))
"""Bands of angular frequency, from the lowest to the highest, each without what is in another."""

# Draws of one block (all there are in a ResNet-20), and of more: a run of the network on the probe each.
_SINGLE, _DRAWS = 9, 5
# A circle costs 64 expansions for each of the three networks; the Gaussian is that of the degrees on record.
_CIRCLES, _ANGLES = 24, 64

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Ending:
    """What a network was when its training was over; a table is None where there is nothing to measure.

    Attributes:
        lesions: a row for each choice of blocks: how many are `removed` and `kept`, the number of the `draw`, which
            are `gone` (counted from 0, as `termwise.causal.lesion` takes them), accuracy and loss; and, the same in all
            rows of a number, the `draws`, whether these are all choices (`exhaustive`), and the means over them with
            95 % t-intervals (missing where all choices were measured).
        routes: see `termwise.routes.Routes`.
        tiles: a row for each comparator (see `termwise.degree.DepthDegrees`), part and band of angular frequency,
            `lowest` to `highest`: the `energy` in it, its `share` of the part's own, and the part's `weight`, its
            energy over that of all terms, with a 95 % interval over circles.
        trends: a row for each comparator: what the share at the lowest frequencies loses from each depth to the next,
            beyond the comparator (`excess`), with the kinds of warnings.
        left_out: why something that was to be measured could not be, a line each.
        seconds: that it took.
    """

    lesions: Table | None = None
    routes: Table | None = None
    tiles: Table | None = None
    trends: Table | None = None
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def tables(self) -> dict[str, Table]:
        """Those that are there, by name."""
        return {name: table for name in TABLES if (table := getattr(self, name)) is not None}


def measure_ending(
    model: nn.Module,
    probe: tuple[Tensor, Tensor],
    *,
    calibration: Tensor | Literal[False],
    unit: str | Sequence[str] | Unit = "layers",
    output: Output = None,
    degrees: bool = False,
    initial: Callable[[], nn.Module | None] = lambda: None,
    batch_size: int = 32,
    replicates: int = 200,
    path: str | os.PathLike[str] | None = None,
) -> Ending:
    """Measure a network whose training is over, as its last record saw it.

    Args:
        model: the network; run in evaluation mode and left as found.
        probe: (inputs, targets): the data of the records.
        calibration: inputs from which batch-norm statistics are estimated anew, or False, as for a `Recorder`.
        unit: of depth, for the tiles.
        output: which tensor of the model's result.
        degrees: whether tiles are wanted.
        initial: gives the same network at its first weights, for the tiles; None where nobody knows them.
        batch_size: samples that are expanded at once.
        replicates: of every bootstrap.
        path: where it is kept; what is there of the same weights and options is taken over.

    Returns:
        The tables.  What cannot be measured (no class numbers, a block that joins inside of an operator) is logged and
        listed, and ends nothing: the training is over, and its records are whole.
    """
    key = {
        "weights": fingerprint([*model.parameters(), *model.buffers()]),
        "probe": fingerprint(probe),
        "calibration": fingerprint([calibration]) if isinstance(calibration, Tensor) else "off",
        "options": f"{unit} {output} {degrees} {batch_size} {replicates}",
    }
    known = None if path is None else _kept(Path(path), key)
    if known is not None:
        return known
    start, left_out = time.monotonic(), list[str]()
    tables: dict[str, Table] = {}
    with untouched_random():
        network = _as_recorded(model, calibration)
        count = 0
        with _told("blocks", left_out):
            count = len(locate(BLOCKS, network, probe[0][:1], output=output).blocks or ())
        if count:
            with _told("lesions", left_out):
                tables["lesions"] = lesions(network, probe, count, output=output)
        if 0 < count <= MOST_ROUTES:
            with _told("routes", left_out):
                found = routes(network, probe, output=output, batch_size=batch_size, replicates=replicates)
                tables["routes"] = found.table
        if degrees:
            with _told("tiles", left_out):
                options: dict[str, Any] = {"unit": unit, "output": output, "replicates": replicates}
                data = calibration if isinstance(calibration, Tensor) else probe[0]
                first = initial()
                at_first = None if first is None else _as_recorded(first, calibration)
                tiles = depth_degrees(network, data, initial=at_first, circles=_CIRCLES, angles=_ANGLES, **options)
                tables |= {"tiles": tiles_table(tiles), "trends": trends_table(tiles)}
    made = Ending(**tables, left_out=tuple(left_out), seconds=time.monotonic() - start)
    if path is not None:
        note = {"key": key, "left_out": left_out, "seconds": made.seconds}
        write_record(path, Record(KIND, note, made.tables, {}))
    return made


def _as_recorded(model: nn.Module, calibration: Tensor | Literal[False]) -> nn.Module:
    """What a Recorder measures of a model."""
    return reestimated(model, calibration) if isinstance(calibration, Tensor) and live_norms(model) else model


def _kept(path: Path, key: dict[str, str]) -> Ending | None:
    """What was measured earlier; None where it is of something else, or cannot be read: it is measured again."""
    try:
        record = read_record(path, KIND)
    except RecordError:
        return None
    if record.metadata.get("key") != key or not set(record.tables) <= set(TABLES):
        return None
    return Ending(
        **record.tables,
        left_out=tuple(record.metadata.get("left_out", ())),
        seconds=float(record.metadata.get("seconds", 0.0)),
    )


@contextlib.contextmanager
def _told(what: str, left_out: list[str]) -> Iterator[None]:
    """An error of Termwise's becomes a line."""
    try:
        yield
    except TermwiseError as error:
        line = f"{what}: {first_line(error)}"
        _log.warning("not measured: %s", line)
        left_out.append(line)


def lesions(network: nn.Module, probe: tuple[Tensor, Tensor], count: int, *, output: Output = None) -> Table:
    """Accuracy and loss without 0, 1, 2, 4, 8, ... and all of `count` blocks; the columns are those of `Ending`.

    Raises:
        DataError, ModelError, RuleError, UsageError: see `termwise.deletion.deletion`.
    """
    more = sorted({0, count, *(2**power for power in range(1, count.bit_length()) if 2**power < count)} - {1})
    curves = [
        deletion(network, probe, removed=removed, draws=draws, output=output)
        for removed, draws in ((more, _DRAWS), ([1], _SINGLE))
    ]
    rows = []
    for curve in curves:
        summary = {row["removed"]: row for row in curve.summary.rows()}
        for row in curve.draws.rows():
            about = summary[row["removed"]]
            means = {f"mean_{name}": about[name] for name in about if name.startswith(("accuracy", "loss"))}
            kept = {name: value for name, value in row.items() if name != "statistics"}
            rows.append(kept | {"draws": about["draws"], "exhaustive": about["exhaustive"]} | means)
    return _table(sorted(rows, key=lambda row: (row["removed"], row["draw"])), {"loss": "nats"})


def tiles_table(found: DepthDegrees) -> Table:
    """The energy of each part by band of frequency; the columns are those of `Ending`."""
    parts = {(row["network"], row["part"], row["depth"]): row for row in found.terms.rows()}
    powers: dict[Any, list[float]] = {key: [] for key in parts}
    for row in found.powers.rows():  # ascending in frequency
        powers[row["network"], row["part"], row["depth"]].append(row["power"])
    rows = []
    for (comparator, part, depth), power in powers.items():
        about, whole = parts[comparator, part, depth], sum(power)
        for lowest, highest in FREQUENCIES:
            energy = sum(power[lowest : None if highest is None else highest + 1])
            row = {"comparator": comparator, "part": part, "depth": depth, "lowest": lowest, "highest": highest}
            row |= {"energy": energy, "share": energy / whole if whole else None}
            rows.append(row | {name: about[name] for name in ("weight", "weight_low", "weight_high")})
    return _table(rows, {"energy": "output^2", "depth": found.unit})


def trends_table(found: DepthDegrees) -> Table:
    """The excess over each comparator; the columns are those of `Ending`."""
    kinds = ", ".join(warning.partition(":")[0] for warning in found.warnings)
    return _table([row | {"warnings": kinds} for row in found.trend.rows()], found.trend.units)


def _table(rows: list[dict[str, Any]], units: dict[str, str]) -> Table:
    return Table({name: [row[name] for row in rows] for name in rows[0]}, units)


def together(endings: Sequence[tuple[str, Ending]]) -> dict[str, Table]:
    """The tables of several networks under each other, each row with its network's name first."""
    found: dict[str, list[Table]] = {}
    for network, ending in endings:
        for name, table in ending.tables.items():
            found.setdefault(name, []).append(named(table, network))
    return {name: concatenate(tables) for name, tables in found.items()}
