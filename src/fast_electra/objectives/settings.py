"""The settings of objectives, one class for each `objective.kind`, and what the program asks before it builds models.

Notable:
- this module does not import torch; the other modules of the folder have what an objective computes.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from pydantic import Field, model_validator

from fast_electra.models.optimizers import Optimizer
from fast_electra.models.shapes import ShapeConfig
from fast_electra.parts import Part

if TYPE_CHECKING:
    from fast_electra.objectives.base import Built


class Builders(Protocol):
    """Builds the objectives of this package; `training.assembly.Inputs` has these methods."""

    def mlm(self, settings: "MLMObjective") -> "Built": ...

    def fast_electra(self, settings: "FastElectraObjective") -> "Built": ...

    def electra(self, settings: "ElectraObjective") -> "Built": ...


class ObjectiveConfig(Part):
    """What a run trains. A kind defines `title` and `build`; the rest has defaults."""

    default_kind: ClassVar[str] = "fast_electra"
    uses_auxiliary: ClassVar[bool] = False
    """whether a frozen auxiliary replaces tokens, at the temperature of `corruption.schedule`"""
    detects: ClassVar[bool] = True
    """whether the main model detects replaced tokens; otherwise it predicts tokens"""
    auxiliary_model: ClassVar[str | None] = None
    """name of the model that can be the auxiliary of another run"""
    mlm_loss: ClassVar[str] = "loss"
    """name of the metric with the loss of masked language modelling, if there is one"""
    instead_of_copies: ClassVar[str] = ""
    """the end of an error that refuses weights copied from a frozen auxiliary: what else the user can do"""

    @property
    def generator_shape(self) -> ShapeConfig | None:
        """The shape of a generator that is trained with the main model, or None."""
        return None

    @property
    def shares_table(self) -> bool:
        """Whether a generator and the main model share one table of token embeddings, as in ELECTRA."""
        return True

    @property
    def has_vocabulary_head(self) -> bool:
        """Whether the main model also predicts tokens, with a head that is tied to its embeddings."""
        return False

    @property
    def never_draws_original(self) -> bool:
        """Whether replacements of the frozen auxiliary are never the original."""
        return False

    @property
    def has_own_rates(self) -> bool:
        """Whether a model has other optimizer settings than the main model."""
        return False

    @property
    def main_loss_weight(self) -> float:
        """Weight of the main model's loss in the gradients that are clipped."""
        return 1.0

    def optimizer_of(self, group: str, main: Optimizer) -> Optimizer:
        """The optimizer settings of a parameter group, by its name; `main` are those of the run."""
        return main

    def head_of(self, model: str) -> Literal["mlm", "rtd"]:
        """The head of a model of the run, by its name."""
        return "rtd" if model == "main" and self.detects else "mlm"

    def title(self, model: str) -> str:
        """The method as a model card names it, for a model of the run by its name."""
        raise NotImplementedError

    def build(self, inputs: Any) -> "Built":
        """The objective with its models, in float32 on the device.

        Args:
            inputs: `training.assembly.Inputs`, from which every objective is built.

        Raises:
            ConfigError, DataError, ModelError: something is missing or does not fit.
        """
        raise NotImplementedError


class MLMObjective(ObjectiveConfig):
    """Masked language modelling, which trains auxiliaries."""

    kind: Literal["mlm"] = "mlm"
    random: float = Field(default=0.1, ge=0, le=1)
    """share of the masked positions that show a random token instead of [MASK], as in BERT"""
    kept: float = Field(default=0.1, ge=0, le=1)
    """share of the masked positions that show the original instead of [MASK], as in BERT"""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.random + self.kept > 1:
            raise ValueError(f"random ({self.random}) and kept ({self.kept}) must not exceed 1 together")
        return self

    detects = False
    auxiliary_model = "main"
    stays_on_device = True

    def title(self, model: str) -> str:
        return "masked language modelling"

    def build(self, inputs: Builders) -> "Built":
        return inputs.mlm(self)


class FastElectraObjective(ObjectiveConfig):
    """Replaced token detection with a frozen auxiliary (Dong et al., 2024)."""

    kind: Literal["fast_electra"] = "fast_electra"
    include_special: bool = False
    """score special tokens too, as ELECTRA's own code does"""
    disallow_correct: bool = False
    """never sample the original, so that every masked position is a replaced one"""
    masked_weight: float = Field(default=1.0, gt=0)
    """weight of masked positions in the RTD loss, replaced or not; other scored tokens have weight 1"""
    corrective_weight: float = Field(default=0.0, ge=0)
    """weight of corrective language modelling: the main model also predicts the original at masked positions; 0: off"""

    uses_auxiliary = True
    stays_on_device = True

    @property
    def has_vocabulary_head(self) -> bool:
        return self.corrective_weight > 0

    @property
    def never_draws_original(self) -> bool:
        return self.disallow_correct

    def title(self, model: str) -> str:
        weight = self.corrective_weight
        beside = f" and corrective language modelling, weight {weight:g}" if weight else ""
        head = ", its vocabulary head: it was trained on replaced tokens, not on [MASK]" if model != "main" else ""
        return f"Fast-ELECTRA (replaced token detection against a frozen auxiliary){beside}{head}"

    def build(self, inputs: Builders) -> "Built":
        return inputs.fast_electra(self)


class ElectraObjective(ObjectiveConfig):
    """Joint ELECTRA (Clark et al., 2020): generator and main model are trained together."""

    kind: Literal["electra"] = "electra"
    generator: ShapeConfig
    """the generator: a masked language model that is trained and exported with the main model"""
    sharing: Literal["none", "tied", "disentangled"] = "tied"
    """token embeddings: none; tied (ELECTRA); or disentangled, the generator's, detached, plus a delta (DeBERTaV3)"""
    rtd_weight: float = Field(default=50.0, gt=0)
    """weight of the main model's loss; the generator's loss has weight 1"""
    generator_optimizer: Optimizer | None = None
    """optimizer settings of the generator; empty: those of the main model"""
    clip: Literal["per_model", "joint"] = "per_model"
    """per_model: clips the gradients of each model's unweighted loss; joint: those of the weighted sum, as published"""
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

    auxiliary_model = "generator"
    mlm_loss = "mlm"
    instead_of_copies = ", or use objective.sharing"

    stays_on_device = True

    @property
    def generator_shape(self) -> ShapeConfig:
        return self.generator

    @property
    def shares_table(self) -> bool:
        return self.sharing == "tied"

    @property
    def has_own_rates(self) -> bool:
        return self.generator_optimizer is not None

    @property
    def main_loss_weight(self) -> float:
        return self.rtd_weight if self.clip == "joint" else 1.0

    def optimizer_of(self, group: str, main: Optimizer) -> Optimizer:
        return (self.generator_optimizer or main) if group.endswith(".generator") else main

    def title(self, model: str) -> str:
        return f"joint ELECTRA, its {'main model' if model == 'main' else model}"

    def build(self, inputs: Builders) -> "Built":
        return inputs.electra(self)
