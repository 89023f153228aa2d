"""What another program is told of a result: plain numbers and texts in named fields, small enough to be read whole.

Every type documents itself, for the description of an answer is made of these types.  JSON has neither NaN nor infinite
numbers: what is not known is null.  `notes` are what Termwise logged and warned of meanwhile, filled in by who asked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from termwise.degree import DegreeSpectrum
from termwise.operators import OperatorUse
from termwise.profile import DepthProfile
from termwise.pruning import Plan
from termwise.records import NetworkSummary
from termwise.report import titles
from termwise.report.conclusion import conclusion
from termwise.report.experiments import experiments_page
from termwise.report.figures import build_figures
from termwise.report.reading import Run
from termwise.report.results import Row, Study
from termwise.report.strings import speaking
from termwise.report.tables import build_tables
from termwise.support import Support

Number = float | Literal["inf", "-inf"] | None


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; null where it is not known."""

    value: float | None
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Depth:
    """A depth, and how many paths from the input to the output have it (as text: it has no bound)."""

    depth: int
    paths: str


@dataclasses.dataclass(frozen=True)
class Operator:
    """How calls of an operator are treated: exact, frozen at their values, or linearised for want of a rule."""

    operator: str
    kind: str
    count: int


@dataclasses.dataclass(frozen=True)
class Missing:
    """A call that no rule can follow."""

    operator: str
    module: str
    reason: str


@dataclasses.dataclass(frozen=True)
class SupportAnswer:
    """What a dry run found; `failure` says why a model is refused although every operator has a rule."""

    supported: bool
    failure: str | None
    unit: str
    depths: list[Depth]
    blocks: list[str]
    weights: int
    ideal_cost: float
    memory_bytes: int
    operators: list[Operator]
    missing: list[Missing]
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the output: the term of a depth (origin "input"), or what constants or frozen values bring.

    `head` is the accuracy (regression: the loss) of everything up to this depth, `alone` that of the term by itself.
    """

    origin: str
    depth: int | None
    paths: str | None
    norm_share: Interval
    aligned_share: Interval
    margin_share: Interval
    head: float | None
    alone: float | None


@dataclasses.dataclass(frozen=True)
class ProfileAnswer:
    """Which depth does the work; `closure` is the relative error of the parts' sum, first to be looked at."""

    finding: str
    closure: float
    unit: str
    task: str
    samples: int
    accuracy: float | None
    loss: float | None
    mean_depth: Interval
    aligned_depth: Interval | None
    effective_depth: int | None
    cancellation: float | None
    parts: list[Part]
    operators: list[Operator]
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Degree:
    """The share of the output's variance that is of these degrees; no highest: no end."""

    lowest: int
    highest: int | None
    share: Interval


@dataclasses.dataclass(frozen=True)
class DegreesAnswer:
    """Of which polynomial degrees the function is made on these inputs; `warnings` say what not to trust."""

    finding: str
    method: str
    inputs: str
    variance: float | None
    mean_degree: Interval | None
    spectrum: list[Degree]
    warnings: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Step:
    """What the loss is without one more block (the first step: without none), and how it had been foreseen.

    `measured` right after the removal, `loss` with batch-norm statistics estimated anew; `flops` and `latency` as
    fractions of those of the whole network.
    """

    block: str
    predicted: float | None
    measured: Interval
    loss: Interval
    accuracy: float | None
    parameters: int
    flops: float
    latency: float | None


@dataclasses.dataclass(frozen=True)
class Staying:
    """A block that cannot go."""

    block: str
    reason: str


