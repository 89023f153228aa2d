"""Four notions of "the subnetwork of depth k", side by side on one network.

They are four different things, and none stands for another:

A   frozen paths: the sum of all paths of k blocks, gates held (`termwise.expand`);
B   the unfrozen series: the k-th Taylor coefficient in the strength of the branches at strength 0, gates recomputed
    (`termwise.unfrozen`); it need not add up to the network at strength 1;
C   block subsets: the interactions of exactly k blocks, with each block there or not (`termwise.interactions`), by
    Walsh (over all choices, of which it shares out the variance) and by Moebius (from no block to all of them);
D   causal: the network with k of its blocks really left, the mean over choices (`termwise.deletion`).

The network is a residual one of few blocks with a smooth activation, trained on the embedded digits and measured in
float64.  Shares of A, B and Moebius are aligned with the output, E<y_k, y> / E<y, y>.  Of A and B, accuracy is that of
the terms up to k, with what is born of constants; of D it is that of k blocks.  The claim of the theory is that they do
not agree: the distance of the shares of A from those of another notion, half the sum of absolute differences, is to be
above 0.1.

Frozen gates stand as in the whole network, and long paths helped to set them.  So beside the terms of at most one block
stands the network that really has no others (`termwise.leakage`): what the terms are better by they owe to their gates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.charts import Axis, Chart, Kind, Plot
from termwise.data import DataSet, load
from termwise.deletion import deletion
from termwise.expand import expand
from termwise.experiments.common import over_seeds, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.networks import ResidualMLP
from termwise.interactions import interactions
from termwise.leakage import EVALUATED, FROZEN_THROUGHOUT, leakage
from termwise.loop import Optimiser, Training
from termwise.sentences import Sentence, say
from termwise.unfrozen import unfrozen
from termwise.verdict.decision import Expected

APART = 0.1
EXPECTED = Expected(f"above {APART:g}", APART)
A, B, WALSH, MOEBIUS, D = "A frozen", "B unfrozen", "C Walsh", "C Moebius", "D causal"
SHOWN = {"share": (A, B, WALSH, MOEBIUS), "accuracy": (A, B, D)}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained and measured; `quick` is a job of seconds, and shows nothing.

    Attributes:
        blocks: of the network.
        features: of its stream.
        epochs: of the training.
        samples: that all is measured on.
        order: the highest of the unfrozen series.
    """

    blocks: int = 8
    features: int = 32
    epochs: int = 10
    samples: int = 256
    order: int = 12

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(blocks=3, features=8, epochs=1, samples=16, order=8)


def measure(job: Job) -> Rows:
    """Train a network, and take it apart in four ways: a row for each notion, depth and measure."""
    protocol, seed = job.protocol, job.seed
    data = load("digits", size=8)
    job.progress("training")
    model = _network(data, protocol, seed)
    job.progress("taking it apart")
    shares, accuracies, converges = _apart(model, data, protocol)
    values = [
        {"notion": notion, "k": k, "measure": measured, "value": float(value)}
        for measured, by_notion in (("share", shares), ("accuracy", accuracies))
        for notion, by_depth in by_notion.items()
        for k, value in enumerate(by_depth)
        if not math.isnan(value)
    ]
    return {"values": values, "series": [{"converges": converges}], "leakage": _leaked(model, data, protocol)}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """How far apart the notions are."""
    values = rows["values"]
    converged = ", ".join(line["converges"] for line in rows["series"])
    apart, leaked = _distances(values), _leakage(rows["leakage"])
    by_k = over_seeds(values, ["measure", "notion", "k"])
    series = say("The unfrozen series converges at strength 1, by seed: {converged}.", converged=converged)
    short = over_seeds(rows["leakage"], ["k", "network"], ["accuracy"])
    tables = {"beside": _side_by_side(by_k, protocol), "by_k": by_k, "short": short}
    notes = (*_near(apart, by_k), series)
    charts = (_shares(apart), _accuracy(by_k), _short(leaked))
    return Conclusion([*apart, *leaked], notes, tables, charts, beside="beside")


def _network(data: DataSet, protocol: Protocol, seed: int) -> nn.Module:
    def make() -> nn.Module:
        inputs = data.train_inputs[0].numel()
        return ResidualMLP(
            inputs, protocol.features, data.classes, blocks=protocol.blocks, gain=0.5, activation=nn.GELU
        )

    # No norm tames the first steps.
    settings = Training(epochs=protocol.epochs, optimiser=Optimiser(learning_rate=0.02))
    return trained(make, data, settings, seed).double()


