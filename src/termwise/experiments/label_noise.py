"""Training samples of which some have a wrong label, and what of a network knows these by heart.

A record is a `termwise.moments.Moment`, made on a probe whose first samples have a wrong label and the others a right
one; its targets are the labels that were given.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.data import DataSet
from termwise.degree.spectrum import label
from termwise.moments import Moment
from termwise.recorder import reestimated
from termwise.seeds import stream

WRONG, RIGHT = "wrong labels", "right labels"
_ORDER, _LABELS = 2, 3  # keys of random streams


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Samples to train on, some with a wrong label, and others to validate on.

    Attributes:
        inputs: (N, 1, H, W), in a random order; of the first ones the label is wrong.
        given: the labels to be learned, (N,).
        true: what the samples are, (N,).
        wrong: how many labels are wrong.
        validation: inputs and labels of the samples that are left.
    """

    inputs: Tensor
    given: Tensor
    true: Tensor
    wrong: int
    validation: tuple[Tensor, Tensor]

    @staticmethod
    def of(data: DataSet, samples: int, noise: int, seed: int) -> Labelled:
        """So many training samples of a data set, `noise` percent of them with one of the other labels at random."""
        order, labels = (torch.Generator().manual_seed(stream(seed, key)) for key in (_ORDER, _LABELS))
        rows = torch.randperm(len(data.train_inputs), generator=order)
        kept, left = rows[:samples], rows[samples:]
        true = data.train_targets[kept]
        moved = torch.randint(1, data.classes, (samples,), generator=labels)
        wrong = round(samples * noise / 100)
        given = torch.where(torch.arange(samples) < wrong, (true + moved) % data.classes, true)
        validation = data.train_inputs[left], data.train_targets[left]
        return Labelled(data.train_inputs[kept], given, true, wrong, validation)

    def probe(self, count: int) -> Tensor:
        """Places of up to `count` samples with a wrong label, then of others, 2 `count` in all."""
        wrong = torch.arange(min(count, self.wrong))
        return torch.cat([wrong, torch.arange(self.wrong, self.wrong + 2 * count - len(wrong))])


def accuracies(model: nn.Module, labelled: Labelled, test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Of the network with batch-norm statistics estimated anew; `memorised` is missing where no label is wrong."""
    network = reestimated(model, labelled.inputs).eval()

    def right(inputs: Tensor, targets: Tensor) -> float:
        with torch.no_grad():
            return float((network(inputs).argmax(dim=1) == targets).double().mean()) if len(inputs) else math.nan

    wrong = slice(labelled.wrong)
    return {
        "given": right(labelled.inputs, labelled.given),
        "memorised": right(labelled.inputs[wrong], labelled.given[wrong]),
        "validation": right(*labelled.validation),
        "test": right(*test),
    }


def course_line(moment: Moment) -> dict[str, Any]:
    """What the rules see of a record, and what they are judged by."""
    terms = moment.profile.share.where(origin="input")
    deep = terms["depth"] > max(moment.profile.depths) / 2
    mean = None if moment.degrees is None else moment.degrees.mean_degree
    return {
        "step": moment.step,
        "mean_degree": None if mean is None else mean.value,
        "mean_depth": moment.profile.mean_depth.value,
        "deep_share": float(terms["norm_share"][deep].sum()),
        **{name: moment.scalars[name] for name in ("given", "memorised", "validation", "test")},
    }


def degree_lines(moment: Moment) -> list[dict[str, Any]]:
    """The share of the variance that each degree has, or each group of degrees."""
    rows = [] if moment.degrees is None else moment.degrees.spectrum.rows()
    return [
        {"step": moment.step, "lowest": line["lowest"], "degree": label(line["lowest"], line["highest"])}
        | {"share": line["share"]}
        for line in rows
        if line["lowest"] > 0
    ]


def margins(moment: Moment, labels: np.ndarray, against: np.ndarray | None = None) -> np.ndarray:
    """Of each input-born term and sample the logit of a label less that of another, or less the mean of all others.

    Args:
        moment: whose first samples these are the labels of.
        labels: (N,).
        against: (N,), or None.

    Returns:
        Shape (terms, N), float64.
    """
    count = sum(origin == "input" for origin, _ in moment.parts)
    terms, samples = moment.terms[:count, : len(labels)].astype(np.float64), np.arange(len(labels))
    chosen = terms[:, samples, labels]
    others = terms.sum(axis=2) - chosen
    return chosen - (others / (terms.shape[2] - 1) if against is None else terms[:, samples, against])


def mean_depth_of(margin: np.ndarray, depths: Sequence[int]) -> float | None:
    """The mean depth under the signed shares of a margin, (terms, N); None where it means nothing."""
    means, whole = margin.mean(axis=1), margin.sum(axis=0)
    error = whole.std(ddof=1) / math.sqrt(len(whole))
    negative = -np.minimum(means, 0).sum()
    if abs(whole.mean()) <= 3 * error or negative >= 0.1 * np.abs(means).sum():
        return None
    return float(np.array(depths) @ means / means.sum())


def _split(moment: Moment, true: np.ndarray, wrong: int) -> dict[str, np.ndarray]:
    """The margins that memorising and learning bring about; `true` are the labels of the probe."""
    found = {}
    if wrong:
        assert moment.targets is not None
        found[WRONG] = margins(moment, moment.targets[:wrong], true[:wrong])
    return found | {RIGHT: margins(moment, true)[:, wrong:]}


def ends(moment: Moment, true: np.ndarray, wrong: int) -> dict[str, Any]:
    """Mean depths of margins at the end; None where there is no wrong label, or they mean nothing."""
    depths = moment.profile.depths
    found = {name: mean_depth_of(margin, depths) for name, margin in _split(moment, true, wrong).items()}
    alike = None
    if wrong:
        assert moment.targets is not None
        alike = mean_depth_of(margins(moment, moment.targets[:wrong]), depths)
    return {"wrong_depth": found.get(WRONG), "right_depth": found[RIGHT], "wrong_against_all": alike}


def margin_lines(moment: Moment, true: np.ndarray, wrong: int) -> list[dict[str, Any]]:
    """What the terms of each depth bring to the margins, as a share of what all of them do; 1 in all."""
    return [
        {"samples": name, "depth": depth, "share": float(mean / margin.mean(axis=1).sum())}
        for name, margin in _split(moment, true, wrong).items()
        for depth, mean in zip(moment.profile.depths, margin.mean(axis=1), strict=True)
    ]
