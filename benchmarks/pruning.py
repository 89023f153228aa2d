"""Whether the expansion finds the blocks that a network can do without: beside the rivals, and the ceiling.

    python -m benchmarks.pruning [--directory DIR] [--only NAME ...] [--seeds SEED ...] [--quick]
    python -m benchmarks.pruning --only --write docs/pruning.md          the page, of all that was measured before

Networks: a ResNet-56 and a vision transformer of 8 blocks, trained here on Fashion-MNIST, MiniLM-L6 and
EfficientNet-Lite0 as packages ship them (see `benchmarks.prunable`).  Of each, all blocks that can go are taken out,
one after another, by each method.  Printed are

  - of each method the area under the loss, which is its mean over all numbers of blocks, and the passes over the data
    that choosing took
  - when a quarter, a half and three quarters of those blocks are out: loss, time of a pass, and what is kept (accuracy,
    agreement with the whole network, the similarities of sentences)
  - what the expansion predicted at each step, beside what was measured
  - the bars: the area against block influence and angular distance, and against the exhaustive choice; the passes
    against those; and the rank correlation, over single blocks, of the predicted loss with the measured one

DIR/NAME.csv has loss, time and what is kept for every number of blocks, DIR/NAME.png shows them, and DIR/NAME.json
keeps the tables.

Intervals are of 95 %: by a bootstrap over the samples that are measured, the same draws for all methods; of the random
order, of which there are five, t-intervals over these.  They do not say how another training would come out: for that
there is --seeds.  Besides the methods stand an exhaustive choice on an eighth of the data, which is what the expansion
looks at in a step, and, where the sets of blocks are few enough to try each, "best sets": the best set of every size by
the very samples that the result is measured on.  No choice can do better.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from pyarrow import csv
from scipy.stats import rankdata
from torch import Tensor

import termwise as tw
from benchmarks.measuring import Row
from benchmarks.performance import table, tried, wrapped
from benchmarks.prunable import CASES, TRAINED, Case
from termwise.profile import Estimate, estimate
from termwise.pruning.bench import Bench, every
from termwise.pruning.losses import losses_of
from termwise.pruning.methods import METHODS, PARTS
from termwise.records import Table
from termwise.verdict.decision import t_interval

ON_A_PART = f"exhaustive, 1/{PARTS} of the data"
BEST = "best sets"
CEILINGS = ("exhaustive", ON_A_PART, BEST)
SHARES = (0.25, 0.5, 0.75)
DRAWS, REPLICATES = 5, 200
FEW = 8  # blocks of which all sets are tried
TIMED = 4  # samples of a timed pass

INTRODUCTION = """\
# Pruning, measured

Which blocks can a network do without? Of each network all blocks that can go are taken out, one after another, by each
method, and the loss is measured after every step. The narrow ResNet-56 and the vision transformer of 8 blocks were
trained for minutes on Fashion-MNIST at 16x16 pixels, from seed 0 or from the one that is named; MiniLM-L6 and
EfficientNet-Lite0 are what packages ship.

- What blocks are chosen on and what is measured have nothing in common: training and test images; sentences made of
  other patterns; crops of other photographs.
- The *loss* is the cross-entropy; of EfficientNet-Lite0 that of the class for which the whole network decides; of
  MiniLM-L6 the squared distance to the whole network's embeddings, relative to these. *Similarity* is Spearman's
  correlation of the cosines of all pairs of sentences with those by the whole network, *agreement* the share of crops
  for which both decide alike.
- The *area* is the mean of the loss over all numbers of blocks that are out. *Passes* are over the data that blocks are
  chosen on. *Time* is that of a pass over a few samples, in those of the whole network: of passes that take turns, the
  fastest of each.
- Intervals are of 95 %: over samples, the same draws for all methods; of *random*, over five orders. Crops of one
  photograph are alike, so those of EfficientNet-Lite0 are too narrow. No interval says how another training comes out:
  for that there are the seeds.
