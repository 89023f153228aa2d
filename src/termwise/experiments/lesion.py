"""Can a residual network do without a block?  Can a plain network do without a layer?

After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), sections 4.1 and 4.2, on the embedded digits.  Three networks are
trained; then blocks (layers) are deleted at random, and nothing is trained again.

- A residual network of 24 blocks with batch norm.  Expected, in the mean over draws: with 1, 4 and 12 blocks removed an
  accuracy of at least 0.92, 0.80 and 0.55.  Its blocks are also put into another order, of which nothing is expected
  but that the accuracy falls with the rank correlation (Kendall's tau) between the new order and the old.
- A plain network: a layer is to cost 0.15 or more.
- A residual network of 24 blocks without norms, under the weights of He et al. 2015, by which every branch begins about
  as large as its input: a block is to cost 0.15 or more.  How large the branches are is measured at the first weights
  and after training, and how the logits turn without a block.  It is wider and has a lower rate than the others, for at
  theirs it does not learn.  Of two other ways, half the width at half the rate learned less in a calibration run, and
  how much depended on the seed; 8x8 images at the same rate, tried on one seed, gave a lower accuracy, and there a
  block cost more than the bound.  They were not taken for that: the network that has learned best is the one to be cut.

Whoever deletes blocks from a network with batch norms hands the norms behind them inputs of another size than their
running statistics tell.  So all is measured twice: with the statistics as trained, as in the paper, and with statistics
estimated anew on training data for each network that is left.  What the second brings back was never a matter of paths.

One number a seed, the mean over its draws; see `termwise.experiments.common` for intervals and verdicts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise import nets
from termwise.causal import lesion
from termwise.charts import Axis, Chart, Plot
from termwise.data import DataSet, load
from termwise.deletion import AS_TRAINED, REESTIMATED, deletion, plain_layers, reordering
from termwise.experiments.common import over_seeds, row, trained
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.loop import Optimiser, Training
from termwise.nets.preact import PreActBlock
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected, t_interval

EXPECTED = {k: Expected(f"{low:g} or more", low) for k, low in {1: 0.92, 4: 0.80, 12: 0.55}.items()}
COST = Expected("0.15 or more", low=0.15)
FIRST, TRAINED = "first", "trained"
CALIBRATION = 256  # training samples on which statistics are estimated anew
COSINE = "cosine of the logits without a block of the network without norms and with it"
SIZE = "size of these logits over what it was"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained, for how long, and how often it is cut; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of both residual networks, 6n + 2 for 3n blocks.
        plain_depth: of the plain network.
        width: channels of the first stage of the two networks with norms.
        bare_width: of the one without norms.
        bare_rate: its peak learning rate; the others have the default.
        size: of the images, in pixels.
        epochs: of all trainings.
        draws: for each number of blocks, and of swaps.
        removed: numbers of blocks, from the residual network with norms.
        removed_from_controls: numbers of blocks or layers, from the other two.
        swaps: exchanges of two blocks that make another order.
    """

    depth: int = 50
    plain_depth: int = 20
    width: int = 8
    bare_width: int = 16
    bare_rate: float = 0.006
    size: int = 16
    epochs: int = 15
    draws: int = 10
    removed: tuple[int, ...] = (0, 1, 2, 4, 8, 12, 16, 20, 24)
    removed_from_controls: tuple[int, ...] = (0, 1, 2, 4)
    swaps: tuple[int, ...] = (0, 1, 2, 4, 8, 16)

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(14, 8, 2, 2, size=8, epochs=1, draws=2, removed=(0, 1, 6), removed_from_controls=(0, 1))


def cells(protocol: Protocol) -> tuple[str, str, str]:
    """The three networks: residual, plain, and residual without norms."""
    return f"resnet-{protocol.depth}", f"plain-{protocol.plain_depth}", f"without-norms-{protocol.depth}"


