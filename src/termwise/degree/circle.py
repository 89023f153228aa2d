"""The circle estimator: energies by degree of any function of Gaussian inputs, without any basis.

With x, x' ~ N(mu, Sigma) independent, the circle x_t = mu + (x - mu) cos t + (x' - mu) sin t is Gaussian at every t,
and the power of f(x_t) at angular frequency m, in the mean over circles, is a known mixture of the Hermite energies W_k
of total degree k >= m of the same parity (`termwise.degree.inversion`).  The mean of f over all circles is taken out
first, so that c_0 is the variance of the mean over one circle, and W_0 stands apart.

Without any inversion, E tr(J Sigma J') over the variance, J being the derivative of f, is the mean degree; it must
agree with the sum over m of m^2 c_m over the variance, which is the same by integration around the circle.

Everything is kept in running sums over circles, for all replicates of a Poisson bootstrap at once: constant memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from termwise.degree.cube import Cube
from termwise.degree.functions import ConstantOutputError, Function, Progress, Target, counted
from termwise.degree.gaussian import Gaussian
from termwise.degree.inversion import SHOWN, columns, invert
from termwise.degree.spectrum import GROUPS, DegreeSpectrum, label
from termwise.degree.tables import grouped, learned_parts, shares_of, target_shares, with_interval
from termwise.errors import UsageError, first_line
from termwise.profile import Estimate, check_replicates, estimate, resampled
from termwise.records import Table
from termwise.seeds import stream

Inputs = Gaussian | Cube

_MOST = 512  # angles
_PILOT = 48  # circles that decide on the number of angles
_ALIASED = 0.1  # of a row, what may come from frequencies that the angles cannot tell from it
_LARGEST = 2**31  # bytes of one running sum
_MISFIT = 0.003  # of a row, what tail columns may leave
_DOMINANT = 0.05  # of the power of a row, what a single circle may bring


@dataclasses.dataclass(frozen=True)
class Options:
    """How circles are drawn and read: see `termwise.degree.degrees`."""

    circles: int
    angles: int | None
    cutoff: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse what makes no spectrum."""
        check_replicates(self.replicates)
        if self.circles < 20:
            raise UsageError(f"degrees: circles={self.circles}: standard errors need at least 20, and 2000 are usual.")
        if self.angles is not None and (self.angles < 32 or self.angles % 2):
            raise UsageError(f"degrees: angles={self.angles}: give an even number, 32 or more; or None to find it.")
        if not 4 <= self.cutoff <= 16:
            raise UsageError(
                f"degrees: cutoff={self.cutoff}: expected 4 to 16; above, no sampling tells degrees apart."
            )


