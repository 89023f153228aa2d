"""Columns of a spectrum, from energies by degree of all replicates: replicate 0 is the data as they are."""

from __future__ import annotations

import math

import numpy as np

from termwise.degree.spectrum import GROUPS

_LEAST = 0.01  # of the target's variance, what a degree must have for a learned part


def grouped(energies: np.ndarray) -> np.ndarray:
    """Sums over the groups that are reported, (degrees, replicates) to (groups, replicates)."""
    return np.stack([energies[low : None if high is None else high + 1].sum(axis=0) for low, high in GROUPS])


def shares_of(groups: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Of the variance; the mean has none."""
    shares = groups / variance
    shares[0] = math.nan
    return shares


def learned_parts(product: np.ndarray, own: np.ndarray) -> np.ndarray:
    """<f_k, g_k> / <g_k, g_k> where the target g has something of that degree, else NaN: (rows, replicates)."""
    least = _LEAST * own[1:, 0].sum()
    little = (own[:, 0] < least) | (np.percentile(own, 2.5, axis=1) < least / 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(little[:, None], math.nan, product / own)


def target_shares(own: np.ndarray) -> np.ndarray:
    """Of the target's variance, what each degree has of it, (rows,); the mean has none."""
    variance = own[1:].sum()
    shares = own / variance if variance > 0 else np.full(len(own), math.nan)
    shares[0] = math.nan
    return shares


def with_interval(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """A column and its 95 % interval."""
    low, high = np.percentile(values[:, 1:], [2.5, 97.5], axis=1)
    return {name: values[:, 0], f"{name}_low": low, f"{name}_high": high}
