"""The configuration tree: every key, its type, its default and what it means. Parts bring their own (parts.py).

Notable:
- the descriptions here are the comments of `config show`, the help of `pretrain --help` and the JSON Schema;
- a model never holds a default that belongs to another model's size: shapes and rates come from presets;
- the parts of the package are registered by being imported here.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

import fast_electra.corruption.adaptive  # noqa: F401 - registers its schedule
from fast_electra.corruption.augmentations import Augmentation, TemperatureAugmentation
from fast_electra.corruption.auxiliaries import AutoAuxiliary, AuxiliaryConfig
from fast_electra.corruption.maskings import Masking, RandomMasking
from fast_electra.corruption.schedules import ExponentialSchedule, Schedule
from fast_electra.models.optimizers import Optimizer
from fast_electra.models.shapes import ShapeConfig
from fast_electra.models.shapes import with_layers as with_layers  # loading merges by it
from fast_electra.parts import Section, when_registered
from fast_electra.training.objectives import ElectraObjective, FastElectraObjective, ObjectiveConfig


class TokenizerConfig(Section):
    """The tokenizer: an existing one by `path`, or one trained on the corpus."""

    path: str | None = None
    """folder or hub name of an existing tokenizer; empty: train one on the corpus"""
    kind: Literal["text", "code"] = "text"
    """pre-tokenisation of a trained one: text, or code (indentation and runs of punctuation are tokens)"""
    vocabulary_size: int = Field(default=30522, ge=64)
    """number of tokens of a trained one, special tokens included"""


class DataConfig(Section):
    """Text, tokens and rows."""

    sources: list[Path] = Field(default=[])
    """files and folders of text, read by `data build`"""
    format: Literal["auto", "text", "code", "jsonl"] = "auto"
    """auto: by file name; text: a blank line or a file ends a document; code: a file is one; jsonl: a line is one"""
    text_field: str = "text"
    """the key of the text in JSON lines"""
    invalid_utf8: Literal["replace", "refuse"] = "replace"
    """what to do with bytes that are not UTF-8"""
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation_fraction: float = Field(default=0.01, gt=0, lt=0.5)
    """share of the documents kept for validation, chosen by a digest of each document's text"""
    shards: Path | None = None
    """folder of token shards, written by `data build` and read by `pretrain`"""
    length: int = Field(default=128, ge=8)
    """tokens of a row, special tokens included"""
    attention: Literal["packed", "document"] = "packed"
    """packed: tokens see the whole row; document: only their own document"""
    workers: int | None = Field(default=None, ge=1)
    """processes that tokenise; empty: one a core"""


class ModelConfig(ShapeConfig):
    """The model that is trained and exported."""

    embeddings: Literal["fresh", "copied", "auxiliary_plus_delta"] = "fresh"
    """token embeddings: fresh; copied from the auxiliary; or its frozen table plus a trained delta (same width)"""
    start: Literal["fresh", "auxiliary"] = "fresh"
    """auxiliary: start every weight that the auxiliary has under the same name and shape from it"""
    freeze: Literal["none", "encoder"] = "none"
    """encoder: train the head alone, as for a vocabulary head on an encoder that has none"""


class CorruptionConfig(Section):
    """How sequences are corrupted."""

    masking: Masking = RandomMasking()
    schedule: Schedule = ExponentialSchedule()
    augmentation: Augmentation = TemperatureAugmentation()
    sampler: Literal["inverse_cdf", "race"] = "inverse_cdf"
    """race: one draw for every temperature, which is what a cache holds; the same distribution, other draws"""
    race_interval: tuple[float, float] = (1.0, 3.0)
    """lowest and highest temperature of such a draw"""
    cache: Path | None = None
    """folder that `corrupt` wrote: replacements are read from it, and no auxiliary is run"""

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
        """Whether replacements come from temperature paths: drawn on the fly, or cached."""
        return self.sampler == "race" or self.cache is not None

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        self.augmentation.check(self.schedule)
        return self

    def with_initial(self, initial: float) -> Self:
        """With T0 = `initial` where it is auto."""
        return self.model_copy(update={"schedule": self.schedule.with_initial(initial)})


