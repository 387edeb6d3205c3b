"""The configuration tree: every key, its type, its default and what it means, in one file.

Notable:
- the descriptions here are the comments of `config show`, the help of `pretrain --help` and the JSON Schema;
- a model never holds a default that belongs to another model's size: shapes and rates come from presets;
- a choice with its own settings is a union told apart by `kind`, so a schedule's settings can't be given to another.
"""

from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of all sections: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


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

    sources: list[Path] = []
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


def with_layers(options: dict[str, Any], before: int | None, layers: int) -> dict[str, Any]:
    """The keys of a Transformers configuration of another depth: lists of one entry a layer follow it.

    They are cut, or go on from their start.
    """
    return {
        name: [value[place % len(value)] for place in range(layers)]
        if is_list_of_layers(name, value, (before,))
        else value
        for name, value in options.items()
    }


def is_list_of_layers(name: str, value: Any, counts: Collection[Any]) -> bool:
    """Whether a key of a Transformers configuration has one entry a layer, of one of `counts` layers."""
    return isinstance(value, list) and len(value) in counts and ("layer" in name or name == "attention_window")


class ShapeConfig(Section):
    """A Transformers encoder: continued from a published model, or fresh in a shape given here."""

    model: str | None = None
    """continue from this run, folder or hub name: the shape is then its own; empty: fresh weights in the shape below"""
    architecture: str = "modernbert"
    """`model_type` of a Transformers configuration: modernbert, electra, bert, roberta, ..."""
    layers: int | None = Field(default=None, ge=1)
    """encoder layers"""
    hidden_size: int | None = Field(default=None, ge=1)
    """width of the hidden states and of the embeddings"""
    heads: int | None = Field(default=None, ge=1)
    """attention heads"""
    intermediate_size: int | None = Field(default=None, ge=1)
    """width inside the feed-forward layers"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """dropout on hidden states and attention"""
    options: dict[str, Any] = {}
    """further keys of the Transformers configuration, passed as they are"""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        shape = {name: getattr(self, name) for name in ("layers", "hidden_size", "heads", "intermediate_size")}
        missing = [name for name, value in shape.items() if value is None]
        if self.model is None and missing:
            raise ValueError(f"give {', '.join(missing)}, or model to continue from a published one")
        if self.model is None and shape["hidden_size"] % shape["heads"]:
            raise ValueError(f"hidden_size ({self.hidden_size}) must be divisible by heads ({self.heads})")
        types = self.options.get("layer_types")
        if self.model is None and isinstance(types, list) and len(types) != self.layers:
            raise ValueError(
                f"options.layer_types has {len(types)} entries for layers ({self.layers}): give one a layer"
            )
        return self

    def with_layers(self, layers: int) -> Self:
        """Of another depth: lists of one entry a layer are cut, or go on from their start."""
        options = with_layers(self.options, self.layers, layers)
        return self.model_copy(update={"layers": layers, "options": options})


class ModelConfig(ShapeConfig):
    """The model that is trained and exported."""

    embeddings: Literal["fresh", "copied", "auxiliary_plus_delta"] = "fresh"
    """token embeddings: fresh; copied from the auxiliary; or its frozen table plus a trained delta (same width)"""
    start: Literal["fresh", "auxiliary"] = "fresh"
    """auxiliary: start every weight that the auxiliary has under the same name and shape from it"""
    freeze: Literal["none", "encoder"] = "none"
    """encoder: train the head alone, as for a vocabulary head on an encoder that has none"""


class AuxiliaryConfig(Section):
    """The frozen auxiliary of `fast_electra`: anything that gives a distribution over the vocabulary at a position."""

    model: str | None = None
    """a run, a folder with a Transformers model, or a hub name; of no use to unigram, ngram and uniform"""
    kind: Literal["auto", "masked_lm", "causal_lm", "prefix_lm", "span_corruption", "unigram", "ngram", "uniform"] = (
        "auto"
    )
    """auto: masked_lm, causal_lm or span_corruption by the model's class; the last three are counted on the corpus"""
    checkpoint: int | None = Field(default=None, ge=1)
    """the update of the auxiliary's run whose weights are used; empty: its last"""
    layers: int | None = Field(default=None, ge=1)
    """use its first layers only; empty: all"""

    @property
    def is_counted(self) -> bool:
        """Whether it is a table of counts and no model."""
        return self.kind in ("unigram", "ngram", "uniform")


