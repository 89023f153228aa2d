"""Does it matter by which paths a network is trained?

In each step of gradient descent the gradient g is split by the length of whole paths at the length at which half of
|g|^2 = sum_k <g, g_k> is reached (the length that holds the middle is split in proportion).  One network is trained by
the shorter half alone, one by the longer, one by all; each update is scaled to the norm of the whole gradient, and each
has the best of several learning rates: on each seed the one that needs the fewest steps on all others.  If short paths
are what is learned first (H1 of Sun, Ding, Guo 2022, *causal*), the shorter half needs fewer steps to a given loss.

The network has no norms and no biases, so that every gradient is one of paths and its steps are those of the mode that
it is measured in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from termwise.data import DataSet
from termwise.experiments.common import OnImages, error, over_seeds, row, verdict_row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.halves import HALVES, Half, descent, split
from termwise.experiments.networks import ResidualMLP
from termwise.experiments.train_by_paths_charts import loss_chart, rate_chart
from termwise.lengths import gradient_lengths
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict import CAUSAL, Expected, decided
from termwise.verdict.measures import steps_saved

RATIO = "steps by shorter over steps by longer paths"
UNKNOWN = {"error": math.nan, "middle": math.nan}
BATCH = 512  # samples that the middle length of the gradient is measured on
EXPECTED = Expected("below 1 if short is first", high=1.0)


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained on which images, and how; `quick` is a job of seconds, and shows nothing.

    Attributes:
        blocks: of the residual network.
        features: of its stream.
        steps: of its trainings, at most.
        batch: samples a step.
        rates: that each half chooses from.
        target: the loss on all training data, in nats, that is to be reached.
    """

    blocks: int = 8
    features: int = 32
    steps: int = 100
    batch: int = 128
    rates: tuple[float, ...] = (0.05, 0.07, 0.1, 0.14, 0.2)  # at the last, networks die on some seeds
    target: float = 0.3

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(blocks=2, features=8, steps=2, batch=16, rates=(0.1, 0.2), target=2.6)


def cells(protocol: Protocol) -> tuple[Half, ...]:
    """Each half is one, and the whole."""
    return HALVES


def measure(job: Job) -> Rows:
    """Train one network, by all paths or by some, at each of the rates."""
    job.progress("training")
    return by_half(cast(Half, job.cell), job.protocol.load(), job.protocol, job.seed)


def by_half(half: Half, data: DataSet, protocol: Protocol, seed: int) -> dict[str, list[dict[str, Any]]]:
    """At each rate the loss at every step until it is what is wanted, and what was reached.

    Returns:
        Rows of losses; and, of what was reached, the steps to the loss that is wanted (1 where it is there before the
        first; infinite where it never is), the error on test data then, and the middle length of the gradient then.
    """
    losses, reached = [], []
    for rate in protocol.rates:
        steps, then = math.inf, UNKNOWN
        model = mlp(data, protocol, seed)
        for step, loss in enumerate(descent(half, rate, model, data, batches(data, protocol, seed))):
            losses.append({"paths": half, "rate": rate, "step": step, "loss": loss})
            if loss <= protocol.target:
                steps, then = float(max(step, 1)), _state(model, data)
                break
        reached.append({"paths": half, "rate": rate, "steps": steps, **then})
    return {"losses": losses, "reached": reached}


def _state(model: ResidualMLP, data: DataSet) -> dict[str, float]:
    shares = gradient_lengths(
        model, data.train_inputs[:BATCH], lambda y: F.cross_entropy(y, data.train_targets[:BATCH]), unit="blocks"
    ).total
    return {"error": error(model, data.test_inputs, data.test_targets), "middle": float(split(shares)[0])}


def mlp(data: DataSet, protocol: Protocol, seed: int) -> ResidualMLP:
    """The network at its first weights."""
    with owned_random(seed):
        shape = data.train_inputs[0].numel(), protocol.features, data.classes
        return ResidualMLP(*shape, blocks=protocol.blocks, gain=0.5).eval()


def batches(data: DataSet, protocol: Protocol, seed: int) -> Iterator[Tensor]:
    """The rows of the samples of each step."""
    generator = torch.Generator().manual_seed(stream(seed, 1))
    for _ in range(protocol.steps):
        yield torch.randint(len(data.train_inputs), (protocol.batch,), generator=generator)


