"""In which order are the degrees of a target on the cube learned, and is it that of the kernel of infinite width?

The target is x1 + x2 x3 + x4 x5 x6 x7, of degrees 1, 2 and 4 in equal parts, the network one of 512 ReLUs in one hidden
layer without biases, trained by Adam (2e-3) on the whole cube.  What is learned of a degree is the part of the
target's coefficient that the network has, by the exact Walsh transform.  Expected, after Abbe et al. 2022 (arXiv
2202.08658) and Yang & Salman 2019 (arXiv 1907.10599): degrees 1, 2, 4 reach 0.9 of it in that order in every seed, each
at least twice as late as the one before.  It is asked on cubes of three sizes: with seven inputs the target uses all of
them, with ten and twelve it leaves some that are of no account.

Of infinite width the same is known in closed form.  For f(x) = sqrt(2 / m) sum_i a_i relu(w_i x / sqrt(d)) with
standard normal weights the tangent kernel tends to

    K(x, x') = kappa_1(u) + u kappa_0(u),        u = <x, x'> / d,

    kappa_0(u) = (pi - arccos u) / pi,        kappa_1(u) = (u (pi - arccos u) + sqrt(1 - u^2)) / pi

(Cho & Saul 2009).  It depends on <x, x'> alone, so parities are its eigenfunctions, and all of degree k have the
eigenvalue

    lambda_k = 2^-d sum_j K_j(k) K(1 - 2 j / d),        K_j the Krawtchouk polynomial,

at which gradient descent learns them from f = 0: d coefficient / dt = lambda_k times what is missing.  Without biases
relu(u) - relu(-u) = u, so the odd part of such a network is linear, at any width: lambda_1 = 1/d, and lambda_3,
lambda_5, ... are zero.  The target has none of these, which no such network could learn.  Set beside the eigenvalues
are the rates of a wide network in its first small step, on targets that have all degrees in equal parts (each parity
with a random sign), its units in pairs of opposite output weights, so that it begins at f = 0.  Expected: rates within
a tenth of the eigenvalues for the degrees of the target, and a rank correlation of 0.8 or more over all degrees whose
eigenvalue is not zero (the highest lie too close together to be told apart at any finite width).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import Tensor

from termwise import nets
from termwise.charts import Axis, Chart, Plot
from termwise.degree import degrees
from termwise.degree.targets import staircase
from termwise.degree.walsh import all_inputs
from termwise.experiments.common import over_seeds, row
from termwise.experiments.experiment import Conclusion, Experiment, Job, Rows
from termwise.experiments.fitting import READING, Curve, OnTheCube, Target, by_degree, course, learned_plot
from termwise.interactions import krawtchouk
from termwise.seeds import owned_random, stream
from termwise.sentences import Sentence, say
from termwise.verdict.decision import Expected, tau

DEGREES = (1, 2, 4)
LATER = 2.0
KERNEL = "kernel"
ZERO = 1e-9  # up to rounding
STEP = 1e-3  # small: what is of second order in it stays below a thousandth of the rate
EXPECTED_LATER = Expected("2 or more", low=LATER)
EXPECTED_ORDER = Expected("1: in every seed", low=1.0)
EXPECTED_RATE = Expected("within 0.1 of 1", 0.9, 1.1)
EXPECTED_RANKS = Expected("0.8 or more", low=0.8)
EXPECTED_ODD = Expected("0, by homogeneity", 0.0, ZERO)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is fitted, and how the kernel is looked at; `quick` is a job of seconds, and shows nothing.

    Attributes:
        inputs: dimensions of the cubes.
        width: hidden units of the network that is trained.
        rate: of Adam.
        steps: updates, each of the whole cube.
        kernel_inputs: dimensions of the cube on which rates are set beside eigenvalues.
        kernel_width: hidden units of the wide network, an even number.
        draws: targets whose rates are averaged, of each wide network.
    """

    inputs: tuple[int, ...] = (7, 10, 12)
    width: int = 512
    rate: float = 2e-3
    steps: int = 600
    kernel_inputs: int = 10
    kernel_width: int = 16384
    draws: int = 16

    @staticmethod
    def quick() -> Protocol:
        """The same job, as small as it can be."""
        return Protocol(inputs=(7, 8), width=16, steps=8, kernel_inputs=5, kernel_width=64, draws=1)


def _cells(protocol: Protocol) -> tuple[str, ...]:
    return (*map(str, protocol.inputs), KERNEL)


