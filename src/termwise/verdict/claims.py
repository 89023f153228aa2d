"""The claims H1 to H5 of Sun, Ding, Guo 2022 (doi 10.1016/j.neunet.2022.01.012), and the rules that judge them.

The rules were written before anything was measured.  Every endpoint is one number a seed, signed so that its claim says
*above 0* (`termwise.verdict.measures`); probe samples are nested within it.

| endpoint | the number of a seed |
|---|---|
| H1 share | by how many steps the mean depth rises over the training |
| H1 learned | Kendall's tau_b between depth and time learned |
| H1 causal | log2 of the steps to equal loss by longer paths over those by shorter ones |
| H2 effect | accuracy by the shallow half of the terms less that by the deep half |
| H3 excess | the smaller excess, over first weights and over gates of other inputs |
| H4, four of them | mean depth of ResNet less that of DenseNet, at equal step and loss, in layers and blocks |
| H5 | share, learned and effect, of each variant |

One endpoint.  It *holds* (*fails*) where the whole 95 % t-interval over seeds is above (below) 0, else it is
*undecided*; so it is with fewer than 5 seeds, and where a seed has no number (of fewer than 6 terms with a time learned
there is no tau).  Seeds are never left out: who has no number may be who would have contradicted.

H1 learned has a second hurdle.  A t-interval asks whether seeds agree, and they may agree on an order that has nothing
to do with depth: one layer is learned late in every seed, wherever it stands.  So credit trajectories are permuted over
depths, by the same permutation in all seeds; p is that share of permutations whose mean tau is as far from 0, and the
larger one of both p-values counts.  Trajectories of neighbouring depths are alike, which this null does not respect: it
says that there is an order by depth, and not how many terms are learned apart from each other.

Several endpoints in one claim.  *All of them* (H1, H5): the claim is that each holds, so it holds only where each does,
with the largest p (an intersection-union test needs no correction; Berger 1982).  It fails where any one fails, and
since any one would do, its p counts as often as there are endpoints.  *In either unit* (H4): equal step and equal loss
are such a pair in each unit; the claim holds (fails) where it does in both units, with the larger p, and where units
disagree it is undecided.

Five claims.  Holm's correction over the primary H1 to H5 of input-born terms; a claim that was not tested counts with
p = 1.  A verdict stays where the corrected p is at most 0.05, else it is undecided.  Everything else (the parts of a
claim, the same with constants, further networks) is *exploratory*: p is as it is, and one in twenty is nothing.

The first weights and labels that were shuffled are comparators, carried beside, and no nulls: a network that learns
shuffled labels by heart can show the same order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from termwise.errors import UsageError
from termwise.records import Table
from termwise.sentences import Sentence, say
from termwise.verdict.decision import ABOVE, LEVEL, SEEDS, holm, interval, p_value
from termwise.verdict.measures import At, Times, order

CLAIMS = {
    "H1": "shallow subnetworks are trained first",
    "H2": "shallow subnetworks have great effect on the performance",
    "H3": "shallow subnetworks are of low degree, deep ones of high degree",
    "H4": "the subnetworks that matter are shallower in DenseNets than in ResNets",
    "H5": "so it is in SE-ResNets and SK-ResNets",
}
"""In the order of the paper, in words of ours."""
DRAWS = 1999  # permutations
ALIKE = 0.05  # by how much numbers of parameters may differ and count as equal


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """What is measured, for which claim.

    Attributes:
        claim: "H1" to "H5".
        name: in one word or two.
        quantity: in a sentence, "... is 0.3".
    """

    claim: str
    name: str
    quantity: str


SHARE = Endpoint("H1", "share", "the rise of the mean depth over the training, in steps")
LEARNED = Endpoint("H1", "learned", "Kendall's tau between depth and time learned")
CAUSAL = Endpoint("H1", "causal", "log2 of the steps to equal loss by longer over those by shorter paths")
EFFECT = Endpoint("H2", "effect", "accuracy by the shallow half of the terms less that by the deep half")
EXCESS = Endpoint("H3", "excess", "the smaller excess of the fall of low frequencies with depth")
AT: tuple[At, At] = ("step", "loss")
SHALLOWER: dict[tuple[str, At], Endpoint] = {
    (unit, at): Endpoint("H4", f"{unit}, equal {at}", f"mean depth of the ResNet less that of the DenseNet, in {unit}")
    for unit in ("layers", "blocks")
    for at in AT
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What several seeds say of a claim, or of one endpoint of it.

    Attributes:
        claim: "H1" to "H5".
        endpoint: its name; of a claim as a whole, by which of its endpoints it is decided.
        of: the network, and whether constants are counted; "" where that is clear.
        quantity: what the numbers are.
        estimate: the effect: the mean over seeds, above 0 where the claim has it so; NaN where a seed has no number.
        low: the lower end of the 95 % t-interval over seeds.
        high: its upper end.
        p: two-sided; None where nothing can be decided.
        p_holm: corrected for the five claims; None of what is exploratory.
        seeds: how many.
        verdict: "holds", "fails" or "undecided".
        beside: means over seeds of comparators, by name.
    """

    claim: str
    endpoint: str
    of: str
    quantity: str
    estimate: float
    low: float
    high: float
    p: float | None
    p_holm: float | None
    seeds: int
    verdict: str
    beside: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def primary(self) -> bool:
        """Whether it is one of the five claims, corrected for the others."""
        return self.p_holm is not None

    @property
    def words(self) -> Sentence:
        """The verdict, its numbers, and why it is undecided."""
        named = f"{self.claim} ({self.endpoint})" + (f" of {self.of}" if self.of else "")
        plain = {"name": named, "verdict": _SAID[self.verdict], "quantity": self.quantity, "seeds": self.seeds}
        # What is not a number cannot be saved with a sentence.
        if math.isfinite(self.low):
            interval = "{estimate:+.2g} [{low:+.2g}, {high:+.2g}]"
            numbers = {"estimate": self.estimate, "low": self.low, "high": self.high}
        else:
            interval, numbers = "not known", {}
        template = "{name} {verdict}: {quantity} is " + interval + " over {seeds} seeds{reason}."
        return say(template, reason=self._reason(), **plain, **numbers)

    def __str__(self) -> str:
        """Its words."""
        return str(self.words)

    def _reason(self) -> str:
        beside = "".join(f"; {name}: {value:+.2g}" for name, value in self.beside.items())
        if self.p is None:
            why = f"fewer than {SEEDS} decide nothing" if self.seeds < SEEDS else "not every seed has a number"
            return f"; {why}{beside}"
        p = f"p = {self.p:.2g}" if self.p_holm is None else f"p = {self.p_holm:.2g} after Holm's correction"
        return f", {p}{'' if self.primary else ', exploratory'}{beside}"


