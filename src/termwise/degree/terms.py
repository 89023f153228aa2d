"""Depth beside degree: how fast the terms of the depth expansion vary along circles of Gaussian inputs.

For every point x_t of a circle (see `termwise.degree.circle`) the network is expanded, gates and all, so that each
term is a function t -> y_k(x_t); its power at angular frequency m, in the mean over circles, is c_m(k).  The mean of
y_k over all circles is taken out first.

With its gates frozen a term is affine in x; with gates recomputed at each x it jumps wherever one of them switches.  So
c_m(k) falls off slowly, there is no mean degree, and the inversion to energies by degree, which rests on a tail that
falls off faster, is not attempted: shares of c_m in bands of m are all that is reported.  And since gates multiply, a
term is the rougher the deeper it is in *any* network.  Two comparators tell what is not of that kind:

- the same network at initialisation;
- *gates shuffled between samples*: with L_k(x') the linear map that takes the input to its term of depth k by the gates
  of x', the term y_k(x) = L_k(x) x is set beside L_k(x') x.  x' runs through a circle of its own, at the same angle as
  x.  So the gates have the same law along the circle as before, and nothing to do with the input.  (The law of a circle
  does not change when it is turned, so that any other fixed angle would say the same; angles drawn anew at every point
  would make the gates rougher than they are.  Circles of their own, instead of those of other samples in the batch,
  leave each pair independent of all others: what is measured does not depend on the batch, and circles can be resampled
  one by one.)

L_k(x') x comes out of the expansion itself.  A rule takes gates from values, and is linear in the parts: so a Series
whose value is x', whose term of no steps is x, and whose constant is x' - x gives L_k(x') x as its term of depth k, and
its parts still add up to what the network computes of x' (`termwise.series.foreign_series`).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from termwise.degree.circle import one_sided
from termwise.degree.functions import Function, Progress, counted
from termwise.degree.gaussian import Gaussian
from termwise.degree.tables import with_interval
from termwise.degree.tiles import BANDS, CONSTANTS, INITIAL, OUTPUT, OWN, SHUFFLED, DepthDegrees
from termwise.errors import ModelError, UsageError
from termwise.expand import CLOSURE, Forward, Output, closure_of, input_of, traverse
from termwise.pinning import bare, pinned
from termwise.profile import check_replicates, resampled
from termwise.program import Program
from termwise.records import Table
from termwise.seeds import stream
from termwise.series import Origin, foreign_series
from termwise.steps import Unit, unit_of

Label = int | str
"""A part: the depth of a term, or "constants", or "output", which is the whole."""

_LEAST = 0.02  # of the energy of all terms, what one must hold for the trend
_FEWEST = 3  # terms that have a trend
_ALIASED = 0.02  # by how much a share may change with half of the angles
_LARGEST = 2**31  # bytes of running sums


def depth_degrees(
    model: Any,
    data: Any,
    *,
    initial: Any = None,
    unit: str | Sequence[str] | Unit = "layers",
    output: Output = None,
    forward: Forward = None,
    centre: bool = True,
    circles: int = 200,
    angles: int = 128,
    batch_size: int = 512,
    replicates: int = 200,
    seed: int = 0,
    progress: Progress = None,
) -> DepthDegrees:
    """How fast the terms of each depth vary over Gaussian inputs, beside the same without what was learned.

    It expands the network at circles x angles points, once more by gates of other inputs, and once more at first.

    Args:
        model: an nn.Module or a function of a batch of inputs; run in evaluation mode and left as found.
        data: as in `profile`, of floating-point tensors, for a Gaussian with their mean and covariance; or a
            `termwise.degree.Gaussian`.
        initial: the same network at its first weights, as a module or as a state dictionary for a copy of `model`.
            Batch norms need statistics of their own there: see `termwise.recorder.reestimated`. Without it there is one
            comparator less, and H3 cannot be told.
        unit: what a step of depth is, as in `expand`.
        output: which tensor of the model's result, as in `expand`.
        forward: how to call the model, as in `expand`.
        centre: take out the mean over the classes, the last axis of the output (the second of images); False for
            outputs that are no logits.
        circles: how many.
        angles: points on each; a multiple of 4, 64 or more.
        batch_size: inputs in one pass of the model.
        replicates: of the bootstrap over circles.
        seed: of circles and bootstrap; the model's random state is not touched.
        progress: is called with how many circles are done, and of how many.

    Raises:
        DataError: when the data are not finite, empty, or no real numbers.
        ModelError: when the output is not finite, frozen, not one row a sample, or not of that sample alone.
        RuleError: see `expand`.
        UsageError: for an option that makes no spectrum; for an `initial` that is another network.
    """
    _check(circles, angles, replicates)
    way: dict[str, Any] = {"output": output, "forward": forward, "centre": centre, "batch_size": batch_size}
    networks = {OWN: Terms(model, unit, **way)}
    if initial is not None:
        networks[INITIAL] = Terms(_at_first(model, initial), unit, **way)
    inputs = data if isinstance(data, Gaussian) else Gaussian.fitted(data, batch_size)
    sums, coarse = _Sums(), _Sums()
    generators = [torch.Generator().manual_seed(stream(seed, key)) for key in (0, 1)]
    draws = np.random.Generator(np.random.PCG64(stream(seed, 2)))
    for count in counted(circles, max(1, batch_size // angles), progress):
        x, others = (inputs.circles(count, angles, generator)[0] for generator in generators)
        weights = resampled(count, replicates, draws)
        found = {
            (name, label): values.unflatten(0, (count, angles))
            for name, parts in _measured(networks, x.flatten(0, 1), others.flatten(0, 1))
            for label, values in parts.items()
        }
        sums.add(found, weights)
        coarse.add({key: values[:, ::2] for key, values in found.items()}, weights[:, :1])
    details = {"circles": circles, "angles": angles, "batch_size": batch_size, "replicates": replicates, "seed": seed}
    return _Reading(sums, coarse, networks, details).result(inputs.title)


def _measured(networks: Mapping[str, Terms], x: Tensor, others: Tensor) -> list[tuple[str, dict[Label, Tensor]]]:
    """Name by name the parts at the points x; with gates of the other points those that are born of the input."""
    found = [(name, network.parts(x)) for name, network in networks.items()]
    (_, own), *rest = found
    for _, initial in rest:
        if initial.keys() != own.keys() or initial[OUTPUT].shape != own[OUTPUT].shape:
            depths = (sorted(label for label in parts if isinstance(label, int)) for parts in (initial, own))
            raise UsageError(
                "depth_degrees: initial= is another network: its terms have depths {}, and those of the model {}; its "
                "output {} numbers, and the model's {}. Give the same one at its first weights.".format(
                    *depths, initial[OUTPUT].shape[1], own[OUTPUT].shape[1]
                )
            )
    shuffled = networks[OWN].parts(x, others)
    return [*found, (SHUFFLED, {label: values for label, values in shuffled.items() if isinstance(label, int)})]


def _check(circles: int, angles: int, replicates: int) -> None:
    check_replicates(replicates)
    if circles < 20:
        raise UsageError(f"depth_degrees: circles={circles}: intervals need at least 20, and 200 are usual.")
    if angles < 64 or angles % 4:
        raise UsageError(
            f"depth_degrees: angles={angles}: give a multiple of 4, at least 64: half of them must show frequency 16."
        )


def _at_first(model: Any, initial: Any) -> Any:
    """The network at initialisation."""
    if not isinstance(initial, Mapping):
        return initial
    if not isinstance(model, nn.Module):
        raise UsageError("depth_degrees: a state dictionary as initial= needs an nn.Module to load it into.")
    twin = copy.deepcopy(bare(model))
    try:
        twin.load_state_dict(initial)
    except RuntimeError as error:
        raise UsageError(f"depth_degrees: initial= is no state of this model. {error}") from error
    return twin


class Terms(Function):
    """A network as a function of inputs that gives all of its parts.

    Attributes:
        unit: of depth, as located.
        closure: the worst so far.
        limit: what it may be, in the coarsest precision that was met.
        linearised: operators whose rule was not exact.
    """

    def __init__(self, model: Any, unit: str | Sequence[str] | Unit, **way: Any) -> None:
        super().__init__(bare(model), **way)
        self.unit = unit_of(unit, bare(model))
        self.closure = self.limit = 0.0
        self.linearised: set[str] = set()
        self._tried = False

    def parts(self, x: Tensor, gates: Tensor | None = None) -> dict[Label, Tensor]:
        """What the network makes of x, by the gates that it has at `gates` (at x, where none are given).

        Returns:
            Each part in float64, (samples, components), centred.
        """
        at_once = self.batch_size
        of_x = x.split(at_once)
        of_gates = of_x if gates is None else gates.split(at_once)
        pieces = [self._expanded(*both) for both in zip(of_x, of_gates, strict=True)]
        labels = dict.fromkeys(label for piece in pieces for label in piece)
        return {
            label: torch.cat([piece.get(label, torch.zeros_like(piece[OUTPUT])) for piece in pieces])
            for label in labels
        }

    def _expanded(self, x: Tensor, gates: Tensor) -> dict[Label, Tensor]:
        self.calls += len(x)
        lift = input_of if gates is x else functools.partial(foreign_series, x.to(self.dtype).to(self.device))
        gates = gates.to(self.dtype).to(self.device)
        series, ran, self.unit = traverse(
            lambda unit: Program(self._model, unit), self._model, gates, self.unit, self._output, self._forward, lift
        )
        whole = self._flat(self._checked(series.value, gates))
        self._try_alone(gates, whole)
        self.closure = max(self.closure, closure_of(series))
        self.limit = max(self.limit, CLOSURE.get(ran.coarsest or series.dtype, 1e-2))
        self.linearised |= {use.operator for use in ran.operators if use.kind == "linearised"}
        found: dict[Label, Tensor] = {CONSTANTS: torch.zeros_like(whole), OUTPUT: whole}
        for part, row in zip(series.parts, series.rows, strict=True):
            if part.origin is Origin.INPUT:
                found[part.depth] = self._flat(row)
            else:
                found[CONSTANTS] += self._flat(row)
        return found

    def _try_alone(self, x: Tensor, together: Tensor) -> None:
        """Refuse, at the first batch, a function of the batch that is none of each sample."""
        if self._tried or len(x) < 4:
            return
        self._tried = True
        with pinned(self._model):
            alone = self(x[:2])
        error, size = float((alone - together[:2]).norm()), float(together.norm(dim=1).max())
        if error > torch.finfo(self.precision).eps ** 0.5 * size:
            raise ModelError(
                "depth_degrees: the samples of a batch influence each other (two of them give another output without "
                "the rest), so that the output is no function of an input. Use a norm with statistics of its own; a "
                "model that draws random numbers in evaluation mode looks the same: switch that off."
            )


Key = tuple[str, Label]


def _order(key: Key) -> tuple[int, int, int]:
    """Network by network the terms, the shallow first, then the constants and the output."""
    name, label = key
    network = (OWN, INITIAL, SHUFFLED).index(name)
    return (network, 0, label) if isinstance(label, int) else (network, 1, (CONSTANTS, OUTPUT).index(label))


class _Sums:
    """Running sums over circles: of each part the powers, and the mean over the circle, for all replicates."""

    def __init__(self) -> None:
        self.weight: Any = 0.0
        self.of: dict[Key, np.ndarray] = {}

    def add(self, parts: Mapping[Key, Tensor], weights: np.ndarray) -> None:
        """Add circles: parts (circles, angles, components), weights (circles, replicates).

        A part that is not there is zero on these circles: it adds nothing.
        """
        self.weight = self.weight + weights.sum(axis=0)
        for key, values in parts.items():
            numbers = np.concatenate([one_sided(values), values.mean(dim=1).T.numpy()])
            if 8 * len(parts) * len(numbers) * weights.shape[1] > _LARGEST:
                raise UsageError(
                    f"depth_degrees: {weights.shape[1]} replicates of {len(numbers):,} numbers of {len(parts)} parts "
                    "are more than 2 GiB. Choose fewer outputs with output=lambda y: y[..., :10], or fewer replicates."
                )
            self.of[key] = self.of.get(key, 0.0) + numbers @ weights

    def spectrum(self, key: Key, angles: int) -> np.ndarray:
        """c_m of a part without its mean, (angles // 2 + 1, replicates)."""
        powers, means = np.split(self.of[key] / self.weight, [angles // 2 + 1])
        powers[0] = np.maximum(powers[0] - np.square(means).sum(axis=0), 0.0) * self.weight / (self.weight - 1)
        return powers

    def mean_square(self, key: Key, angles: int) -> float:
        """Of a part, its mean included."""
        return float(self.of[key][: angles // 2 + 1, 0].sum() / self.weight[0])


def _shares(spectrum: np.ndarray) -> dict[str, np.ndarray]:
    """By band of frequencies, of the variance, (replicates,)."""
    variance = spectrum.sum(axis=0)
    return {
        name: spectrum[low : None if high is None else high + 1].sum(axis=0) / variance
        for name, (_, low, high) in BANDS.items()
    }


class _Reading:
    """From sums to the result."""

    def __init__(self, sums: _Sums, coarse: _Sums, networks: Mapping[str, Terms], details: Mapping[str, Any]) -> None:
        self.networks, self.details, angles = networks, details, details["angles"]
        self.keys = sorted(sums.of, key=_order)
        self.spectra = {key: sums.spectrum(key, angles) for key in self.keys}
        self.energies = {key: spectrum.sum(axis=0) for key, spectrum in self.spectra.items()}
        precision = networks[OWN].precision
        # A part that is the same on all inputs is off by rounding: the network's own, and that of these sums.
        relative = max((16 * torch.finfo(precision).eps) ** 2, 64 * np.finfo(float).eps)
        varies = {k for k in self.keys if self.energies[k][0] > relative * sums.mean_square(k, angles)}
        self.shares = {key: _shares(self.spectra[key]) for key in varies}
        self.coarse = {key: _shares(coarse.spectrum(key, angles // 2)) for key in varies}
        self.depths = [label for name, label in self.keys if name == OWN and isinstance(label, int)]
        self.weights = {name: self._weights(name) for name in {name for name, _ in self.keys}}

    def _weights(self, name: str) -> dict[Label, np.ndarray]:
        """Of each term its energy over that of all terms, (replicates,)."""
        energies = {label: self.energies[n, label] for n, label in self.keys if n == name and isinstance(label, int)}
        whole = sum(energies.values())
        return {label: energy / np.where(whole > 0, whole, math.nan) for label, energy in energies.items()}

    def result(self, title: str) -> DepthDegrees:
        """The result.

        Raises:
            ModelError: when the output is constant.
        """
        if (OWN, OUTPUT) not in self.shares:
            raise ModelError(
                "depth_degrees: the output is the same on all inputs, up to rounding. Check the weights, and whether "
                "output= names what depends on the input."
            )
        networks = self.networks.values()
        details = {
            **self.details,
            "evaluations": sum(network.calls for network in networks),
            "precision": str(self.networks[OWN].precision).removeprefix("torch."),
            "linearised": sorted(set().union(*(network.linearised for network in networks))),
        }
        return DepthDegrees(
            terms=self._terms(),
            powers=self._powers(),
            trend=self._trend(),
            unit=str(self.networks[OWN].unit),
            inputs=title,
            closure=max(network.closure for network in networks),
            warnings=tuple(filter(None, [self._aliasing(), self._rounding(), self._linearised(details["linearised"])])),
            details=details,
        )

    def _terms(self) -> Table:
        missing = np.full(1 + self.details["replicates"], math.nan)
        rows = [
            {
                **_named(key),
                **_bounded("energy", self.energies[key]),
                **_bounded("weight", self.weights[key[0]].get(key[1], missing)),
                **{
                    n: v
                    for band in BANDS
                    for n, v in _bounded(band, self.shares.get(key, {}).get(band, missing)).items()
                },
            }
            for key in self.keys
        ]
        return Table(_columns(rows), dict.fromkeys(("energy", "energy_low", "energy_high"), "output^2"))

    def _powers(self) -> Table:
        rows = [
            {**_named(key), "frequency": m, **_bounded("power", power)}
            for key in self.keys
            for m, power in enumerate(self.spectra[key])
        ]
        return Table(_columns(rows), dict.fromkeys(("power", "power_low", "power_high"), "output^2"))

    def _trend(self) -> Table:
        """The excess over each comparator; see `DepthDegrees`."""
        rows = []
        for name in (SHUFFLED, INITIAL):
            if name in self.weights:
                held = [k for k in self.depths if self.weights[OWN][k][0] >= _LEAST]
                used = [k for k in held if (OWN, k) in self.shares and (name, k) in self.shares]
                own, other = (self._fall(network, used) for network in (OWN, name))
                rows.append(
                    {
                        **{"comparator": name, "terms": len(used)},
                        **_bounded("fall", own),
                        **_bounded("comparator_fall", other),
                        **_bounded("excess", own - other),
                    }
                )
        names = [f"{name}{end}" for name in ("fall", "comparator_fall", "excess") for end in ("", "_low", "_high")]
        return Table(_columns(rows), dict.fromkeys(names, "of a share, per step"))

    def _fall(self, network: str, depths: Sequence[int]) -> np.ndarray:
        """Minus the slope of the share at m <= 1 against depth, weighted by the own energy: (replicates,)."""
        if len(depths) < _FEWEST:
            return np.full(1 + self.details["replicates"], math.nan)
        weights = np.stack([self.weights[OWN][k] for k in depths])
        shares = np.stack([self.shares[network, k]["upto_1"] for k in depths])
        at = np.array(depths, dtype=float)
        distance = at[:, None] - (at @ weights) / weights.sum(axis=0)
        return -(weights * distance * shares).sum(axis=0) / (weights * np.square(distance)).sum(axis=0)

    def _aliasing(self) -> str:
        moved = {
            key: max(abs(share[0] - self.coarse[key][band][0]) for band, share in shares.items())
            for key, shares in self.shares.items()
            if key[1] not in self.depths or self.weights[key[0]][key[1]][0] >= _LEAST
        }
        worst = max(moved, key=moved.__getitem__)
        if moved[worst] <= _ALIASED:
            return ""
        name, label = worst
        part = f"the term of depth {label}" if isinstance(label, int) else f"the part '{label}'"
        return (
            f"aliasing: with half of the angles a share of {part} ({name}) is off by {moved[worst]:.1%}: power from "
            f"above frequency {self.details['angles'] // 2} is taken for lower. Give more "
            f"(angles={2 * self.details['angles']})."
        )

    def _rounding(self) -> str:
        for name, network in self.networks.items():
            if network.closure > network.limit:
                return (
                    f"closure: the parts of the {name} network add up to its output only within {network.closure:.1e}, "
                    f"not {network.limit:.0e}: terms nearly cancel. Measure in float64: model.double()."
                )
        return ""

    @staticmethod
    def _linearised(operators: Sequence[str]) -> str:
        if not operators:
            return ""
        return (
            f"linearised: {', '.join(operators)} without a rule: taken as affine at each input; see docs/add-a-rule.md."
        )


def _named(key: Key) -> dict[str, Any]:
    network, label = key
    is_term = isinstance(label, int)
    return {"network": network, "part": "input" if is_term else label, "depth": label if is_term else None}


def _bounded(name: str, values: np.ndarray) -> dict[str, float]:
    """A number and its 95 % interval, from all replicates."""
    return {column: float(number[0]) for column, number in with_interval(name, values[None]).items()}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    # As an array a column is one of numbers even where all of them are missing.
    return {name: np.array(cells) if isinstance(cells[0], float) else cells for name, cells in columns.items()}