# What follows.


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The outcomes beside each other."""
    rates = chosen(rows["reached"])
    reached = [each for each in rows["reached"] if each["rate"] == rates[each["paths"], each["seed"]]]
    found = _found(reached, rows["reached"], protocol)
    losses = [each for each in rows["losses"] if each["rate"] == rates[each["paths"], each["seed"]]]
    by_rate = [
        each for each in over_seeds(rows["reached"], ["paths", "rate"], ["steps"]) if math.isfinite(each["steps"])
    ]
    tables = {"by_step": over_seeds(_while_all_train(losses), ["paths", "step"], ["loss"]), "by_rate": by_rate}
    notes = (*_on_rates(reached, protocol), *_on_stability(found, protocol), *_on_unreached(reached, protocol))
    charts = (
        loss_chart(found[0], protocol.target),
        *([rate_chart(_at_rates(found, protocol), protocol.target)] if by_rate else []),
    )
    return Conclusion([*found, verdict_row(decided(CAUSAL, causal(rows)))], notes, tables, charts)


def causal(rows: Rows) -> list[float | None]:
    """H1, *causal*: of each seed, in their order, the doublings of the steps by longer paths over those by shorter.

    Each half has its own rate, which was chosen on the other seeds; see `termwise.verdict.measures.steps_saved`.

    Args:
        rows: of `measure`, each with its `seed`; a saved result has them as its table "reached".
    """
    rates = chosen(rows["reached"])
    steps = {
        (each["paths"], each["seed"]): each["steps"]
        for each in rows["reached"]
        if each["rate"] == rates[each["paths"], each["seed"]]
    }
    seeds = dict.fromkeys(seed for _, seed in steps)
    return [steps_saved(steps["shorter", seed], steps["longer", seed]) for seed in seeds]


def chosen(reached: Sequence[Mapping[str, Any]]) -> dict[tuple[Half, int], float]:
    """For each half and seed the rate that needs the fewest steps on all other seeds; the first of those alike."""
    steps = {(each["paths"], each["rate"], each["seed"]): each["steps"] for each in reached}
    rates, seeds = ({key[i]: None for key in steps} for i in (1, 2))
    return {
        (half, seed): min(rates, key=lambda rate: sum(steps[half, rate, other] for other in seeds if other != seed))
        for half in HALVES
        for seed in seeds
    }


def _found(
    reached: Sequence[Mapping[str, Any]], at_all_rates: Sequence[Mapping[str, Any]], protocol: Protocol
) -> list[dict[str, Any]]:
    steps, errors, middles = (
        {half: [each[what] for each in reached if each["paths"] == half] for half in HALVES}
        for what in ("steps", "error", "middle")
    )
    found = [
        row(RATIO, _ratios(steps["shorter"], steps["longer"]), EXPECTED),
        *(row(f"steps by {half} over steps by all paths", _ratios(steps[half], steps["all"])) for half in HALVES[:2]),
        *(row(f"steps to a loss of {protocol.target:g}, {half} paths", each) for half, each in steps.items()),
        *(row(f"error then, {half} paths", each) for half, each in errors.items()),
        *(row(f"middle length of the gradient then, {half} paths", each) for half, each in middles.items()),
    ]
    for rate in protocol.rates:
        shorter, longer = (
            [each["steps"] for each in at_all_rates if (each["paths"], each["rate"]) == (half, rate)]
            for half in HALVES[:2]
        )
        found.append(row(f"{RATIO}, both at rate {rate:g}", _ratios(shorter, longer)))
    return found


def _while_all_train(losses: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The losses of each half up to the step at which the first seed ends: beyond, a mean would be one of the rest."""
    last: dict[Half, dict[int, int]] = {}
    for each in losses:
        seeds = last.setdefault(each["paths"], {})
        seeds[each["seed"]] = max(each["step"], seeds.get(each["seed"], 0))
    return [each for each in losses if each["step"] <= min(last[each["paths"]].values())]


def _ratios(steps: Sequence[float], of: Sequence[float]) -> list[float]:
    """Seed by seed; missing where either was never there, for what is divided by infinity is no zero."""
    return [a / b if math.isfinite(a + b) else math.nan for a, b in zip(steps, of, strict=True)]


def _on_rates(reached: Sequence[Mapping[str, Any]], protocol: Protocol) -> Iterator[Sentence]:
    if len({each["seed"] for each in reached}) == 1:
        yield say(
            "A learning rate is chosen on other seeds, and there is none: all have {rate:g}.", rate=protocol.rates[0]
        )
        return
    rates = {half: sorted({each["rate"] for each in reached if each["paths"] == half}) for half in HALVES}
    listed = (f"{half} {' or '.join(f'{rate:g}' for rate in each)}" for half, each in rates.items())
    yield say("Best learning rates: {rates}.", rates=", ".join(listed))
    for half, each in rates.items():
        if {min(protocol.rates), max(protocol.rates)} & set(each):
            yield say("For {half} paths that is at the end of those tried: a better one may lie beyond.", half=half)


def _at_rates(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[tuple[float, Mapping[str, Any]]]:
    """The rates at which both halves reached the loss on all seeds, ascending, with the ratio there."""
    rows = {each["quantity"]: each for each in found}
    each = [(rate, rows[f"{RATIO}, both at rate {rate:g}"]) for rate in sorted(protocol.rates)]
    return [(rate, line) for rate, line in each if math.isfinite(line["found"])]


def _on_stability(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> Iterator[Sentence]:
    """Where each at its best short paths are faster, and at a low rate they are not: it is the rate that does it."""
    at_rates = _at_rates(found, protocol)
    if found[0]["verdict"] == "holds" and at_rates and at_rates[0][1]["high"] >= 1:
        rate, line = at_rates[0]
        yield say(
            "At equal rates of {rate:g} shorter paths are not seen to be faster ({ratio:.2f} times the steps, "
            "{low:.2f} to {high:.2f}): what sets them apart is how large a step they bear.",
            rate=rate,
            ratio=line["found"],
            low=line["low"],
            high=line["high"],
        )


def _on_unreached(rows: Sequence[Mapping[str, Any]], protocol: Protocol) -> Iterator[Sentence]:
    for half in HALVES:
        steps = [each["steps"] for each in rows if each["paths"] == half]
        missed = sum(map(math.isinf, steps))
        if missed:
            yield say(
                "By {half} paths the loss of {target:g} was not reached within {steps} steps on {missed} of {seeds} "
                "seeds.",
                half=half,
                target=protocol.target,
                steps=protocol.steps,
                missed=missed,
                seeds=len(steps),
            )


EXPERIMENT = Experiment(
    "train-by-paths",
    say("Does it matter by which paths a network is trained?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
