"""All claims at once: `reproduce` runs the experiments that decide H1 to H5, and puts them on trial together.

Each claim is decided as in the experiment that measures it, and then once more with the others, under one correction
(Holm, over the five).  H1 has its third endpoint here: *share* and *learned* are measured by `shallow-first`, *causal*
by `train-by-paths`.  Around the claims stand the experiments in which they fail, and those that say why.

A scale says which networks, how many images and how long; what it leaves out is not run, and said to be so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from termwise.errors import UsageError
from termwise.experiments import (
    COLLECTIONS,
    VERDICT,
    dense_vs_res,
    depth_degree,
    shallow_first,
    train_by_paths,
    variants,
)
from termwise.experiments.common import OnImages, columns, verdict_row
from termwise.experiments.experiment import Progress, Result, Rows, find
from termwise.experiments.fleet import Executor
from termwise.experiments.grid import Part, run_all, versions
from termwise.records import Table
from termwise.sentences import Sentence, say
from termwise.verdict import CAUSAL, CLAIMS, Verdict, corrected, decided, table

Scale = Literal["quick", "standard", "full"]
DATA: Mapping[Scale, str] = {"quick": "digits", "standard": "fashion-mnist", "full": "fashion-mnist"}
SEEDS: Mapping[Scale, int] = {"quick": 5, "standard": 5, "full": 10}

FURTHER = ("bn-lag", "overfitting", "capacity", *COLLECTIONS["counter-examples"])
"""The experiments that stand around the claims at the standard scale."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run at a scale.

    Attributes:
        scale: "quick", "standard" or "full".
        data: as `termwise.data.load` takes it.
        images: the data that the claims are decided on.
        parts: the experiments, with their protocols.
        left_out: names of experiments that are not run.
    """

    scale: Scale
    data: str
    images: OnImages
    parts: tuple[Part, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        """What will be run, and how long one core has to do."""
        minutes = sum(len(part.jobs) * part.cost for part in self.parts) / 60
        names = ", ".join(part.experiment.name for part in self.parts)
        count = sum(len(part.jobs) for part in self.parts)
        price = f", roughly {minutes:.0f} minutes of one core in all" if _COSTS[self.scale] else ""
        return f"{self.scale}, on {self.data}: {names}; {count} jobs{price}"


def plan(scale: Scale, data: str | None = None) -> Plan:
    """What `reproduce` does.

    Args:
        scale: "quick" takes minutes; "standard" an hour or two on two cores; "full" is for a cluster.
        data: digits, fashion-mnist[:DIR] or cifar10[:DIR]; by default the digits for "quick", else Fashion-MNIST.

    Raises:
        UsageError: when the data are of another kind.
    """
    from termwise.experiments import NAMES

    chosen = DATA[scale] if data is None else data
    if chosen.partition(":")[0] not in _HALVES:
        raise UsageError(f"reproduce: data {chosen!r}; choose digits, fashion-mnist[:DIR] or cifar10[:DIR].")
    claims, further = _SCALES[scale](chosen)
    parts = [
        Part(find(name), range(SEEDS[scale]), protocol, _COSTS[scale].get(name, 30.0))
        for name, protocol in (claims | {name: find(name).protocol() for name in further}).items()
    ]
    names = {part.experiment.name for part in parts}
    images = claims["shallow-first"]
    return Plan(scale, chosen, images, tuple(parts), tuple(name for name in NAMES if name not in names))


def reproduce(
    chosen: Plan,
    directory: Path,
    *,
    jobs: int = 1,
    executor: Executor = "local",
    options: Mapping[str, str] | None = None,
    progress: Progress = lambda line: None,
) -> Iterator[Result]:
    """Run a plan, and give the result of each experiment as it is there, and that on the claims last.

    Args:
        chosen: from `plan`.
        directory: where each job keeps what it found, and is looked for before; a cluster must see it.
        jobs: so many at once.
        executor: "local" or "slurm" (`termwise.experiments.fleet`).
        options: of a cluster's scheduler.
        progress: told what is going on, and how long it will take.

    Raises:
        DataError: when the data cannot be read.
        RunError: when the directory holds jobs of another plan or version, or the cluster fails.
    """
    digest = chosen.images.load().sha256  # before anything else: what is missing is missed now
    found = {}
    for result in run_all(chosen.parts, directory, jobs=jobs, executor=executor, options=options, progress=progress):
        found[result.name] = result
        yield result
    rows = {name: {key: table.rows() for key, table in result.tables.items()} for name, result in found.items()}
    protocols = {part.experiment.name: part.protocol for part in chosen.parts}
    claims = verdicts(rows, protocols)
    yield Result(
        name=VERDICT,
        question=say("Are shallow terms first, do they matter most, and do they explain what is seen?"),
        found=Table(columns([_row(claim) for claim in claims])),
        tables={"verdicts": table(claims), "endpoints": _shown(endpoints(rows, protocols))},
        notes=(*(claim.words for claim in claims), *_left_out(chosen)),
        charts=(),
        beside="endpoints",
        settings={
            "protocol": {"scale": chosen.scale, "data": chosen.data, "sha256": digest},
            "quick": False,
            "seeds": list(chosen.parts[0].seeds),
            "versions": versions(),
        },
    )


def _row(claim: Verdict) -> dict[str, Any]:
    """The line of a claim, in words."""
    by = f"{claim.endpoint}, {claim.of}" if claim.of else claim.endpoint
    return verdict_row(claim) | {"quantity": f"{claim.claim}: {CLAIMS[claim.claim]} ({by})"}


def verdicts(rows: Mapping[str, Rows], protocols: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """H1 to H5 after one correction, from the rows and protocols of the experiments that measure them."""
    causal = decided(CAUSAL, train_by_paths.causal(rows["train-by-paths"]))
    h1, h2 = shallow_first.claims(rows["shallow-first"], protocols["shallow-first"], causal)
    h3 = depth_degree.claim(rows["depth-degree"], protocols["depth-degree"])
    h4 = dense_vs_res.claim(rows["dense-vs-res"], protocols["dense-vs-res"])
    h5 = variants.claim(rows["variants"], protocols["variants"])
    return corrected([h1, h2, h3, h4, h5])


def endpoints(rows: Mapping[str, Rows], protocols: Mapping[str, Any]) -> list[Verdict]:
    """What the claims are decided by, each endpoint for itself and not corrected."""
    first, *_ = protocols["shallow-first"].networks
    share, learned, effect = shallow_first.endpoints(rows["shallow-first"], first)
    causal = decided(CAUSAL, train_by_paths.causal(rows["train-by-paths"]), of="residual MLP")
    excess = depth_degree.claim(rows["depth-degree"], protocols["depth-degree"])
    dense = dense_vs_res.endpoints(rows["dense-vs-res"], protocols["dense-vs-res"]).values()
    further = [each for name in protocols["variants"].networks for each in variants.endpoints(rows["variants"], name)]
    return [share, learned, causal, effect, excess, *dense, *further]


def _shown(parts: Sequence[Verdict]) -> Table:
    """The table of endpoints that is to be seen; what is not a number is missing."""
    whole = table(parts)
    return Table({name: whole[name] for name in ("claim", "endpoint", "of", "estimate", "low", "high", "p", "verdict")})


def _left_out(chosen: Plan) -> tuple[Sentence, ...]:
    if not chosen.left_out:
        return ()
    template = "Not run at the scale {scale}: {names}. `termwise experiment NAME` runs one of them."
    return (say(template, scale=chosen.scale, names=", ".join(chosen.left_out)),)


# The scales.

_HALVES: Mapping[str, Mapping[str, Any]] = {
    "digits": {},
    "fashion-mnist": {"target": 0.7, "rates": (0.035, 0.05, 0.07, 0.1, 0.14)},
    "cifar10": {"target": 1.7, "rates": (0.035, 0.05, 0.07, 0.1, 0.14)},
}
"""To which loss, at which rates, an MLP is trained by halves of its gradient.

