"""The configuration tree of a run: its sections together, and the rules between them.

Notable:
- each folder below brings its own sections and parts; the descriptions of their keys are the comments of `config show`,
  the help of `pretrain --help` and the JSON Schema;
- a section has no default that fits only one model size: shapes and rates come from presets.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

import fast_electra.corruption.adaptive  # noqa: F401 - registers its schedule
from fast_electra.config.phases import (
    UNKNOWN_UPDATES,
    MicroBatchSize,
    OwnRate,
    Phase,
    PhaseCorruption,
    PlannedPhase,
    given,
    misfit,
    why_not,
)
from fast_electra.corruption.auxiliary_kinds import AutoAuxiliary, AuxiliaryConfig
from fast_electra.corruption.schedules import Curriculum, PhasedCurriculum
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.data.settings import DataConfig
from fast_electra.errors import ConfigError
from fast_electra.models.optimizers import Optimizer
from fast_electra.models.shapes import ModelConfig
from fast_electra.objectives.settings import ElectraObjective, FastElectraObjective, ObjectiveConfig
from fast_electra.parts import Section, when_registered

BUDGETS = ("updates", "tokens", "flops", "hours")
"""keys of `training` of which exactly one is given; one that is given replaces another of a layer below"""
Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]
TRACKERS: tuple[str, ...] = get_args(Tracker)
"""experiment trackers; each is also the name of its package and of the extra that installs it"""


class ExecutionConfig(Section):
    """Where and how the program computes, whatever it computes."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA where there is one, else the CPU; mps (Apple) is allowed but untested"""
    precision: Literal["auto", "float32", "bfloat16", "bfloat16_autocast", "float16_autocast"] = "auto"
    """bfloat16: weights in bfloat16 with float32 masters; float16_autocast: with a scaled loss; auto: by the device"""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of a process; empty: one for each core, divided among the machine's processes"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """with several processes: each has the whole models (ddp), or a share of every weight and optimizer state (fsdp)"""
    reduction: Literal["float32", "weights"] = "float32"
    """type in which several processes add their gradients: float32, or that of the weights"""


class TrainingConfig(Section):
    """The loop: budget, batch, and how often it reports."""

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
    micro_batch_size: MicroBatchSize | None = None
    """sequences that go through the model at a time; empty: the whole batch; auto: the most that fit into a GPU"""
    activation_checkpointing: bool = False
    """keep only the input of each layer for the backward pass, which computes the layers again: slower, less memory"""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """of weights, data order, masks and noise"""
    compile: bool | Literal["auto", "graphs"] = "auto"
    """compile the models (torch.compile); auto: on a CUDA GPU; graphs: also record whole updates as CUDA graphs"""
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
    spike: float | None = Field(default=None, gt=0)
    """skip an update whose loss is this many standard deviations above the mean of the last 128; empty: never"""
    longest_update: float = Field(default=60.0, gt=0)
    """minutes without a finished update, a validation and a checkpoint included, before the run counts as hanging"""
    most_skipped: int = Field(default=3, ge=1)
    """updates in a row that are skipped (not finite, or a spike), before the run goes back to its newest checkpoint"""
    trackers: list[Tracker] = Field(default=[])
    """experiment trackers that get the metrics, too: tensorboard, wandb, trackio, mlflow (each an extra)"""

    @property
    def rows_at_a_time(self) -> int:
        """`micro_batch_size` as a number; before the start of a run has replaced `auto`, the whole batch."""
        return self.micro_batch_size if isinstance(self.micro_batch_size, int) else self.batch_size

    @classmethod
    def make_room(cls, below: dict[str, Any], above: Mapping[str, Any]) -> None:
        """Drop the budget of `below` where `above` gives another."""
        if any(above.get(name) is not None for name in BUDGETS):
            for name in BUDGETS:
                below.pop(name, None)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give the budget as exactly one of {', '.join(BUDGETS)}"
                + (f" (given: {', '.join(given)})" if given else "")
            )
        if self.batch_size % self.rows_at_a_time:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of micro_batch_size ({self.micro_batch_size})"
            )
        return self


