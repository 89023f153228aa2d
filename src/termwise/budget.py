"""A budget of time for recording: which ticks of a schedule are taken.

Let T be the seconds of training so far (outside of the recorder), R those of recording (inside it), c those of the last
record, and b the budget, a fraction.  R is all that recording takes: setting up, looking, measuring, writing, and what
a callback does around them (telling trackers, moving earlier records aside).  Whatever the schedule,

    the first 19 ticks are taken, which with the last record makes 20;
    any later one only if R + 2 c <= b T: the budget holds it, and the last record, which is made in any case.

Of a schedule that is spaced in log-time the first ticks are made while there is little training to set them against, so
R starts above b T.  It is below as soon as the run is long enough to hold 20 records, the last included; meanwhile
ticks are left out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator

import msgspec

from termwise.distributed import Group
from termwise.errors import UsageError

LEAST = 19  # ticks that a budget never denies; with the last record there are 20

_log = logging.getLogger(__name__)
clock = time.perf_counter


class Timing(msgspec.Struct, frozen=True):
    """What a record that was made within a budget says of its time.

    Attributes:
        budget: the fraction of the training time that recording might take.
        training_seconds: outside of the recorder, before this record.
        recording_seconds: inside it, this record included, but for writing it and for what is done with it at once.
        chosen: by what this step was: "one of the first 19", "within the budget" or "asked for".
    """

    budget: float
    training_seconds: float
    recording_seconds: float
    chosen: str

    @property
    def held(self) -> bool:
        """Whether recording had taken no more than it might."""
        return self.recording_seconds <= self.budget * self.training_seconds


class Spending:
    """What was spent so far, in this process and in those that it goes on from.

    Stretches of recording may lie inside of each other: a callback's holds that of the recorder that it calls.  They
    are counted once, by the outermost; what passes between two of these is training.

    Args:
        budget: the fraction of the training time that recording may take; None: all it wants.
        group: the processes that record together; the clock of process 0 is the one that counts.

    Attributes:
        seconds: inside the recorder, in this process.
        training: T, in seconds.
        recording: R, in seconds.

    Raises:
        UsageError: when the budget is no fraction.
    """

    def __init__(self, budget: float | None, group: Group) -> None:
        if budget is not None and not (isinstance(budget, int | float) and 0 < budget < math.inf):
            raise UsageError(
                f"budget={budget!r}: expected the fraction of the training time that recording may take, such as 0.05, "
                "or None."
            )
        self.budget, self._group = budget, group
        self.seconds = self.training = self.recording = self._cost = 0.0
        self._clock = clock
        self._entered = self._left = math.nan
        self._within, self._made, self._warned = 0, False, False

    def resume(self, last: Timing, records: int) -> None:
        """Go on after an earlier process, of which this was the last record, of so many."""
        self.training += last.training_seconds
        self.recording += last.recording_seconds
        self._cost = last.recording_seconds / records

    def enter(self, since: float | None = None) -> None:
        """Recording begins: now, or it did at a reading of the clock."""
        self._within += 1
        if self._within > 1:
            return
        self._entered = self._clock() if since is None else since
        if not math.isnan(self._left):
            self.training += self._entered - self._left

    def leave(self, made: bool, *, begun: bool = True) -> None:
        """Recording ends, after a record or none; the training goes on, or has not `begun`."""
        self._within -= 1
        self._made = self._made or made
        if self._within:
            return
        left = self._clock()
        spent = left - self._entered
        self.seconds += spent
        self.recording += spent
        self._cost = spent if self._made else self._cost
        self._made, self._left = False, left if begun else math.nan

    @contextlib.contextmanager
    def inside(self, *, since: float | None = None, begun: bool = True) -> Iterator[None]:
        """Count what is done here as recording, whatever becomes of it; see `enter` and `leave`."""
        self.enter(since)
        try:
            yield
        finally:
            self.leave(False, begun=begun)

    @property
    def room(self) -> bool:
        """Whether the budget holds one more record, and the last."""
        budget = self.budget
        if budget is None:
            return True
        return self._group.exchange(lambda: self.recording + 2 * self._cost <= budget * self.training, bool)[0]

    def allows(self, records: int) -> bool:
        """Whether the next tick is taken after so many records."""
        return records < LEAST or self.room

    def timing(self, records: int, forced: bool) -> Timing | None:
        """What the record that is being made, after so many, says of its time."""
        budget = self.budget
        if budget is None:
            return None
        chosen = "asked for" if forced else f"one of the first {LEAST}" if records < LEAST else "within the budget"

        def now() -> Timing:
            return Timing(budget, self.training, self.recording + self._clock() - self._entered, chosen)

        return self._group.exchange(now, Timing)[0]

    def warn(self) -> None:
        """Say so, once, if more was spent than the budget holds."""
        if self._warned or self.budget is None or self.recording <= self.budget * self.training:
            return
        self._warned = True
        if self._group.rank == 0:
            _log.warning(
                "recording took %.1f s beside %.1f s of training, above the budget of %.0f %%: the first %d ticks and "
                "the last record are made in any case. A smaller probe costs less; a longer training holds more.",
                *(self.recording, self.training, 100 * self.budget, LEAST),
            )
