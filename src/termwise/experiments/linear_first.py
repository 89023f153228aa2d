"""Is what a network first learns what a linear classifier knows?

Kalimeris et al. 2019 (arXiv 1905.11604) say so, and measure it by mutual information.  With F the class that the
network names of a held-out sample, L the one that the best linear classifier names, and Y the true one,

    explained share = ( I(F; Y) - I(F; Y | L) ) / I(F; Y)

is 1 where F knows nothing of Y beyond what L knows, and 0 where the two have nothing in common.  A multilayer
perceptron learns to tell the digits 0 to 4 from 5 to 9, by plain stochastic gradient descent of a constant rate,
without momentum; L is a logistic regression on the same half of the digits, its ridge chosen by cross-validation.  The
number of a seed is the mean of the share over all updates from the last one at which I(F; Y) is at most 0.02 bit until
the network is as accurate as L.  (The last such update and not the first above 0.02, for first weights can know that
much by chance.)  The rate is small enough for some hundreds of updates to lie between, and was chosen
for that on two seeds that are not among those of a run.

Expected: at least 0.9.  It would fail if the network began with what is not linear: then I(F; Y | L) would rise with
I(F; Y) from the start.  It can also be missed because there is more than one good linear classifier: another that errs
on other samples knows something beyond L.  So a linear network is trained in the same way, and the share is taken of it
too, at those updates at which it knows as many bits as the network does at each of its own.

Entropies are those of counts, with the correction of Miller and Madow: (cells that are not empty - 1) / 2N nats each.
Without it I(F; Y) of independent classes is 1 / 2N nats too large in the mean and I(F; Y | L) twice that, which takes
0.04 from the share at 0.02 bit and N = 899; the mean without it is given too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from termwise import nets
from termwise.charts import Axis, Chart, Mark, Plot
from termwise.data import DataSet
from termwise.experiments.binary import small_and_large_digits
from termwise.experiments.common import by_quantity, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.recorder import log_spaced
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected

SHARE = "explained share, mean over updates until linear accuracy"
BESIDE = "explained share of a linear network that knows as much"
END = "explained share at the end"
REACHED = "updates until linear accuracy"
KEPT = "explained at the end, of what L knows"
EXPECTED = Expected("at least 0.9", low=0.9)
LEAST = 0.02  # bit
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)  # inverse strengths
PARTS = {"information": "I(F; Y)", "explained": "explained by L", "beyond": "beyond L, I(F; Y | L)"}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained; `quick` is a job of seconds, and shows nothing.

    Attributes:
        width: of both hidden layers.
        rate: of learning, constant.
        batch: samples an update, each drawn from all.
        updates: in all.
        ratio: between one step of the charts and the next, roughly.
    """

    width: int = 256
    rate: float = 0.002
    batch: int = 32
    updates: int = 4000
    ratio: float = 2**0.25

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(width=16, rate=0.05, updates=200, ratio=2)


def entropy(*variables: np.ndarray, corrected: bool = True) -> float:
    """Joint entropy in bits of discrete variables, each given as (N,) whole numbers from 0.

    Args:
        variables: any number of them.
        corrected: add (cells that are not empty - 1) / 2N nats (Miller 1955).
    """
    cells = np.zeros(len(variables[0]), dtype=np.int64)
    for variable in variables:
        cells = cells * (int(variable.max()) + 1) + variable
    counts = np.bincount(cells)
    counts = counts[counts > 0]
    shares = counts / counts.sum()
    found = -(shares * np.log(shares)).sum() + (len(counts) - 1) / (2 * counts.sum()) * corrected
    return float(found / math.log(2))


def information(f: np.ndarray, y: np.ndarray, *, corrected: bool = True) -> float:
    """I(F; Y) in bits: H(F) + H(Y) - H(F, Y)."""
    h, g, both = (entropy(*each, corrected=corrected) for each in ((f,), (y,), (f, y)))
    return h + g - both


def conditional_information(f: np.ndarray, y: np.ndarray, given: np.ndarray, *, corrected: bool = True) -> float:
    """I(F; Y | L) in bits: H(F, L) + H(Y, L) - H(F, Y, L) - H(L)."""
    h, g, both, known = (
        entropy(*each, corrected=corrected) for each in ((f, given), (y, given), (f, y, given), (given,))
    )
    return h + g - both - known


