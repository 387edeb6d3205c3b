"""What the training loop knows of what it trains: parameter groups, terms as sums and counts, and a state.

Notable:
- an objective returns sums; the loop divides by the count of the whole update, so micro-batches (and later, ranks) of
  uneven size equal one batch;
- what doesn't depend on the update's difficulty (masks) is prepared in the loader's thread;
- the loop asks for `Trainable` alone, on batches of any kind (fine-tuning's hold labels); `Objective` is what
  pre-training asks for besides;
- parameter groups are named, each with its own optimizer settings and clipping: one for Fast-ELECTRA, up to
  three for joint ELECTRA.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor, nn

from fast_electra.corruption.masking import Masked, Masker
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.data.batches import Batch
from fast_electra.models.linear_maps import LinearMap, linear_maps
from fast_electra.models.optimizers import Optimizer


class Examples(Protocol):
    """What an update is made on."""

    @property
    def tokens(self) -> int:
        """Non-padding tokens."""
        ...

    def split(self, size: int) -> Sequence["Examples"]:
        """Micro-batches of `size` sequences."""
        ...

    def to(self, device: Any) -> "Examples":
        """A copy on a device."""
        ...


E = TypeVar("E", bound=Examples, contravariant=True)


@dataclass(frozen=True)
class Prepared:
    """A batch and its masked positions."""

    batch: Batch
    masked: Masked

    @property
    def tokens(self) -> int:
        """Non-padding tokens."""
        return int((~self.batch.padding).sum())

    def split(self, size: int) -> list["Prepared"]:
        """Micro-batches of `size` sequences."""
        return [
            Prepared(batch, masked)
            for batch, masked in zip(self.batch.split(size), self.masked.split(size), strict=True)
        ]

    def to(self, device: Any) -> "Prepared":
        """A copy on a device."""
        return Prepared(
            self.batch.to(device), Masked(self.masked.positions_BM.to(device), self.masked.valid_BM.to(device))
        )


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share an optimizer: `name` keys its learning rate and gradient norm in the metrics."""

    name: str
    parameters: Mapping[str, nn.Parameter]
    settings: Optimizer
    linear_maps: Mapping[str, LinearMap]
    """those of `parameters` that are linear maps: they are decayed, and stepped by Muon where it is asked for"""
    loss_weight: float = 1.0
    """gradients are divided by it before they are clipped: of a weighted loss they become those of the unweighted"""
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    """what AdamW's learning rate is multiplied by, for each parameter by name; 1 where it is left out"""

    @classmethod
    def of(cls, name: str, model: nn.Module, settings: Optimizer, **more: Any) -> Self:
        """All parameters of a model, in one group."""
        return cls(name, dict(model.named_parameters()), settings, linear_maps(model), **more)

    def only(self, name: str, parameters: Iterable[str], **changes: Any) -> Self:
        """A group of some of the parameters, named `name`."""
        chosen = {key: self.parameters[key] for key in parameters}
        maps = {key: value for key, value in self.linear_maps.items() if key in chosen}
        return replace(self, name=name, parameters=chosen, linear_maps=maps, **changes)


@dataclass(frozen=True)
class Terms:
    """An objective's value on a micro-batch, as sums with their counts; the sums in `losses` carry gradients."""

    losses: dict[str, tuple[Tensor, Tensor]]
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Trainable(Protocol[E]):
    """A function of a batch that the loop can train; one without a curriculum or a state leaves the defaults."""

    weights: Mapping[str, float]
    """weight of each term of `Terms.losses` in the total"""

    @property
    def observes(self) -> bool:
        """Whether `observe` is to be called after every update (adaptive curricula)."""
        return False

    def counts(self, prepared: E) -> dict[str, Tensor]:
        """The count of each loss term on a whole batch, known before any forward pass."""
        ...

    def terms(self, prepared: E, progress: float, seed: int) -> Terms:
        """Losses and metrics of a micro-batch at a progress in [0, 1]."""
        ...

    def settings(self, progress: float) -> dict[str, float]:
        """What the curriculum decides at a progress, for the log: the temperature, where there is one."""
        return {}

    def observe(self, metrics: dict[str, float]) -> None:
        """Take note of an update's means of losses and metrics."""

    def state_dict(self) -> dict[str, float]:
        """State besides the parameters."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a `state_dict`."""


class Objective(Trainable[Prepared], Protocol):
    """A function of a batch that an encoder can be pre-trained with."""

    masker: Masker

    def models(self) -> dict[str, nn.Module]:
        """The trained Transformers models by name; `main` is the one that a run exports as `model/`."""
        ...

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trained parameter, each in exactly one group."""
        ...

    def prepare(self, batch: Batch, seed: int) -> Prepared:
        """Masks: a pure function of batch and seed."""
        return Prepared(batch, self.masker(batch, seed))

    def validate(self, batches: list[Prepared], seed: int) -> dict[str, float]:
        """Measures on validation batches, with fixed masks and noise."""
        ...

    def behind_masks(self) -> "Objective | None":
        """The objective with `[MASK]` at every masked position; None where the model sees replacements instead."""
        return None


@dataclass(frozen=True)
class Built:
    """What an objective's settings build."""

    objective: Objective
    corruption: CorruptionConfig | None = None
    """with T0 as a number; None: as the configuration has it"""
    auxiliary_digest: str | None = None
    auxiliary_measures: dict[str, float] = field(default_factory=dict)
