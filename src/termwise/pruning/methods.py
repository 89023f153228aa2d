"""Which blocks go first: what the expansion says, and the rivals, behind one interface.

A method is a generator: asked for the next step it says which members are to be out; the caller takes them out,
estimates batch-norm statistics anew, and asks again.

    expansion         the member whose removal costs least by frozen gates (`termwise.pruning.frozen`) in the network as
                      it is by then; of large data on one of their parts, at each step on the next
    block-influence   1 - E cos(input, output) of a member, least first: X. Men et al. 2024 (arXiv 2403.03853), eq. 1
    angular           the span of n members that follow each other with the least (1 / pi) E arccos cos(input of the
                      first, output of the last): A. Gromov et al. 2024 (arXiv 2403.17887), section 3.2.  In a network
                      of several runs of members, one span in each, with the least sum
    magnitude         the mean absolute value of a member's weights, least first
    last              the last first
    random            in a random order
    exhaustive        the member whose removal, measured, costs least: a pass for each that is left, at each step

Cosines are between the vectors of features at each place: channels of an image, the features of a token, of the tokens
of a sequence of whole numbers the last alone for `angular` (the paper's choice) and those that are no padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from termwise.errors import UsageError
from termwise.pruning.bench import Bench
from termwise.pruning.members import Member

Method = Callable[[Bench, int], Iterator[tuple[Member, ...]]]
MethodName = Literal["expansion", "block-influence", "angular", "magnitude", "last", "random", "exhaustive"]

PARTS, FEWEST = 8, 256
"""A look is at one of 8 parts of the data, or of fewer, so that each has 256 samples: by less, blocks are mistaken for
each other.  Earlier looks do not count: they were at another network."""


def expansion(bench: Bench, seed: int) -> Iterator[tuple[Member, ...]]:
    """By the predicted loss."""
    samples = sum(len(targets) for _, targets in bench.data)
    parts = max(1, min(PARTS, samples // FEWEST))
    while bench.left:
        losses = bench.predicted(bench.left, len(bench.gone), parts)
        yield *bench.gone, bench.left[int(np.argmin(losses))]


def exhaustive(bench: Bench, seed: int) -> Iterator[tuple[Member, ...]]:
    """By the measured loss."""
    while bench.left:
        losses = {member: bench.trial(member) for member in bench.left}
        yield *bench.gone, min(losses, key=losses.__getitem__)


def block_influence(bench: Bench, seed: int) -> Iterator[tuple[Member, ...]]:
    """By the cosines of input and output."""
    found = _cosines(bench, [(member, member) for member in bench.members.free], last=False)
    scores = {member: 1 - float(cosines.mean()) for (member, _), cosines in found.items()}
    yield from _in_order(sorted(scores, key=scores.__getitem__))


def angular(bench: Bench, seed: int) -> Iterator[tuple[Member, ...]]:
    """By the angles over spans."""
    members = bench.members.free
    spans = [
        (members[i], members[j])
        for i, j in itertools.combinations_with_replacement(range(len(members)), 2)
        if members[i].run == members[j].run
    ]
    found = _cosines(bench, spans, last=True)
    distances = {span: float(np.arccos(np.clip(found[span], -1, 1)).mean()) / math.pi for span in spans}
    best: dict[int, tuple[float, tuple[Member, ...]]] = {0: (0.0, ())}
    for _, group in itertools.groupby(members, key=lambda member: member.run):
        best = _with_run(best, [*group], distances)
    for count in range(1, len(members) + 1):
        yield best[count][1]


def _with_run(
    best: Mapping[int, tuple[float, tuple[Member, ...]]],
    run: Sequence[Member],
    distances: Mapping[tuple[Member, Member], float],
) -> dict[int, tuple[float, tuple[Member, ...]]]:
    """The least sum for each number of members, with a span, or none, of one run more."""
    found: dict[int, tuple[float, tuple[Member, ...]]] = {}
    options: list[tuple[float, tuple[Member, ...]]] = [(0.0, ())]
    for i, j in itertools.combinations_with_replacement(range(len(run)), 2):
        options.append((distances[run[i], run[j]], tuple(run[i : j + 1])))
    for (count, (sum_, chosen)), (distance, span) in itertools.product(best.items(), options):
        size, whole = count + len(span), sum_ + distance
        if size not in found or whole < found[size][0]:
            found[size] = whole, (*chosen, *span)
    return found


def magnitude(bench: Bench, seed: int) -> Iterator[tuple[Member, ...]]:
    """By the weights."""
    scores = {member: mean_magnitude(bench.network.get_submodule(member.name)) for member in bench.members.free}
    yield from _in_order(sorted(scores, key=scores.__getitem__))


def mean_magnitude(module: nn.Module) -> float:
    """The mean absolute value of all weights that are no biases or scales; 0 where there are none."""
    weights = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    count = sum(weight.numel() for weight in weights)
    return sum(float(weight.detach().double().abs().sum()) for weight in weights) / count if count else 0.0


def last(bench: Bench, seed: int) -> Iterator[tuple[Member, ...]]:
    """From the end."""
    yield from _in_order(bench.members.free[::-1])


def random(bench: Bench, seed: int) -> Iterator[tuple[Member, ...]]:
    """By the seed."""
    order = np.random.default_rng(seed).permutation(len(bench.members.free))
    yield from _in_order([bench.members.free[i] for i in order])


METHODS: Mapping[str, Method] = {
    "expansion": expansion,
    "block-influence": block_influence,
    "angular": angular,
    "magnitude": magnitude,
    "last": last,
    "random": random,
    "exhaustive": exhaustive,
}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: listing those that there are.
    """
    if name not in METHODS:
        raise UsageError(f"method={name!r}: expected one of {', '.join(METHODS)}.")
    return METHODS[name]


