"""The settings of a run's phases: what changes while a phase lasts.

Notable:
- the run's own settings are phase 1, and `phases` lists those that follow; what a phase leaves out is as in the run;
- phases with the same shards and row length share one order of rows, in which each goes on where the one before it
  ended. Any other phase has an order of its own;
- a phase is a function of the update, and a batch one of (seed, update), so resuming is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fast_electra.corruption.schedules import Schedule
from fast_electra.parts import Section

if TYPE_CHECKING:
    from fast_electra.config.tree import Config


UNKNOWN_UPDATES = 10**6
"""number of updates that a plan has where only the start of the run decides it"""
MicroBatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]
"""sequences that go through a model at a time; auto: the start of a run chooses (training/micro_batches.py)"""


class PhaseData(Section):
    """The rows of a phase."""

    shards: Path | None = None
    """folder of token shards; empty: those of the run"""
    length: int | None = Field(default=None, ge=8)
    """tokens of a row; empty: as in the run"""


class PhaseModel(Section):
    """What a phase changes in the main model."""

    rope_theta: float | None = Field(default=None, gt=0)
    """base of the rotary positions in layers that see the whole row; empty: as in the run"""


class PhaseMasking(Section):
    """The masks of a phase."""

    rate: float | None = Field(default=None, gt=0, lt=1)
    """share of a row's tokens that are masked; empty: as in the run"""


class PhaseCorruption(Section):
    """How sequences are corrupted in a phase."""

    masking: PhaseMasking = PhaseMasking()
    schedule: Schedule | None = None
    """temperature over the phase; empty: the run's schedule goes on"""
    cache: Path | None = None
    """folder written by `corrupt --phase`; empty: that of the run"""


class PhaseOptimizer(Section):
    """The learning rate over a phase: a key that is given starts a schedule of the phase's own."""

    learning_rate: float | None = Field(default=None, gt=0)
    """peak learning rate; empty: as in the run"""
    schedule: Literal["linear", "cosine", "constant", "warmup_stable_decay"] | None = None
    """learning rate after the warm-up; empty: as in the run"""
    warmup: float | None = Field(default=None, ge=0, lt=1)
    """share of the phase in which the learning rate rises to its peak; empty: as in the run"""
    decay: float | None = Field(default=None, gt=0, le=1)
    """share of the phase in which warmup_stable_decay falls to zero; empty: as in the run"""


class PhaseTraining(Section):
    """The batches of a phase."""

    batch_size: int | None = Field(default=None, ge=1)
    """sequences of an update; empty: as in the run"""
    micro_batch_size: MicroBatchSize | None = None
    """sequences that go through the model at a time, or auto; empty: as in the run"""


class Phase(Section):
    """A phase after the first: where it starts, and what differs from the run's own settings while it lasts."""

    start: float | int = Field(gt=0)
    """where the phase starts: a share of the updates (0.9), or the number of updates before it (900)"""
    data: PhaseData = PhaseData()
    main: PhaseModel = PhaseModel()
    corruption: PhaseCorruption = PhaseCorruption()
    optimizer: PhaseOptimizer = PhaseOptimizer()
    training: PhaseTraining = PhaseTraining()

    def update(self, updates: int) -> int:
        """The number of updates before the phase, in a run of `updates`."""
        if isinstance(self.start, int):
            return self.start
        return max(1, min(updates - 1, round(self.start * updates)))  # short trials of a recipe have both phases, too


def given(section: Section) -> dict[str, Any]:
    """The values of a section that are not empty."""
    return {name: value for name, value in section if value is not None}


def why_not(phases: Sequence[Phase], updates: int | None) -> str | None:
    """Why phases cannot be those of a run of `updates` (None: not known yet); None if they can."""
    for number, phase in enumerate(phases, start=2):
        if isinstance(phase.start, float) and phase.start >= 1:
            return (
                f"phase {number} of phases has start={phase.start:g}: give a share of the updates below 1, such as "
                "0.9, or a whole number of updates"
            )
    if updates is None:
        return None
    places = [0, *(phase.update(updates) for phase in phases), updates]
    for number, (start, stop) in enumerate(pairwise(places), start=1):
        if start >= stop:
            what = "the end of the run" if number == len(places) - 1 else f"the start of phase {number + 1}"
            return (
                f"phase {number} of phases has no update: it starts after update {start}, and {what} is at update "
                f"{stop}; give phases in the order of their start, each before the last update"
            )
    return None


@dataclass(frozen=True)
class OwnRate:
    """A stretch of a run with a learning rate of its own."""

    start: int
    """number of updates before it"""
    stop: int
    """number of updates at its end"""
    changes: Mapping[str, Any]
    """the settings of the optimizer that differ in it"""


@dataclass(frozen=True)
class PlannedPhase:
    """A phase in numbers."""

    config: "Config"
    """the settings in it, as those of a run without phases"""
    start: int
    """number of updates before it"""
    stop: int
    """number of updates at its end"""
    order: int
    """number of its order of rows: phases with the same shards and row length have one"""
    first: int
    """place of its first row in this order"""

    @property
    def end(self) -> int:
        """The place after its last row."""
        return self.first + (self.stop - self.start) * self.config.training.batch_size


def misfit(phase: Phase, run: "Config", there: "Config") -> str | None:
    """Why a phase does not go with its run; None if it does. `there` are the settings in it."""
    schedule, rows, size = phase.corruption.schedule, there.training.batch_size, there.training.micro_batch_size
    if isinstance(size, int) and rows % size:
        return f"batch_size ({rows}) must be a multiple of micro_batch_size ({size}); give the phase both"
    if given(phase.optimizer) and run.objective.has_own_rates:
        return (
            "optimizer.* would change the rates of both models alike, and objective.generator_optimizer is given: "
            "leave one of them out"
        )
    if (schedule or phase.corruption.cache) and not run.objective.uses_auxiliary:
        return (
            f"objective.kind={run.objective.kind} has no frozen auxiliary: leave corruption.schedule and "
            "corruption.cache out"
        )
    if schedule and not schedule.is_planned:
        return "a temperature of a phase must be known before the run: give numbers instead of auto or adaptive"
    if schedule:
        run.corruption.augmentation.check(schedule)
    if phase.corruption.cache and not run.corruption.cache:
        return "corruption.cache needs one for the first phase, too: give corruption.cache of the run"
    return None
