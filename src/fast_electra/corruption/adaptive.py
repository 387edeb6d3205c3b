"""The adaptive curriculum: the lowest temperature that keeps a target difficulty for the main model. Not in the paper.

Notable:
- the difficulty d is the RTD loss at masked positions in nats, with equal weight for replaced and original tokens,
  since few tokens are replaced at a low temperature, and few are original at a high one;
- d falls when T rises (replacements are easier to detect) and when the model learns. So an integral controller on log T
  settles where the moving average of d is the target. A slower average of the error is added, since otherwise T would
  always lag behind a model that learns steadily:
      e = d / target - 1,  k = gain · (1 - memory)
      lasting += k / 8 · (e - lasting),  log T += k · (e + lasting);
- k contains 1 - memory, so that T oscillates for no pair of gain and memory: with d proportional to T^-s, the damping
  is about 1 / (2 √(gain · s)); we measured s from 0.4 (T = 3) to 1.1 (T = 1);
- T stays between its bounds. At a bound `lasting` is 0, so the error does not accumulate while the target is out of
  reach;
- the averages are sums divided by counts, so each token has the same weight, and an update without tokens of a kind
  (at T = 4 nearly all are replaced) does not change the average of this kind.
"""

from dataclasses import dataclass, field
from math import exp
from typing import Literal, Self

from pydantic import Field, model_validator

from fast_electra.corruption.augmentations import Augmentation, Difficulty
from fast_electra.corruption.schedules import Curriculum, InitialTemperature, Schedule

# Upper bound of d / target - 1: the size of an untrained model's loss says little.
_LARGEST_ERROR = 1.0
# The lasting error is averaged over 8 / k updates: long enough to forget the large errors of the start.
_LASTING = 8.0
_KINDS = ("replaced", "kept")


class AdaptiveSchedule(Schedule):
    """The lowest temperature that keeps a target difficulty for the main model."""

    follows_run = True

    kind: Literal["adaptive"] = "adaptive"
    initial: InitialTemperature = 2.0
    """T0, the temperature at the start, between lowest and highest; auto: by the auxiliary's entropy"""
    target: float = Field(default=0.7, gt=0)
    """difficulty to keep: RTD loss in nats at masked positions, replaced and original tokens weighted equally"""
    lowest: float = Field(default=1.0, gt=0)
    """lowest temperature"""
    highest: float = Field(default=4.0, gt=0)
    """highest temperature"""
    falling: bool = False
    """true: the temperature never rises, even if the difficulty exceeds the target"""
    memory: float = Field(default=0.8, ge=0, lt=1)
    """decay of the difficulty's moving average, per update"""
    gain: float = Field(default=0.5, gt=0, le=2)
    """change of log T in 1 / (1 - memory) updates while the difficulty is twice the target"""

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
    """A temperature that keeps the difficulty at `settings.target`."""

    settings: AdaptiveSchedule
    state: dict[str, float] = field(init=False)
    """temperature of the next update; lasting error; decaying sums of loss and count, of replaced and kept tokens"""

    def __post_init__(self) -> None:
        sums = {f"{kind}_{part}": 0.0 for kind in _KINDS for part in ("loss", "count")}
        assert self.settings.initial != "auto"  # chosen before a curriculum is made
        self.state = {"temperature": self.settings.initial, "lasting": 0.0} | sums

    @property
    def observes(self) -> bool:
        """True: the temperature follows the metrics."""
        return True

    def difficulty(self, progress: float) -> Difficulty:
        """The temperature after the updates so far, whatever the progress."""
        return Difficulty(self.state["temperature"])

    def observe(self, metrics: dict[str, float]) -> None:
        """Change the temperature by the means `rtd_loss_replaced`, `rtd_loss_kept` and `replaced_fraction`."""
        if "replaced_fraction" not in metrics:  # no token was masked in this update
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
        """The temperature and the averages, plain numbers."""
        return dict(self.state)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a `state_dict`, exactly: JSON keeps every bit of a float."""
        self.state = dict(state)
