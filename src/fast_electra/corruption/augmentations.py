"""Augmentations: what the value of a schedule acts on (Fast-ELECTRA, section 5.1).

It is the temperature of the replacements (the paper's method), or the strength of dropout or attention dropping inside
the auxiliary (the paper's alternatives).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from fast_electra.parts import Part

if TYPE_CHECKING:
    from fast_electra.corruption.schedules import Schedule


@dataclass(frozen=True)
class Difficulty:
    """How hard the replacements are: a curriculum gives it, and a corruption source applies it."""

    temperature: float
    """T in softmax(l / T); smaller is harder"""
    dropout: float = 0.0
    """dropout rate on hidden states inside the auxiliary; larger is easier"""
    attention_dropping: float = 0.0
    """share of attention weights dropped inside the auxiliary; larger is easier"""

    def logged(self) -> dict[str, float]:
        """The values for the log, by name: the temperature, and the strengths that are not zero."""
        strengths = {"dropout": self.dropout, "attention_dropping": self.attention_dropping}
        return {"temperature": self.temperature} | {name: value for name, value in strengths.items() if value}


class Augmentation(Part):
    """How a temperature becomes a difficulty. A kind defines `difficulty`; the rest has defaults."""

    default_kind: ClassVar[str] = "temperature"
    acts_inside: ClassVar[bool] = False
    """whether it acts inside the auxiliary, which must then be a model whose output cannot be cached"""

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        """The difficulty at the schedule's temperature T(u), where `initial` is T0."""
        raise NotImplementedError

    def strong(self) -> Difficulty:
        """A difficulty that changes the output of any suitable auxiliary, for a check of the auxiliary."""
        return self.difficulty(2.0, 2.0)

    def check(self, schedule: "Schedule") -> None:
        """Raise ValueError, with one sentence, if the schedule's temperatures give no valid difficulty."""


class TemperatureAugmentation(Augmentation):
    """The schedule's value is the temperature of the replacements."""

    kind: Literal["temperature"] = "temperature"

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        return Difficulty(temperature)


class _Disturbance(Augmentation):
    acts_inside = True

    def share(self, temperature: float, initial: float) -> float:
        """Share of the strength at the start, in [0, 1]; `check` makes sure of the bounds."""
        return (temperature - 1.0) / (initial - 1.0)

    def check(self, schedule: "Schedule") -> None:
        if schedule.follows_run:
            raise ValueError(
                f"{schedule.kind} controls only the temperature; give {self.kind} another schedule.kind, "
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
    """Dropout in the auxiliary. Its rate is `strength` times (T - 1) / (T0 - 1), so it falls as T would."""

    kind: Literal["dropout"] = "dropout"
    strength: float = Field(default=0.3, gt=0, lt=1)
    """dropout rate at the start"""

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        return Difficulty(1.0, dropout=self.strength * self.share(temperature, initial))

    def strong(self) -> Difficulty:
        return Difficulty(1.0, dropout=0.9)


class AttentionDroppingAugmentation(_Disturbance):
    """Drops attention weights of the auxiliary. Their share is `strength` times (T - 1) / (T0 - 1)."""

    kind: Literal["attention_dropping"] = "attention_dropping"
    strength: float = Field(default=0.3, gt=0, lt=1)
    """share of the attention weights dropped at the start"""

    def difficulty(self, temperature: float, initial: float) -> Difficulty:
        return Difficulty(1.0, attention_dropping=self.strength * self.share(temperature, initial))

    def strong(self) -> Difficulty:
        return Difficulty(1.0, attention_dropping=0.9)
