"""Data of limited order: a data set drawn anew from Gaussians that have its lowest moments, class by class.

With mean_c and S_c the mean and covariance of the training inputs of class c (divided by n_c - 1), flattened to d
numbers,

    isotropic clone    x ~ N(mean_c, s_c^2 I),  s_c^2 = trace(S_c) / d
    Gaussian clone     x ~ N(mean_c, S_c)

are what is left of the data for whoever sees means and an overall size alone, or means and covariances (Refinetti,
Ingrosso, Goldt 2023, arXiv 2211.11567; both are in their code under these definitions).  Two questions can be asked:

- how a network *trained on a clone* does on real data: it can have learned low moments only (Refinetti et al.);
- how a network trained on real data does *on a clone*: it does well as long as low moments are what it uses
  (Belrose et al. 2024, arXiv 2402.04362).

S_c is exactly that of the samples, without shrinkage: with A the deviations from the mean over sqrt(n_c - 1), A = QR
and S_c = A'A = R'R, so that x = mean_c + R'z.  R has min(n_c, d) rows: where samples are few, clones stay in the affine
span of them, and nothing of size d x d is made.  (Refinetti et al. add 0.001 to the diagonal.)  Values are neither
clipped nor rounded to pixels, which they do, and which would change the moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from termwise.data import DataSet
from termwise.errors import DataError, UsageError
from termwise.records import Table
from termwise.seeds import stream

_Draw = Callable[[Tensor, int, torch.Generator], Tensor]

_BATCH = 1024


def isotropic_clone(data: DataSet, seed: int = 0) -> DataSet:
    """Inputs drawn anew from N(mean_c, s_c^2 I): of each class its mean, and one variance for all numbers.

    Args:
        data: with class numbers as targets.
        seed: of the draws.

    Returns:
        As many samples of each class, in the same order, in both parts; the moments are those of the training part.

    Raises:
        UsageError: it is no DataSet.
        DataError: the inputs are tokens, or a class has fewer than two training samples.
    """
    return _clone(data, "isotropic", _isotropic, seed)


def gaussian_clone(data: DataSet, seed: int = 0) -> DataSet:
    """Inputs drawn anew from N(mean_c, S_c): of each class its mean and its covariance; else as `isotropic_clone`."""
    return _clone(data, "Gaussian", _gaussian, seed)


def compared(
    networks: Mapping[str, nn.Module], sets: Mapping[str, DataSet], reference: str, batch_size: int = _BATCH
) -> Table:
    """How networks do on the test parts of a data set and its clones, and how often they agree with one of them.

    A sample of a clone is no version of a real one, so predictions on the two cannot be paired.  *Agreement* is between
    two networks on the same inputs: the share of the samples of which a network and the reference (as a rule the one
    that was trained on real data) name the same class, be it right or wrong.  That of the reference is 1.

    Args:
        networks: by name; they return logits (N, classes), and are run in evaluation mode.
        sets: data sets by name.
        reference: the name of the network that the others are compared with.
        batch_size: samples at once.

    Returns:
        A row for each network and data set: loss (cross-entropy), accuracy and agreement.

    Raises:
        UsageError: the reference is none of the networks.
    """
    if reference not in networks:
        raise UsageError(f"compared: reference={reference!r} is none of the networks {', '.join(map(repr, networks))}.")
    columns = ("network", "data", "loss", "accuracy", "agreement")
    lines = []
    for title, data in sets.items():
        outputs = {name: _logits(network, data.test_inputs, batch_size) for name, network in networks.items()}
        said = outputs[reference].argmax(dim=1)
        for name, logits in outputs.items():
            classes = logits.argmax(dim=1)
            loss = F.cross_entropy(logits.double(), data.test_targets).item()
            right, same = (float((classes == other).double().mean()) for other in (data.test_targets, said))
            lines.append((name, title, loss, right, same))
    rows = dict(zip(columns, map(list, zip(*lines, strict=True)), strict=True))
    return Table(rows, {"loss": "nats", "accuracy": "share of samples", "agreement": "share of samples"})


def _clone(data: DataSet, kind: str, draw: _Draw, seed: int) -> DataSet:
    _check(data, kind)
    parts = (data.train_targets, data.test_targets)
    inputs = [torch.empty(len(part), *data.train_inputs.shape[1:]) for part in parts]
    for label in torch.cat(parts).unique().tolist():
        samples = data.train_inputs[data.train_targets == label].flatten(1).double()
        generator = torch.Generator().manual_seed(stream(seed, label))
        for drawn, part in zip(inputs, parts, strict=True):
            members = part == label
            found = samples.mean(dim=0) + draw(samples, int(members.sum()), generator)
            drawn[members] = found.float().reshape(-1, *drawn.shape[1:])
    return DataSet(
        f"{data.name}, {kind} clone",
        f"{data.title}: {kind} clone",
        f"drawn by Termwise from the moments of: {data.attribution}",
        inputs[0],
        data.train_targets,
        inputs[1],
        data.test_targets,
        data.classes,
    )


def _isotropic(samples: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Deviations from the mean, (count, d), for samples (n, d)."""
    deviation = samples.var(dim=0).mean().sqrt()
    return deviation * torch.randn(count, samples.shape[1], generator=generator, dtype=torch.float64)


def _gaussian(samples: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Deviations from the mean, (count, d), for samples (n, d)."""
    deviations = (samples - samples.mean(dim=0)) / math.sqrt(len(samples) - 1)
    factor = torch.linalg.qr(deviations, mode="r").R
    return torch.randn(count, len(factor), generator=generator, dtype=torch.float64) @ factor


def _check(data: DataSet, kind: str) -> None:
    if not isinstance(data, DataSet):
        raise UsageError(
            f"{kind} clone: a {type(data).__name__} has no classes. Give a termwise.data.DataSet, which holds inputs "
            "and class numbers."
        )
    if not data.train_inputs.is_floating_point():
        raise DataError(
            f"{data.name}, {kind} clone: the inputs are token numbers, which have no mean. Give their embeddings as "
            "inputs, with one class number a sample."
        )
    counts = data.train_targets.bincount(minlength=data.classes)
    wanted = torch.cat((data.train_targets, data.test_targets)).unique()
    few = [int(label) for label in wanted if counts[label] < 2]
    if few:
        raise DataError(
            f"{data.name}, {kind} clone: class {few[0]} has {int(counts[few[0]])} training sample(s), and "
            f"{len(few) - 1} more classes have too few: a variance needs two. Leave these out, or give more data."
        )


def _logits(network: nn.Module, inputs: Tensor, batch_size: int) -> Tensor:
    """Outputs in evaluation mode; the network's mode is left as found."""
    mode = network.training
    try:
        with torch.no_grad():
            return torch.cat([network.eval()(part) for part in inputs.split(batch_size)])
    finally:
        network.train(mode)
