"""The kinds of objectives: their settings, and what the program asks of them before a model is built.

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
    """How the kinds of this package are built: `training.assembly.Inputs` has the methods."""

    def mlm(self, settings: "MLMObjective") -> "Built": ...

    def fast_electra(self, settings: "FastElectraObjective") -> "Built": ...

    def electra(self, settings: "ElectraObjective") -> "Built": ...


class ObjectiveConfig(Part):
    """What a run trains. A part gives `title` and `build`; the rest has defaults."""

    default_kind: ClassVar[str] = "fast_electra"
    uses_auxiliary: ClassVar[bool] = False
    """whether a frozen auxiliary replaces tokens, by `corruption.schedule`"""
    detects: ClassVar[bool] = True
    """whether the main model detects replaced tokens; else it predicts tokens"""
    auxiliary_model: ClassVar[str | None] = None
    """which of its models can be the auxiliary of another run"""
    mlm_loss: ClassVar[str] = "loss"
    """the field of the metrics that has the loss of masked language modelling, where it has one"""
    instead_of_copies: ClassVar[str] = ""
    """what may be advised in place of weights that are copied from a frozen auxiliary"""

    @property
    def generator_shape(self) -> ShapeConfig | None:
        """The shape of a generator that is trained along."""
        return None

    @property
    def shares_table(self) -> bool:
        """Whether a generator and the main model have one table of token embeddings, as ELECTRA's have."""
        return True

    @property
    def has_vocabulary_head(self) -> bool:
        """Whether the main model also predicts tokens, by a head that is tied to its embeddings."""
        return False

    @property
    def never_draws_original(self) -> bool:
        """Whether replacements of the frozen auxiliary are never the original."""
        return False

    @property
    def main_loss_weight(self) -> float:
        """Of the main model's loss in the gradients that are clipped."""
        return 1.0

    def optimizer_of(self, group: str, main: Optimizer) -> Optimizer:
        """The settings of a parameter group, by its name; `main` are those of the run."""
        return main

    def head_of(self, model: str) -> Literal["mlm", "rtd"]:
        """The head of one of the run's models, by its name."""
        return "rtd" if model == "main" and self.detects else "mlm"

    def title(self, model: str) -> str:
        """The method in a model card, for one of the run's models by its name."""
        raise NotImplementedError

    def build(self, inputs: Any) -> "Built":
        """The objective with its models, in float32 on the device.

        Args:
            inputs: `training.assembly.Inputs`, what every objective is built from.

        Raises:
            ConfigError, DataError, ModelError: something is missing or doesn't fit.
        """
        raise NotImplementedError


class MLMObjective(ObjectiveConfig):
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

    detects = False
    auxiliary_model = "main"

    def title(self, model: str) -> str:
        return "masked language modelling"

    def build(self, inputs: Builders) -> "Built":
        return inputs.mlm(self)


class FastElectraObjective(ObjectiveConfig):
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

    uses_auxiliary = True

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
    """Joint ELECTRA (Clark et al., 2020): a generator and a discriminator trained together."""

    kind: Literal["electra"] = "electra"
    generator: ShapeConfig
    """the generator: a masked language model trained along, exported beside the main model"""
    sharing: Literal["none", "tied", "disentangled"] = "tied"
    """token embeddings of both: none; tied (ELECTRA); or the generator's, detached, plus a delta (DeBERTaV3)"""
    rtd_weight: float = Field(default=50.0, gt=0)
    """weight of the main model's loss beside the generator's"""
    generator_optimizer: Optimizer | None = None
    """settings of its own for the generator; empty: the main model's"""
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

    @property
    def generator_shape(self) -> ShapeConfig:
        return self.generator

    @property
    def shares_table(self) -> bool:
        return self.sharing == "tied"

    @property
    def main_loss_weight(self) -> float:
        return self.rtd_weight if self.clip == "joint" else 1.0

    def optimizer_of(self, group: str, main: Optimizer) -> Optimizer:
        return (self.generator_optimizer or main) if group.endswith(".generator") else main

    def title(self, model: str) -> str:
        return f"joint ELECTRA, its {'main model' if model == 'main' else model}"

    def build(self, inputs: Builders) -> "Built":
        return inputs.electra(self)