def measure(job: Job) -> Rows:
    """Train the network, and a linear one beside it, and ask of both what they know."""
    protocol, seed = job.protocol, job.seed
    data = small_and_large_digits(seed)
    y, linear = data.test_targets.numpy(), best_linear(data, seed)
    job.progress("training")
    course = course_of((protocol.width, protocol.width), data, linear, protocol, seed)
    beside = course_of((), data, linear, protocol, seed)
    due = log_spaced(protocol.ratio)
    return {
        "values": [{"quantity": name, "value": value} for name, value in numbers(course, beside, y, linear).items()],
        "course": [line for line in course if due(line["step"]) or line is course[-1]],
    }


def course_of(
    hidden: Sequence[int], data: DataSet, linear: np.ndarray, protocol: Protocol, seed: int
) -> list[dict[str, Any]]:
    """What a network with such hidden layers knows, over its training.

    Returns:
        A row for each update until it is as accurate as the linear classifier, and then for those of the charts.
    """
    y, due, reached, course = data.test_targets.numpy(), log_spaced(protocol.ratio), False, []
    for step, model in enumerate(_networks(hidden, data, protocol, seed)):
        if not reached or due(step) or step == protocol.updates:
            with torch.no_grad():
                said = model(data.test_inputs).argmax(dim=1).numpy()
            course.append({"step": step, **known(said, y, linear)})
            reached = reached or course[-1]["accuracy"] >= (linear == y).mean()
    return course


def best_linear(data: DataSet, seed: int) -> np.ndarray:
    """The classes that logistic regression names of the test inputs, its ridge chosen by five-fold cross-validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    train, test = (part.flatten(1).double().numpy() for part in (data.train_inputs, data.test_inputs))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(max_iter=5000), {"C": list(RIDGES)}, cv=folds)
    return search.fit(train, data.train_targets.numpy()).predict(test)


def known(said: np.ndarray, y: np.ndarray, linear: np.ndarray) -> dict[str, float]:
    """Of the classes that a network names: accuracy, and in bits what they tell of Y, through L and beyond it."""
    whole, beyond = information(said, y), conditional_information(said, y, linear)
    plain = information(said, y, corrected=False), conditional_information(said, y, linear, corrected=False)
    return {
        "accuracy": float((said == y).mean()),
        "information": whole,
        "beyond": beyond,
        "explained": whole - beyond,
        "explained_plain": (plain[0] - plain[1]) / plain[0] if plain[0] > 0 else math.nan,
    }


def numbers(
    course: Sequence[Mapping[str, Any]], beside: Sequence[Mapping[str, Any]], y: np.ndarray, linear: np.ndarray
) -> dict[str, float | None]:
    """What a seed has found; what was never reached is missing.

    Args:
        course: a row for each update, from the first weights until linear accuracy at least.
        beside: the same of a linear network.
        y: the true classes.
        linear: those of the linear classifier.
    """
    accuracy = float((linear == y).mean())
    reached = next((place for place, line in enumerate(course) if line["accuracy"] >= accuracy), None)
    window = [] if reached is None else list(_window(course[:reached]))
    shares = [_share(line) for line in window]
    last = course[-1]
    return {
        SHARE: _mean(shares),
        BESIDE: _mean([_share(_nearest(beside, line["information"])) for line in window]),
        "explained share without correction of entropies": _mean([line["explained_plain"] for line in window]),
        "explained share, least at an update until linear accuracy": min(shares, default=None),
        REACHED: None if reached is None else float(course[reached]["step"]),
        "accuracy of the linear classifier": accuracy,
        "accuracy of the network at the end": last["accuracy"],
        END: _share(last) if last["information"] > 0 else None,
        KEPT: last["explained"] / information(linear, y),
    }


def _share(line: Mapping[str, Any]) -> float:
    return line["explained"] / line["information"]


def _nearest(course: Sequence[Mapping[str, Any]], information: float) -> Mapping[str, Any]:
    """The row that knows as much."""
    return min(course, key=lambda line: abs(line["information"] - information))


def _window(course: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows after the last that knows too little."""
    start = max((place for place, line in enumerate(course) if line["information"] <= LEAST), default=-1)
    yield from course[start + 1 :]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _networks(hidden: Sequence[int], data: DataSet, protocol: Protocol, seed: int) -> Iterator[nn.Module]:
    """The network after each number of updates, from 0 on; it is one and the same."""
    with owned_random(seed):
        model = nets.mlp([data.train_inputs[0].numel(), *hidden, data.classes])
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=protocol.rate)
    yield model
    for _ in range(protocol.updates):
        rows = torch.randint(len(data.train_inputs), (protocol.batch,), generator=generator)
        optimiser.zero_grad()
        F.cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows]).backward()
        optimiser.step()
        yield model


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """The share, beside what was expected; what the network knows over its training."""
    found = [row(name, each, EXPECTED if name == SHARE else None) for name, each in by_quantity(rows["values"]).items()]
    lines = {line["quantity"]: line for line in found}
    by_step = over_seeds(rows["course"], ["step"], list(PARTS))
    parts = [
        {"step": line["step"], "part": title, "bits": line[name]}
        | {end: line[f"{name}_{end}"] for end in ("low", "high")}
        for name, title in PARTS.items()
        for line in by_step
    ]
    little = {line["step"] for line in rows["course"] if line["information"] <= LEAST}
    knowing = [{"step": line["step"], "share": _share(line)} for line in rows["course"] if line["step"] not in little]
    shares = over_seeds(knowing, ["step"], ["share"])
    charts = (_information(lines), *((_shares(lines),) if shares else ()))
    return Conclusion(found, tuple(_notes(lines)), {"parts": parts, "shares": shares}, charts)