@dataclasses.dataclass(frozen=True)
class PruneAnswer:
    """Which blocks a network can do without: those to remove, in the order of the network, and a row for each step.

    Blocks were chosen on the training part of the data; losses are of the test part, in `unit`.
    """

    target: str
    method: str
    removed: list[str]
    kept: list[str]
    fixed: list[Staying]
    samples: int
    unit: str
    steps: list[Step]
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of a run at its last record; `closure` is the worst of all records."""

    name: str
    closure: float
    accuracy: float | None
    loss: float | None
    mean_depth_first: Interval
    mean_depth_last: Interval
    effective_depth: int | None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment; the numbers of a quick one show nothing."""

    name: str
    question: str
    seeds: int
    quick: bool
    remarks: list[str]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A quantity as it was found, beside what was expected of it: holds, fails or undecided; without, both are empty.

    JSON has no infinite numbers: they are texts.
    """

    experiment: str
    quantity: str
    found: Number
    low: Number
    high: Number
    expected: str
    verdict: str


@dataclasses.dataclass(frozen=True)
class ReportAnswer:
    """What a run, or some experiments, show: the verdict, and the titles of the figures, which are findings."""

    kind: Literal["run", "experiments"]
    name: str
    verdict: str
    figures: list[str]
    networks: list[Network]
    experiments: list[Experiment]
    claims: list[Claim]
    notes: list[str] = dataclasses.field(default_factory=list)


def of_support(found: Support) -> SupportAnswer:
    """What a dry run found."""
    return SupportAnswer(
        supported=found.supported,
        failure=found.failure,
        unit=found.unit,
        depths=[Depth(depth, str(count)) for depth, count in found.paths.items()],
        blocks=[block.name for block in found.blocks],
        weights=found.weights,
        ideal_cost=found.ideal_cost,
        memory_bytes=found.memory,
        operators=_operators(found.operators),
        missing=[Missing(call.operator, call.module, call.reason) for call in found.missing],
    )


def of_profile(result: DepthProfile) -> ProfileAnswer:
    """What a profile says, with the title of its figure."""
    with speaking("en", unit=result.unit):
        finding = titles.spectrum(result)
    aligned = result.aligned_depth
    return ProfileAnswer(
        finding=finding,
        closure=result.closure,
        unit=result.unit,
        task=result.task,
        samples=result.samples,
        accuracy=_finite(result.accuracy),
        loss=_finite(result.loss),
        mean_depth=_interval(*result.mean_depth),
        aligned_depth=None if aligned is None else _interval(*aligned),
        effective_depth=result.effective_depth,
        cancellation=_finite(result.cancellation),
        parts=_parts(result),
        operators=_operators(result.operators),
    )


def _parts(result: DepthProfile) -> list[Part]:
    truncated = {row["depth"]: row for row in result.truncated.rows()}
    measure = "accuracy" if "head_accuracy" in result.truncated.columns else "loss"
    parts = []
    for row in result.share.rows():
        own: Mapping[str, Any] = truncated.get(row["depth"], {}) if row["origin"] == "input" else {}
        norm, aligned, margin = (_interval_of(row, f"{name}_share") for name in ("norm", "aligned", "margin"))
        head, alone = (_finite(own.get(f"{name}_{measure}")) for name in ("head", "alone"))
        parts.append(Part(row["origin"], row["depth"], row["paths"], norm, aligned, margin, head, alone))
    return parts


def of_degrees(result: DegreeSpectrum) -> DegreesAnswer:
    """What a spectrum says, with the title of its figure."""
    mean = result.mean_degree
    return DegreesAnswer(
        finding=titles.degrees(result),
        method=result.method,
        inputs=result.inputs,
        variance=_finite(result.variance),
        mean_degree=None if mean is None else _interval(*mean),
        spectrum=[Degree(row["lowest"], row["highest"], _interval_of(row, "share")) for row in result.spectrum.rows()],
        warnings=list(result.warnings),
    )


def of_plan(plan: Plan) -> PruneAnswer:
    """What a plan of pruning says; the network itself is not told."""
    return PruneAnswer(
        target=plan.target,
        method=plan.method,
        removed=list(plan.removed),
        kept=list(plan.kept),
        fixed=[Staying(name, reason) for name, reason in plan.fixed.items()],
        samples=plan.metadata["samples"],
        unit=plan.metadata["unit"],
        steps=[_step(row) for row in plan.table.rows()],
    )


def _step(row: Mapping[str, Any]) -> Step:
    return Step(
        block=row["block"],
        predicted=_finite(row["predicted"]),
        measured=_interval_of(row, "measured"),
        loss=_interval_of(row, "loss"),
        accuracy=_finite(row.get("accuracy")),
        parameters=row["parameters"],
        flops=row["flops"],
        latency=_finite(row.get("latency")),
    )


def of_run(run: Run, language: str) -> ReportAnswer:
    """What the page of a run says."""
    summary = run.summary
    with speaking(language, unit=summary.unit):
        verdict, figures = conclusion(summary), build_figures(run, build_tables(run))
    networks = [_network(network) for network in summary.networks]
    return ReportAnswer("run", summary.name, verdict, [figure.title for figure in figures], networks, [], [])


def _network(summary: NetworkSummary) -> Network:
    means = zip(summary.mean_depth, summary.mean_depth_interval, strict=True)
    return Network(
        summary.name,
        summary.closure,
        _finite(summary.accuracy),
        _finite(summary.loss),
        *(_interval(value, *ends) for value, ends in means),
        effective_depth=summary.effective_depth,
    )


def of_experiments(studies: Sequence[Study], language: str) -> ReportAnswer:
    """What the page of some experiments says; what was saved with them is English."""
    with speaking(language):
        page = experiments_page(studies)
        name, verdict = page.title, page.verdict
    experiments = [
        Experiment(
            study.result.name,
            str(study.result.question),
            len(study.settings.seeds),
            study.settings.quick,
            [str(remark) for remark in study.result.notes],
        )
        for study in studies
    ]
    found = [_claim(study.result.name, row) for study in studies for row in study.found]
    figures = [str(figure.title) for figure in page.figures]
    return ReportAnswer("experiments", name, verdict, figures, [], experiments, found)


def _claim(experiment: str, row: Row) -> Claim:
    numbers: dict[str, Number] = {name: _number(row[name]) for name in ("found", "low", "high")}
    return Claim(experiment, row["quantity"], expected=row["expected"], verdict=row["verdict"], **numbers)


def _operators(uses: Iterable[OperatorUse]) -> list[Operator]:
    counts: dict[tuple[str, str], int] = {}
    for use in uses:
        key = (use.operator, use.kind)
        counts[key] = counts.get(key, 0) + use.count
    return [Operator(*key, count) for key, count in counts.items()]


def _interval(value: float | None, low: float | None, high: float | None) -> Interval:
    return Interval(_finite(value), _finite(low), _finite(high))


def _interval_of(row: Mapping[str, Any], name: str) -> Interval:
    return _interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high")))


def _finite(value: float | None) -> float | None:
    """JSON has neither infinite numbers nor NaN."""
    return None if value is None or not math.isfinite(value) else value


def _number(value: float | None) -> Number:
    if value is None or not math.isinf(value):
        return _finite(value)
    return "inf" if value > 0 else "-inf"
