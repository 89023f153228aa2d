"""degrees(): the one entry, whatever the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from termwise.degree.circle import Options, circle_spectrum
from termwise.degree.cube import Cube
from termwise.degree.functions import Function, Progress, Target, gathered
from termwise.degree.gaussian import Gaussian
from termwise.degree.ladder import POINTS, ladder_spectrum
from termwise.degree.spectrum import DegreeSpectrum
from termwise.degree.walsh import EXACT, walsh_spectrum
from termwise.errors import UsageError
from termwise.expand import Forward, Output
from termwise.pinning import bare, pinned

Inputs = Literal["fitted", "standard", "boolean", "real"]


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
    components: int | None = None,
    batch_size: int = 512,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress = None,
) -> DegreeSpectrum:
    """Of which polynomial degrees `model` is made, as a function of its input.

    A degree belongs to a function on a distribution of inputs, so say on which:

    - "fitted": Gaussian inputs with the mean and covariance of (the first 4,096 samples of) `data`.
    - "standard": Gaussian inputs N(0, I) in the shape of a sample of `data`.
    - "boolean": uniform inputs of -1 and 1 in that shape. Up to 20 of them all are run, and the spectrum is exact.

    - "real": the inputs of `data` themselves. The share of a degree is what polynomials of it add to the held-out R^2,
      in the first `components` principal components of the inputs.

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
        samples: circles, 2,000 by default; of real inputs how many, at most and by default 20,000.
        highest: the degree up to which the fit of circles tells degrees apart, 12 by default; on real inputs that of
            the polynomials, 3 by default.
        angles: points on a circle; by default 64, doubled until the spectrum no longer changes.
        components: on real inputs, 10 by default.
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
    _check_fits(inputs, target=target, angles=angles, components=components)
    function = Function(bare(model), output=output, forward=forward, centre=centre, batch_size=batch_size)
    if inputs == "real":
        with pinned(model):
            return ladder_spectrum(
                function,
                data,
                points=POINTS if samples is None else samples,
                components=10 if components is None else components,
                highest=3 if highest is None else highest,
                replicates=replicates,
                seed=seed,
            )
    options = Options(
        2000 if samples is None else samples, angles, 12 if highest is None else highest, replicates, seed
    )
    distribution = _distribution(data, inputs, batch_size)
    with pinned(model):
        if distribution.cube and distribution.highest <= EXACT:
            return walsh_spectrum(function, _shape(data, batch_size), target, progress)
        return circle_spectrum(function, distribution, options, target, progress)


def _check_fits(inputs: str, **options: Any) -> None:
    """Refuse what would be ignored."""
    foreign = ("target", "angles") if inputs == "real" else ("components",)
    for name in foreign:
        if options[name] is not None:
            raise UsageError(f"degrees: {name}= means nothing for inputs={inputs!r}; leave it out.")


def _distribution(data: Any, inputs: str, batch_size: int) -> Gaussian | Cube:
    if isinstance(data, Gaussian):
        return data
    if inputs != "fitted":
        shape = _shape(data, batch_size)
        return Gaussian.standard(shape) if inputs == "standard" else Cube(shape)
    if _is_shape(data):
        raise UsageError(f"degrees: inputs={inputs!r} needs data, not the shape {tuple(data)} of a sample.")
    return Gaussian.fitted(data, batch_size)


def _shape(data: Any, batch_size: int) -> tuple[int, ...]:
    """That of one sample."""
    shape = tuple(data) if _is_shape(data) else tuple(gathered(data, 1, batch_size)[0].shape[1:])
    if min(shape) < 1:
        raise UsageError(f"degrees: a sample of shape {shape} holds no number.")
    return shape


def _is_shape(data: Any) -> bool:
    return isinstance(data, Sequence) and bool(data) and all(isinstance(n, int) for n in data)
