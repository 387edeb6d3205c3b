"""Schedules and curricula: the temperature at each progress of a run (Fast-ELECTRA, section 3).

Notable:
- the progress `u` is updates done / all updates, in [0, 1], so a schedule does not depend on clocks or batches;
- a schedule is a pure function `u → T`. The augmentation (augmentations.py) says what the value acts on: the
  temperature itself, or the strength of dropout or attention dropping in the auxiliary, at T = 1;
- a curriculum may observe the run and have a state: `adaptive.py` does both, the schedules here neither;
- the schedules whose formula takes one line are all in this file, so that they can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, exp, pi
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import BeforeValidator, Field, model_validator

from fast_electra.corruption.augmentations import Augmentation, Difficulty
from fast_electra.parts import Part


class Curriculum(Protocol):
    """Gives a difficulty for a progress; may follow the run's metrics, with a state that checkpoints contain."""

    @property
    def observes(self) -> bool:
        """Whether `observe` must be called after every update, which costs a device synchronisation."""
        ...

    def difficulty(self, progress: float) -> Difficulty:
        """The difficulty at a progress in [0, 1]."""
        ...

    def observe(self, metrics: dict[str, float]) -> None:
        """Follow the metrics of an update, means by name."""
        ...

    def state_dict(self) -> dict[str, float]:
        """The state: everything that `difficulty` depends on besides the progress."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a `state_dict`."""
        ...


class Schedule(Part):
    """How the temperature changes over a run. A kind defines `temperature`; the rest has defaults."""

    default_kind: ClassVar[str] = "exponential"
    follows_run: ClassVar[bool] = False
    """whether the temperature depends on the run's metrics, not only on the progress"""

    def temperature(self, progress: float) -> float:
        """T(u) at a progress in [0, 1].

        Raises:
            TypeError: it is not known before a run, since T0 is `auto` or the schedule follows the run.
        """
        raise TypeError(f"the temperature of {self} is not known before a run")

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest temperature that a run may have."""
        reached = [self.temperature(progress / 1000) for progress in range(1001)]
        return min(reached), max(reached)

    @property
    def is_planned(self) -> bool:
        """Whether `temperature` is known before a run."""
        return not (self.follows_run or self.is_automatic)

    @property
    def is_automatic(self) -> bool:
        """Whether the auxiliary's entropy chooses T0 when the run starts (`initial: auto`)."""
        return getattr(self, "initial", None) == "auto"

    @property
    def held_difficulty(self) -> float | None:
        """The difficulty in nats that an adaptive schedule keeps; None for other schedules."""
        return None

    def with_initial(self, initial: float) -> Self:
        """The schedule with T0 = `initial` instead of auto; unchanged if T0 is a number."""
        return self.model_copy(update={"initial": initial}) if self.is_automatic else self

    def curriculum(self, augmentation: Augmentation) -> Curriculum:
        """The curriculum of a run with this schedule."""
        return ScheduledCurriculum(self, augmentation)


@dataclass(frozen=True)
class ScheduledCurriculum:
    """A difficulty that follows a schedule and does not depend on the run's metrics."""

    schedule: Schedule
    augmentation: Augmentation

    @property
    def observes(self) -> bool:
        """False: a schedule does not follow the run."""
        return False

    def difficulty(self, progress: float) -> Difficulty:
        """The difficulty that the augmentation gives at the schedule's temperature."""
        return self.augmentation.difficulty(self.schedule.temperature(progress), self.schedule.temperature(0.0))

    def observe(self, metrics: dict[str, float]) -> None:
        """Does nothing: a schedule does not follow the run."""

    def state_dict(self) -> dict[str, float]:
        """Empty: a schedule has no state."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Does nothing: a schedule has no state."""


@dataclass(frozen=True)
class PhasedCurriculum:
    """The curriculum of a run in which some phases have their own."""

    whole: Curriculum
    """of the run; it alone observes, and has a state"""
    own: Sequence[tuple[float, float, Curriculum]]
    """the progress of the run at which a phase begins and ends, and its curriculum, over the phase"""

    @property
    def observes(self) -> bool:
        """Whether the run's curriculum observes."""
        return self.whole.observes

    def difficulty(self, progress: float) -> Difficulty:
        """The difficulty at a progress of the run."""
        for start, stop, curriculum in self.own:
            if start <= progress < stop or progress == stop == 1:
                return curriculum.difficulty((progress - start) / (stop - start))
        return self.whole.difficulty(progress)

    def observe(self, metrics: dict[str, float]) -> None:
        """Pass the metrics to the run's curriculum."""
        self.whole.observe(metrics)

    def state_dict(self) -> dict[str, float]:
        """The state of the run's curriculum."""
        return self.whole.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue the run's curriculum."""
        self.whole.load_state_dict(state)


InitialTemperature = Annotated[float, Field(gt=0)] | Literal["auto"]


def _refuse_auto(value: Any) -> Any:
    if value == "auto":
        raise ValueError("auto is possible only for schedules that fall to final, and for adaptive: give a number here")
    return value


class _FallingSchedule(Schedule):
    initial: InitialTemperature = 2.0
    """T0, the temperature at the start; auto: the run chooses 1 to 2 by the auxiliary's entropy"""
    final: float = Field(default=1.0, gt=0)
    """the temperature at the end; exponential: the temperature that it approaches"""
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
                "give falling: false if you want this"
            )
        return self

    def temperature(self, progress: float) -> float:
        if self.initial == "auto":
            return super().temperature(progress)
        return self.final + (self.initial - self.final) * self.share(progress)

    def share(self, progress: float) -> float:
        """Share of the way from `final` to `initial`: 1 at the start."""
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
    """1 is linear; a larger power falls earlier"""

    def share(self, progress: float) -> float:
        return (1.0 - progress) ** self.power


class StepwiseSchedule(Schedule):
    """T(u) is `initial` until the first step, and then the temperature of the last step reached."""

    kind: Literal["stepwise"] = "stepwise"
    initial: Annotated[float, BeforeValidator(_refuse_auto)] = Field(default=2.0, gt=0)
    """T0, the temperature at the start"""
    steps: list[tuple[float, float]] = Field(default=[(0.1, 1.5), (0.25, 1.2), (0.5, 1.0)])
    """pairs of progress and temperature; progress increases, and temperature falls"""
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
                "give falling: false if you want this"
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