def _in_order(members: Sequence[Member]) -> Iterator[tuple[Member, ...]]:
    for count in range(1, len(members) + 1):
        yield tuple(members[:count])


def _cosines(bench: Bench, spans: Sequence[tuple[Member, Member]], *, last: bool) -> dict[Any, np.ndarray]:
    """Of each span the cosines between the input of its first and the output of its last, at every place of all."""
    names = {id(bench.network.get_submodule(member.name)): member.name for member in bench.members.free}
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            before[names[id(module)]] = _features(args[0].clone())  # what the member writes into it is not meant

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in names:
            after[names[id(module)]] = _features(output if isinstance(output, Tensor) else output[0])

    found: dict[Any, list[np.ndarray]] = {span: [] for span in spans}
    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        for inputs, _ in bench.data:
            bench.run(inputs)
            places = _places(inputs, last=last)
            for span in spans:
                cosine = F.cosine_similarity(before[span[0].name], after[span[1].name], dim=-1)
                found[span].append(_chosen(cosine, places).cpu().numpy())
    finally:
        for hook in hooks:
            hook.remove()
    bench.passes += 1
    return {span: np.concatenate(values) for span, values in found.items()}


def _features(v: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W, C); (N, C) to (N, 1, C); (N, T, C) as it is; in double precision."""
    v = v.double()
    if v.dim() == 4:
        return v.flatten(2).transpose(1, 2)
    return v[:, None] if v.dim() == 2 else v


def _places(inputs: Any, *, last: bool) -> Tensor | None:
    """Which tokens count, (N, T) booleans; None: all places."""
    leaves = inputs if isinstance(inputs, Mapping) else {"input_ids": inputs}
    tokens = leaves.get("input_ids")
    if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.dim() != 2:
        return None
    mask = leaves.get("attention_mask", torch.ones_like(tokens)).bool()
    if not last:
        return mask
    behind = mask.flip(1).int().cumsum(dim=1).flip(1)
    return mask & (behind == 1)


def _chosen(cosine: Tensor, places: Tensor | None) -> Tensor:
    fits = places is not None and places.shape == cosine.shape
    return cosine[places.to(cosine.device)] if fits and places is not None else cosine.flatten()
