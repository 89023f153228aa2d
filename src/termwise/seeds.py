"""Random numbers: streams that depend on a seed alone, and states that are kept, saved and given back.

A training owns the random states of torch (on the CPU), NumPy and Python while it runs; those of the caller come back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def stream(seed: int, *keys: int) -> int:
    """A seed of its own for each combination of keys; the same on every machine."""
    return int(np.random.SeedSequence(seed, spawn_key=keys).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def owned_random(seed: int) -> Iterator[None]:
    """Seed torch (on the CPU), NumPy and Python for the block; the caller's states come back afterwards."""
    before = random_states()
    try:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        set_random_states(before)


@contextlib.contextmanager
def untouched_random() -> Iterator[None]:
    """What is drawn from torch in the block does not move the training's state.

    A record that exists already is skipped: if making one moved the state, a resumed run would part from the first.
    """
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def random_states() -> dict[str, Any]:
    """Of torch on the CPU, NumPy and Python, as plain containers and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy = [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss]
    return {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate()}


def set_random_states(states: dict[str, Any]) -> None:
    """Go back to what `random_states` gave."""
    name, keys, position, has_gauss, gauss = states["numpy"]
    torch.set_rng_state(states["torch"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    random.setstate(states["python"])
