"""The parts of a run once they are built."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import nn
from transformers import PreTrainedTokenizerBase

from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.data.phases import PhasedSchedule
from fast_electra.data.shards import TokenShards
from fast_electra.models.rotary import PhasedRotary
from fast_electra.objectives.base import Objective, Prepared


@dataclass(frozen=True)
class Assembled:
    """The parts of a run, built from its configuration."""

    objective: Objective
    schedule: PhasedSchedule
    seed: int
    """seed of masks and noise, and of `schedule`: made from `training.seed` and the stage (the objective's kind)"""
    phases: list["PhaseText"]
    """the text of each phase; a run without phases has one"""
    tokenizer: PreTrainedTokenizerBase
    corruption: CorruptionConfig
    """the configuration's settings; with a frozen auxiliary, the chosen T0 replaces `schedule.initial=auto`"""
    auxiliary_digest: str | None
    """digest of the auxiliary's weights and configuration; None without an auxiliary and for one that is counted"""
    auxiliary_measures: dict[str, float]
    """result of `corruption.auxiliary.measure` on some validation rows; empty without an auxiliary"""
    main_digest: str | None
    """digest of the model that the main model continues from; None for fresh weights and for a hub name"""
    notes: list[str]
    """sentences for the user to read before the run starts"""
    rotary: PhasedRotary
    """the positions of the models in each phase"""
    frozen: Sequence[nn.Module]
    """models that are not trained and can be compiled"""

    @property
    def shards(self) -> TokenShards:
        """The shards of the first phase."""
        return self.phases[0].shards

    @property
    def validation(self) -> list[Prepared]:
        """The validation rows of the first phase."""
        return self.phases[0].validation

    def with_micro_batches(self, sizes: Sequence[int]) -> Self:
        """The parts with validation rows in micro-batches of these sizes, one for each phase."""
        phases = [
            replace(text, validation=[micro for batch in text.validation for micro in batch.split(size)])
            for text, size in zip(self.phases, sizes, strict=True)
        ]
        return replace(self, phases=phases)

    @property
    def data_digest(self) -> str:
        """Digest of the text of all phases."""
        return "+".join(dict.fromkeys(phase.shards.fingerprint for phase in self.phases))


@dataclass(frozen=True)
class PhaseText:
    """What the updates of a phase read, and what validates it."""

    shards: TokenShards
    validation: list[Prepared]
    validation_starts: list[int]
    """number of the first validation row of each source, and the number of all validation rows"""