# Products of matrices differ in their last bits with the number of threads that share them.
@threadpool_limits.wrap(limits=1, user_api="blas")
def circle_spectrum(
    function: Function,
    inputs: Inputs,
    options: Options,
    target: Target | None = None,
    progress: Progress = None,
) -> DegreeSpectrum:
    """Measure; see `termwise.degree.degrees`."""
    circles = _Circles(function, inputs, target)
    angles, aliased = circles.enough_angles(options)
    generator = torch.Generator().manual_seed(stream(options.seed, 1))
    draws = np.random.Generator(np.random.PCG64(stream(options.seed, 2)))
    sums = _Sums()
    at_once = max(1, function.batch_size // angles)
    for count in counted(options.circles, at_once, progress):
        statistics = circles.measured(count, angles, generator)
        sums.add(statistics, resampled(count, options.replicates, draws))
    return _Reading(sums, circles, inputs, options, angles, aliased).result()


class _Circles:
    """Circles of inputs, and what is read off the function on them."""

    def __init__(self, function: Function, inputs: Inputs, target: Target | None) -> None:
        self.function, self.inputs, self.target = function, inputs, target
        self.shift: Tensor | None = None  # roughly the mean: taking it out keeps the digits of the rest
        self.gradient_missing = ""  # why there is none

    def _values(self, circles: Tensor) -> dict[str, Tensor]:
        """Outputs less the shift, (circles, angles, components): of the function, and with a target of three more."""
        points = circles.flatten(0, 1)
        y = self.function(points)
        values = {"f": y}
        if self.target is not None:
            g = self.function.of_target(self.target, points, y)
            values |= {"g": g, "sum": y + g, "difference": y - g}
        stacked = torch.stack(list(values.values()))
        if self.shift is None:
            self.shift = stacked.mean(dim=1, keepdim=True)
        stacked = (stacked - self.shift).unflatten(1, circles.shape[:2])
        return dict(zip(values, stacked, strict=True))

    def enough_angles(self, options: Options) -> tuple[int, float]:
        """How many angles, doubled until no row takes up much of higher frequencies; and what the worst still takes."""
        angles = options.angles or self.inputs.angles
        if self.inputs.cube:
            return angles, 0.0  # its correlation is exact at any number of angles
        while True:
            aliased = self._aliased(angles, options)
            if aliased <= _ALIASED or options.angles is not None or 2 * angles > _MOST:
                return angles, aliased
            angles *= 2

    def _aliased(self, angles: int, options: Options) -> float:
        """The largest part of a row that comes from its mirror frequencies, seen at twice the angles."""
        generator = torch.Generator().manual_seed(stream(options.seed, 0))
        count = min(_PILOT, options.circles)
        at_once = max(1, self.function.batch_size // (2 * angles))
        power = np.zeros(angles + 1)
        for size in counted(count, at_once, None):
            points, _ = self.inputs.circles(size, 2 * angles, generator)
            power += one_sided(self._values(points)["f"]).sum(axis=1)
        rows = np.arange(1, self.inputs.rows(angles))
        floor = self.floor(power.sum() / count) * count
        mirrored = power[angles - rows]
        return float(np.max(mirrored / np.maximum(power[rows] + mirrored, floor), initial=0.0, where=mirrored > floor))

    def floor(self, total: float) -> float:
        """The power of rounding: outputs of a mean square are off by some units in their last place."""
        assert self.shift is not None
        size = total + float(self.shift[0].square().sum())
        return (16 * torch.finfo(self.function.precision).eps) ** 2 * size

    def measured(self, count: int, angles: int, generator: torch.Generator) -> dict[str, np.ndarray]:
        """Numbers of each of `count` circles, (K, circles)."""
        points, start = self.inputs.circles(count, angles, generator)
        statistics: dict[str, np.ndarray] = {}
        rows = self.inputs.rows(angles)
        for name, values in self._values(points).items():
            powers = one_sided(values)
            statistics[f"{name} powers"] = powers[:rows]
            statistics[f"{name} mean"] = values.mean(dim=1).T.numpy()
            statistics[f"{name} total"] = powers.sum(axis=0, keepdims=True)
            if name == "f":
                statistics["turning"] = (np.arange(len(powers)) ** 2 @ powers)[None]
        if not self.gradient_missing:
            try:
                statistics["slope"] = self.inputs.slopes(self.function, start, generator).numpy()[None]
            except RuntimeError as error:
                # It ran without: so it leaves PyTorch on the way, or holds tensors that take part in no graph.
                self.gradient_missing = first_line(error)
        return statistics


def one_sided(values: Tensor) -> np.ndarray:
    """One-sided powers summed over components: (circles, angles, components) to (angles // 2 + 1, circles)."""
    angles = values.shape[1]
    powers = (torch.fft.rfft(values, dim=1) / angles).abs().square().sum(dim=2)
    powers[:, 1 : (angles + 1) // 2] *= 2
    return powers.T.numpy()


class _Sums:
    """Running sums over circles of every number, for all replicates; and what tells how heavy their tails are."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.of: dict[str, np.ndarray] = {}
        self.squares: dict[str, np.ndarray] = {}
        self.largest: dict[str, np.ndarray] = {}

    def add(self, statistics: dict[str, np.ndarray], weights: np.ndarray) -> None:
        """Add circles: numbers (K, circles), weights (circles, replicates)."""
        self.weight = self.weight + weights.sum(axis=0)
        for name, values in statistics.items():
            if 8 * len(values) * weights.shape[1] > _LARGEST:
                raise UsageError(
                    f"degrees: {weights.shape[1]} replicates of {len(values):,} output numbers are more than 2 GiB. "
                    "Choose fewer with output=lambda y: y[..., :10], or fewer replicates."
                )
            self.of[name] = self.of.get(name, 0.0) + values @ weights
            self.squares[name] = self.squares.get(name, 0.0) + np.square(values).sum(axis=1)
            self.largest[name] = np.maximum(self.largest.get(name, 0.0), values.max(axis=1))

    def mean(self, name: str) -> np.ndarray:
        """(K, replicates), replicate 0 being the circles as they are."""
        return self.of[name] / self.weight


class _Reading:
    """From sums to the result."""

    def __init__(
        self, sums: _Sums, circles: _Circles, inputs: Inputs, options: Options, angles: int, aliased: float
    ) -> None:
        self.sums, self.circles, self.inputs, self.options = sums, circles, inputs, options
        self.angles, self.aliased = angles, aliased
        self.cutoff = min(options.cutoff, inputs.rows(angles) - 2)
        self.other = max(2, self.cutoff - 4)
        self.floor = circles.floor(float(sums.mean("f total")[0, 0]))
        self.names = [name.removesuffix(" powers") for name in sums.of if name.endswith(" powers")]
        self.powers = {name: self._powers(name) for name in self.names}
        self.variance = self.sums.mean("f total")[0] - self.sums.mean("f powers")[0] + self.powers["f"][0]

    def _powers(self, name: str) -> np.ndarray:
        """c_m of the function without its mean: (rows, replicates)."""
        powers, mean = self.sums.mean(f"{name} powers").copy(), self.sums.mean(f"{name} mean")
        n = self.sums.weight
        powers[0] = np.maximum(powers[0] - np.square(mean).sum(axis=0), 0.0) * n / (n - 1)
        return powers

    def _errors(self, name: str) -> np.ndarray:
        n = self.options.circles
        first = self.sums.mean(f"{name} powers")[:, 0]
        return np.sqrt(np.maximum(self.sums.squares[f"{name} powers"] / n - first**2, 0.0) / (n - 1))

    def _energies(self, name: str, cutoff: int) -> np.ndarray:
        """W_0 .. W_FAR, (FAR + 1, replicates)."""
        floor = self.floor if name == "f" else self.floor + 4 * self._target_floor()
        fit = columns(self.angles, cutoff, cube=self.inputs.cube, highest=self.inputs.highest)
        # Where circles hardly differ (a step along one direction) the fit is no better than its tail columns.
        errors = np.hypot(self._errors(name), _MISFIT * self.powers[name][:, 0])
        energies = invert(self.powers[name], errors, floor, fit)
        energies[0] = self._mean_square(name)
        return energies

    def _target_floor(self) -> float:
        size = float(self.sums.mean("g total")[0, 0])
        return (16 * torch.finfo(torch.float64).eps) ** 2 * size

    def _mean_square(self, name: str) -> np.ndarray:
        """|E f|^2 without the bias of squaring: once for the circles, once more for having drawn them again."""
        assert self.circles.shift is not None
        shift = self.circles.shift[self.names.index(name), 0].numpy()[:, None]
        square = np.square(self.sums.mean(f"{name} mean") + shift).sum(axis=0)
        bias = np.full(len(square), 2.0)
        bias[0] = 1.0
        return np.maximum(square - bias * self.powers[name][0] / self.sums.weight, 0.0)

    def result(self) -> DegreeSpectrum:
        """The spectrum.

        Raises:
            ModelError: when the function is constant.
        """
        if not self.variance[0] > self.floor:
            raise ConstantOutputError
        energies = self._energies("f", self.cutoff)
        groups, others = grouped(energies), grouped(self._energies("f", self.other))
        mean, without = self._mean_degree()
        errors = self._errors("f")
        powers = {"frequency": np.arange(len(errors)), "power": self.powers["f"][:, 0], "standard_error": errors}
        details = {
            **dataclasses.asdict(self.options),
            "angles": self.angles,
            "batch_size": self.circles.function.batch_size,
            "cutoff": self.cutoff,
            "other_cutoff": self.other,
            "evaluations": self.circles.function.calls,
            "precision": str(self.circles.function.precision).removeprefix("torch."),
            "explained": float(energies[1:, 0].sum() / self.variance[0]),
        }
        return DegreeSpectrum(
            spectrum=self._table(groups, others),
            powers=Table(powers),
            mean_degree=mean,
            variance=float(self.variance[0]),
            method="circles on the cube" if self.inputs.cube else "circles",
            inputs=self.inputs.title,
            warnings=tuple(filter(None, [*self._warnings(groups, others, details["explained"]), without])),
            details=details,
        )

    def _table(self, groups: np.ndarray, others: np.ndarray) -> Table:
        shares, other = shares_of(groups, self.variance), shares_of(others, self.variance)
        table: dict[str, Any] = {"lowest": [low for low, _ in GROUPS], "highest": [high for _, high in GROUPS]}
        table |= with_interval("energy", groups) | with_interval("share", shares) | {"other_share": other[:, 0]}
        if self.circles.target is not None:
            own = grouped(self._energies("g", self.cutoff))
            table |= with_interval("learned", self._learned(own)) | {"target_share": target_shares(own[:, 0])}
        return Table(table, dict.fromkeys(("energy", "energy_low", "energy_high"), "output^2"))

    def _learned(self, own: np.ndarray) -> np.ndarray:
        """<f_k, g_k> / <g_k, g_k> by degree: the product is a quarter of |f + g|^2 - |f - g|^2."""
        product = (grouped(self._energies("sum", self.cutoff)) - grouped(self._energies("difference", self.cutoff))) / 4
        return learned_parts(product, own)

    def _mean_degree(self) -> tuple[Estimate | None, str]:
        """It, or None and why there is none."""
        if self.circles.gradient_missing:
            return (
                None,
                f"mean degree: missing, since the function gives no gradient ({self.circles.gradient_missing}).",
            )
        slope = self.sums.mean("slope")[0] / self.variance
        mean = estimate(slope)
        if self.inputs.cube:
            return mean, ""  # only Gaussian circles turn at the speed of the degree
        turning = self.sums.mean("turning")[0] / self.variance
        if abs(slope[0] - turning[0]) <= 3 * (slope - turning)[1:].std() + 0.1 * turning[0]:
            return mean, ""
        return None, (
            f"mean degree: by gradients it is {mean}, by the spectrum {estimate(turning)}, and they must be equal. The "
            "function jumps, or its gradients are not its own (straight-through, detached parts): trust neither."
        )

    def _warnings(self, groups: np.ndarray, others: np.ndarray, explained: float) -> list[str]:
        return [self._aliasing(), *self._truncation(groups, others, explained), self._tails(), self._rounding()]

    def _aliasing(self) -> str:
        if self.aliased <= _ALIASED:
            return ""
        return (
            f"aliasing: with {self.angles} angles up to {self.aliased:.0%} of a frequency is power from above that "
            f"cannot be told from it. Give more (angles={2 * self.angles}); if that never ends the function jumps."
        )

    def _truncation(self, groups: np.ndarray, others: np.ndarray, explained: float) -> list[str]:
        apart = np.abs(groups[:, 0] - others[:, 0])
        apart[0] = 0.0
        # Both cut-offs read the same circles: what is left between them is no sampling error, up to its scatter.
        allowed = np.maximum(2 * (groups - others)[:, 1:].std(axis=1), 0.01 * self.variance[0])
        large = np.flatnonzero(apart > allowed)
        warnings = []
        if len(large):
            names = ", ".join(label(*GROUPS[i]) for i in large)
            warnings.append(
                f"truncation: the cut-offs {self.cutoff} and {self.other} disagree at degree {names} by up to "
                f"{apart[large].max() / self.variance[0]:.1%} of the variance; above them there is no smooth tail."
            )
        if abs(explained - 1) > 0.05:
            warnings.append(
                f"truncation: the energies add up to {explained:.1%} of the variance: there is power where "
                "the fit does not see it, or the tail is none that it knows."
            )
        return warnings

    def _tails(self) -> str:
        powers, weight = self.sums.of["f powers"][:, 0], self.sums.largest["f powers"]
        rows = np.arange(len(powers))
        # Only rows that take part in what is reported singly or in groups up to 9, and that are no rounding.
        counted = (rows >= 1) & (rows < 10) & (self.powers["f"][:, 0] > self.floor)
        share = np.where(counted, weight / np.maximum(powers, np.finfo(float).tiny), 0.0)
        at = int(share.argmax())
        if share[at] <= _DOMINANT:
            return ""
        return (
            f"heavy tails: one circle of {self.options.circles} brings {share[at]:.0%} of the power at frequency {at}: "
            f"intervals of degrees from {int(np.flatnonzero(share > _DOMINANT)[0])} on are too short, and those "
            "energies are likely too small. Give more circles."
        )

    def _rounding(self) -> str:
        lost = np.flatnonzero(self.powers["f"][1 : self.cutoff + 1, 0] <= self.floor) + 1
        if not len(lost):
            return ""
        precision = str(self.circles.function.precision).removeprefix("torch.")
        bound = self.floor / SHOWN / self.variance[0]
        return (
            f"float floor: the power at frequency {', '.join(map(str, lost))} is no more than rounding in {precision}; "
            f"energies that would show there are given as zero; they are less than {bound:.0e} of the variance."
        )
