"""Does it matter by which paths a network is trained?

1. By few blocks at a time.  After Veit, Wilber, Belongie 2016 (arXiv 1605.06431), section 4.3: a network of 54 blocks
   with batch norm is trained from scratch with a random 23 of its blocks in each batch, the others left out, so that
   no path longer than 23 is ever used; and once as it is.  Both are measured whole.  Published is an error of 5.96 %
   against 6.10 %: no difference beyond noise is expected.
2. By short or by long paths.  In each step of gradient descent the gradient g is split by the length of whole paths at
   the length at which half of |g|^2 = sum_k <g, g_k> is reached (the length that holds the middle is split in
   proportion).  One network is trained by the shorter half alone, one by the longer, one by all; each update is scaled
   to the norm of the whole gradient, and each has the best of several learning rates: on each seed the one that needs
   the fewest steps on all others.  If short paths are what is learned first, the shorter half needs fewer steps to a
   given loss.

Of the first, three things had to be right, and what each does is measured beside the claim.  *How long*: a block that
is there in 23 batches of 54 has so much fewer updates, and in a short training it is these that are missing.  So the
part is trained for 54/23 of the epochs that suffice for the whole: each block has as many updates in both, at equal
cost.  *What the batch norms know*: statistics that were collected while blocks were missing do not fit the whole
network, so all are estimated anew with every block there.  *How much a branch brings*: a stream that had 23 branches in
training has 54 in the test, so each is scaled by 23/54, as after stochastic depth (Huang et al. 2016, arXiv 1603.09382,
equation 5).

The second network has no norms and no biases, so that every gradient is one of paths and its steps are those of the
mode that it is measured in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise import nets
from termwise.charts import Chart
from termwise.data import DataSet
from termwise.experiments.common import Nobody, OnImages, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.halves import HALVES, Half, descent, split
from termwise.experiments.networks import ResidualMLP
from termwise.experiments.some_blocks import SomeBlocks, scaled
from termwise.experiments.train_by_paths_charts import error_chart, loss_chart, rate_chart
from termwise.lengths import gradient_lengths
from termwise.loop import Training, train_network
from termwise.recorder import reestimated
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

DIFFERENCE, RATIO = "error by a part of the blocks - by all", "steps by shorter over steps by longer paths"
TEST, TRAINING = "test data", "training data"
NOISE = 0.01
UNFINISHED = "It has not learned its training data yet."
LOST = "It has learned its training data, and carries over less of them."
UNKNOWN = {"error": math.nan, "middle": math.nan}
BATCH = 512  # samples that the middle length of the gradient is measured on
# Noise is that of the published error, one run of each: differences up to a percent of the test images.
EXPECTED = {
    DIFFERENCE: Expected(f"within {NOISE:g} of 0", -NOISE, NOISE),
    RATIO: Expected("below 1 if short is first", high=1.0),
}


@dataclasses.dataclass(frozen=True)
class Protocol(OnImages):
    """What is trained, and how; `quick` is a job of seconds, and shows nothing.

    Attributes:
        depth: of the residual network, 6n + 2 for 3n blocks.
        part: of the blocks that are there in a batch.
        epochs: of its training by all blocks.
        blocks: of the network that is trained by halves of its gradient.
        features: of its stream.
        steps: of its trainings, at most.
        batch: samples a step.
        rates: that each half chooses from.
        target: the loss on all training data, in nats, that is to be reached.
    """

    depth: int = 110
    part: float = 23 / 54
    epochs: int = 15
    blocks: int = 8
    features: int = 32
    steps: int = 100
    batch: int = 128
    rates: tuple[float, ...] = (0.05, 0.07, 0.1, 0.14, 0.2)  # at the last, networks die on some seeds
    target: float = 0.3

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(depth=14, epochs=1, blocks=2, features=8, steps=2, batch=16, rates=(0.1, 0.2), target=2.6)


def cells(protocol: Protocol) -> tuple[str, ...]:
    """Each training is one."""
    return (*_trainings(protocol), *_half_cells())


def measure(job: Job) -> Rows:
    """Train one network: by all blocks or by some, or by all paths or by some."""
    data = job.protocol.load()
    job.progress("training")
    if job.cell in _trainings(job.protocol):
        part, epochs = _trainings(job.protocol)[job.cell]
        return {"errors": by_blocks(part, epochs, data, job.protocol, job.seed)}
    return by_half(_half_cells()[job.cell], data, job.protocol, job.seed)


def _trainings(protocol: Protocol) -> dict[str, tuple[float, int]]:
    """The cells of the first question: of each, the part of the blocks and the epochs."""
    return {
        "all-blocks": (1.0, protocol.epochs),
        "some-blocks": (protocol.part, _longer(protocol)),
        "some-blocks-short": (protocol.part, protocol.epochs),
    }


def _half_cells() -> dict[str, Half]:
    """The cells of the second question."""
    return {f"{half}-paths": half for half in HALVES}


def _longer(protocol: Protocol) -> int:
    """The epochs in which a block that is there by part has as many updates as one that is always there."""
    return round(protocol.epochs / protocol.part)


# A random part of the blocks.


def by_blocks(part: float, epochs: int, data: DataSet, protocol: Protocol, seed: int) -> list[dict[str, Any]]:
    """The errors of the whole network, trained by a part of its blocks at a time.

    Returns:
        A row for test and training data; where blocks were missing, also with every branch scaled by the part.
    """
    with owned_random(seed):
        network = nets.resnet(protocol.depth, classes=data.classes, channels=data.train_inputs.shape[1], width=8)
    train_network(SomeBlocks(network, part), data, Nobody(), settings=Training(epochs=epochs), seed=seed)
    wholes = {called(part, epochs): network}
    if part < 1:
        wholes[called(part, epochs, "scaled")] = scaled(network, part)
    rows = []
    for name, model in wholes.items():
        whole = reestimated(model, data.train_inputs).eval()
        test = {"data": TEST, "error": _error(whole, data.test_inputs, data.test_targets)}
        training = {"data": TRAINING, "error": _error(whole, data.train_inputs, data.train_targets)}
        rows += [{"training": name, **test}, {"training": name, **training}]
    return rows


def called(part: float, epochs: int, *more: str) -> str:
    """How a training is called."""
    return ", ".join(["a part" if part < 1 else "all blocks", f"{epochs} epochs", *more])


@torch.no_grad()
def _error(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    return float((model(inputs).argmax(dim=1) != targets).double().mean())


# Halves of the gradient.


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
    return {"error": _error(model, data.test_inputs, data.test_targets), "middle": float(split(shares)[0])}


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
    by_blocks = _found_by_blocks(rows["errors"], protocol)
    by_half = _found_by_half(reached, rows["reached"], protocol)
    losses = [each for each in rows["losses"] if each["rate"] == rates[each["paths"], each["seed"]]]
    by_rate = [
        each for each in over_seeds(rows["reached"], ["paths", "rate"], ["steps"]) if math.isfinite(each["steps"])
    ]
    tables = {
        "by_training": over_seeds(rows["errors"], ["training", "data"], ["error"]),
        "by_step": over_seeds(_while_all_train(losses), ["paths", "step"], ["loss"]),
        "by_rate": by_rate,
    }
    notes = (
        *_on_blocks(by_blocks, tables["by_training"], protocol),
        *_on_rates(reached, protocol),
        *_on_stability(by_half, protocol),
        *_on_unreached(reached, protocol),
    )
    charts = (
        loss_chart(by_half[0], protocol.target),
        *([rate_chart(_at_rates(by_half, protocol), protocol.target)] if by_rate else []),
        _error_chart(by_blocks, protocol),
    )
    return Conclusion([*by_blocks, *by_half], notes, tables, charts)


def chosen(reached: Sequence[Mapping[str, Any]]) -> dict[tuple[Half, int], float]:
    """For each half and seed the rate that needs the fewest steps on all other seeds; the first of those alike."""
    steps = {(each["paths"], each["rate"], each["seed"]): each["steps"] for each in reached}
    rates, seeds = ({key[i]: None for key in steps} for i in (1, 2))
    return {
        (half, seed): min(rates, key=lambda rate: sum(steps[half, rate, other] for other in seeds if other != seed))
        for half in HALVES
        for seed in seeds
    }


def _found_by_blocks(rows: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[dict[str, Any]]:
    errors: dict[str, list[float]] = {}
    for each in rows:
        if each["data"] == TEST:
            errors.setdefault(each["training"], []).append(each["error"])
    whole = errors[called(1, protocol.epochs)]
    found = [row(f"error, {name}", each) for name, each in errors.items()]
    for name in errors:
        if name != called(1, protocol.epochs):
            difference = [error - by_all for error, by_all in zip(errors[name], whole, strict=True)]
            if name == called(protocol.part, _longer(protocol), "scaled"):
                found.insert(0, row(DIFFERENCE, difference, EXPECTED[DIFFERENCE]))
            else:
                found.append(row(f"{DIFFERENCE}: {name}", difference))
    return found


def _found_by_half(
    reached: Sequence[Mapping[str, Any]], at_all_rates: Sequence[Mapping[str, Any]], protocol: Protocol
) -> list[dict[str, Any]]:
    steps, errors, middles = (
        {half: [each[what] for each in reached if each["paths"] == half] for half in HALVES}
        for what in ("steps", "error", "middle")
    )
    found = [
        row(RATIO, _ratios(steps["shorter"], steps["longer"]), EXPECTED[RATIO]),
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


def _on_blocks(
    found: Sequence[Mapping[str, Any]], by_training: Sequence[Mapping[str, Any]], protocol: Protocol
) -> Iterator[Sentence]:
    """What length and scale do; and where the part stays behind, whether it is at the end of its training."""
    value = {each["quantity"]: each["found"] for each in found}
    short, longer = (called(protocol.part, epochs) for epochs in (protocol.epochs, _longer(protocol)))
    yield say(
        "Against all blocks after {epochs} epochs, the difference is {difference:+.3f} after {longer} epochs with "
        "branches scaled by the part, and {plain:+.3f} with branches as they are; after {epochs} epochs "
        "{short_scaled:+.3f} and {short_plain:+.3f}.",
        epochs=protocol.epochs,
        longer=_longer(protocol),
        difference=value[DIFFERENCE],
        plain=value[f"{DIFFERENCE}: {longer}"],
        short_scaled=value[f"{DIFFERENCE}: {short}, scaled"],
        short_plain=value[f"{DIFFERENCE}: {short}"],
    )
    if value[DIFFERENCE] > NOISE:
        name = called(protocol.part, _longer(protocol), "scaled")
        (training,) = (e["error"] for e in by_training if (e["training"], e["data"]) == (name, TRAINING))
        yield say("Trained by a part, the whole network is wrong on {error:.1%} of its training data.", error=training)
        yield say(UNFINISHED if training > NOISE else LOST)


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


def _error_chart(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> Chart:
    value = {each["quantity"]: each["found"] for each in found}
    blocks = (protocol.depth - 2) // 2
    return error_chart(
        found[0]["verdict"],
        TEST,
        kept=round(protocol.part * blocks),
        blocks=blocks,
        part=value[f"error, {called(protocol.part, _longer(protocol), 'scaled')}"],
        whole=value[f"error, {called(1, protocol.epochs)}"],
    )


EXPERIMENT = Experiment(
    "train-by-paths",
    say("Does it matter by which paths a network is trained?"),
    Protocol,
    measure,
    conclude,
    cells=cells,
)
