"""Verdicts on the claims H1 to H5, by rules that were fixed before anything was measured.

>>> trends = [share_trend(timeline) for timeline in timelines]  # one number a seed
>>> decided(SHARE, trends)
>>> corrected([h1(...), h2, h3, h4(...), h5(...)])  # the five claims, after Holm's correction

The rules stand in `termwise.verdict.claims`, the number of a seed in `termwise.verdict.measures`, and what any verdict
rests on, those of the experiments included, in `termwise.verdict.decision`.
"""

from termwise.verdict.claims import (
    CAUSAL,
    CLAIMS,
    EFFECT,
    EXCESS,
    LEARNED,
    SHALLOWER,
    SHARE,
    Endpoint,
    Verdict,
    agreed,
    corrected,
    decided,
    every,
    h1,
    h4,
    h5,
    learned,
    table,
)
from termwise.verdict.decision import LEVEL, SEEDS, Expected
from termwise.verdict.measures import (
    Course,
    course,
    mean_depths,
    order,
    shallow_effect,
    shallower,
    share_trend,
    smaller_excess,
    steps_saved,
    times_learned,
)

__all__ = [
    "CAUSAL",
    "CLAIMS",
    "EFFECT",
    "EXCESS",
    "LEARNED",
    "LEVEL",
    "SEEDS",
    "SHALLOWER",
    "SHARE",
    "Course",
    "Endpoint",
    "Expected",
    "Verdict",
    "agreed",
    "corrected",
    "course",
    "decided",
    "every",
    "h1",
    "h4",
    "h5",
    "learned",
    "mean_depths",
    "order",
    "shallow_effect",
    "shallower",
    "share_trend",
    "smaller_excess",
    "steps_saved",
    "table",
    "times_learned",
]
