"""The curriculum: how hard the replacements are at each progress (Fast-ELECTRA, section 3).

Notable:
- progress `u` is updates done / all updates, in [0, 1], so a schedule knows nothing of clocks or batches;
- a schedule is a pure function `u → T`; what the value acts on is the augmentation: the temperature itself, or the
  strength of dropout or attention dropping in the auxiliary (the paper's alternatives, section 5.1), at T = 1;
- a curriculum may also observe the run and keep a state: `adaptive.py` does, the schedules here do neither.
"""

from dataclasses import dataclass
from math import cos, exp, pi
from typing import Protocol

from fast_electra.config.tree import (
    AdaptiveSchedule,
    AttentionDroppingAugmentation,
    Augmentation,
    ConstantSchedule,
    CorruptionConfig,
    CosineSchedule,
    DropoutAugmentation,
    ExponentialSchedule,
    LinearSchedule,
    PolynomialSchedule,
    Schedule,
    StepwiseSchedule,
    TemperatureAugmentation,
)


@dataclass(frozen=True)
class Difficulty:
    """How hard the replacements are: what a curriculum decides and a corruption source obeys."""

    temperature: float
    """T in softmax(l / T); smaller is harder"""
    dropout: float = 0.0
    """dropout rate on hidden states inside the auxiliary; larger is easier"""
    attention_dropping: float = 0.0
    """share of attention weights dropped inside the auxiliary; larger is easier"""

    def logged(self) -> dict[str, float]:
        """For the log: the temperature, and the strengths that are not zero."""
        strengths = {"dropout": self.dropout, "attention_dropping": self.attention_dropping}
        return {"temperature": self.temperature} | {name: value for name, value in strengths.items() if value}


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
    """T(u) at a progress in [0, 1]; the equations stand with the settings (`config/tree.py`).

    Raises:
        TypeError: the schedule is adaptive: its temperature is no function of progress; or T0 is still to be chosen.
    """
    match schedule:
        case ConstantSchedule(initial=float(initial)):
            return initial
        case LinearSchedule(initial=float(initial), final=final):
            return final + (initial - final) * (1.0 - progress)
        case ExponentialSchedule(initial=float(initial), final=final, tau=tau):
            return final + (initial - final) * exp(-progress / tau)
        case PolynomialSchedule(initial=float(initial), final=final, power=power):
            return final + (initial - final) * (1.0 - progress) ** power
        case CosineSchedule(initial=float(initial), final=final):
            return final + (initial - final) * (1.0 + cos(pi * progress)) / 2.0
        case StepwiseSchedule(initial=float(initial), steps=steps):
            reached = [value for place, value in steps if progress >= place]
            return reached[-1] if reached else initial
    raise TypeError(f"the temperature of {schedule} is not known before a run")


def with_initial(config: CorruptionConfig, initial: float) -> CorruptionConfig:
    """With T0 = `initial` in place of auto, within an adaptive schedule's bounds; where T0 is a number, as it is."""
    schedule = config.schedule
    if schedule.initial != "auto":
        return config
    if isinstance(schedule, AdaptiveSchedule):
        initial = min(max(initial, schedule.lowest), schedule.highest)
    return config.model_copy(update={"schedule": schedule.model_copy(update={"initial": initial})})


_TEMPERATURE = TemperatureAugmentation()


@dataclass(frozen=True)
class ScheduledCurriculum:
    """A difficulty that falls by a schedule, whatever the run does."""

    schedule: Schedule
    augmentation: Augmentation = _TEMPERATURE

    @property
    def observes(self) -> bool:
        """Never."""
        return False

    def difficulty(self, progress: float) -> Difficulty:
        """The temperature; or T = 1 and a strength that is (T(u) - 1) / (T0 - 1) of the one at the start."""
        value = temperature(self.schedule, progress)
        match self.augmentation:
            case TemperatureAugmentation():
                return Difficulty(value)
            case DropoutAugmentation(strength=strength):
                return Difficulty(1.0, dropout=strength * self._share(value))
            case AttentionDroppingAugmentation(strength=strength):
                return Difficulty(1.0, attention_dropping=strength * self._share(value))

    def observe(self, metrics: dict[str, float]) -> None:
        """Nothing: a schedule does not follow the run."""

    def state_dict(self) -> dict[str, float]:
        """Nothing: a schedule has no state."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Nothing: a schedule has no state."""

    def _share(self, value: float) -> float:
        # In [0, 1]: the configuration refuses T0 = 1 here, and temperatures outside [1, T0].
        return (value - 1.0) / (temperature(self.schedule, 0.0) - 1.0)
