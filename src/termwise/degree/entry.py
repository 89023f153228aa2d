"""degrees(): the one entry, whatever the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from termwise.degree.circle import Options, circle_spectrum
from termwise.degree.functions import Function, Progress, Target, gathered
from termwise.degree.gaussian import Gaussian
from termwise.degree.spectrum import DegreeSpectrum
from termwise.errors import UsageError
from termwise.expand import Forward, Output
from termwise.pinning import bare, pinned

Inputs = Literal["fitted", "standard"]


def degrees(
    model: Any,
    data: Any,
    *,
    inputs: Inputs = "fitted",
    target: Target | None = None,
    output: Output = None,
    forward: Forward = None,
    centre: bool = True,
    samples: int | None = None,
    highest: int | None = None,
    angles: int | None = None,
    batch_size: int = 512,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress = None,
) -> DegreeSpectrum:
    """Of which polynomial degrees `model` is made, as a function of its input.

    A degree belongs to a function on a distribution of inputs, so say on which:

    - "fitted": Gaussian inputs with the mean and covariance of `data`. Any model, any dimension.
    - "standard": Gaussian inputs N(0, I) in the shape of a sample of `data`.

    Args:
        model: an nn.Module or a function of a batch of inputs; run in evaluation mode and left as found.
        data: as in `profile`, of floating-point tensors; or the shape of one sample, where only that is needed; or a
            `termwise.degree.Gaussian`, whatever `inputs` says.
        inputs: on which inputs.
        target: a function of a batch with outputs of the model's shape, for the part of it that is learned by degree.
        output: which tensor of the model's result, as in `expand`.
        forward: how to call the model, as in `expand`.
        centre: take out the mean over the classes, the last axis of the output (the second of images); False for
            outputs that are no logits.
        samples: circles; 2,000 by default.
        highest: the degree up to which the fit tells degrees apart, 12 by default.
        angles: points on a circle; None doubles them until the spectrum no longer changes.
        batch_size: inputs in one pass of the model.
        replicates: of the bootstrap.
        seed: of inputs and bootstrap; the model's random state is not touched.
        progress: is called with how many samples are done, and of how many.

    Raises:
        DataError: when the data are not finite, empty, or no real numbers.
        ModelError: when the output is not finite, constant, or not one row a sample.
        UsageError: for an option that is unknown or makes no spectrum.
    """
    if inputs not in get_args(Inputs):
        raise UsageError(f"degrees: inputs={inputs!r}: expected {', '.join(map(repr, get_args(Inputs)))}.")
    options = Options(
        2000 if samples is None else samples, angles, 12 if highest is None else highest, replicates, seed
    )
    function = Function(bare(model), output=output, forward=forward, centre=centre, batch_size=batch_size)
    distribution = _gaussian(data, inputs, batch_size)
    with pinned(model):
        return circle_spectrum(function, distribution, options, target, progress)


def _gaussian(data: Any, inputs: str, batch_size: int) -> Gaussian:
    if isinstance(data, Gaussian):
        return data
    if inputs == "standard":
        return Gaussian.standard(_shape(data, batch_size))
    if _is_shape(data):
        raise UsageError(f"degrees: inputs={inputs!r} needs data, not the shape {tuple(data)} of a sample.")
    return Gaussian.fitted(data, batch_size)


def _shape(data: Any, batch_size: int) -> Sequence[int]:
    """That of one sample."""
    if _is_shape(data):
        return tuple(data)
    return gathered(data, 1, batch_size)[0].shape[1:]


def _is_shape(data: Any) -> bool:
    return isinstance(data, Sequence) and bool(data) and all(isinstance(n, int) for n in data)
