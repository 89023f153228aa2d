"""Several runs as one: all of their networks side by side, and what holds over the seeds of one of them.

Networks of one name that differ in nothing but their seed are one network trained several times; any other pair of runs
is only set side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from termwise.errors import RecordError, UsageError
from termwise.profile import Estimate
from termwise.report.conclusion import change, joined, shown
from termwise.report.finished import stacked
from termwise.report.reading import Columns, Run, read_run
from termwise.report.strings import prose, say
from termwise.verdict.decision import SEEDS, t_interval


def read_runs(directories: Sequence[Path | str]) -> list[Run]:
    """Runs that can stand side by side.

    Raises:
        UsageError: there are not two, or one is there twice.
        RecordError: one of them cannot be read, or they measure depth in different units.
    """
    places = [Path(directory) for directory in directories]
    if len(places) < 2 or len({place.resolve() for place in places}) < len(places):
        given = ", ".join(map(str, places)) or "none"
        raise UsageError(f"compare: give the directories of two runs or more, each once; given: {given}.")
    runs = [read_run(place) for place in places]
    _require_one(places, "unit of depth", [_unit(run) for run in runs], "--unit")
    _require_one(places, "treatment of constants", [run.summary.constants for run in runs], "--constants")
    kept = ["estimated anew" if run.summary.reestimated else "as the model had them" for run in runs]
    _require_one(places, "treatment of batch-norm statistics", kept, "--calibration")
    _require_one(places, "number of classes", [run.summary.data.classes for run in runs], "--data")
    return runs


def _unit(run: Run) -> str:
    return ", ".join([run.summary.unit, *run.summary.modules])


def _require_one(places: Sequence[Path], what: str, found: Sequence[Any], option: str) -> None:
    if len(set(found)) > 1:
        told = ", ".join(f"{place}: {each}" for place, each in zip(places, found, strict=True))
        raise RecordError(
            f"compare: the {what} is not the same ({told}), so the numbers do not measure the same thing. Record one "
            f"of them again with the {option} of the other: `termwise trace` needs only its checkpoints."
        )


def merged(runs: Sequence[Run]) -> Run:
    """One run of all networks; where two have the same name, that of their run or its seed stands beside it."""
    summaries = [run.summary for run in runs]
    labels = _labels(runs)
    networks, offsets = [], []
    taken = [network.name for summary in summaries for network in summary.networks]
    for summary, label in zip(summaries, labels, strict=True):
        offsets.append(len(networks))
        for network in summary.networks:
            name = network.name if taken.count(network.name) == 1 else f"{network.name}, {label}"
            networks.append(msgspec.structs.replace(network, name=name))
    degrees = [run.degrees for run in runs]
    # The figure of degrees needs the same ones in all networks.
    alike = None not in degrees and len({_groups(each) for each in degrees if each is not None}) == 1
    summary = msgspec.structs.replace(summaries[0], networks=networks)
    return Run(
        summary,
        _stacked([run.steps for run in runs], offsets),
        _stacked([run.spectrum for run in runs], offsets),
        _stacked([each for each in degrees if each is not None], offsets) if alike else None,
        _seeds(runs, [network.name for network in networks]),
        finished=stacked([run.finished for run in runs], offsets),
    )


def compared(runs: Sequence[Run], whole: Run) -> str:
    """What the runs show side by side: over the seeds of one network with an interval, else each by itself.

    Args:
        runs: as they were read.
        whole: all of them as one.
    """
    said, alone, few = [], list(whole.summary.networks), False
    for name, places in whole.seeds:
        seeds = [whole.summary.networks[place] for place in places]
        if len(seeds) < 2:
            continue
        moves = np.array([network.mean_depth[1] - network.mean_depth[0] for network in seeds])
        words = {"network": name, "count": len(seeds), "move": shown(Estimate(float(moves.mean()), *t_interval(moves)))}
        said.append(say("compare.seeds", **words))
        few = few or len(seeds) < SEEDS
        alone = [network for network in alone if network not in seeds]
    if few:
        said.append(say("claims.notice.few", seeds=SEEDS))
    if alone:
        changes = joined([change(network, first=i == 0) for i, network in enumerate(alone)])
        said.insert(0, say("compare.each", changes=changes))
    return prose(*said)


def notices(runs: Sequence[Run], whole: Run) -> list[str]:
    """What makes the runs less comparable, and what is left out because one of them lacks it."""
    found = []
    if len({run.summary.data.sha256 for run in runs}) > 1:
        found.append(say("compare.data"))
    if len({run.summary.data.probe for run in runs}) > 1:
        found.append(say("compare.probe"))
    if whole.degrees is None and any(run.degrees is not None for run in runs):
        found.append(say("compare.degrees"))
    return found


def _seeds(runs: Sequence[Run], names: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The networks that are one in all but the seed: a name, and their places among all networks."""
    found: dict[tuple[Any, ...], dict[int, int]] = {}
    networks = [(run.summary, network) for run in runs for network in run.summary.networks]
    for place, (run, network) in enumerate(networks):
        kind = network.name, network.recipe, run.data.probe
        seeds = found.setdefault(kind, {})
        # Of what was traced neither seed nor recipe are known; what has the seed of another one is not one more.
        if run.seed is None or network.recipe is None or run.seed in seeds:
            found[*kind, place] = {0: place}
        else:
            seeds[run.seed] = place
    groups = ((kind[0], [*seeds.values()]) for kind, seeds in found.items() if seeds)
    return tuple((name if len(places) > 1 else names[places[0]], tuple(places)) for name, places in groups)


def _labels(runs: Sequence[Run]) -> list[str]:
    """What tells runs apart: their names, their seeds, or their order."""
    names = [run.summary.name for run in runs]
    seeds = [run.summary.seed for run in runs]
    if len(set(names)) == len(names):
        return names
    if None not in seeds and len(set(seeds)) == len(seeds):
        return [f"seed {seed}" for seed in seeds]
    return [f"run {i + 1}" for i in range(len(runs))]


def _groups(degrees: Columns) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(zip(degrees["lowest"], degrees["highest"], strict=True)))


def _stacked(tables: Sequence[Columns], offsets: Sequence[int]) -> Columns:
    """Tables one under the other, in which the networks are counted on."""
    # An older run may lack a column that a newer one has.
    found: Columns = {name: [] for name in tables[0] if all(name in table for table in tables)}
    for table, offset in zip(tables, offsets, strict=True):
        for name, values in found.items():
            values += [value + offset for value in table[name]] if name == "network" else table[name]
    return found