Those of Fashion-MNIST (6,000 images at 16x16) are of a seed that nothing else is measured on: the lowest of several
losses that all halves reach within two thirds of the steps at every rate at which the network lives, and rates around
the best.  Those of CIFAR-10 have not been tried: where the loss is not reached, the endpoint is undecided.
"""


def _halves(data: str) -> dict[str, Any]:
    return dict(_HALVES[data.partition(":")[0]])


_COSTS: Mapping[Scale, Mapping[str, float]] = {
    "quick": {"shallow-first": 17, "variants": 12, "train-by-paths": 48, "depth-degree": 10, "dense-vs-res": 21},
    "standard": {"shallow-first": 80, "variants": 80, "train-by-paths": 55, "depth-degree": 78, "dense-vs-res": 100},
    "full": {},
}
"""Seconds that a job takes one core, roughly, in the mean over cells; of the largest scale they are not known."""


def _quick(data: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Four networks on 8x8 images, 88 updates each."""
    images = {"data": data, "size": 8, "samples": 1438}
    trained = {**images, "epochs": 4}
    return {
        "shallow-first": shallow_first.Protocol(**trained, networks=("resnet-20", "densenet-22-6")),
        "variants": variants.Protocol(**trained),
        "train-by-paths": train_by_paths.Protocol(**images, **_halves(data)),
        "depth-degree": depth_degree.Protocol(**trained, circles=100),
        "dense-vs-res": dense_vs_res.Protocol(**trained),
    }, ()


def _standard(data: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The networks of the paper at their own widths, 6,000 images at 16x16, 279 updates each."""
    images = {"data": data, "size": 16, "samples": 6000}
    trained = {**images, "epochs": 3}
    return {
        "shallow-first": shallow_first.Protocol(
            **trained, width=16, networks=("resnet-20", "densenet-22-12", "plain-8")
        ),
        "variants": variants.Protocol(**trained, width=16),
        "train-by-paths": train_by_paths.Protocol(**images, **_halves(data)),
        "depth-degree": depth_degree.Protocol(**trained, circles=200),
        "dense-vs-res": dense_vs_res.Protocol(**trained),
    }, FURTHER


def _full(data: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """All images as they come, deeper networks, 30 epochs; and every other experiment."""
    from termwise.experiments import NAMES

    images: dict[str, Any] = {"data": data, "size": None}
    trained = {**images, "epochs": 30}
    networks = ("resnet-20", "resnet-56", "resnet-110", "densenet-40-12", "densenet-bc-100-12", "plain-8")
    deep = ("se-resnet-20", "sk-resnet-20", "se-resnet-56", "sk-resnet-56")
    claims: dict[str, Any] = {
        "shallow-first": shallow_first.Protocol(**trained, width=16, networks=networks),
        "variants": variants.Protocol(**trained, width=16, networks=deep),
        "train-by-paths": train_by_paths.Protocol(**images, **_halves(data)),
        "depth-degree": depth_degree.Protocol(**trained, width=16),
        "dense-vs-res": dense_vs_res.Protocol(**trained),
    }
    return claims, tuple(name for name in NAMES if name not in claims)


_SCALES: Mapping[Scale, Callable[[str], tuple[dict[str, Any], tuple[str, ...]]]] = {
    "quick": _quick,
    "standard": _standard,
    "full": _full,
}
