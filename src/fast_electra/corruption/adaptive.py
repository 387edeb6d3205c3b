"""The adaptive curriculum: the temperature follows the main model, as low as a target difficulty allows. Ours, not the
paper's.

Notable:
- difficulty d is the RTD loss at masked positions in nats, replaced and original tokens weighing the same: at a low
  temperature few tokens are replaced, at a high one few are original, and neither may drown the other;
- d falls when T rises (replacements are easier to see through) and when the model learns, so an integral controller on
  log T settles where the moving average of d is the target. A slower average of the error counts beside it, so that a
  model that learns steadily is not always a step ahead:
      e = d / target - 1,  k = gain · (1 - memory)
      lasting += k / 8 · (e - lasting),  log T += k · (e + lasting);
- k is relative to the memory, so that no pair of them oscillates: with d proportional to T^-s, the damping is about
  1 / (2 √(gain · s)), and s was 0.4 (T = 3) to 1.1 (T = 1) where we measured it;
- T is kept between its bounds, where `lasting` is 0, so nothing winds up while the target is out of reach;
- the averages are sums over counts. An update without tokens of a kind (at T = 4 nearly all are
  replaced) leaves that kind's average as it was, and a single token counts as one token.
"""

from dataclasses import dataclass, field
from math import exp
from typing import Literal, Self

from pydantic import Field, model_validator

from fast_electra.corruption.augmentations import Augmentation, Difficulty
from fast_electra.corruption.schedules import Curriculum, InitialTemperature, Schedule

# d / target - 1 counts as one at most: an untrained model's loss says little, whatever its size.
_LARGEST_ERROR = 1.0
# The lasting error is averaged over 8 / k updates: long enough to forget the large errors of the start.
_LASTING = 8.0
_KINDS = ("replaced", "kept")


class AdaptiveSchedule(Schedule):
    """The temperature follows the main model: as low as a target difficulty allows."""

    follows_run = True

    kind: Literal["adaptive"] = "adaptive"
    initial: InitialTemperature = 2.0
    """T0, the temperature at the start; auto: as for the others, between lowest and highest"""
    target: float = Field(default=0.7, gt=0)
    """difficulty to hold: nats of RTD loss at masked positions, replaced and original tokens weighing the same"""
    lowest: float = Field(default=1.0, gt=0)
    """the temperature never goes below"""
    highest: float = Field(default=4.0, gt=0)
    """the temperature never goes above"""
    falling: bool = False
    """true: the temperature never rises, so a target that was passed by chance is reached again by learning alone"""
    memory: float = Field(default=0.8, ge=0, lt=1)
    """decay of the moving average of the difficulty, per update"""
    gain: float = Field(default=0.5, gt=0, le=2)
    """how fast log T moves: by this much in 1 / (1 - memory) updates while the difficulty is twice the target"""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest}) must not be above highest ({self.highest})")
        if self.initial != "auto" and not self.lowest <= self.initial <= self.highest:
            raise ValueError(
                f"initial ({self.initial}) must lie between lowest ({self.lowest}) and highest ({self.highest})"
            )
        return self

    def bounds(self) -> tuple[float, float]:
        return self.lowest, self.highest

    def with_initial(self, initial: float) -> Self:
        return super().with_initial(min(max(initial, self.lowest), self.highest))

    @property
    def held_difficulty(self) -> float:
        return self.target

    def curriculum(self, augmentation: Augmentation) -> Curriculum:
        return AdaptiveCurriculum(self)


@dataclass
class AdaptiveCurriculum:
    """A temperature that holds the difficulty of `settings.target`."""

    settings: AdaptiveSchedule
    state: dict[str, float] = field(init=False)
    """the next update's temperature; the lasting error; loss and count of replaced and kept tokens, as decaying sums"""

    def __post_init__(self) -> None:
        sums = {f"{kind}_{part}": 0.0 for kind in _KINDS for part in ("loss", "count")}
        assert self.settings.initial != "auto"  # chosen before a curriculum is made
        self.state = {"temperature": self.settings.initial, "lasting": 0.0} | sums

    @property
    def observes(self) -> bool:
        """Always."""
        return True

    def difficulty(self, progress: float) -> Difficulty:
        """The temperature that the updates so far have led to; the progress doesn't matter."""
        return Difficulty(self.state["temperature"])

    def observe(self, metrics: dict[str, float]) -> None:
        """Move the temperature by an update's `rtd_loss_replaced`, `rtd_loss_kept` (means) and `replaced_fraction`."""
        if "replaced_fraction" not in metrics:  # an update without a masked token tells nothing
            return
        settings, state = self.settings, self.state
        replaced = metrics["replaced_fraction"]
        for kind, share in (("replaced", replaced), ("kept", 1.0 - replaced)):
            loss = metrics.get(f"rtd_loss_{kind}", 0.0) * share  # a kind without tokens has no mean
            for name, now in ((f"{kind}_loss", loss), (f"{kind}_count", share)):
                state[name] = settings.memory * state[name] + (1.0 - settings.memory) * now
        means = [state[f"{kind}_loss"] / state[f"{kind}_count"] for kind in _KINDS if state[f"{kind}_count"]]
        error = min(sum(means) / len(means) / settings.target - 1.0, _LARGEST_ERROR)
        gain = settings.gain * (1.0 - settings.memory)
        lasting = state["lasting"] + gain / _LASTING * (error - state["lasting"])
        before = state["temperature"]
        wanted = before * exp(gain * (error + lasting))
        highest = before if settings.falling else settings.highest
        state["temperature"] = min(max(wanted, settings.lowest), highest)
        state["lasting"] = lasting if state["temperature"] == wanted else 0.0

    def state_dict(self) -> dict[str, float]:
        """The temperature and the averages."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue exactly: JSON keeps every bit of a float."""
        self.state = dict(state)
