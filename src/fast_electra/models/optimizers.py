"""The settings of optimizers, one class for each `optimizer.kind`, and which parameters each updates by its own rule.

Notable:
- AdamW updates every parameter that the optimizer does not own. Clipping, float32 masters, the learning rate and the
  checkpoint are the same for all (training/optimizer.py); `muon.py` has Muon's rule.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import Field

from fast_electra.parts import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fast_electra.models.linear_maps import LinearMap


class Stepper(Protocol):
    """Updates tensors by an optimizer's own rule."""

    @property
    def state(self) -> Mapping[str, Sequence["Tensor"]]:
        """The state for checkpoints: by name, a tensor for each updated tensor, in the same order."""
        ...

    def step(self, rate: "float | Tensor", skipped: "Tensor") -> None:
        """Update the tensors from their gradients at learning rate `rate`, and clear the gradients.

        Where the scalar `skipped` is 1.0 and not 0.0, a gradient is not finite, and neither tensors nor state change.
        """
        ...


class Optimizer(Part):
    """The learning rate over a run, and how weights are updated. A kind may own parameters; AdamW updates the rest."""

    default_kind: ClassVar[str] = "adamw"
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
    """decoupled and times the learning rate; only for linear maps, not for tables, norms and biases"""
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

    def owned(self, parameters: "Mapping[str, nn.Parameter]", linear_maps: "Mapping[str, LinearMap]") -> dict[str, int]:
        """The trained parameters that it updates itself, by name, with the number of linear maps stacked in each."""
        return {}

    def stepper(self, tensors: "list[Tensor]", maps: Sequence[int], dtype: "torch.dtype") -> Stepper:
        """The object that updates the owned parameters.

        Args:
            tensors: float32, in the order of their names; `step` reads their gradients and clears them. Under FSDP2
                each process holds a share of them (models/shares.py).
            maps: number of linear maps stacked in each.
            dtype: type of matrix products.
        """
        raise NotImplementedError

    def step_flops(self, shape: Sequence[int], maps: int) -> int:
        """FLOPs of the matrix products in one update of an owned parameter of this shape, with `maps` linear maps."""
        return 0


class AdamWOptimizer(Optimizer):
    """AdamW, and the learning rate over the run."""

    kind: Literal["adamw"] = "adamw"
    stays_on_device = True


class MuonOptimizer(Optimizer):
    """Muon for the matrices of the encoder's layers, with updates as large as AdamW's; AdamW for the rest."""

    kind: Literal["muon"] = "muon"
    stays_on_device = True

    def owned(self, parameters: "Mapping[str, nn.Parameter]", linear_maps: "Mapping[str, LinearMap]") -> dict[str, int]:
        return {
            name: linear.parts
            for name, linear in linear_maps.items()
            if linear.hidden and parameters[name].requires_grad
        }

    def stepper(self, tensors: "list[Tensor]", maps: Sequence[int], dtype: "torch.dtype") -> Stepper:
        from fast_electra.models.muon import Muon

        return Muon(tensors, maps, momentum=self.muon_momentum, weight_decay=self.weight_decay, dtype=dtype)

    def step_flops(self, shape: Sequence[int], maps: int) -> int:
        from fast_electra.models.muon import step_flops

        return step_flops(shape, maps)