def _apart(
    model: nn.Module, data: DataSet, protocol: Protocol
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """The share and the accuracy of each depth under each notion, (blocks + 1,), and whether B converges."""
    x, targets = data.test_inputs[: protocol.samples].double(), data.test_targets[: protocol.samples]
    depths = range(protocol.blocks + 1)
    expansion = expand(model, x, unit="blocks")
    frozen = torch.stack([expansion.terms[k] for k in depths])
    series = unfrozen(model, x, order=max(protocol.order, protocol.blocks))
    taylor = torch.stack(series.terms[: protocol.blocks + 1])
    subsets = interactions(model, x)
    assert subsets.moebius is not None
    left = deletion(model, (x, targets), removed=[*depths], draws=40).summary
    kept = dict(zip(left["kept"].tolist(), left["accuracy"].tolist(), strict=True))
    shares = {
        A: _aligned(frozen, expansion.total),
        B: _aligned(taylor, series.total),
        WALSH: subsets.spectrum["share"],
        MOEBIUS: subsets.moebius["share"],
    }
    accuracies = {
        A: _accuracies(frozen.cumsum(dim=0) + expansion.constant, targets),
        B: _accuracies(taylor.cumsum(dim=0), targets),
        D: np.array([kept[k] for k in depths]),
    }
    return shares, accuracies, series.converges


def _leaked(model: nn.Module, data: DataSet, protocol: Protocol) -> list[dict[str, Any]]:
    """The accuracy of short paths, with gates as in the whole network, and really evaluated."""
    samples = data.test_inputs[: protocol.samples].double(), data.test_targets[: protocol.samples]
    scores = leakage(model, samples).scores.rows()
    kept = [line for line in scores if line["network"] in (FROZEN_THROUGHOUT, EVALUATED)]
    return [{"network": line["network"], "k": line["blocks_at_most"], "accuracy": line["accuracy"]} for line in kept]


def _aligned(terms: Tensor, total: Tensor) -> np.ndarray:
    """E<y_k, y> / E<y, y> of logits centred over the classes, (K, N, C) to (K,)."""
    terms, total = (t - t.mean(dim=-1, keepdim=True) for t in (terms, total.detach()))
    return ((terms.detach() * total).sum(dim=(1, 2)) / total.square().sum()).cpu().numpy()


def _accuracies(logits: Tensor, targets: Tensor) -> np.ndarray:
    return (logits.argmax(dim=-1) == targets).double().mean(dim=1).cpu().numpy()


def _side_by_side(by_k: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[dict[str, Any]]:
    """A line for each depth: the mean of each notion over seeds, and half of its interval."""
    known = {(line["k"], line["measure"], line["notion"]): line for line in by_k}
    lines = []
    for k in range(protocol.blocks + 1):
        line: dict[str, Any] = {"k": k}
        for measured, notions in SHOWN.items():
            for notion in notions:
                there = known.get((k, measured, notion))  # there is no share of order 0 by Walsh
                line[f"{notion}: {measured}"] = "" if there is None else _written(there)
        lines.append(line)
    return lines


def _written(line: Mapping[str, Any]) -> str:
    low, high = line["value_low"], line["value_high"]
    half = "" if low is None else f" +-{(high - low) / 2:.3f}"
    return f"{line['value']:.3f}{half}"


def _near(found: Sequence[Mapping[str, Any]], by_k: Sequence[Mapping[str, Any]]) -> list[Sentence]:
    """Of a notion that is not clearly apart, where its shares differ most from those of frozen paths."""
    shares = {(line["notion"], line["k"]): line["value"] for line in by_k if line["measure"] == "share"}
    notes = []
    for notion in (B, MOEBIUS):
        (line,) = (each for each in found if each["quantity"] == _distance(notion))
        if line["verdict"] == "holds":
            continue
        apart = {k: share - shares[A, k] for (of, k), share in shares.items() if of == notion}
        k = max(apart, key=lambda k: abs(apart[k]))
        words = (
            "{notion} is not clearly apart from {frozen}: shares differ most at k = {k}, by {apart:+.3f} in the mean."
        )
        notes.append(say(words, notion=notion, frozen=A, k=k, apart=apart[k]))
    return notes


def _distance(notion: str) -> str:
    return f"distance of {notion} from {A}"


def _shares(found: Sequence[Mapping[str, Any]]) -> Chart:
    apart = {line["quantity"]: line["found"] for line in found}
    nearest, farthest = min(apart.values()), max(apart.values())
    (near,) = (notion for notion in (B, WALSH, MOEBIUS) if _distance(notion) == min(apart, key=lambda q: apart[q]))
    template = (
        "No other notion agrees with frozen paths: {nearest:.2f} to {farthest:.2f} of the shares lie elsewhere"
        if {line["verdict"] for line in found} == {"holds"}
        else "{near} is nearest to frozen paths: {nearest:.2f} of its shares lie elsewhere, of others up to "
        "{farthest:.2f}"
    )
    plot = _plot("points", "share", say("share of the output"))
    reading = say(
        "Shares of A, B and Moebius are aligned with the output and may be negative; those of Walsh are of its "
        "variance over block subsets. Points are means over seeds, whiskers 95 % intervals."
    )
    return Chart("shares", say(template, near=near, nearest=nearest, farthest=farthest), reading, (plot,))


def _accuracy(by_k: Sequence[Mapping[str, Any]]) -> Chart:
    reading = say(
        "A and B: the terms up to k blocks. D: the network with k blocks left, the mean over choices. Lines are means "
        "over seeds, bands 95 % intervals."
    )
    plot = _plot("lines", "accuracy", say("accuracy on test data"), low=0.0, high=1.0)
    return Chart("accuracy", _reached(by_k), reading, (plot,))


def _reached(by_k: Sequence[Mapping[str, Any]]) -> Sentence:
    """How many blocks frozen paths need for nine tenths of the accuracy, and how many must be left."""
    lines = {
        notion: {line["k"]: line["value"] for line in by_k if (line["measure"], line["notion"]) == ("accuracy", notion)}
        for notion in (A, D)
    }
    whole = lines[D][max(lines[D])]
    frozen, causal = (min(k for k, right in lines[n].items() if right >= 0.9 * whole) for n in (A, D))
    template = (
        "Nine tenths of the accuracy are there from depth {frozen} on by frozen paths, from {causal} on by blocks left"
        if frozen != causal
        else "Frozen paths and blocks that are left both have nine tenths of the accuracy from {frozen} on"
    )
    return say(template, frozen=frozen, causal=causal)


def _plot(kind: Kind, measured: str, label: Sentence, *, low: float | None = None, high: float | None = None) -> Plot:
    return Plot(
        "by_k",
        kind,
        Axis("k", say("k, in blocks"), "ordinal" if kind == "points" else "linear"),
        Axis("value", label, low=low, high=high),
        series="notion",
        interval=("value_low", "value_high"),
        where={"measure": measured},
    )


def _distances(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How far the shares of the other notions are from those of frozen paths."""
    rows = []
    shares: dict[str, dict[int, list[float]]] = {}
    for v in values:
        if v["measure"] == "share":
            shares.setdefault(v["notion"], {}).setdefault(v["seed"], []).append(v["value"])
    for notion in (B, WALSH, MOEBIUS):
        # Where there is no share of order 0, those of A from 1 on are shared out anew.
        first = 1 if notion == WALSH else 0
        apart = []
        for seed, mine in shares[notion].items():
            frozen = np.array(shares[A][seed])[first:]
            apart.append(float(np.abs(frozen / frozen.sum() - np.array(mine)).sum() / 2))
        rows.append(row(_distance(notion), apart, EXPECTED))
    return rows


def _leakage(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What frozen paths of at most k blocks are better by than the network that has only these."""
    rows = []
    for k in (0, 1):
        frozen, evaluated = (
            np.array([line["accuracy"] for line in lines if (line["network"], line["k"]) == (network, k)])
            for network in (FROZEN_THROUGHOUT, EVALUATED)
        )
        rows.append(row(_leak(k), frozen - evaluated))
    return rows


def _leak(k: int) -> str:
    paths = f"of at most {k} block" + "s" * (k != 1)
    return f"gate leakage: accuracy of frozen paths {paths} less that of the network with no others"


def _short(leaked: Sequence[Mapping[str, Any]]) -> Chart:
    (line,) = (each for each in leaked if each["quantity"] == _leak(1))
    template = "Paths of at most one block, with gates as in the whole network and really evaluated: {gap:+.2f}"
    if line["low"] > 0:
        template = "To gates that long paths helped to set, paths of at most one block owe {gap:.2f} of accuracy"
    plot = Plot(
        "short",
        "points",
        Axis("k", say("blocks on the path, at most"), "ordinal"),
        Axis("accuracy", say("accuracy on test data"), low=0.0, high=1.0),
        series="network",
        interval=("accuracy_low", "accuracy_high"),
    )
    reading = say(
        "Really evaluated: a network in which every block sees the shortcut's stream alone. Points are means over "
        "seeds, whiskers 95 % intervals."
    )
    return Chart("leakage", say(template, gap=line["found"]), reading, (plot,))


EXPERIMENT = Experiment(
    "four-depths",
    say("What is the subnetwork of a depth, and do four notions of it agree?"),
    Protocol,
    measure,
    conclude,
)
