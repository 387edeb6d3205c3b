"""What a schedule's temperature acts on: the replacements' temperature itself, or the strength of a disturbance inside
the auxiliary (Fast-ELECTRA, section 5.1).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from fast_electra.parts import Part

if TYPE_CHECKING:
    from fast_electra.corruption.schedules import Schedule


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


class Augmentation(Part):
    """How a temperature becomes a difficulty. A part gives `difficulty`; the rest has defaults."""

    default_kind: ClassVar[str] = "temperature"
    acts_inside: ClassVar[bool] = False
    """whether it disturbs the auxiliary: it then needs one that is a model, and its output can't be cached"""

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        """The difficulty where the schedule has `temperature`, T(u), and began at `initial`, T0."""
        raise NotImplementedError

    def strong(self) -> Difficulty:
        """A difficulty that changes the output of any auxiliary that can be disturbed."""
        return self.difficulty(2.0, 2.0)

    def check(self, schedule: "Schedule") -> None:
        """Raise ValueError with one sentence where this schedule's temperatures make no difficulty."""


class TemperatureAugmentation(Augmentation):
    """The schedule's value is the temperature of the replacements."""

    kind: Literal["temperature"] = "temperature"

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        return Difficulty(temperature)


class _Disturbance(Augmentation):
    acts_inside = True

    def share(self, temperature: float, initial: float) -> float:
        """Of the strength at the start; in [0, 1], as `check` makes sure."""
        return (temperature - 1.0) / (initial - 1.0)

    def check(self, schedule: "Schedule") -> None:
        if schedule.follows_run:
            raise ValueError(
                f"{schedule.kind} steers the temperature alone; give {self.kind} another schedule.kind, "
                "or augmentation.kind: temperature"
            )
        rule = f"{self.kind} has the share (T - 1) / (T0 - 1) of its strength at the start"
        if schedule.is_automatic:
            raise ValueError(f"{rule}: give schedule.initial (T0) as a number, not auto")
        initial, (lowest, highest) = schedule.temperature(0.0), schedule.bounds()
        if initial <= 1:
            raise ValueError(f"{rule}: give a schedule.initial (T0) above 1, not {initial}")
        if lowest < 1 or highest > initial:
            wrong = lowest if lowest < 1 else highest
            raise ValueError(f"{rule}: give temperatures between 1 and schedule.initial ({initial}), not {wrong:.4g}")


class DropoutAugmentation(_Disturbance):
    """Dropout in the auxiliary, of a strength that falls as the temperature would: (T - 1) / (T0 - 1) of `strength`."""

    kind: Literal["dropout"] = "dropout"
    strength: float = Field(default=0.3, gt=0, lt=1)
    """dropout rate at the start"""

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        return Difficulty(1.0, dropout=self.strength * self.share(temperature, initial))

    def strong(self) -> Difficulty:
        return Difficulty(1.0, dropout=0.9)


class AttentionDroppingAugmentation(_Disturbance):
    """Attention weights of the auxiliary are dropped, by a share that falls as dropout's strength does."""

    kind: Literal["attention_dropping"] = "attention_dropping"
    strength: float = Field(default=0.3, gt=0, lt=1)
    """share of the attention weights dropped at the start"""

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        return Difficulty(1.0, attention_dropping=self.strength * self.share(temperature, initial))

    def strong(self) -> Difficulty:
        return Difficulty(1.0, attention_dropping=0.9)