def measure(job: Job) -> Rows:
    """Train a network, and cut it up: a row for each draw."""
    protocol, name = job.protocol, job.cell
    residual, plain, bare = cells(protocol)
    data = load("digits", size=protocol.size)
    optimiser = Optimiser(learning_rate=protocol.bare_rate) if name == bare else Optimiser()
    job.progress("training")
    settings = Training(epochs=protocol.epochs, optimiser=optimiser)
    make = _networks(protocol, data)[name]
    model = trained(make, data, settings, job.seed)
    test = data.test_inputs, data.test_targets
    layers = plain_layers(model, data.test_inputs[:1]) if name == plain else None
    removed = protocol.removed if name == residual else protocol.removed_from_controls
    rows: dict[str, list[dict[str, Any]]] = {"draws": [], "orders": [], "branches": []}
    for calibration in (None,) if name == bare else (None, data.train_inputs[:CALIBRATION]):
        options: dict[str, Any] = {"draws": protocol.draws, "calibration": calibration, "seed": job.seed}
        job.progress("cutting it up")
        rows["draws"] += deletion(model, test, removed=removed, layers=layers, **options).draws.rows()
        if name == residual:
            job.progress("putting its blocks into other orders")
            rows["orders"] += reordering(model, test, swaps=protocol.swaps, **options).draws.rows()
    if name == bare:
        with owned_random(job.seed):
            first = make().eval()
        for when, network in ((FIRST, first), (TRAINED, model)):
            sizes = enumerate(branch_sizes(network, data.test_inputs))
            rows["branches"] += [{"weights": when, "block": i, "size": size} for i, size in sizes]
        rows["without"] = directions(model, data.test_inputs)
    return {table: [{"network": name, **each} for each in lines] for table, lines in rows.items()}


def branch_sizes(model: nn.Module, inputs: Tensor) -> list[float]:
    """Of each pre-activation block, the size (root mean square) of its branch over that of what its shortcut passes."""
    sizes = []

    def note(block: PreActBlock, args: tuple[Tensor], result: Tensor) -> None:
        passed = block.shortcut(*args)
        sizes.append(float((result - passed).norm() / passed.norm()))

    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, PreActBlock)]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return sizes


def directions(model: nn.Module, inputs: Tensor) -> list[dict[str, Any]]:
    """How the centred logits turn, and how their size changes, when one block alone is missing.

    Returns:
        A row a block, the means over samples: the cosine of the logits without it and with it, and their size without
        it over that with it.
    """
    with torch.no_grad():
        whole = _centred(model(inputs))
    count, rows = sum(isinstance(module, PreActBlock) for module in model.modules()), []
    for block in range(count):
        with lesion(model, [block], example=inputs[:1]), torch.no_grad():
            less = _centred(model(inputs))
        cosine = float(torch.cosine_similarity(less, whole, dim=1).mean())
        rows.append({"block": block, "cosine": cosine, "size": float((less.norm(dim=1) / whole.norm(dim=1)).mean())})
    return rows


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=1, keepdim=True)


def _networks(protocol: Protocol, data: DataSet) -> dict[str, Callable[[], nn.Module]]:
    residual, plain, bare = cells(protocol)
    shape: dict[str, Any] = {"classes": data.classes, "channels": data.train_inputs.shape[1]}
    return {
        residual: lambda: nets.resnet(protocol.depth, width=protocol.width, **shape),
        plain: lambda: nets.plain(protocol.plain_depth, width=protocol.width, **shape),
        bare: lambda: nets.preact_resnet(protocol.depth, width=protocol.bare_width, norm=False, **shape),
    }


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """What is left of the accuracy, beside what was expected."""
    left_by_seed = _by_seed(rows["draws"], ("network", "statistics", "removed"))
    orders_by_seed = _by_seed(rows.get("orders", ()), ("network", "statistics", "swaps"))
    found = [*_of_residual(left_by_seed, protocol), *_of_controls(left_by_seed, protocol)]
    found += _of_orders(rows.get("orders", ()), orders_by_seed)
    found += _of_branches(rows.get("branches", ()), rows.get("without", ()))
    left = over_seeds(left_by_seed, ["network", "statistics", "removed"], ["accuracy", "worst"])
    reordered = over_seeds(orders_by_seed, ["network", "statistics", "swaps"], ["tau", "accuracy", "worst"])
    charts = (_left_chart(left, protocol), *([_order_chart(reordered)] if reordered else []))
    notes = (*_missed(found, left_by_seed, protocol), *_cheap(found, protocol), *_spread(left_by_seed, protocol))
    return Conclusion(found, notes, {"left": left, "reordered": reordered}, charts)


