"""The interface between the training loop and what it trains: parameter groups, losses as sums with counts, a state.

Notable:
- an objective returns sums, and the loop divides them by the counts of the whole update. So micro-batches (and later
  ranks) of uneven size equal one batch;
- masks do not depend on the update's difficulty, so they are prepared in the loader's thread. There replacements are
  read from a cache, too, if the difficulty does not depend on earlier updates;
- the loop needs only `Trainable`, on batches of any kind (those of fine-tuning have labels). Pre-training needs an
  `Objective`, which has more methods;
- parameter groups have names, and each has its own optimizer settings and clipping: one for Fast-ELECTRA, up to three
  for joint ELECTRA.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor, nn

from fast_electra.corruption.masking import Masked, Masker
from fast_electra.corruption.replacement import Replacements
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.data.batches import Batch
from fast_electra.models.linear_maps import LinearMap, linear_maps
from fast_electra.models.optimizers import Optimizer


class Examples(Protocol):
    """A batch of any kind."""

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        ...

    def split(self, size: int) -> Sequence["Examples"]:
        """Micro-batches of `size` sequences."""
        ...

    def to(self, device: Any) -> "Examples":
        """A copy on a device."""
        ...

    def pinned(self) -> "Examples":
        """A copy in page-locked memory, from which a GPU copies without being waited for."""
        ...


E = TypeVar("E", bound=Examples, contravariant=True)


@dataclass(frozen=True)
class Prepared:
    """A batch and its masked positions."""

    batch: Batch
    masked: Masked
    replacements: Replacements | None = None
    """what was read for the masked positions; None: `CorruptionSource.corrupt` makes or reads it"""

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return self.batch.tokens

    def split(self, size: int) -> list["Prepared"]:
        """Micro-batches of `size` sequences."""
        batches, masked = self.batch.split(size), self.masked.split(size)
        replacements = self.replacements.split(size) if self.replacements else [None] * len(batches)
        return [Prepared(*parts) for parts in zip(batches, masked, replacements, strict=True)]

    def tensors(self) -> list[Tensor]:
        """The tensors that move to a device."""
        read = self.replacements.tensors() if self.replacements else []
        return [*self.batch.tensors(), self.masked.positions_BM, self.masked.valid_BM, *read]

    def to(self, device: Any) -> "Prepared":
        """A copy on a device."""
        read = self.replacements and self.replacements.to(device)
        return Prepared(self.batch.to(device), self.masked.to(device), read)

    def pinned(self) -> "Prepared":
        """A copy in page-locked memory."""
        return Prepared(self.batch.pinned(), self.masked.pinned(), self.replacements and self.replacements.pinned())


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share an optimizer; `name` marks its learning rate and gradient norm in the metrics."""

    name: str
    parameters: Mapping[str, nn.Parameter]
    settings: Optimizer
    linear_maps: Mapping[str, LinearMap]
    """the linear maps among `parameters`: they are decayed, and updated by Muon if it is chosen"""
    loss_weight: float = 1.0
    """gradients are divided by it before clipping, which makes them those of the unweighted loss"""
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    """factors of AdamW's learning rate by parameter name; 1 for names that are missing"""

    @classmethod
    def of(cls, name: str, model: nn.Module, settings: Optimizer, **more: Any) -> Self:
        """One group with all parameters of a model."""
        return cls(name, dict(model.named_parameters()), settings, linear_maps(model), **more)

    def only(self, name: str, parameters: Iterable[str], **changes: Any) -> Self:
        """A group with some of the parameters, of another name."""
        chosen = {key: self.parameters[key] for key in parameters}
        maps = {key: value for key, value in self.linear_maps.items() if key in chosen}
        return replace(self, name=name, parameters=chosen, linear_maps=maps, **changes)


@dataclass(frozen=True)
class Terms:
    """Losses and metrics of a micro-batch by name, as sums with their counts; the sums in `losses` have gradients."""

    losses: dict[str, tuple[Tensor, Tensor]]
    metrics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Trainable(Protocol[E]):
    """A function of a batch that the loop can train; without a curriculum and a state the defaults suffice."""

    weights: Mapping[str, float]
    """weight of each term of `Terms.losses` in the total"""

    @property
    def observes(self) -> bool:
        """Whether `observe` must be called after every update, as adaptive curricula need."""
        return False

    def counts(self, prepared: E) -> dict[str, Tensor]:
        """The count of each loss term on a whole batch (scalars), known before any forward pass."""
        ...

    def terms(self, prepared: E, progress: float, seed: int) -> Terms:
        """Losses and metrics of a micro-batch at a progress in [0, 1]."""
        ...

    def settings(self, progress: float) -> dict[str, float]:
        """The curriculum's values at a progress, for the log: the temperature, if there is one."""
        return {}

    def read_temperature(self, scalar: Tensor | None) -> None:
        """From now on take the temperature from a float32 scalar on the device, for CUDA graphs; None: as before."""

    def observe(self, metrics: dict[str, float]) -> None:
        """Follow an update's means of losses and metrics, by name."""

    def state_dict(self) -> dict[str, float]:
        """The state besides the parameters, for checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a `state_dict`."""


class Objective(Trainable[Prepared], Protocol):
    """A function of a batch for pre-training an encoder."""

    masker: Masker

    def models(self) -> dict[str, nn.Module]:
        """The trained Transformers models by name; a run exports `main` as `model/`."""
        ...

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trained parameter, each in exactly one group."""
        ...

    def prepare(self, batch: Batch, seed: int, progress: float | None = None) -> Prepared:
        """The batch with its masked positions: a pure function of batch and seed.

        With the `progress` of its update, replacements are read now if a cache holds them and the difficulty is known.
        """
        return Prepared(batch, self.masker(batch, seed))

    def validate(self, batches: list[Prepared], seed: int) -> dict[str, float]:
        """Measures by name on validation batches, with fixed masks and noise."""
        ...

    def behind_masks(self) -> "Objective | None":
        """The objective with `[MASK]` at every masked position; None if the model reads replacements instead."""
        return None


@dataclass(frozen=True)
class Built:
    """What the settings of an objective build."""

    objective: Objective
    corruption: CorruptionConfig | None = None
    """the settings with T0 as a number; None: those of the configuration"""
    auxiliary_digest: str | None = None
    auxiliary_measures: dict[str, float] = field(default_factory=dict)
    frozen: Sequence[nn.Module] = ()
    """models that are not trained and can be compiled"""
