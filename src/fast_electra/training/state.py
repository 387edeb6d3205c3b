"""What changes during training: weights, optimizers, counters, metric sums, and counts that are not read yet."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fast_electra.objectives.base import Trainable
from fast_electra.training.loss_scale import LossScale
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.parallel import Alone

if TYPE_CHECKING:
    from fast_electra.training.graphs import UpdateGraphs

_WINDOW = 128
"""number of losses that a spike is measured against"""


@dataclass
class State:
    """Everything that changes during training. A checkpoint contains all of it but `settings`."""

    objective: Trainable[Any]
    optimizers: list[GroupOptimizer]
    parallel: Alone
    """how processes share the work"""
    update: int = 0
    """number of updates done"""
    tokens: int = 0
    """number of non-padding tokens seen, until the last look at the device"""
    skipped: list[int] = field(default_factory=list)
    """numbers of the updates that changed nothing, until the last look at the device; the first update is 1"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """metrics since the last record, of this process: (sum, count) as float64 (2,)"""
    validation: dict[str, float] = field(default_factory=dict)
    """the measures of the last validation; empty before the first"""
    losses: Tensor | None = None
    """the losses of the last updates that were applied, float32 (128,), NaN before the first ones; None: not needed"""
    loss_scale: LossScale | None = None
    """the factor of the loss in float16, from the first update on; None in other precisions"""
    settings: dict[str, float] = field(default_factory=dict)
    """the curriculum's values for the last update, for its record; an adaptive curriculum has other values by then"""
    graphs: "UpdateGraphs | None" = None
    """the updates that were recorded as CUDA graphs; None: no update is recorded"""
    unread: list[Tensor] = field(default_factory=list)
    """for each update since the last look at the device: its tokens and whether it was skipped, float64 (2,)"""

    def look(self) -> None:
        """Read from the device what the updates since the last look have counted."""
        if not self.unread:
            return
        first = self.update - len(self.unread) + 1
        for update, (tokens, skipped) in enumerate(torch.stack(self.unread).tolist(), start=first):
            self.tokens += int(tokens)
            self.skipped += [update] if skipped else []
        self.unread = []

    def skipped_in_a_row(self) -> int:
        """The number of updates up to the last one that were all skipped."""
        count = 0
        while count < len(self.skipped) and self.skipped[-1 - count] == self.update - count:
            count += 1
        return count

    def is_finite(self) -> bool:
        """Whether every weight is finite, on every process."""
        norms = torch.stack([optimizer.weights_norm() for optimizer in self.optimizers])
        return not self.parallel.add((~norms.isfinite()).sum())

    def tensors(self) -> dict[str, Tensor]:
        """The float32 masters and optimizer states by name, not copied."""
        return {name: tensor for optimizer in self.optimizers for name, tensor in optimizer.tensors().items()}

    def scalars(self) -> dict[str, Any]:
        """Counters, metric sums of all processes and the objective's own state, ready for JSON, which is exact."""
        self.look()
        return {
            "tokens": self.tokens,
            "skipped": self.skipped,
            "losses": [] if self.losses is None else self.losses[~self.losses.isnan()].tolist(),
            "loss_scale": self.loss_scale and self.loss_scale.state(),
            "sums": self.whole_sums(),
            "objective": self.objective.state_dict(),
            "validation": self.validation,
        }

    def whole_sums(self) -> dict[str, list[float]]:
        """The metrics since the last record: sum and count over all processes, by name."""
        if not self.sums:
            return {}
        whole = self.parallel.add(torch.stack(list(self.sums.values())))
        return dict(zip(self.sums, whole.tolist(), strict=True))

    def restore(self, update: int, scalars: dict[str, Any], device: torch.device) -> None:
        """Continue from a checkpoint's scalars. Its tensors must have been read into `tensors()` already."""
        if self.graphs is not None:
            self.graphs.forget()  # they write to tensors that are replaced here
        self.update = update
        self.unread = []
        self.tokens = scalars["tokens"]
        self.validation = scalars.get("validation", {})  # checkpoints of earlier versions lack it
        self.skipped = scalars.get("skipped", [])
        if losses := scalars.get("losses"):
            self.losses = loss_window(device)
            self.losses[-len(losses) :] = torch.tensor(losses)
        found = scalars.get("loss_scale")
        self.loss_scale = LossScale.of(found, device) if found else None
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device) * self.parallel.counts_once
            for name, value in scalars["sums"].items()
        }
        self.objective.load_state_dict(scalars["objective"])
        for optimizer in self.optimizers:
            optimizer.write_back()

    def add(self, names: Sequence[str], pairs_K2: Tensor) -> None:
        """Add a sum and a count, float64, to each of K metrics."""
        if self.sums.keys() == set(names):
            pairs_K2 = torch.stack([self.sums[name] for name in names]) + pairs_K2
            self.sums = {}
        for name, pair in zip(names, pairs_K2.unbind(), strict=True):
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair


def loss_window(device: torch.device) -> Tensor:
    """`State.losses` before the first update: float32 (128,), NaN."""
    return torch.full((_WINDOW,), float("nan"), device=device)