def move_earlier_keys(tree: dict[str, Any]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Move the keys of earlier versions to where they are now; the tree is changed.

    The keys of `execution` were in `training`, and `training.tensorboard: true` is now one of `training.trackers`.

    Returns:
        the earlier and the present path of each key that was moved; a key that both places have stays, and is refused
        as unknown.
    """
    training, execution = tree.get("training"), tree.get("execution", {})
    if not isinstance(training, dict) or not isinstance(execution, dict):
        return []
    moved = [name for name in ExecutionConfig.model_fields if name in training and name not in execution]
    if moved:
        tree["execution"] = execution | {name: training.pop(name) for name in moved}
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(("training", name), ("execution", name)) for name in moved]
    if isinstance(wanted := training.get("tensorboard"), bool) and "trackers" not in training:
        del training["tensorboard"]
        training["trackers"] = ["tensorboard"] if wanted else []
        found.append((("training", "tensorboard"), ("training", "trackers")))
    return found


class Config(Section):
    """One run."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "accumulation": "training.micro_batch_size",
        "amp": "execution.precision",
        "aux": "auxiliary.model",
        "bf16": "execution.precision",
        "bs": "training.batch_size",
        "corpus": "data.sources",
        "depth": "main.layers",
        "dim": "main.hidden_size",
        "dtype": "execution.precision",
        "epochs": "training.tokens",
        "eval_every": "training.validate_every",
        "eval_steps": "training.validate_every",
        "fp16": "execution.precision",
        "generator": "auxiliary.model",
        "gradient_accumulation_steps": "training.micro_batch_size",
        "iterations": "training.updates",
        "lr": "optimizer.learning_rate",
        "max_grad_norm": "optimizer.clip",
        "max_length": "data.length",
        "max_steps": "training.updates",
        "muon_learning_rate": "optimizer.kind",
        "mlm_probability": "corruption.masking.rate",
        "mask_prob": "corruption.masking.rate",
        "max_seq_length": "data.length",
        "model_type": "main.architecture",
        "num_attention_heads": "main.heads",
        "num_hidden_layers": "main.layers",
        "num_workers": "data.workers",
        "per_device_train_batch_size": "training.micro_batch_size",
        "save_every": "training.checkpoint_every",
        "save_steps": "training.checkpoint_every",
        "seq_len": "data.length",
        "steps": "training.updates",
        "t0": "corruption.schedule.initial",
        "teacher": "auxiliary.model",
        "temperature": "corruption.schedule.initial",
        "train_batch_size": "training.batch_size",
        "vocab_size": "data.tokenizer.vocabulary_size",
        "wd": "optimizer.weight_decay",
        "width": "main.hidden_size",
    }

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
    execution: ExecutionConfig = ExecutionConfig()
    phases: list[Phase] = Field(default=[])
    """phases after the first, each {start: 0.9, …} with what changes while it lasts (docs/phases.md)"""

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
        if self.objective.generator_shape is not None and (
            self.corruption.replays or self.corruption.sampler != "inverse_cdf"
        ):
            raise ValueError(
                f"objective.kind={self.objective.kind} trains the generator that it samples from: leave "
                "corruption.cache out and corruption.sampler at inverse_cdf, or use objective.kind=fast_electra"
            )
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if sentence := why_not(self.phases, self.training.updates):
            raise ValueError(sentence)
        for number, phase in enumerate(self.phases, start=2):
            if sentence := misfit(phase, self, self.in_phase(number)):
                raise ValueError(f"phase {number} of phases: {sentence}")
        return self

    def in_phase(self, number: int) -> Self:
        """The settings in a phase (1 is the first), as those of a run without phases."""
        if number == 1:
            return self.model_copy(update={"phases": []})
        phase = self.phases[number - 2]
        changed = {name: given(getattr(phase, name)) for name in ("data", "optimizer", "training")}
        corruption = {name: value for name, value in given(phase.corruption).items() if name != "masking"}
        corruption["masking"] = self.corruption.masking.model_copy(update=given(phase.corruption.masking))
        return self.model_copy(
            update={
                **{name: getattr(self, name).model_copy(update=new) for name, new in changed.items()},
                "corruption": self.corruption.model_copy(update=corruption),
                "phases": [],
            }
        )

    @property
    def each_phase(self) -> list[Self]:
        """The settings in each phase, as those of runs without phases."""
        return [self.in_phase(number) for number in range(1, len(self.phases) + 2)]

    def planned_phases(self, updates: int | None = None) -> list[PlannedPhase]:
        """The phases in numbers, the first one included.

        Args:
            updates: of the whole run; None: `known_updates`, or a million where the budget is in FLOPs or hours.

        Raises:
            ConfigError: a phase would have no update.
        """
        updates = updates or self.known_updates or UNKNOWN_UPDATES
        if sentence := why_not(self.phases, updates):
            raise ConfigError(f"the run has {updates} updates, and {sentence}.")
        found: list[PlannedPhase] = []
        places = [0, *(phase.update(updates) for phase in self.phases), updates]
        orders: dict[Any, int] = {}
        for number, (start, stop) in enumerate(pairwise(places), start=1):
            config = self.in_phase(number)
            order = orders.setdefault((config.data.shards, config.data.length), len(orders))
            first = max((before.end for before in found if before.order == order), default=0)
            found.append(PlannedPhase(config, start, stop, order, first))
        return found

    @property
    def longest_row(self) -> int:
        """Tokens of the longest rows of any phase."""
        return max([self.data.length, *(phase.data.length or 0 for phase in self.phases)])

    @property
    def known_updates(self) -> int | None:
        """Number of updates; None if the budget (FLOPs, hours) becomes a number only at the start of the run."""
        tokens = self.training.tokens
        return self.training.updates if tokens is None else self.updates_within(tokens, self.tokens_per_update)

    @property
    def tokens_per_update(self) -> list[int]:
        """The tokens of an update of each phase, with padding."""
        return [each.training.batch_size * each.data.length for each in self.each_phase]

    def updates_within(self, budget: float, costs: Sequence[float]) -> int:
        """The most updates whose cost is within a budget, at least 1; `costs` are those of an update of each phase."""

        def cost(updates: int) -> float:
            places = [0, *(min(phase.update(updates), updates) for phase in self.phases), updates]
            return sum(each * (stop - start) for each, (start, stop) in zip(costs, pairwise(places), strict=True))

        return max(1, bisect_right(range(1, 2**53), budget, key=cost))

    def with_updates(self, updates: int, starts: Sequence[int] | None = None) -> Self:
        """The configuration with its budget and the starts of its phases as numbers of updates.

        Args:
            updates: of the whole run.
            starts: of each entry of `phases`; None: as they are given.
        """
        budget = {"updates": updates, "tokens": None, "flops": None, "hours": None}
        starts = starts or [phase.update(updates) for phase in self.phases]
        phases = [p.model_copy(update={"start": start}) for p, start in zip(self.phases, starts, strict=True)]
        return self.model_copy(update={"training": self.training.model_copy(update=budget), "phases": phases})

    @property
    def has_automatic_micro_batch(self) -> bool:
        """Whether the start of the run must choose the micro-batch of a phase."""
        return any(each.training.micro_batch_size == "auto" for each in self.each_phase)

    def with_micro_batches(self, sizes: Sequence[int]) -> Self:
        """The configuration with these sizes of micro-batches, one for each phase."""
        training = self.training.model_copy(update={"micro_batch_size": sizes[0]})
        phases = [
            phase.model_copy(update={"training": phase.training.model_copy(update={"micro_batch_size": size})})
            for phase, size in zip(self.phases, sizes[1:], strict=True)
        ]
        return self.model_copy(update={"training": training, "phases": phases})

    def own_rates(self, updates: int | None = None) -> list[OwnRate]:
        """The phases with a learning rate of their own; `updates` as in `planned_phases`."""
        planned = self.planned_phases(updates)[1:]
        changes = [given(phase.optimizer) for phase in self.phases]
        return [OwnRate(plan.start, plan.stop, new) for plan, new in zip(planned, changes, strict=True) if new]

    def curriculum(self, updates: int | None = None) -> Curriculum:
        """The curriculum of the run, with the phases that have their own; `updates` as in `planned_phases`."""
        whole = self.corruption.schedule.curriculum(self.corruption.augmentation)
        planned = self.planned_phases(updates)
        total = planned[-1].stop
        own = [
            (
                plan.start / total,
                plan.stop / total,
                schedule.curriculum(self.corruption.augmentation),
            )
            for plan, phase in zip(planned[1:], self.phases, strict=True)
            if (schedule := phase.corruption.schedule)
        ]
        return PhasedCurriculum(whole, own) if own else whole


def _rebuild() -> None:
    """Take in the parts that were registered since."""
    for section in (CorruptionConfig, ElectraObjective, PhaseCorruption, Phase, Config):
        section.model_rebuild(force=True)


when_registered.append(_rebuild)