_SAID = {"holds": "holds", "fails": "fails", "undecided": "is undecided"}


def decided(
    endpoint: Endpoint,
    values: Sequence[float | None],
    *,
    of: str = "",
    null: float | None = None,
    beside: Mapping[str, Sequence[float | None]] | None = None,
) -> Verdict:
    """The verdict on one endpoint, from one number a seed.

    Args:
        endpoint: one of `SHARE`, `LEARNED`, ...
        values: None where a seed has no number.
        of: the network, and whether constants are counted.
        null: the p-value of a null that has to be left behind as well.
        beside: the same numbers of comparators.
    """
    numbers = _numbers(values)
    low, high = interval(numbers)
    p = p_value(numbers)
    p = p if p is None or null is None else max(p, null)
    verdict = ABOVE.verdict(numbers) if p is not None and p <= LEVEL else "undecided"
    means = {name: float(_numbers(each).mean()) for name, each in (beside or {}).items()}
    estimate = float(numbers.mean()) if len(numbers) else math.nan
    return Verdict(
        endpoint.claim, endpoint.name, of, endpoint.quantity, estimate, low, high, p, None, len(numbers), verdict, means
    )


def learned(
    times: Sequence[Times], *, of: str = "", beside: Mapping[str, Sequence[float | None]] | None = None
) -> Verdict:
    """The verdict on H1 *learned*, from the times of each seed (`termwise.verdict.measures.times_learned`)."""
    orders = [order(each) for each in times]
    null = None if not orders or None in orders else permuted(times)
    return decided(LEARNED, orders, of=of, null=null, beside=beside)


def permuted(times: Sequence[Times], *, draws: int = DRAWS, seed: int = 0) -> float:
    """The two-sided p-value of the mean tau_b over seeds, had trajectories nothing to do with their depths.

    Trajectories, those of all seeds together, are permuted over the depths, one permutation for all seeds: under the
    null both the order of a seed and the order that seeds share are as likely as any other.  The mean of tau_b is

        sum over pairs of depths i, j of W_ij sign(i - j),    W = mean over seeds of sign(t_i - t_j) / norm

    where a pair of which a seed does not know both times counts nothing in it.

    Args:
        times: of each seed, when the term of each depth was learned, with two different times at least.
        draws: of permutations.
        seed: of the draws.
    """
    depths = sorted({depth for each in times for depth, time in each.items() if time is not None})
    weights = np.zeros((len(depths), len(depths)))
    for each in times:
        known = np.array([math.nan if (time := each.get(depth)) is None else time for depth in depths])
        with np.errstate(invalid="ignore"):
            signs = np.nan_to_num(np.sign(known[:, None] - known))
        count = np.isfinite(known).sum()
        weights += signs / math.sqrt(np.abs(signs).sum() * count * (count - 1)) / len(times)
    ranks = np.random.Generator(np.random.PCG64(seed)).permuted(np.tile(np.arange(len(depths)), (draws, 1)), axis=1)
    found = np.abs(_mean_order(weights, np.arange(len(depths))[None])[0])
    drawn = np.abs(_mean_order(weights, ranks))
    return float((1 + (drawn >= found - 1e-9).sum()) / (1 + draws))


