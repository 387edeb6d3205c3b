"""The batches of a run of one or several phases: each phase reads an order of rows from its first update on.

Notable:
- the phase is a function of the update, so a batch stays a pure function of (seed, update);
- batches that are left out have numbers over the whole run. Where some are left out before a phase begins, it begins as
  many batches later in its order.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from fast_electra.data.batches import Batch, BatchSchedule

EPOCHS = 2**12
"""epochs of an order: the next order's epochs have other numbers, and so other masks and noise"""


class PhasedSchedule(BatchSchedule):
    """The batches of each update, or a process's share of them: those of the update's phase."""

    def __init__(self, phases: Sequence[tuple[int, BatchSchedule]]) -> None:
        """Put phases in a row.

        Args:
            phases: the number of updates before each, from 0, ascending; and its batches.
        """
        self.starts = [start for start, _ in phases]
        self.phases = [schedule for _, schedule in phases]
        self.rows, self.batch_size = self.phases[0].rows, self.phases[0].batch_size
        self.seed, self.left_out = self.phases[0].seed, []

    def at(self, update: int) -> Batch:
        """The batch of an update, or this process's share of it; the first update is 0."""
        schedule, number = self._place(update)
        return schedule.at(number)

    def order(self, update: int) -> tuple[np.ndarray, np.ndarray]:
        """The row numbers (B,) and epochs (B,) of an update, int64."""
        schedule, number = self._place(update)
        return schedule.order(number)

    def rows_of(self, batch: int) -> np.ndarray:
        """The row numbers of a whole batch, int64."""
        phase = self.phase(batch)
        return self.phases[phase].rows_of(batch - self.starts[phase])

    def phase(self, update: int) -> int:
        """The number of an update's phase; both from 0."""
        return bisect_right(self.starts, update) - 1

    def read(self, updates: int) -> list[int]:
        """The number of rows of each stream of the first phase that the first updates read."""
        return self.read_of(0, updates)

    def read_of(self, phase: int, updates: int) -> list[int]:
        """The number of rows of each stream of a phase that it reads in the first updates of the run."""
        last = min(updates, (*self.starts[1:], updates)[phase])
        return self.phases[phase].read(max(0, self.batch_number(last) - self.starts[phase]))

    def _place(self, update: int) -> tuple[BatchSchedule, int]:
        """The phase's batches, and the number of an update's batch among them."""
        phase = self.phase(update)
        return self.phases[phase], self.batch_number(update) - self.starts[phase]