# One number a seed.

Line = Mapping[str, Any]


def _by_seed(draws: Sequence[Line], by: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row for each choice of the columns `by` and seed: means over the draws, and the worst accuracy of one."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for draw in draws:
        groups.setdefault((*(draw[name] for name in by), draw["seed"]), []).append(draw)
    lines = []
    for key, group in groups.items():
        means = {
            name: float(np.mean([draw[name] for draw in group])) for name in ("tau", "accuracy") if name in group[0]
        }
        lines.append(dict(zip((*by, "seed"), key, strict=True)) | means | {"worst": min(d["accuracy"] for d in group)})
    return lines


def _values(lines: Sequence[Line], column: str = "accuracy", **where: Any) -> list[float]:
    """One number a seed, in the order of the seeds."""
    chosen = [line for line in lines if all(line[name] == value for name, value in where.items())]
    return [line[column] for line in sorted(chosen, key=lambda line: line["seed"])]


def _kinds(lines: Sequence[Line], network: str) -> list[str]:
    """The kinds of statistics that a network was measured with."""
    return [*dict.fromkeys(line["statistics"] for line in lines if line["network"] == network)]


def _of_residual(lines: Sequence[Line], protocol: Protocol) -> Iterator[dict[str, Any]]:
    name, *_ = cells(protocol)
    for statistics in _kinds(lines, name):
        for k in (0, *EXPECTED):
            if values := _values(lines, network=name, statistics=statistics, removed=k):
                yield row(f"accuracy of {name}, {k} removed, statistics {statistics}", values, EXPECTED.get(k))
        if worst := _values(lines, "worst", network=name, statistics=statistics, removed=1):
            yield row(f"accuracy of {name}, 1 removed, the worst draw, statistics {statistics}", worst)


def _of_controls(lines: Sequence[Line], protocol: Protocol) -> Iterator[dict[str, Any]]:
    _, plain, bare = cells(protocol)
    for name, part in ((plain, "a layer"), (bare, "a block")):
        for statistics in _kinds(lines, name):
            suffix = "" if name == bare else f", statistics {statistics}"
            whole, less = (_values(lines, network=name, statistics=statistics, removed=k) for k in (0, 1))
            yield row(f"accuracy of {name}, 0 removed{suffix}", whole)
            if less:
                yield row(f"accuracy that {part} costs {name}{suffix}", np.subtract(whole, less), COST)


def _of_orders(draws: Sequence[Line], lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys(line["network"] for line in lines):
        for statistics in _kinds(lines, name):
            mine = [draw for draw in draws if (draw["network"], draw["statistics"]) == (name, statistics)]
            together = [
                _correlation([d for d in mine if d["seed"] == seed]) for seed in dict.fromkeys(d["seed"] for d in mine)
            ]
            yield row(f"correlation of accuracy and order (tau), {name}, statistics {statistics}", together)
            swaps = max(line["swaps"] for line in lines)
            values = _values(lines, network=name, statistics=statistics, swaps=swaps)
            yield row(f"accuracy of {name} after {swaps} swaps of blocks, statistics {statistics}", values)


def _of_branches(branches: Sequence[Line], without: Sequence[Line]) -> Iterator[dict[str, Any]]:
    for name in dict.fromkeys(line["network"] for line in branches):
        for weights in (FIRST, TRAINED):
            sizes = [line for line in branches if (line["network"], line["weights"]) == (name, weights)]
            yield row(_size_of_branches(name, weights), _means(sizes, "size"))
    if without:
        yield row(COSINE, _means(without, "cosine"))
        yield row(SIZE, _means(without, "size"))


def _means(lines: Sequence[Line], column: str) -> list[float]:
    """The mean of a column over the lines of each seed."""
    seeds: dict[int, list[float]] = {}
    for line in lines:
        seeds.setdefault(line["seed"], []).append(line[column])
    return [float(np.mean(each)) for each in seeds.values()]


def _size_of_branches(name: str, weights: str) -> str:
    return f"size of a branch over that of its shortcut, {name}, {weights} weights"


def _correlation(draws: Sequence[Line]) -> float:
    """Pearson's, over all orders of a seed; missing where nothing varies."""
    pairs = np.array([(draw["tau"], draw["accuracy"]) for draw in draws])
    return float(np.corrcoef(pairs.T)[0, 1]) if np.ptp(pairs, axis=0).all() else math.nan


# The reasons.

TURN = "they turn, and yet the class stays"
SHORT = "With {k} of {blocks} blocks removed an accuracy of {stale:.2f} is left, less than expected. "
STALE = (
    "Estimating the batch-norm statistics anew, and nothing else, brings it to {anew:.2f}: {share:.0%} of the loss "
    "comes from statistics that belong to the whole network, and not from paths that are missing."
)
NOT_STALE = "With batch-norm statistics estimated anew it is {anew:.2f}: they are not the reason."
POOR = "But the whole network has {whole:.2f} only."


def _missed(found: Sequence[Line], lines: Sequence[Line], protocol: Protocol) -> Iterator[Sentence]:
    """Why less is left than expected, where that is so: what estimating the statistics anew brings back."""
    name, *_ = cells(protocol)
    verdicts = {line["quantity"]: line["verdict"] for line in found}
    for k, expected in EXPECTED.items():
        if verdicts.get(f"accuracy of {name}, {k} removed, statistics {AS_TRAINED}") != "fails":
            continue
        at = {"network": name, "removed": k}
        whole = _values(lines, network=name, statistics=AS_TRAINED, removed=0)
        stale, anew = (np.array(_values(lines, **at, statistics=kind)) for kind in (AS_TRAINED, REESTIMATED))
        low, _ = t_interval(anew - stale)
        means = {name: float(np.mean(each)) for name, each in {"whole": whole, "stale": stale, "anew": anew}.items()}
        if means["whole"] < expected.low:
            reason = POOR
        else:
            reason = STALE if low > 0 else NOT_STALE
            means["share"] = (means["anew"] - means["stale"]) / (means["whole"] - means["stale"])
        yield say(SHORT + reason, k=k, blocks=(protocol.depth - 2) // 2, **means)


def _cheap(found: Sequence[Line], protocol: Protocol) -> Iterator[Sentence]:
    """Where a block of the network without norms costs less than expected: how large its branches are."""
    *_, bare = cells(protocol)
    lines = {line["quantity"]: line for line in found}
    cost = lines.get(f"accuracy that a block costs {bare}")
    sizes = [lines.get(_size_of_branches(bare, weights)) for weights in (FIRST, TRAINED)]
    if cost is None or cost["found"] >= COST.low or None in sizes or COSINE not in lines:
        return
    first, now = (line for line in sizes if line is not None)
    small = "smaller than before" if now["high"] < first["low"] else "not smaller, so that this is not the reason"
    size, cosine = (lines[name]["found"] for name in (SIZE, COSINE))
    shrinks = 1 - size * cosine > size * math.sqrt(1 - cosine**2)  # what is lost of them, and what is new across them
    yield say(
        "A block of {bare} costs {cost:.2f}, less than expected, though no norm stands behind it. A branch is "
        "{first:.2f} times as large as what passes it at the first weights, {now:.2f} times after training: {small}. "
        "Without it the logits have {size:.2f} of their size and a cosine of {cosine:.2f} with what they were: {turn}.",
        bare=bare,
        cost=cost["found"],
        first=first["found"],
        now=now["found"],
        small=small,
        size=size,
        cosine=cosine,
        turn="they shrink more than they turn, and of their size the class is independent" if shrinks else TURN,
    )


def _spread(lines: Sequence[Line], protocol: Protocol) -> Iterator[Sentence]:
    """How far the seeds of the network without norms lie apart, if further than those of the network with norms."""
    residual, _, bare = cells(protocol)
    with_norms, without = (_values(lines, network=n, statistics=AS_TRAINED, removed=0) for n in (residual, bare))
    if with_norms and without and np.ptp(without) > np.ptp(with_norms):
        yield say(
            "Training is less sure without norms: {bare} ends at accuracies from {low:.2f} to {high:.2f}, by seed, and "
            "{residual} from {lower:.2f} to {higher:.2f}. What a block costs is reckoned from its own seed's accuracy.",
            bare=bare,
            low=min(without),
            high=max(without),
            residual=residual,
            lower=min(with_norms),
            higher=max(with_norms),
        )


# The figures.

LEFT = {AS_TRAINED: "batch-norm statistics as trained", REESTIMATED: "batch-norm statistics estimated anew"}


def _left_chart(left: Sequence[Line], protocol: Protocol) -> Chart:
    """What is left of each network, by the number of blocks (layers) removed."""
    words = dict(zip(cells(protocol), ("with shortcuts and norms", "without shortcuts", "without norms"), strict=True))
    as_trained = [line for line in left if line["statistics"] == AS_TRAINED]
    whole, less = ({line["network"]: line["accuracy"] for line in as_trained if line["removed"] == k} for k in (0, 1))
    costs = [f"{whole[name] - less[name]:.2f} {words[name]}" for name in words if name in whole and name in less]
    title = say("One block or layer less costs {costs}", costs=", ".join(costs) or "what is not known")
    plots = tuple(
        Plot(
            "left",
            "lines",
            Axis("removed", say("blocks (layers) removed")),
            Axis("accuracy", say("accuracy on test data, mean over draws"), low=0.0, high=1.0),
            "network",
            ("accuracy_low", "accuracy_high"),
            where={"statistics": statistics},
            heading=say(heading),
        )
        for statistics, heading in LEFT.items()
        if any(line["statistics"] == statistics for line in left)
    )
    reading = say(
        "Blocks (of the plain network, layers) are removed at random, and nothing is trained again; lines are means "
        "over seeds, bands 95 % intervals. The network without norms has no statistics to estimate."
    )
    return Chart("left", title, reading, plots)


def _order_chart(reordered: Sequence[Line]) -> Chart:
    """The accuracy of the residual network with its blocks in another order, by how much that differs."""
    most = max(line["swaps"] for line in reordered)
    last = [line for line in reordered if line["swaps"] == most]
    title = say(
        "After {swaps} swaps of blocks (tau {tau:.2f}) the accuracy is {kept}",
        swaps=most,
        tau=last[0]["tau"],
        kept=", ".join(f"{line['accuracy']:.2f} with statistics {line['statistics']}" for line in last),
    )
    plot = Plot(
        "reordered",
        "lines",
        Axis("tau", say("Kendall's tau between the new order and the old, mean over draws")),
        Axis("accuracy", say("accuracy on test data, mean over draws"), low=0.0, high=1.0),
        "statistics",
        ("accuracy_low", "accuracy_high"),
    )
    reading = say(
        "Blocks of one stage are exchanged at random, more often to the left: 1 is the order of the training, 0 one "
        "that has nothing to do with it. Lines are means over seeds, bands 95 % intervals."
    )
    return Chart("reordered", title, reading, (plot,))


EXPERIMENT = Experiment(
    "lesion",
    say("Can a residual network do without a block? Can a plain network do without a layer?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
