"""Is what a network first learns what a linear classifier knows?

Kalimeris et al. 2019 (arXiv 1905.11604) say so, and measure it by mutual information.  With F the class that the network
names of a held-out sample, L the one that the best linear classifier names, and Y the true one,

    explained share = ( I(F; Y) - I(F; Y | L) ) / I(F; Y)

is 1 where F knows nothing of Y beyond what L knows, and 0 where the two have nothing in common.  A multilayer perceptron
learns to tell the digits 0 to 4 from 5 to 9, by plain stochastic gradient descent of a constant rate, without momentum;
L is a logistic regression on the same half of the digits, its ridge chosen by cross-validation.  The number of a seed is
the mean of the share over all updates from the last one at which I(F; Y) is at most 0.02 bit until the network is as
accurate as L.  (The last such update and not the first above 0.02, for first weights can know that much by chance.)

Expected: at least 0.9.  It would fail if the network began with what is not linear: then I(F; Y | L) would rise with
I(F; Y) from the start.

Entropies are those of counts, with the correction of Miller and Madow: (cells that are not empty - 1) / 2N nats each.
Without it I(F; Y) of independent classes is 1 / 2N too large in the mean and I(F; Y | L) twice that, which takes a
twentieth from the share at 0.02 bit; the mean without it is given too.
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
from termwise.experiments.common import Expected, by_quantity, over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.recorder import log_spaced
from termwise.seeds import owned_random
from termwise.sentences import Sentence, say

SHARE = "explained share, mean over updates until linear accuracy"
LOWEST = "least explained share at any of these updates"
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
    """Train once, and ask what the network knows: at every update at first, then at those of the charts."""
    protocol, seed = job.protocol, job.seed
    data = small_and_large_digits(seed)
    y, linear = data.test_targets.numpy(), best_linear(data, seed)
    job.progress("training")
    course, due, reached = [], log_spaced(protocol.ratio), False
    for step, model in enumerate(_networks(data, protocol, seed)):
        if not reached or due(step) or step == protocol.updates:
            with torch.no_grad():
                said = model(data.test_inputs).argmax(dim=1).numpy()
            course.append({"step": step, **known(said, y, linear)})
            reached = reached or course[-1]["accuracy"] >= (linear == y).mean()
    return {
        "values": [{"quantity": name, "value": value} for name, value in numbers(course, y, linear).items()],
        "course": [line for line in course if due(line["step"]) or line is course[-1]],
    }


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


def numbers(course: Sequence[Mapping[str, Any]], y: np.ndarray, linear: np.ndarray) -> dict[str, float | None]:
    """What a seed has found; what was never reached is missing.

    Args:
        course: a row for each update, from the first weights until linear accuracy at least.
        y: the true classes.
        linear: those of the linear classifier.
    """
    accuracy = float((linear == y).mean())
    reached = next((place for place, line in enumerate(course) if line["accuracy"] >= accuracy), None)
    window = [] if reached is None else list(_window(course[:reached]))
    shares = [line["explained"] / line["information"] for line in window]
    last = course[-1]
    return {
        SHARE: float(np.mean(shares)) if shares else None,
        "the same without correction of entropies": _mean([line["explained_plain"] for line in window]),
        LOWEST: min(shares, default=None),
        REACHED: None if reached is None else float(course[reached]["step"]),
        "accuracy of the linear classifier": accuracy,
        "accuracy of the network at the end": last["accuracy"],
        "explained share at the end": last["explained"] / last["information"] if last["information"] > 0 else None,
        KEPT: last["explained"] / information(linear, y),
    }


def _window(course: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows after the last that knows too little."""
    start = max((place for place, line in enumerate(course) if line["information"] <= LEAST), default=-1)
    yield from course[start + 1 :]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _networks(data: DataSet, protocol: Protocol, seed: int) -> Iterator[nn.Module]:
    """The network after each number of updates, from 0 on; it is one and the same."""
    with owned_random(seed):
        model = nets.mlp([data.train_inputs[0].numel(), protocol.width, protocol.width, data.classes])
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
        {
            "step": line["step"],
            "part": title,
            "bits": line[name],
            "low": line[f"{name}_low"],
            "high": line[f"{name}_high"],
        }
        for name, title in PARTS.items()
        for line in by_step
    ]
    shares = over_seeds(
        [
            {"step": line["step"], "share": line["explained"] / line["information"]}
            for line in rows["course"]
            if line["information"] > LEAST
        ],
        ["step"],
        ["share"],
    )
    charts = (_course(lines), *((_shares(lines),) if shares else ()))
    return Conclusion(found, (_note(lines),), {"parts": parts, "shares": shares}, charts)


def _note(lines: Mapping[str, Mapping[str, Any]]) -> Sentence:
    line, kept = lines[SHARE], lines[KEPT]["found"]
    if line["verdict"] == "fails":
        return say(
            "The network knows more than L before it is as accurate: of what it knows {share:.1%} is L's in the mean, and "
            "at one of these updates {least:.1%}.",
            share=line["found"],
            least=lines[LOWEST]["found"],
        )
    return say("At the end the network still knows {kept:.1%} of what the linear classifier does.", kept=kept)


def _course(lines: Mapping[str, Mapping[str, Any]]) -> Chart:
    share, kept = lines[SHARE]["found"], lines[KEPT]["found"]
    title = (
        say("What the network knows")
        if math.isnan(share)
        else say(
            "Until it is as accurate as a linear classifier, {share:.0%} of what the network knows is what that one does",
            share=share,
        )
    )
    plot = Plot(
        "parts",
        "lines",
        Axis("step", say("update"), scale="log"),
        Axis("bits", say("information on the class, in bits")),
        series="part",
        interval=("low", "high"),
    )
    reading = say(
        "Lines are means over seeds, bands 95 % intervals. Explained by L and beyond L add up to I(F; Y). At the end the "
        "network has {kept:.0%} of what L knows.",
        kept=kept,
    )
    return Chart("information", title, reading, (plot,))


def _shares(lines: Mapping[str, Mapping[str, Any]]) -> Chart:
    updates = lines[REACHED]["found"]
    title = (
        say("The share of what the network knows that the linear classifier explains")
        if math.isnan(updates)
        else say(
            "The explained share falls as the network learns; it is as accurate as L after {n:.0f} updates", n=updates
        )
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
        "The mean over seeds in which the network knows more than {least:g} bit, with its interval.", least=LEAST
    )
    return Chart("explained-share", title, reading, (plot,))


EXPERIMENT = Experiment(
    "linear-first",
    say("Is what a network first learns what a linear classifier knows?"),
    Protocol,
    measure,
    conclude,
)