class MLMObjective(Section):
    """Masked language modelling: trains auxiliaries."""

    kind: Literal["mlm"] = "mlm"
    random: float = Field(default=0.1, ge=0, le=1)
    """share of the masked positions that show a random token instead of [MASK] (BERT's, as is the next)"""
    kept: float = Field(default=0.1, ge=0, le=1)
    """share of the masked positions that show the original instead of [MASK]"""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.random + self.kept > 1:
            raise ValueError(f"random ({self.random}) and kept ({self.kept}) must not exceed 1 together")
        return self


class FastElectraObjective(Section):
    """Replaced token detection against a frozen auxiliary (Dong et al., 2024)."""

    kind: Literal["fast_electra"] = "fast_electra"
    include_special: bool = False
    """score special tokens too, as ELECTRA's own code does"""
    disallow_correct: bool = False
    """never sample the original, so that every masked position is a replaced one"""
    masked_weight: float = Field(default=1.0, gt=0)
    """weight of a masked position in the RTD loss, replaced or not; other scored tokens weigh 1"""
    corrective_weight: float = Field(default=0.0, ge=0)
    """weight of corrective language modelling: the main model also predicts the original at masked positions; 0: off"""


class OptimizerConfig(Section):
    """AdamW, or Muon for the layers' matrices and AdamW for the rest, and the learning rate over the run."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: matrices of the encoder's layers are stepped by Muon, with updates as large as AdamW's"""
    learning_rate: float = Field(gt=0)
    """peak learning rate"""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """decay of the gradient's moving average"""
    beta2: float = Field(default=0.98, ge=0, lt=1)
    """decay of the squared gradient's moving average"""
    epsilon: float = Field(default=1e-6, gt=0)
    """added to the root of the squared gradient's average"""
    bias_correction: bool = True
    """false: Adam without bias correction, as in ELECTRA's and BERT's own code"""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    """decay of Muon's moving average"""
    weight_decay: float = Field(default=0.01, ge=0)
    """decoupled, times the learning rate; on linear maps only: tables, norms and biases are not decayed"""
    clip: float | None = Field(default=1.0, gt=0)
    """largest gradient norm; empty: no clipping"""
    schedule: Literal["linear", "cosine", "constant", "warmup_stable_decay"] = "linear"
    """learning rate after the warm-up"""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """share of the run in which the learning rate rises to its peak"""
    warmup_multiplies: bool = False
    """true: the warm-up multiplies the decay, which starts at the first update, as in ELECTRA's own code"""
    decay: float = Field(default=0.2, gt=0, le=1)
    """share of the run in which warmup_stable_decay falls to zero"""


class ElectraObjective(Section):
    """Joint ELECTRA (Clark et al., 2020): a generator and a discriminator trained together."""

    kind: Literal["electra"] = "electra"
    generator: ShapeConfig
    """the generator: a masked language model trained along, exported beside the main model"""
    sharing: Literal["none", "tied", "disentangled"] = "tied"
    """token embeddings of both: none; tied (ELECTRA); or the generator's, detached, plus a delta (DeBERTaV3)"""
    rtd_weight: float = Field(default=50.0, gt=0)
    """weight of the main model's loss beside the generator's"""
    generator_optimizer: OptimizerConfig | None = None
    """settings of its own for the generator; empty: the main model's"""
    clip: Literal["per_model", "joint"] = "per_model"
    """per_model: gradients of unweighted losses, each model by itself; joint: of the weighted sum, as published"""
    include_special: bool = False
    """score special tokens too, as ELECTRA's own code does"""
    disallow_correct: bool = False
    """never sample the original, so that every masked position is a replaced one"""
    random: float = Field(default=0.0, ge=0, le=1)
    """share of the masked positions that show the generator a random token instead of [MASK]"""
    kept: float = Field(default=0.0, ge=0, le=1)
    """share of the masked positions that show the generator the original instead of [MASK] (published code: 0.15)"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.random + self.kept > 1:
            raise ValueError(f"random ({self.random}) and kept ({self.kept}) must not exceed 1 together")
        if self.clip == "joint" and self.generator_optimizer is not None:
            raise ValueError("generator_optimizer needs clip=per_model: a joint gradient norm is one optimizer's")
        return self


Objective = Annotated[MLMObjective | FastElectraObjective | ElectraObjective, Field(discriminator="kind")]


def _listed(values: list[float]) -> str:
    return ", ".join(map(str, values))


InitialTemperature = Annotated[float, Field(gt=0)] | Literal["auto"]


def _refuse_auto(value: Any) -> Any:
    if value == "auto":
        raise ValueError(
            "auto chooses where a temperature starts that falls to final, or an adaptive one: give a number here"
        )
    return value


class ConstantSchedule(Section):
    """T(u) = initial."""

    kind: Literal["constant"] = "constant"
    initial: Annotated[float, BeforeValidator(_refuse_auto)] = Field(default=1.0, gt=0)
    """T0, the temperature throughout"""


class _FallingSchedule(Section):
    initial: InitialTemperature = 2.0
    """T0, the temperature at the start; auto: 1 to 2, by the auxiliary's entropy when the run starts"""
    final: float = Field(default=1.0, gt=0)
    """the temperature at the end (exponential: that it approaches)"""
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
                "give falling: false if that is meant"
            )
        return self


class LinearSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * (1 - u)."""

    kind: Literal["linear"] = "linear"


class ExponentialSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * exp(-u / tau), the paper's schedule."""

    kind: Literal["exponential"] = "exponential"
    tau: float = Field(default=0.1, gt=0)
    """decay constant, as a share of the run"""


class PolynomialSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * (1 - u)^power."""

    kind: Literal["polynomial"] = "polynomial"
    power: float = Field(default=2.0, gt=0)
    """1 is linear; larger falls sooner"""


class CosineSchedule(_FallingSchedule):
    """T(u) = final + (initial - final) * (1 + cos(pi u)) / 2."""

    kind: Literal["cosine"] = "cosine"


class StepwiseSchedule(Section):
    """T(u) is `initial` until the first step, then each step's temperature in turn."""

    kind: Literal["stepwise"] = "stepwise"
    initial: Annotated[float, BeforeValidator(_refuse_auto)] = Field(default=2.0, gt=0)
    """T0, the temperature at the start"""
    steps: list[tuple[float, float]] = [(0.1, 1.5), (0.25, 1.2), (0.5, 1.0)]
    """pairs of progress and temperature; both in order"""
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
                "give falling: false if that is meant"
            )
        return self


class AdaptiveSchedule(Section):
    """The temperature follows the main model: as low as a target difficulty allows."""

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


Schedule = Annotated[
    ExponentialSchedule
    | ConstantSchedule
    | LinearSchedule
    | PolynomialSchedule
    | StepwiseSchedule
    | CosineSchedule
    | AdaptiveSchedule,
    Field(discriminator="kind"),
]


class TemperatureAugmentation(Section):
    """The schedule's value is the temperature of the replacements."""

    kind: Literal["temperature"] = "temperature"


class DropoutAugmentation(Section):
    """Dropout in the auxiliary, of a strength that falls as the temperature would: (T - 1) / (T0 - 1) of `strength`."""

    kind: Literal["dropout"] = "dropout"
    strength: float = Field(default=0.3, gt=0, lt=1)
    """dropout rate at the start"""


class AttentionDroppingAugmentation(Section):
    """Attention weights of the auxiliary are dropped, by a share that falls as dropout's strength does."""

    kind: Literal["attention_dropping"] = "attention_dropping"
    strength: float = Field(default=0.3, gt=0, lt=1)
    """share of the attention weights dropped at the start"""


Augmentation = Annotated[
    TemperatureAugmentation | DropoutAugmentation | AttentionDroppingAugmentation, Field(discriminator="kind")
]


class MaskingConfig(Section):
    """Which positions are masked."""

    kind: Literal["random", "whole_word", "span"] = "random"
    """random tokens; all tokens of random words; or spans of tokens"""
    rate: float = Field(default=0.15, gt=0, lt=1)
    """share of a row's non-special tokens that are masked"""
    span_mean: float = Field(default=3.0, ge=1)
    """mean length of a span in tokens, geometric (SpanBERT: 3.8)"""
    span_longest: int = Field(default=10, ge=1)
    """longest span in tokens; longer words are masked in parts of so many"""

    @model_validator(mode="after")
    def _mean_below_longest(self) -> Self:
        most = (self.span_longest + 1) / 2
        if self.kind == "span" and self.span_mean > most:
            raise ValueError(
                f"spans of at most {self.span_longest} tokens have a mean of {most:g} or less, not {self.span_mean:g}; "
                "raise span_longest"
            )
        return self


