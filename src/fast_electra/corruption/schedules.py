"""The curriculum: how hard the replacements are at each progress (Fast-ELECTRA, section 3).

Notable:
- progress `u` is updates done / all updates, in [0, 1], so a schedule knows nothing of clocks or batches;
- a schedule is a pure function `u → T`; what the value acts on is the augmentation: the temperature itself, or the
  strength of dropout or attention dropping in the auxiliary (the paper's alternatives, section 5.1), at T = 1;
- a curriculum may also observe the run and keep a state: `adaptive.py` does, the schedules here do neither;
- the schedules of a line each share this file, so that they can be compared; every other one has a file of its own.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import cos, exp, pi
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import BeforeValidator, Field, model_validator

from fast_electra.corruption.augmentations import Augmentation, Difficulty
from fast_electra.parts import Part


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


class Schedule(Part):
    """How the temperature changes over a run. A part gives `temperature`; the rest has defaults."""

    default_kind: ClassVar[str] = "exponential"
    follows_run: ClassVar[bool] = False
    """whether the temperature depends on the run's metrics and not on the progress alone"""

    def temperature(self, progress: float) -> float:
        """T(u) at a progress in [0, 1].

        Raises:
            TypeError: it is not known before a run: T0 is still to be chosen, or the schedule follows the run.
        """
        raise TypeError(f"the temperature of {self} is not known before a run")

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest temperature of a run."""
        reached = [self.temperature(progress / 1000) for progress in range(1001)]
        return min(reached), max(reached)

    @property
    def is_planned(self) -> bool:
        """Whether `temperature` is known before a run."""
        return not (self.follows_run or self.is_automatic)

    @property
    def is_automatic(self) -> bool:
        """Whether T0 is still to be chosen by the auxiliary's entropy (`initial: auto`)."""
        return getattr(self, "initial", None) == "auto"

    @property
    def held_difficulty(self) -> float | None:
        """The difficulty in nats that it holds, if it holds one."""
        return None

    def with_initial(self, initial: float) -> Self:
        """With T0 = `initial` in place of auto; where T0 is a number, as it is."""
        return self.model_copy(update={"initial": initial}) if self.is_automatic else self

    def curriculum(self, augmentation: Augmentation) -> Curriculum:
        """What the run asks for difficulties."""
        return ScheduledCurriculum(self, augmentation)


@dataclass(frozen=True)
class ScheduledCurriculum:
    """A difficulty that falls by a schedule, whatever the run does."""

    schedule: Schedule
    augmentation: Augmentation

    @property
    def observes(self) -> bool:
        """Never."""
        return False

    def difficulty(self, progress: float) -> Difficulty:
        """What the augmentation makes of the temperature."""
        return self.augmentation.difficulty(self.schedule.temperature(progress), self.schedule.temperature(0.0))

    def observe(self, metrics: dict[str, float]) -> None:
        """Nothing: a schedule does not follow the run."""

    def state_dict(self) -> dict[str, float]:
        """Nothing: a schedule has no state."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Nothing: a schedule has no state."""


InitialTemperature = Annotated[float, Field(gt=0)] | Literal["auto"]


def _refuse_auto(value: Any) -> Any:
    if value == "auto":
        raise ValueError(
            "auto chooses where a temperature starts that falls to final, or an adaptive one: give a number here"
        )
    return value


class _FallingSchedule(Schedule):
    initial: InitialTemperature = 2.0
    """T0, the temperature at the start; auto: 1 to 2, by the auxiliary's entropy when the run starts"""
    final: float = Field(default=1.0, gt=0)
    """the temperature at the end (exponential: that it approaches)"""
    falling: bool = True
    """refuse a temperature that rises; false: allow it"""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.initial == "auto":
            if self.final > 1:
                raise ValueError(f"auto gives an initial from 1 on: give a final of at most 1, not {self.final}")
        elif self.falling and self.final > self.initial:
            raise ValueError(
                f"the temperature would rise from initial ({self.initial}) to final ({self.final}); "
                "give falling: false if that is meant"
            )
        return self

    def temperature(self, progress: float) -> float:
        if self.initial == "auto":
            return super().temperature(progress)
        return self.final + (self.initial - self.final) * self.share(progress)

    def share(self, progress: float) -> float:
        """Of the way from `final` to `initial`: 1 at the start."""
        raise NotImplementedError


class ExponentialSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * exp(-u / tau), the paper's schedule."""

    kind: Literal["exponential"] = "exponential"
    tau: float = Field(default=0.1, gt=0)
    """decay constant, as a share of the run"""

    def share(self, progress: float) -> float:
        return exp(-progress / self.tau)


class ConstantSchedule(Schedule):
    """T(u) = initial."""

    kind: Literal["constant"] = "constant"
    initial: Annotated[float, BeforeValidator(_refuse_auto)] = Field(default=1.0, gt=0)
    """T0, the temperature throughout"""

    def temperature(self, progress: float) -> float:
        return self.initial


class LinearSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * (1 - u)."""

    kind: Literal["linear"] = "linear"

    def share(self, progress: float) -> float:
        return 1.0 - progress


class PolynomialSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * (1 - u)^power."""

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(default=2.0, gt=0)
    """1 is linear; larger falls sooner"""

    def share(self, progress: float) -> float:
        return (1.0 - progress) ** self.power


class StepwiseSchedule(Schedule):
    """T(u) is `initial` until the first step, then each step's temperature in turn."""

    kind: Literal["stepwise"] = "stepwise"
    initial: Annotated[float, BeforeValidator(_refuse_auto)] = Field(default=2.0, gt=0)
    """T0, the temperature at the start"""
    steps: list[tuple[float, float]] = Field(default=[(0.1, 1.5), (0.25, 1.2), (0.5, 1.0)])
    """pairs of progress and temperature; both in order"""
    falling: bool = True
    """refuse a temperature that rises; false: allow it"""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        places = [place for place, _ in self.steps]
        if any(not 0 < place < 1 for place in places):
            raise ValueError(f"the progress of the steps must lie between 0 and 1, and is {_listed(places)}")
        if any(later <= earlier for earlier, later in pairwise(places)):
            raise ValueError(f"the progress of the steps must increase, and is {_listed(places)}")
        temperatures = [self.initial, *(value for _, value in self.steps)]
        if any(value <= 0 for value in temperatures):
            raise ValueError(
                f"the temperatures of the steps must be greater than 0, and are {_listed(temperatures[1:])}"
            )
        if self.falling and any(b > a for a, b in pairwise(temperatures)):
            raise ValueError(
                f"the temperature would rise from initial through the steps ({_listed(temperatures)}); "
                "give falling: false if that is meant"
            )
        return self

    def temperature(self, progress: float) -> float:
        reached = [value for place, value in self.steps if progress >= place]
        return reached[-1] if reached else self.initial


class CosineSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * (1 + cos(pi u)) / 2."""

    kind: Literal["cosine"] = "cosine"

    def share(self, progress: float) -> float:
        return (1.0 + cos(pi * progress)) / 2.0


def _listed(values: list[float]) -> str:
    return ", ".join(map(str, values))