class TrainingConfig(Section):
    """The loop: budget, batch, precision, and how often it reports."""

    updates: int | None = Field(default=None, ge=1)
    """budget in updates (optimizer steps)"""
    tokens: int | None = Field(default=None, ge=1)
    """budget in tokens, turned into updates at the start"""
    flops: float | None = Field(default=None, gt=0)
    """budget in floating-point operations of the whole step, turned into updates at the start"""
    hours: float | None = Field(default=None, gt=0)
    """budget in hours, turned into updates once, by the speed of a few updates at the start"""
    batch_size: int = Field(ge=1)
    """sequences of an update"""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """sequences that go through the model at a time; empty: the whole batch"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of weights, data order, masks and noise"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA where there is one, else the CPU; mps (Apple) is allowed but untested"""
    precision: Literal["auto", "float32", "bfloat16", "bfloat16_autocast"] = "auto"
    """bfloat16: weights in bfloat16 with float32 masters; auto: by device and instruction set"""
    compile: bool = False
    """torch.compile the models: pays in runs of many minutes"""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; empty: one a core. Part of the run: another number gives another rounding"""
    log_every: int = Field(default=10, ge=1)
    """updates between two lines of metrics"""
    validate_every: int | None = Field(default=None, ge=1)
    """updates between two validations; empty: at the end only"""
    validation_sequences: int = Field(default=256, ge=1)
    """rows of a validation, the same each time"""
    checkpoint_every: int = Field(default=500, ge=1)
    """updates between two checkpoints"""
    keep_checkpoints: int = Field(default=2, ge=1)
    """newest checkpoints kept"""
    tensorboard: bool = False
    """also write TensorBoard events (extra `tensorboard`)"""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in ("updates", "tokens", "flops", "hours") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give the budget as exactly one of updates, tokens, flops, hours"
                + (f" (given: {', '.join(given)})" if given else "")
            )
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self


class Config(Section):
    """One run."""

    plugins: list[str] = Field(default=[])
    """Python files, or entry points of installed packages, with further kinds of parts (docs/plugins.md)"""
    data: DataConfig = DataConfig()
    main: ModelConfig
    """the model that is trained"""
    auxiliary: AuxiliaryConfig = AutoAuxiliary()
    objective: ObjectiveConfig = FastElectraObjective()
    corruption: CorruptionConfig = CorruptionConfig()
    optimizer: Optimizer
    training: TrainingConfig

    @property
    def copied_from_auxiliary(self) -> dict[str, str]:
        """Settings of `main` that take weights from the auxiliary, and their values."""
        taken = {"main.start": self.main.start, "main.embeddings": self.main.embeddings}
        return {key: value for key, value in taken.items() if value != "fresh"}

    @model_validator(mode="after")
    def _weights_have_a_source(self) -> Self:
        objective, auxiliary = self.objective, self.auxiliary
        for key, value in self.copied_from_auxiliary.items():
            if not objective.uses_auxiliary:
                raise ValueError(
                    f"{key}={value} needs a frozen auxiliary, and objective.kind={objective.kind} has none: set "
                    f"{key}=fresh{objective.instead_of_copies}"
                )
        if not (objective.uses_auxiliary and auxiliary.is_counted):
            return self
        needing = {"auxiliary.checkpoint": auxiliary.checkpoint, "auxiliary.layers": auxiliary.layers}
        for key, value in (needing | self.copied_from_auxiliary).items():
            if value is not None:
                raise ValueError(
                    f"{key}={value} needs a model, and auxiliary.kind={auxiliary.kind} is a table of counts: leave "
                    f"{key} out"
                )
        if self.corruption.augmentation.acts_inside:
            raise ValueError(
                f"corruption.augmentation.kind={self.corruption.augmentation.kind} acts inside a model, and "
                f"auxiliary.kind={auxiliary.kind} is a table of counts: use temperature"
            )
        return self

    @model_validator(mode="after")
    def _delta_is_trained_and_alone(self) -> Self:
        if self.main.embeddings != "auxiliary_plus_delta":
            return self
        if self.main.freeze == "encoder":
            raise ValueError(
                "main.embeddings=auxiliary_plus_delta trains a part of the encoder, which main.freeze=encoder forbids: "
                "set one of them to its default"
            )
        if self.objective.has_vocabulary_head:
            raise ValueError(
                "objective.corrective_weight needs a vocabulary head that is tied to one table of embeddings, and "
                "main.embeddings=auxiliary_plus_delta has two: give main.embeddings=copied, or corrective_weight=0"
            )
        return self

    @model_validator(mode="after")
    def _encoder_decoders_read_rows_as_one_text(self) -> Self:
        if self.data.attention == "document" and not self.auxiliary.keeps_documents_apart:
            raise ValueError(
                f"data.attention=document is not possible with auxiliary.kind={self.auxiliary.kind}, which reads a "
                "row as one text: use data.attention=packed"
            )
        return self

    @model_validator(mode="after")
    def _generator_is_live(self) -> Self:
        if self.objective.generator_shape is not None and self.corruption.replays:
            raise ValueError(
                f"objective.kind={self.objective.kind} trains the generator that it samples from: leave "
                "corruption.cache out and corruption.sampler at inverse_cdf, or use objective.kind=fast_electra"
            )
        return self


def _rebuild() -> None:
    """Take in the parts that were registered since."""
    for section in (CorruptionConfig, ElectraObjective, Config):
        section.model_rebuild(force=True)


when_registered.append(_rebuild)