def measure(job: Job) -> Rows:
    """Fit one network, or look at the rates of a wide one."""
    protocol, seed = job.protocol, job.seed
    if job.cell == KERNEL:
        job.progress("a small step of a wide network")
        exact = eigenvalues(protocol.kernel_inputs)
        found = rates(protocol.kernel_inputs, protocol.kernel_width, protocol.draws, seed)
        pairs = enumerate(zip(exact, found, strict=True))
        return {"rates": [{"degree": k, "eigenvalue": value, "rate": rate} for k, (value, rate) in pairs]}
    inputs = int(job.cell)
    job.progress("fitting")
    with owned_random(seed):
        model = nets.mlp([inputs, protocol.width, 1], bias=False)
    settings = OnTheCube(inputs, protocol.width, protocol.rate, protocol.steps)
    rows = by_degree(course(model, staircase(*DEGREES), settings))
    return {"learned": [{"inputs": inputs, **each} for each in rows if each["degree"] in DEGREES]}


def eigenvalues(count: int) -> np.ndarray:
    """lambda_0 .. lambda_d of the kernel on the cube of `count` dimensions, each shared by all parities of a degree."""
    flipped = np.arange(count + 1)
    u = 1 - 2 * flipped / count
    beyond = np.pi - np.arccos(u)
    kernel = (u * beyond + np.sqrt(1 - u**2)) / np.pi + u * beyond / np.pi
    return sum(value * krawtchouk(count, int(j)) for j, value in zip(flipped, kernel, strict=True)) / 2**count


def random_target(count: int, seed: int) -> Target:
    """All parities, with random signs; those of a degree share an energy of 1."""
    sizes = np.bitwise_count(np.arange(2**count))
    numbers = np.array([math.comb(count, int(k)) for k in sizes])
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=2**count)
    # Of the cube as `all_inputs` counts it, where a set bit is a 1: a parity's sign is that of its bits that are not.
    values = torch.from_numpy(linalg.hadamard(2**count)[::-1] @ (signs / np.sqrt(numbers)))
    return lambda x: values[((x > 0) * 2 ** torch.arange(count)).sum(dim=1)]


