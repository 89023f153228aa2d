"""Whether the spectrum by degree is as exact as its intervals say, and what it costs; beside correlated pairs.

    python -m benchmarks.degree [--quick]

Correlated pairs are what one would do without circles: independent pairs of inputs with correlation rho, the mean of
the product of the outputs for several rho, and a fit of sum over k of rho^k W_k by the same non-negative least squares.
The whole takes about 5 minutes on an idle core; --quick a minute, for its form and not for its figures.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import termwise as tw
from benchmarks.measuring import Row, plain_pass
from benchmarks.performance import table
from termwise import data, nets
from termwise.degree.inversion import columns
from termwise.degree.targets import hermite, hermite_mixture

RELU_4 = 1 / (48 * math.pi)  # the square of E relu(z) h_4(z)
CORRELATIONS = np.cos(np.pi * (np.arange(16) + 0.5) / 16)


def coverage_rows(repetitions: int) -> Iterator[Row]:
    """How often the 95 % intervals hold the truth: spread targets of degree 1 to 4, and ridges of degree 5 and 6."""
    note = f"{repetitions} repetitions of 2,000 circles"
    hits = np.zeros(8)
    for seed in range(repetitions):
        found = tw.degrees(
            hermite_mixture(dict.fromkeys((1, 2, 3, 4), 1.0)), (20,), inputs="standard", seed=seed, batch_size=8192
        ).spectrum
        hits += (found["energy_low"] <= 1) & (found["energy_high"] >= 1)
    shares = hits[1:5] / repetitions
    name = "degrees 1, 2, 3, 4 over 20 coordinates"
    each = ", ".join(f"{share:.3f}" for share in shares)
    yield Row("least coverage of 95 % intervals", name, shares.min(), 0.95, shares.min(), 0.9, "at least", note=note)
    yield Row(
        "greatest coverage of 95 % intervals", name, shares.max(), 0.95, shares.max(), 0.99, "at most",
        note=f"{note}; by degree {each}",
    )  # fmt: skip
    for degree in (5, 6):
        hit = warned = 0
        for seed in range(repetitions):
            result = tw.degrees(
                hermite_mixture({degree: 1.0}, coordinates=1), (20,), inputs="standard", seed=seed, batch_size=8192
            )
            row = result.spectrum.rows()[5]
            hit += row["energy_low"] <= 1 <= row["energy_high"]
            warned += any(warning.startswith("heavy tails") for warning in result.warnings)
        yield Row(
            "warned of heavy tails / coverage", f"ridge of degree {degree}", warned / repetitions, hit / repetitions,
            warned / repetitions, 0.99, "at least", note=note,
        )  # fmt: skip


def relu_rows(repetitions: int) -> Iterator[Row]:
    """The degree 4 of a ReLU in 50 dimensions at every cut-off, and its scatter beside correlated pairs."""
    w = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w /= w.norm()

    def function(x: Tensor) -> Tensor:
        return torch.relu(x @ w)

    found: dict[int, list[float]] = {cutoff: [] for cutoff in range(6, 13)}
    pairs: list[float] = []
    evaluations = 0
    for seed in range(repetitions):
        for cutoff, values in found.items():
            result = tw.degrees(
                function, (50,), inputs="standard", highest=cutoff, seed=seed, batch_size=8192, replicates=2
            )
            values.append(result.spectrum["energy"][4])
            evaluations = result.details["evaluations"]
        pairs.append(by_pairs(function, 50, evaluations, seed)[4])
    off = max(abs(np.mean(values) / RELU_4 - 1) for values in found.values())
    note = f"{repetitions} repetitions of 2,000 circles"
    yield Row(
        "degree 4, largest error of the mean over cut-offs 6 to 12", "ReLU, 50 dimensions", float(off), None,
        float(off), 0.1, "at most", note=note,
    )  # fmt: skip
    scatter, rival = float(np.std(found[12], ddof=1)), float(np.std(pairs, ddof=1))
    yield Row(
        "degree 4, standard deviation: correlated pairs / circles", "ReLU, 50 dimensions", scatter, rival,
        rival / scatter, 30, "at least", note=f"{note}, {evaluations:,} evaluations each",
    )  # fmt: skip


def by_pairs(function: Callable[[Tensor], Tensor], dimensions: int, evaluations: int, seed: int) -> np.ndarray:
    """Energies of degree 0 to 12 from independent correlated pairs."""
    from scipy.optimize import nnls

    generator = torch.Generator().manual_seed(seed)
    count = evaluations // (2 * len(CORRELATIONS))
    means, errors = [], []
    for rho in CORRELATIONS:
        x, z = torch.randn(2, count, dimensions, generator=generator, dtype=torch.float64)
        products = (function(x) * function(rho * x + math.sqrt(1 - rho**2) * z)).numpy()
        means.append(products.mean())
        errors.append(products.std() / math.sqrt(count))
    energies = columns(64, 12, cube=False, highest=2000).energies
    energies = np.concatenate([np.eye(len(energies))[:, :1], energies], axis=1)
    matrix = CORRELATIONS[:, None] ** np.arange(len(energies)) @ energies
    weights = nnls(matrix / np.array(errors)[:, None], np.array(means) / errors)[0]
    return (energies @ weights)[:13]


def exactness_row() -> Row:
    """What a polynomial of degree D shows above D."""
    worst = 0.0
    for degree in range(1, 10):
        found = tw.degrees(lambda x, k=degree: hermite(k, x).sum(dim=1), (20,), inputs="standard", samples=100)
        assert found.powers is not None
        powers = found.powers["power"]
        worst = max(worst, float(powers[degree + 1 :].sum() / powers.sum()))
    return Row(
        "power above the degree of a polynomial", "degrees 1 to 9, float64", worst, None, worst, 1e-12, "at most"
    )


def cost_row(circles: int) -> Row:
    """A spectrum of ResNet-20 in the plain passes that its circles need."""
    digits = data.load("digits")
    model = nets.resnet(20, channels=1).eval()
    start = time.process_time()
    tw.degrees(model, digits.train_inputs, samples=circles, angles=32)
    spent = time.process_time() - start
    run, batch = plain_pass(model), digits.train_inputs[:512]
    start = time.process_time()
    for _ in range(circles * 32 // 512):
        run(batch)
    needed = time.process_time() - start
    ratio = spent / needed
    return Row(
        "spectrum / plain passes of its circles", f"ResNet-20, digits, {circles:,} circles of 32", ratio, 1.0, ratio,
        1.2, "at most",
    )  # fmt: skip


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="How exact the spectrum by degree is, and what it costs.")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for development")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rows = [
        *coverage_rows(20 if quick else 200),
        *relu_rows(8 if quick else 40),
        exactness_row(),
        cost_row(320 if quick else 2000),
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
