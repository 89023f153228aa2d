"""What a finished run says in one sentence, and what it leaves open in another.

The sentence claims no more than its numbers: a mean path length "fell" or "rose" only where the intervals of the first
and the last record do not overlap, and one network is "shorter" only where the interval of the difference leaves zero
out.  One seed decides no hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence

from termwise.profile import Estimate
from termwise.records import Finding, NetworkSummary, RunSummary
from termwise.report.intervals import between, trend
from termwise.report.strings import accuracy, integer, listing, prose, say, speaking


def conclusion(summary: RunSummary) -> str:
    """In the language that is spoken; as it was written, where a run keeps no more than that."""
    if summary.finding is None:
        return summary.verdict
    return sentence(summary.networks, summary.finding, samples=summary.data.probe)


def in_english(summary: RunSummary) -> str:
    """As the command prints it and summary.json keeps it."""
    with speaking("en", unit=summary.unit):
        return conclusion(summary)


def sentence(networks: Sequence[NetworkSummary], finding: Finding, *, samples: int) -> str:
    """What a run shows, and what it leaves open.

    Args:
        networks: the numbers of each.
        finding: what its networks have together.
        samples: of the probe.
    """
    changes = joined([change(network, first=i == 0) for i, network in enumerate(networks)])
    difference = None if finding.difference is None else Estimate(*finding.difference)
    words = {"changes": changes, "end": _end(networks, difference), "samples": integer(samples)}
    if finding.checkpoints is None:
        found = say("conclusion.trained", **words)
    else:
        first, last = map(integer, finding.checkpoints)
        found = say("conclusion.traced", first=first, last=last, **words)
    key = "conclusion.seed.one" if len(finding.hypotheses) == 1 else "conclusion.seed.many"
    return prose(found, _counted(networks), say(key, hypotheses=listing(finding.hypotheses)))


def _counted(networks: Sequence[NetworkSummary]) -> str:
    """What the means would be with the constants' paths among them."""
    pairs = [network.mean_depth_with_constants for network in networks]
    means = [say("conclusion.counted.item", before=f"{p[0]:.1f}", after=f"{p[1]:.1f}") for p in pairs if p is not None]
    return say("conclusion.counted", means=listing(means)) if len(means) == len(pairs) else ""


def change(network: NetworkSummary, *, first: bool) -> str:
    """What the mean path length of one network did."""
    subject = say("conclusion.subject" if first else "conclusion.subject.other", network=network.name)
    if len(network.depths) == 1:
        return say("conclusion.change.only", subject=subject, length=network.depths[0])
    before, after = (
        shown(Estimate(value, *interval))
        for value, interval in zip(network.mean_depth, network.mean_depth_interval, strict=True)
    )
    kind = trend(*network.mean_depth_interval)
    return say(f"conclusion.change.{kind}", subject=subject, before=before, after=after, longest=network.longest)


def _end(networks: Sequence[NetworkSummary], difference: Estimate | None) -> str:
    accuracies = [accuracy(network.accuracy) for network in networks]
    if len(networks) == 1:
        return say("conclusion.end.one", accuracy=accuracies[0])
    if len(networks) > 2 or difference is None:
        pairs = zip(networks, accuracies, strict=True)
        reached = [say("conclusion.accuracy", network=network.name, accuracy=accuracy) for network, accuracy in pairs]
        return say("conclusion.end.many", accuracies=listing(reached))
    one, other = (1, 0) if difference.value > 0 else (0, 1)
    key, size = "conclusion.end.shorter", Estimate(abs(difference.value), *sorted(map(abs, difference[1:])))
    if difference.low <= 0 <= difference.high:
        one, other, key, size = 0, 1, "conclusion.end.same", difference
    names = {"one": networks[one].name, "other": networks[other].name}
    reached = {"accuracy": accuracies[one], "other_accuracy": accuracies[other]}
    return say(key, difference=shown(size), **names, **reached)


def shown(estimate: Estimate) -> str:
    """A number and its interval, with as many places as the interval is worth."""
    return between(*estimate, places=1 if estimate.high - estimate.low >= 0.2 else 2)


def joined(parts: Sequence[str]) -> str:
    """A list of clauses, in which there may be commas."""
    if len(parts) < 2:
        return "".join(parts)
    comma = say("clause.comma")
    between = say("and.long") if any(comma.strip() in part for part in parts) else say("clause.and")
    return comma.join(parts[:-1]) + between + parts[-1]
