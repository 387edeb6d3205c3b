"""The curriculum: temperature as a pure function of progress (Fast-ELECTRA, section 3).

Notable:
- progress `u` is updates done / all updates, in [0, 1], so a schedule knows nothing of clocks or batches;
- a curriculum may also observe the run and keep a state; the schedules here do neither.
"""

from dataclasses import dataclass
from math import exp
from typing import Protocol

from fast_electra.config.tree import ConstantSchedule, CorruptionConfig, ExponentialSchedule, Schedule


@dataclass(frozen=True)
class Difficulty:
    """How hard the replacements are: what a curriculum decides and a corruption source obeys."""

    temperature: float
    """T in softmax(l / T); smaller is harder"""
    dropout: float = 0.0
    """dropout rate on hidden states inside the auxiliary; larger is easier"""
    attention_dropping: float = 0.0
    """share of attention weights dropped inside the auxiliary; larger is easier"""


class Curriculum(Protocol):
    """Gives a difficulty for a progress; may follow the run's metrics, with a state that checkpoints carry."""

    @property
    def observes(self) -> bool:
        """Whether `observe` is to be called after every update (it costs a device synchronisation)."""
        ...

    def difficulty(self, progress: float) -> Difficulty:
        """Difficulty at a progress in [0, 1]."""
        ...

    def observe(self, metrics: dict[str, float]) -> None:
        """Take note of an update's metrics."""
        ...

    def state_dict(self) -> dict[str, float]:
        """Everything that `difficulty` depends on besides the progress."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a `state_dict`."""
        ...


def temperature(schedule: Schedule, progress: float) -> float:
    """T(u): `1 + (T0 - 1) exp(-u / tau)` for exponential, `T0` for constant."""
    match schedule:
        case ExponentialSchedule(initial=initial, final=final, tau=tau):
            return final + (initial - final) * exp(-progress / tau)
        case ConstantSchedule(initial=initial):
            return initial
        case _:
            raise NotImplementedError(schedule.kind)


def make_curriculum(config: CorruptionConfig) -> Curriculum:
    """The curriculum of a configuration."""
    return TemperatureCurriculum(config.schedule)


@dataclass(frozen=True)
class TemperatureCurriculum:
    """A temperature that falls by a schedule, whatever the run does."""

    schedule: Schedule

    @property
    def observes(self) -> bool:
        """Never."""
        return False

    def difficulty(self, progress: float) -> Difficulty:
        """Difficulty at a progress in [0, 1]."""
        return Difficulty(temperature(self.schedule, progress))

    def observe(self, metrics: dict[str, float]) -> None:
        """Nothing: a schedule does not follow the run."""

    def state_dict(self) -> dict[str, float]:
        """Nothing: a schedule has no state."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Nothing: a schedule has no state."""