def rates(count: int, width: int, draws: int, seed: int) -> np.ndarray:
    """By degree, the rate at which a wide network learns its part of a target in its first step, mean over targets."""
    cube = all_inputs(count).double()
    with owned_random(seed):
        half = torch.randn(width // 2, count + 1, dtype=torch.float64)
    weights = half[:, :count].repeat(2, 1).requires_grad_()
    outer = torch.cat([half[:, count], -half[:, count]]).requires_grad_()

    def output(x: Tensor, weights: Tensor, outer: Tensor) -> Tensor:
        return math.sqrt(2 / width) * torch.relu(x @ weights.T / math.sqrt(count)) @ outer

    found = []
    for draw in range(draws):
        target = random_target(count, stream(seed, draw))
        loss = (output(cube, weights, outer) - target(cube)).square().mean() / 2
        slopes = torch.autograd.grad(loss, (weights, outer))
        moved = [each.detach() - STEP * slope for each, slope in zip((weights, outer), slopes, strict=True)]
        spectrum = degrees(
            lambda x, moved=moved: output(x, *moved), (count,), inputs="boolean", target=target, batch_size=len(cube)
        ).spectrum
        found.append(spectrum["learned"].astype(float) / STEP)
    return np.mean(found, axis=0)


def conclude(rows: Rows, protocol: Protocol) -> Conclusion:
    """How much later each degree is learned than the one before; and the rates beside the eigenvalues."""
    times = times_of(rows["learned"])
    found = [line for inputs in protocol.inputs for line in _order(times, inputs)]
    found += _kernel(rows["rates"])
    by_step = over_seeds(rows["learned"], ["inputs", "degree", "step"], ["learned"])
    by_rate = over_seeds(rows["rates"], ["degree", "eigenvalue"], ["rate"])
    tables = {"times": times, "by_step": by_step, "by_rate": _beside(by_rate)}
    return Conclusion(found, _notes(times, rows["rates"]), tables, (_learned(found, protocol), _rates(found)))


def times_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each cube and seed: the step at which each degree is learned."""
    return [
        {"inputs": inputs, "seed": seed}
        | {f"degree_{k}": Curve.of(rows, "learned", inputs=inputs, seed=seed, degree=k).reaches() for k in DEGREES}
        for inputs, seed in dict.fromkeys((each["inputs"], each["seed"]) for each in rows)
    ]


def _order(times: Sequence[Mapping[str, Any]], inputs: int) -> list[dict[str, Any]]:
    chosen = [each for each in times if each["inputs"] == inputs]
    first, second, third = (np.array([each[f"degree_{k}"] for each in chosen]) for k in DEGREES)
    earlier, later = second / first, third / second
    where = f"{inputs} inputs"
    return [
        row(f"time of degree 2 over that of degree 1, {where}", earlier, EXPECTED_LATER),
        row(f"time of degree 4 over that of degree 2, {where}", later, EXPECTED_LATER),
        row(
            f"degrees 1, 2, 4 in that order, each 2 x later, {where}",
            ((earlier >= LATER) & (later >= LATER)).astype(float),
            EXPECTED_ORDER,
        ),
    ]


def _kernel(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One number a seed: rates over eigenvalues, their rank correlation, and what should be zero."""
    seeds: dict[int, list[Mapping[str, Any]]] = {}
    for each in rows:
        seeds.setdefault(each["seed"], []).append(each)
    lines = [
        row(
            f"rate over eigenvalue, degree {k}",
            [own[k]["rate"] / own[k]["eigenvalue"] for own in seeds.values()],
            EXPECTED_RATE,
        )
        for k in DEGREES
    ]
    present = [[each for each in own if each["eigenvalue"] > ZERO] for own in seeds.values()]
    ranks = [tau([e["eigenvalue"] for e in own], [e["rate"] for e in own]) for own in present]
    odd = [max(abs(e["rate"]) for e in own if e["degree"] % 2 and e["degree"] > 1) for own in seeds.values()]
    return [
        *lines,
        row("rank correlation of rates and eigenvalues", ranks, EXPECTED_RANKS),
        row("largest rate of degrees 3, 5, ...", odd, EXPECTED_ODD),
    ]


def _beside(by_rate: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rates and eigenvalues as points of one picture, which has a logarithmic axis: without those that are zero."""
    points = []
    for line in by_rate:
        exact = {"of": "the kernel's eigenvalue", **dict.fromkeys(("rate", "low", "high"), line["eigenvalue"])}
        measured = {
            "of": "the wide network",
            "rate": line["rate"],
            "low": line["rate_low"],
            "high": line["rate_high"],
        }
        if line["eigenvalue"] > ZERO:
            points += [{"degree": line["degree"], **each} for each in (exact, measured)]
    return points


def _notes(times: Sequence[Mapping[str, Any]], rates: Sequence[Mapping[str, Any]]) -> tuple[Sentence, ...]:
    ratios = [each[f"degree_{later}"] / each[f"degree_{k}"] for each in times for k, later in ((1, 2), (2, 4))]
    exact = {each["degree"]: each["eigenvalue"] for each in rates}
    apart = say(
        "The kernel's eigenvalues of degrees 1, 2, 4 are {one:.2g}, {two:.2g}, {four:.2g}: by them alone degree 2 "
        "would come {earlier:.1f} x later than degree 1, and degree 4 {later:.0f} x later than degree 2.",
        one=exact[1],
        two=exact[2],
        four=exact[4],
        earlier=exact[1] / exact[2],
        later=exact[2] / exact[4],
    )
    if not np.isfinite(ratios).all():
        return (say("In some seeds a degree was not learned within the training."), apart)
    return (say("The smallest of all these ratios, over cubes and seeds, is {least:.2f}.", least=min(ratios)), apart)


def _learned(found: Sequence[Mapping[str, Any]], protocol: Protocol) -> Chart:
    ordered = all(line["verdict"] == "holds" for line in found if line["quantity"].startswith("degrees 1, 2, 4"))
    title = (
        say("Degrees 1, 2, 4 are learned in that order in every seed, each at least 2 x later than the one before")
        if ordered
        else say("When degrees 1, 2, 4 are learned")
    )
    plots = tuple(learned_plot({"inputs": inputs}, say("{inputs} inputs", inputs=inputs)) for inputs in protocol.inputs)
    return Chart("learned", title, READING, plots)


def _rates(found: Sequence[Mapping[str, Any]]) -> Chart:
    (ranks,) = (line for line in found if line["expected"] == EXPECTED_RANKS.words)
    title = {
        "holds": "A wide network begins to learn degrees in the order of the kernel's eigenvalues (tau {tau:.2f})",
        "fails": "A wide network does not begin in the order of the kernel's eigenvalues (tau {tau:.2f})",
    }.get(ranks["verdict"], "Rates of a wide network beside the kernel's eigenvalues (tau {tau:.2f})")
    plot = Plot(
        "by_rate",
        "points",
        Axis("degree", say("degree"), scale="ordinal"),
        Axis("rate", say("rate of learning, a unit of time"), scale="log"),
        series="of",
        interval=("low", "high"),
    )
    reading = say(
        "Rates of the first small step from f = 0, whiskers 95 % intervals over seeds. Odd degrees above 1 are not "
        "shown: both are zero."
    )
    return Chart("rates", say(title, tau=ranks["found"]), reading, (plot,))


EXPERIMENT = Experiment(
    "boolean-order",
    say("In which order are the degrees of a target on the cube learned, and is it that of infinite width?"),
    Protocol,
    measure,
    conclude,
    cells=_cells,
)