def _notes(lines: Mapping[str, Mapping[str, Any]]) -> list[Sentence]:
    """What is kept, and why something was missed, as far as the data tell it."""
    share, beside, kept = (lines[name]["found"] for name in (SHARE, BESIDE, KEPT))
    notes = [say("At the end the network still knows {kept:.0%} of what the linear classifier knows.", kept=kept)]
    if lines[SHARE]["verdict"] != "holds" and beside > share:
        notes.append(
            say(
                "L leaves {missing:.1%} of what the network knows unexplained, before linear accuracy is reached. Of "
                "what a linear network knows, trained alike, it leaves {beside:.1%}: so much is no nonlinearity, but "
                "another linear classifier than L. At most the rest, {rest:.1%}, is not linear.",
                missing=1 - share,
                beside=1 - beside,
                rest=beside - share,
            )
        )
    elif lines[SHARE]["verdict"] != "holds" and beside <= share:
        notes.append(
            say(
                "L explains no more of what a linear network knows, trained alike ({beside:.1%}): what is missing is "
                "no nonlinearity, but another linear classifier than L.",
                beside=beside,
            )
        )
    return notes


def _information(lines: Mapping[str, Mapping[str, Any]]) -> Chart:
    share, kept = lines[SHARE]["found"], lines[KEPT]["found"]
    template = (
        "What the network knows of the classes"
        if math.isnan(share)
        else "A linear classifier explains {share:.0%} of what the network knows before it is as accurate"
    )
    plot = Plot(
        "parts",
        "lines",
        Axis("step", say("update"), scale="log"),
        Axis("bits", say("information on the class, in bits"), low=0.0, high=1.0),
        series="part",
        interval=("low", "high"),
    )
    reading = say(
        "Lines are means over seeds, bands 95 % intervals. What L explains and what is beyond L add up to I(F; Y). At "
        "the end the network has {kept:.0%} of what L knows.",
        kept=kept,
    )
    return Chart("information", say(template, share=share), reading, (plot,))


def _shares(lines: Mapping[str, Mapping[str, Any]]) -> Chart:
    updates, end = lines[REACHED]["found"], lines[END]["found"]
    template = (
        "The share of what the network knows that a linear classifier explains"
        if math.isnan(updates) or math.isnan(end)
        else "The explained share goes to {end:.2f}; the network is as accurate as L after {updates:.0f} updates"
    )
    plot = Plot(
        "shares",
        "lines",
        Axis("step", say("update"), scale="log"),
        Axis("share", say("explained share"), low=0.0, high=1.0),
        interval=("share_low", "share_high"),
        marks=(Mark(EXPECTED.low, say("expected in the mean, until linear accuracy")),),
    )
    reading = say(
        "The mean and its interval, from where on the network knows more than {bits:g} bit in all seeds.", bits=LEAST
    )
    return Chart("explained-share", say(template, updates=updates, end=end), reading, (plot,))


EXPERIMENT = Experiment(
    "linear-first",
    say("Is what a network first learns what a linear classifier knows?"),
    Protocol,
    measure,
    conclude,
)