- *best sets* is no method: the best set of every size by the very samples that are measured, where these sets are few
  enough to try each. No choice of blocks comes below it.

`python -m benchmarks.pruning --seeds 0 1 --write docs/pruning.md` makes this page."""

# Beginning of a measure -> what was tried where its bar was not met.  Kept by hand: what is no longer true goes.
_SETS = (
    "where the note says what the best sets come to, no choice of blocks meets the bar. Tried: looks at 64 samples, "
    "the last four counted alike; looks at 256; looks at all of the data; the exhaustive choice. All take out nearly "
    "the same blocks there. On EfficientNet-Lite0 predictions are too coarse, see below"
)
TRIED = {
    "area under the loss, block-influence": _SETS,
    "area under the loss, angular": _SETS,
    "area under the loss, exhaustive": "a look at 256 samples is less than one at all of them. Tried, on a network of "
    "another seed: looks at 64, the last four counted alike; looks at 256, the last two or four counted alike, hardly "
    "better; looks at all of the data, better, and dearer than a tenth of the exhaustive choice",
    "rank correlation": "on EfficientNet-Lite0 single blocks cost nearly alike, and predictions are off by as much as "
    "they differ. Tried: the squared distance to the logits as the loss, on the same crops and on twelve views of two "
    "photographs, where the order is better; the choice by it was not as good as the exhaustive one either",
    "passes, exhaustive": "a look needs 256 samples, and there are no more crops than that, so each is at all of them. "
    "Tried: looks at 64, which mistake blocks for each other; 512 crops of the same photographs, of which the "
    "exhaustive choice took too long",
}

Gone = tuple[int, ...]
"""The numbers of the blocks that are out."""


@dataclasses.dataclass(frozen=True)
class Course:
    """What a method took out, and what that did.

    Attributes:
        draws: of each order, what was out at each step; one order, but for "random".
        passes: over the data that choosing took; None where nothing was chosen.
        plan: of the first order.
    """

    draws: tuple[tuple[Gone, ...], ...]
    passes: float | None
    plan: tw.Plan | None = None


class Measurer:
    """The outputs of a network without some of its blocks; each set is measured once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.bench = Bench(case.model, case.data, test=case.test, calibration=case.calibration, batch_size=512)
        self.blocks = len(self.bench.members.free)
        self.targets = torch.cat([targets for _, targets in self.bench.test])
        draws = np.random.default_rng(0)
        samples = len(self.targets)
        self._resampled = [np.arange(samples), *draws.integers(samples, size=(REPLICATES, samples))]
        # Each set is asked for by several methods.
        self.losses = functools.cache(self._losses)
        self.loss = functools.cache(self._loss)
        self.kept = functools.cache(self._kept)
        self._outputs = functools.cache(self._outputs_without)

    def _outputs_without(self, gone: Gone) -> Tensor:
        self.bench.take_out([self.bench.members.free[i] for i in gone])
        self.bench.reestimate()
        return torch.cat([self.bench.run(inputs) for inputs, _ in self.bench.test])

    def _losses(self, gone: Gone) -> np.ndarray:
        """Of each sample, (N,)."""
        y = self._outputs(gone)
        return losses_of([y], y, self.targets, self.bench.scale).sums[0]

    def _loss(self, gone: Gone) -> np.ndarray:
        """The mean loss, of the samples and of each replicate, (1 + replicates,)."""
        losses = self.losses(gone)
        return np.array([losses[chosen].mean() for chosen in self._resampled])

    def _kept(self, gone: Gone) -> np.ndarray:
        """What is kept, (1 + replicates,)."""
        y = self._outputs(gone)
        return np.array([self.case.kept.of(y, self.targets, chosen) for chosen in self._resampled])

    def area(self, order: Sequence[Gone]) -> np.ndarray:
        """The mean of the loss over all numbers of blocks, (1 + replicates,)."""
        return np.mean([self.loss(gone) for gone in order], axis=0)

    def times(self, sets: Sequence[Gone]) -> dict[Gone, float]:
        """Of a pass over a few samples without these blocks, in those of the whole network."""
        few = [cut for pair in self.bench.data[:1] for cut in part_of(pair, max(1, len(pair[1]) // TIMED))]
        bench = Bench(self.case.model, few, calibration=False)
        found = {}
        for gone in sets:
            bench.take_out([bench.members.free[i] for i in gone])
            found[gone] = bench.latency()
        return found


def courses(case: Case, measurer: Measurer) -> dict[str, Course]:
    """By each method, all that can go taken out."""
    members = measurer.bench.members
    # A little more than nothing, so that of a network of which all can go all go.
    keep = max(len(members.fixed) / members.count, 1e-12)
    options: dict[str, Any] = {"keep": keep, "test": case.test, "calibration": case.calibration, "batch_size": 512}

    def course(method: str, data: Any, parts: int = 1) -> Course:
        plan = tw.prune(case.model, data, method=method, draws=2, **options)
        return Course((orders(plan),), float(plan.table["passes"][-1]) / parts, plan)

    found = {method: course(method, case.data) for method in METHODS if method != "random"}
    found["random"] = Course(tuple(shuffled(measurer.blocks, seed) for seed in range(DRAWS)), None)
    found[ON_A_PART] = course(
        "exhaustive", [cut for pair in measurer.bench.data for cut in part_of(pair, PARTS)], PARTS
    )
    if measurer.blocks <= FEW:
        found[BEST] = Course((best_sets(measurer),), None)
    return found


def part_of(pair: tuple[Any, Tensor], parts: int) -> Iterator[Any]:
    """One of so many parts of a batch, with targets where they are classes."""
    for inputs, targets in every(pair, 0, parts):
        yield inputs if targets.is_floating_point() else (inputs, targets)


def orders(plan: tw.Plan) -> tuple[Gone, ...]:
    """What was out at each step."""
    return tuple(tuple(int(i) for i in row["gone"].split()) for row in plan.table.rows())


def shuffled(blocks: int, seed: int) -> tuple[Gone, ...]:
    """All blocks in a random order."""
    order = np.random.default_rng(seed).permutation(blocks).tolist()
    return tuple(tuple(sorted(order[:count])) for count in range(blocks + 1))


def best_sets(measurer: Measurer) -> tuple[Gone, ...]:
    """Of every size, the set whose loss is least where it is measured."""
    blocks = range(measurer.blocks)
    return tuple(
        min(itertools.combinations(blocks, count), key=lambda gone: measurer.losses(gone).mean())
        for count in range(measurer.blocks + 1)
    )


def over(course: Course, statistic: Callable[[Sequence[Gone]], np.ndarray]) -> Estimate:
    """What was found, with its interval: over samples, or, where there are several orders, over these."""
    found = [statistic(order) for order in course.draws]
    if len(found) == 1:
        return estimate(found[0])
    values = np.array([replicates[0] for replicates in found])
    return Estimate(float(values.mean()), *t_interval(values))


def curves(measurer: Measurer, found: Mapping[str, Course]) -> Table:
    """Of each method, for every number of blocks that are out: loss, what is kept, and the time of a pass."""
    steps = range(measurer.blocks + 1)
    times = measurer.times([*dict.fromkeys(gone for course in found.values() for gone in course.draws[0])])
    rows: list[dict[str, Any]] = []
    for method, course in found.items():
        for out in steps:
            row: dict[str, Any] = {"method": method, "out": out, "of": measurer.blocks}
            row |= named("loss", over(course, lambda order: measurer.loss(order[out])))  # noqa: B023
            row |= named(measurer.case.kept.name, over(course, lambda order: measurer.kept(order[out])))  # noqa: B023
            rows.append(row | {"time": times[course.draws[0][out]]})
    return Table({name: [row[name] for row in rows] for name in rows[0]})


def named(name: str, value: Estimate) -> dict[str, float]:
    """An estimate in three columns."""
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def summary(measurer: Measurer, found: Mapping[str, Course]) -> Table:
    """The area and the passes of each method."""
    areas = [str(over(course, measurer.area)) for course in found.values()]
    return Table({"method": [*found], "area": areas, "passes": [course.passes for course in found.values()]})


def shares(measurer: Measurer, found: Mapping[str, Course], steps: Table) -> Table:
    """Some rows of `curves`, to be read."""
    kept = measurer.case.kept.name
    numbers = [round(share * measurer.blocks) for share in SHARES]
    rows = [steps.where(method=method, out=number).rows()[0] for number in numbers for method in found]
    return Table(
        {
            "out": [f"{row['out']} of {row['of']}" for row in rows],
            "method": [row["method"] for row in rows],
            "loss": [interval(row, "loss") for row in rows],
            kept: [interval(row, kept) for row in rows],
            "time": [row["time"] for row in rows],
        }
    )


def course_of(plan: tw.Plan) -> Table:
    """What was predicted at each step, and what was measured before and after statistics were estimated anew."""
    rows = plan.table.rows()
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("step", "block", "predicted")}
    columns |= {name: [interval(row, name) for row in rows] for name in ("measured", "loss")}
    columns |= {name: [row[name] for row in rows] for name in ("parameters", "flops", "passes")}
    return Table(columns, {name: unit for name, unit in plan.table.units.items() if name in columns})


def interval(row: Mapping[str, Any], name: str) -> str:
    """A cell with its interval."""
    return str(Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"]))


def rank_correlation(case: Case) -> tuple[float, int]:
    """Spearman's, of the predicted with the measured loss without each block, on what the result is measured on."""
    bench = Bench(case.model, case.test, calibration=False, batch_size=512)
    members = bench.members.free
    predicted = bench.predicted(members)
    measured = [bench.trial(member) for member in members]
    return float(np.corrcoef(rankdata(predicted), rankdata(measured))[0, 1]), len(members)


def bars(measurer: Measurer, found: Mapping[str, Course]) -> Iterator[Row]:
    """What is asked of the expansion."""
    name = measurer.case.name
    own = measurer.area(found["expansion"].draws[0])
    for method, bar in (("block-influence", 0.9), ("angular", 0.9), ("exhaustive", 1.05)):
        other = measurer.area(found[method].draws[0])
        ratio = estimate(own / other)
        note = ""
        if BEST in found and bar < 1:
            least = measurer.area(found[BEST].draws[0])[0] / other[0]
            note = f"the best set of every size, by the very samples that are measured, comes to {least:.3f} on {name}"
        yield Row(
            f"area under the loss, {method}", name, float(own[0]), float(other[0]), ratio.value, bar, "at most",
            interval=(ratio.low, ratio.high), note=note,
        )  # fmt: skip
    few, most = found["expansion"].passes, found["exhaustive"].passes
    assert few is not None and most is not None
    note = "passes over the data for choosing; both are predicted and measured besides, at each step"
    yield Row("passes, exhaustive", name, few, most, few / most, 0.1, "at most", note=note)
    correlation, count = rank_correlation(measurer.case)
    yield Row(
        "rank correlation of predicted and measured loss", name, correlation, 1.0, correlation, 0.9, "at least",
        note=f"over the {count} single blocks of {name} that can go",
    )  # fmt: skip


def draw(measurer: Measurer, steps: Table, path: Path) -> None:
    """The curves: loss and what is kept, against blocks that are out and against time."""
    from matplotlib import pyplot

    methods = list(dict.fromkeys(steps["method"]))
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.5), sharex="col", sharey="row", layout="constrained")
    for method in methods:
        rows = steps.where(method=method)
        strong = method == "expansion"
        style: dict[str, Any] = {"label": method, "linewidth": 2.5 if strong else 1.2, "zorder": 3 if strong else 2}
        style |= {"linestyle": ":" if method in CEILINGS else "-"}
        for i, name in enumerate(("loss", measurer.case.kept.name)):
            (line,) = axes[i, 0].plot(rows["out"], rows[name], **style)
            if method in ("expansion", "random"):
                axes[i, 0].fill_between(rows["out"], rows[f"{name}_low"], rows[f"{name}_high"],
                                        color=line.get_color(), alpha=0.2, linewidth=0)  # fmt: skip
            axes[i, 1].plot(rows["time"], rows[name], ".-", color=line.get_color(), **style)
    for i, name in enumerate(("loss", measurer.case.kept.name)):
        axes[i, 0].set_ylabel(name)
    axes[1, 0].set_xlabel(f"blocks that are out, of {measurer.blocks} that can go")
    axes[1, 1].set_xlabel("time of a pass, whole network = 1")
    axes[1, 1].invert_xaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(measurer.case.name)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


@dataclasses.dataclass(frozen=True)
class Result:
    """What was found of a network, as it is kept beside it.

    Attributes:
        title: the network, and the seed of its training where it was trained here.
        rows: the bars.
        tables: in text.
    """

    title: str
    rows: tuple[Row, ...]
    tables: tuple[str, ...]


def measured(case: Case, directory: Path) -> Result:
    """Take the blocks out of a network by each method, and keep what was found."""
    measurer = Measurer(case)
    found = courses(case, measurer)
    steps = curves(measurer, found)
    plan = found["expansion"].plan
    assert plan is not None
    tables = summary(measurer, found), shares(measurer, found, steps), course_of(plan)
    result = Result(case.name, tuple(bars(measurer, found)), tuple(str(each) for each in tables))
    csv.write_csv(steps.to_arrow(), directory / f"{case.name}.csv")
    draw(measurer, steps, directory / f"{case.name}.png")
    (directory / f"{case.name}.json").write_bytes(msgspec.json.encode(result))
    return result


def page(results: Sequence[Result], picture: str) -> str:
    """All that was found, in Markdown; the picture is of the first."""
    rows = [row for result in results for row in result.rows]
    shown = (
        f"![Loss and {results[0].title}'s accuracy, by each method, against blocks that are out and time]({picture})"
    )
    parts = [INTRODUCTION, shown, wrapped(table(rows)), wrapped(tried(rows, TRIED))]
    for result in results:
        parts += [f"## {result.title}", *(f"```text\n{text}\n```" for text in result.tables[:2])]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description="Whether the expansion finds the blocks that can go.")
    parser.add_argument("--directory", type=Path, default=Path("termwise-pruning"), help="for what is found")
    parser.add_argument("--only", nargs="*", choices=CASES, default=[*CASES], help="measure these networks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the training of those trained here")
    parser.add_argument("--quick", action="store_true", help="hardly trained and few samples, for development")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a page of all that is in the directory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.directory.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        for seed in options.seeds if name in TRAINED else [0]:
            result = measured(CASES[name](options.directory, seed, options.quick), options.directory)
            print(result.title, *result.tables, table([*result.rows]), sep="\n\n", end="\n\n", flush=True)
    if options.write:
        kept = [msgspec.json.decode(path.read_bytes(), type=Result) for path in options.directory.glob("*.json")]
        kept.sort(key=lambda result: order_of(result.title))
        picture = options.write.with_suffix(".png")
        shutil.copy(options.directory / f"{kept[0].title}.png", picture)
        options.write.write_text(page(kept, picture.name))


def order_of(title: str) -> tuple[int, str]:
    """The trained ones first, as they are listed."""
    names = ("ResNet", "ViT", "MiniLM", "EfficientNet")
    return next(i for i, name in enumerate(names) if title.startswith(name)), title


if __name__ == "__main__":
    main()
