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
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.data import DataSet, load
from termwise.deletion import deletion
from termwise.expand import expand
from termwise.experiments.common import Expected, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.networks import ResidualMLP
from termwise.interactions import interactions
from termwise.loop import Optimiser, Training
from termwise.sentences import say
from termwise.unfrozen import unfrozen
from termwise.verdict.decision import t_interval

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
    return {"values": values, "series": [{"converges": converges}]}


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """How far apart the notions are."""
    values = rows["values"]
    converged = ", ".join(line["converges"] for line in rows["series"])
    note = say("The unfrozen series converges at strength 1, by seed: {converged}.", converged=converged)
    return Conclusion(_distances(values), (note,), {"beside": _side_by_side(values, protocol)}, beside="beside")


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


def _aligned(terms: Tensor, total: Tensor) -> np.ndarray:
    """E<y_k, y> / E<y, y> of logits centred over the classes, (K, N, C) to (K,)."""
    terms, total = (t - t.mean(dim=-1, keepdim=True) for t in (terms, total.detach()))
    return ((terms.detach() * total).sum(dim=(1, 2)) / total.square().sum()).cpu().numpy()


def _accuracies(logits: Tensor, targets: Tensor) -> np.ndarray:
    return (logits.argmax(dim=-1) == targets).double().mean(dim=1).cpu().numpy()


def _side_by_side(values: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[dict[str, Any]]:
    """A line for each depth: the mean of each notion over seeds, and half of its interval."""
    lines = []
    for k in range(protocol.blocks + 1):
        line: dict[str, Any] = {"k": k}
        for measure, notions in SHOWN.items():
            for notion in notions:
                here = {"k": k, "measure": measure, "notion": notion}
                seeds = np.array([v["value"] for v in values if here.items() <= v.items()])
                if not len(seeds):  # there is no share of order 0 by Walsh
                    line[f"{notion}: {measure}"] = ""
                    continue
                low, high = t_interval(seeds)
                half = "" if np.isnan(low) else f" +-{(high - low) / 2:.3f}"
                line[f"{notion}: {measure}"] = f"{seeds.mean():.3f}{half}"
        lines.append(line)
    return lines


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
        rows.append(row(f"distance of {notion} from {A}", apart, EXPECTED))
    return rows


EXPERIMENT = Experiment(
    "four-depths",
    say("What is the subnetwork of a depth, and do four notions of it agree?"),
    Protocol,
    measure,
    conclude,
)