class CorruptionConfig(Section):
    """How sequences are corrupted."""

    masking: MaskingConfig = MaskingConfig()
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
        if self.replays and self.augmentation.kind != "temperature":
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
    def _strength_falls(self) -> Self:
        kind, schedule = self.augmentation.kind, self.schedule
        if kind == "temperature":
            return self
        if isinstance(schedule, AdaptiveSchedule):
            raise ValueError(
                f"adaptive steers the temperature alone; give {kind} another schedule.kind, "
                "or augmentation.kind: temperature"
            )
        rule = f"{kind} has the share (T - 1) / (T0 - 1) of its strength at the start"
        if schedule.initial == "auto":
            raise ValueError(f"{rule}: give schedule.initial (T0) as a number, not auto")
        later = [schedule.initial]
        if isinstance(schedule, StepwiseSchedule):
            later = [value for _, value in schedule.steps]
        elif isinstance(schedule, _FallingSchedule):
            later = [schedule.final]
        if schedule.initial <= 1:
            raise ValueError(f"{rule}: give a schedule.initial (T0) above 1, not {schedule.initial}")
        if any(not 1 <= value <= schedule.initial for value in later):
            raise ValueError(
                f"{rule}: give temperatures between 1 and schedule.initial ({schedule.initial}), not {_listed(later)}"
            )
        return self


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

    data: DataConfig = DataConfig()
    main: ModelConfig
    """the model that is trained"""
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    objective: Objective = FastElectraObjective()
    corruption: CorruptionConfig = CorruptionConfig()
    optimizer: OptimizerConfig
    training: TrainingConfig

    @property
    def copied_from_auxiliary(self) -> dict[str, str]:
        """Settings of `main` that take weights from the auxiliary, and their values."""
        taken = {"main.start": self.main.start, "main.embeddings": self.main.embeddings}
        return {key: value for key, value in taken.items() if value != "fresh"}

    @model_validator(mode="after")
    def _weights_have_a_source(self) -> Self:
        kind, auxiliary = self.objective.kind, self.auxiliary
        for key, value in self.copied_from_auxiliary.items():
            if kind != "fast_electra":
                raise ValueError(
                    f"{key}={value} needs a frozen auxiliary, and objective.kind={kind} has none: set {key}=fresh"
                    + (", or use objective.sharing" if kind == "electra" else "")
                )
        if kind != "fast_electra" or not auxiliary.is_counted:
            return self
        needing = {"auxiliary.checkpoint": auxiliary.checkpoint, "auxiliary.layers": auxiliary.layers}
        for key, value in (needing | self.copied_from_auxiliary).items():
            if value is not None:
                raise ValueError(
                    f"{key}={value} needs a model, and auxiliary.kind={auxiliary.kind} is a table of counts: leave "
                    f"{key} out"
                )
        if self.corruption.augmentation.kind != "temperature":
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
        if isinstance(self.objective, FastElectraObjective) and self.objective.corrective_weight:
            raise ValueError(
                "objective.corrective_weight needs a vocabulary head that is tied to one table of embeddings, and "
                "main.embeddings=auxiliary_plus_delta has two: give main.embeddings=copied, or corrective_weight=0"
            )
        return self

    @model_validator(mode="after")
    def _encoder_decoders_read_rows_as_one_text(self) -> Self:
        kind = self.auxiliary.kind
        if self.data.attention == "document" and kind in ("prefix_lm", "span_corruption"):
            raise ValueError(
                f"data.attention=document is not possible with auxiliary.kind={kind}, which reads a row as one text: "
                "use data.attention=packed"
            )
        return self

    @model_validator(mode="after")
    def _generator_is_live(self) -> Self:
        if isinstance(self.objective, ElectraObjective) and self.corruption.replays:
            raise ValueError(
                "objective.kind=electra trains the generator that it samples from: leave corruption.cache out and "
                "corruption.sampler at inverse_cdf, or use objective.kind=fast_electra"
            )
        return self