def _mean_order(weights: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The mean of tau_b for each assignment of depths to trajectories: (draws, depths) to (draws,)."""
    return np.einsum("ij,dij->d", weights, np.sign(ranks[:, :, None] - ranks[:, None, :]))


def every(claim: str, parts: Sequence[Verdict], *, of: str = "") -> Verdict:
    """A claim that each of its parts holds: it fails where any one fails, corrected for how many there are.

    Raises:
        UsageError: when there are no parts.
    """
    _require(claim, parts)
    against = [part for part in parts if part.estimate < 0]
    known = [part for part in against if part.p is not None]
    if known:
        decider = min(known, key=_p)
        p: float | None = min(1.0, len(parts) * _p(decider))
        verdict = "fails" if p <= LEVEL and decider.verdict == "fails" else "undecided"
    else:
        decider = max(parts, key=_p)
        p = decider.p
        verdict = "holds" if all(part.verdict == "holds" for part in parts) else "undecided"
    return _whole(claim, decider, p, verdict, of)


def agreed(claim: str, parts: Sequence[Verdict], *, of: str = "") -> Verdict:
    """A claim that is measured in several ways: undecided where they disagree, with the largest p.

    Raises:
        UsageError: when there are no parts.
    """
    _require(claim, parts)
    decider = max(parts, key=_p)
    alike = len({part.estimate > 0 for part in parts}) == 1
    verdicts = {part.verdict for part in parts}
    verdict = verdicts.pop() if len(verdicts) == 1 else "undecided"
    return _whole(claim, decider, decider.p if alike else 1.0, verdict, of)


def h1(share: Verdict, learned: Verdict, causal: Verdict, *, of: str = "") -> Verdict:
    """Shallow subnetwork first: all three endpoints; one that was not measured is `decided(CAUSAL, [])`."""
    return every("H1", (share, learned, causal), of=of)


def h4(found: Mapping[tuple[str, At], Verdict], parameters: tuple[int, int], *, of: str = "") -> Verdict:
    """DenseNets are shallower than ResNets: at equal step and at equal loss, in layers and in blocks alike.

    Args:
        found: the verdict on each endpoint in `SHALLOWER`.
        parameters: of the two networks.
        of: which networks, and whether constants are counted.

    Raises:
        UsageError: when an endpoint is missing, or the networks differ by more than 5 % in their parameters.
    """
    few, many = sorted(parameters)
    if missing := [f"{unit} at equal {at}" for unit, at in SHALLOWER if (unit, at) not in found]:
        raise UsageError(
            f"H4 asks for all of its endpoints: {', '.join(missing)} are missing; give decided(...) of []."
        )
    if many > (1 + ALIKE) * few:
        raise UsageError(
            f"H4 compares networks of equal size; these have {parameters[0]:,} and {parameters[1]:,} parameters, more "
            f"than {ALIKE:.0%} apart. Change the width or the growth of one."
        )
    units = dict.fromkeys(unit for unit, _ in SHALLOWER)
    return agreed("H4", [every("H4", [found[unit, at] for at in AT]) for unit in units], of=of)


def h5(parts: Sequence[Verdict], *, of: str = "") -> Verdict:
    """It also explains SE-ResNets and SK-ResNets: share, learned and effect hold in each variant.

    Raises:
        UsageError: when there are no parts.
    """
    return every("H5", parts, of=of)


def corrected(claims: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The claims as primary endpoints, after Holm's correction over all five.

    Args:
        claims: at most one each of H1 to H5; the others count as not tested.

    Raises:
        UsageError: when a claim is unknown or there twice.
    """
    names = [each.claim for each in claims]
    if len({*names} & {*CLAIMS}) < len(names):
        raise UsageError(f"the primary endpoints are {', '.join(CLAIMS)}, each at most once; got {', '.join(names)}.")
    p = holm([each.p for each in claims] + [None] * (len(CLAIMS) - len(claims)))
    return tuple(
        dataclasses.replace(each, p_holm=value, verdict=each.verdict if value <= LEVEL else "undecided")
        for each, value in zip(claims, p, strict=False)
    )


def table(verdicts: Sequence[Verdict]) -> Table:
    """A row a verdict, and whether it is primary or exploratory."""
    fields = [field.name for field in dataclasses.fields(Verdict) if field.name != "beside"]
    columns = {name: [getattr(each, name) for each in verdicts] for name in fields}
    beside = ["; ".join(f"{name} {value:.3g}" for name, value in each.beside.items()) for each in verdicts]
    role = ["primary" if each.primary else "exploratory" for each in verdicts]
    return Table(columns | {"beside": beside, "role": role})


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _p(verdict: Verdict) -> float:
    """For comparing: what cannot be decided is behind everything else."""
    return math.inf if verdict.p is None else verdict.p


def _require(claim: str, parts: Sequence[Verdict]) -> None:
    if not parts:
        raise UsageError(f"{claim}: there are no endpoints to decide it by; give at least one verdict.")


def _whole(claim: str, decider: Verdict, p: float | None, verdict: str, of: str) -> Verdict:
    """A claim, with the numbers of the part that it is decided by."""
    named = f"by {decider.endpoint.removeprefix('by ')}" + (f" of {decider.of}" if decider.of not in ("", of) else "")
    return dataclasses.replace(decider, claim=claim, endpoint=named, of=of, p=p, verdict=verdict)
