r"""A temperature schedule that falls to `final` several times, each time from a lower height.

fast-electra pretrain CONFIG --plugin examples/plugins/sawtooth.py --run RUN \
        corruption.schedule.kind=sawtooth corruption.schedule.teeth=4
"""

from typing import Literal

from pydantic import Field

from fast_electra.corruption.schedules import Schedule


class SawtoothSchedule(Schedule):
    """In each tooth T(u) falls linearly to `final`; the heights of the teeth fall linearly from `initial`."""

    kind: Literal["sawtooth"] = "sawtooth"
    initial: float = Field(default=2.0, gt=0)
    """T0, the temperature at the start"""
    final: float = Field(default=1.0, gt=0)
    """the temperature at the end of each tooth"""
    teeth: int = Field(default=4, ge=1)
    """number of teeth in a run"""

    def temperature(self, progress: float) -> float:
        """T(u): the height of the tooth, times the rest of the tooth."""
        tooth, within = divmod(min(progress, 1.0) * self.teeth, 1.0)
        if tooth == self.teeth:  # the end of the run
            return self.final
        height = (self.initial - self.final) * (1.0 - tooth / self.teeth)
        return self.final + height * (1.0 - within)
