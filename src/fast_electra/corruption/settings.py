"""The settings of corruption: masks, curriculum, sampler and cache."""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from fast_electra.corruption.augmentations import Augmentation, TemperatureAugmentation
from fast_electra.corruption.masking_kinds import Masking, RandomMasking
from fast_electra.corruption.schedules import ExponentialSchedule, Schedule
from fast_electra.parts import Section


class CorruptionConfig(Section):
    """How sequences are corrupted."""

    masking: Masking = RandomMasking()
    schedule: Schedule = ExponentialSchedule()
    augmentation: Augmentation = TemperatureAugmentation()
    sampler: Literal["inverse_cdf", "race", "triton"] = "inverse_cdf"
    """race: one draw for every temperature, as in a cache; triton: one kernel with the output layer, on a CUDA GPU"""
    race_interval: tuple[float, float] = (1.0, 3.0)
    """lowest and highest temperature of such a draw"""
    cache: Path | None = None
    """folder written by `corrupt`: replacements are read from it, and no auxiliary runs"""

    @model_validator(mode="after")
    def _temperatures_replay(self) -> Self:
        low, high = self.race_interval
        if not 0 < low <= 1 <= high or low == high:
            raise ValueError(
                f"race_interval ([{low}, {high}]) must be a lowest temperature above 0 and a highest, with 1 between "
                "them or at an end: validations are at T = 1"
            )
        if self.replays and self.augmentation.acts_inside:
            raise ValueError(
                f"{self.augmentation.kind} changes the auxiliary at every update, and a race or cache holds its "
                "output for all temperatures: use augmentation.kind: temperature, or sampler: inverse_cdf and no cache"
            )
        return self

    @property
    def replays(self) -> bool:
        """Whether replacements come from temperature paths, drawn on the fly or cached."""
        return self.sampler == "race" or self.cache is not None

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        self.augmentation.check(self.schedule)
        return self

    def with_initial(self, initial: float) -> Self:
        """These settings with T0 = `initial` if T0 is auto."""
        return self.model_copy(update={"schedule": self.schedule.with_initial(initial)})
