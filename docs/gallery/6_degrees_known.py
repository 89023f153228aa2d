"""
Degrees of a known polynomial
=============================

The degree of a function is measured without looking into it. Where the answer is known, it can be checked: a polynomial
with energies that were chosen, and the ReLU, whose energies are a series.
"""

import math

import matplotlib.pyplot as plt
import torch

import termwise as tw
from termwise import figures
from termwise.degree.targets import hermite_mixture, staircase

# %%
# Gaussian inputs
# ---------------
#
# On N(0, I) the energy of a degree is that of its Hermite polynomials. This one has 0.5 at degree 1, 0.3 at degree 2
# and 0.2 at degree 4.

energies = {1: 0.5, 2: 0.3, 4: 0.2}
mixture = hermite_mixture(energies)
found = tw.degrees(lambda x: mixture(x)[:, None], (16,), inputs="standard", centre=False, samples=1000)
print(found)

_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
figures.degrees(found, ax=axes)

# %%
# The cube
# --------
#
# On inputs of -1 and 1 the spectrum is exact up to 20 of them: all are run. The function is x1 + x2 x3 + x4 x5 x6 x7.

target = staircase(1, 2, 4)
print(tw.degrees(lambda x: target(x)[:, None], (7,), inputs="boolean", centre=False))

# %%
# ReLU
# ----
#
# It is no polynomial: degree 1 has half of its second moment, odd degrees beyond 1 have nothing, and even ones fall off
# slowly. The exact energies come from the Hermite coefficients of max(x, 0).


def relu_energy(degree: int) -> float:
    """The square of the coefficient of the orthonormal Hermite polynomial of this degree, from degree 1 on."""
    if degree == 1:
        return 0.25
    if degree % 2:
        return 0.0
    half = degree // 2
    double_factorial = math.prod(range(1, 2 * half - 2, 2))
    return double_factorial**2 / (2 * math.pi * math.factorial(degree))


relu = tw.degrees(lambda x: torch.relu(x[:, :1]), (1,), inputs="standard", centre=False, samples=4000)
rows = [row for row in relu.spectrum.rows() if row["lowest"] == row["highest"] and row["lowest"] > 0]
degrees = [row["lowest"] for row in rows]
exact = [relu_energy(degree) for degree in degrees]

plt.rc("font", size=8)
_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
errors = [[r["energy"] - r["energy_low"] for r in rows], [r["energy_high"] - r["energy"] for r in rows]]
axes.bar(degrees, [row["energy"] for row in rows], yerr=errors, width=0.5, color="#2458a6", label="measured")
axes.plot(degrees, exact, "D", color="#c2702a", label="exact")
axes.set(xlabel="degree", ylabel="energy", xticks=degrees)
worst = max(abs(row["energy"] - energy) for row, energy in zip(rows, exact, strict=True)) / sum(exact)
axes.set_title(f"ReLU: measured and exact energies are within {worst:.1%} of their sum", loc="left")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
