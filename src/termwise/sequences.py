"""A synthetic language that is learned step by step, and whose least possible loss is known.

There are two alphabets of eight symbols.  A sequence alternates between them, begins with a segment of 6, 8, 10 or 12
different symbols (its period), and repeats that segment to its end.  What there is to learn, from shallow to deep:

    nothing but that there are 16 symbols                                log 16 = 2.773 nats a token
    from the current symbol alone, which alphabet is next                log 8  = 2.079
    all of it                                                            `least_loss`, 0.478 for 32 tokens

Paths around all attention can know no more than the current symbol.  The last step is induction: look where the current
symbol stood before, and say what followed it (C. Olsson et al. 2022, arXiv 2209.11895).
"""

from __future__ import annotations

import math

import numpy as np

from termwise.errors import UsageError

ALPHABET = 8  # symbols in each of the two
PERIODS = (6, 8, 10, 12)  # even, so that the alphabets go on alternating where a segment begins again
SHORTEST = 2 * max(PERIODS)  # every segment comes twice at least


def induction(length: int, count: int, seed: int = 0) -> np.ndarray:
    """Sequences of token numbers, int64, shape (count, length + 1): each has `length` tokens that follow another.

    The same bits on every machine.

    Raises:
        UsageError: the length is below 24, so that some segments would not come twice.
    """
    _check(length)
    # RandomState and not default_rng: only the legacy stream is promised to stay the same in every numpy.
    random = np.random.RandomState(seed)
    lower, upper = (random.random_sample((count, ALPHABET)).argsort(axis=1, kind="stable") for _ in range(2))
    begins = random.randint(2, size=(count, 1)).astype(bool)
    symbols = np.empty((count, 2 * ALPHABET), dtype=np.int64)
    symbols[:, 0::2] = np.where(begins, upper + ALPHABET, lower)
    symbols[:, 1::2] = np.where(begins, lower, upper + ALPHABET)
    periods = np.array(PERIODS)[random.randint(len(PERIODS), size=(count, 1))]
    return np.take_along_axis(symbols, np.arange(length + 1) % periods, axis=1)


def least_loss(length: int) -> float:
    """The mean cross-entropy of the best possible prediction of each next token, in nats.

    It is the entropy of a sequence whose first symbol is known, over its length.  The i-th symbol of a segment (from 0)
    is one of the 8 - floor(i / 2) of its alphabet that have not been there; the first that has been there tells the
    period p, and from then on all is known:

        least_loss = ( log 4 + mean over p of  sum_{i=1}^{p-1} log(8 - floor(i / 2)) ) / length

    Raises:
        UsageError: see `induction`.
    """
    _check(length)
    segments = [sum(math.log(ALPHABET - i // 2) for i in range(1, period)) for period in PERIODS]
    return (math.log(len(PERIODS)) + sum(segments) / len(PERIODS)) / length


def _check(length: int) -> None:
    if length < SHORTEST:
        raise UsageError(f"induction: sequences of {length} tokens are too short; give at least {SHORTEST}.")
