"""Muon for hidden matrices: momentum whose singular values are set to one (Jordan et al., 2024).

Notable:
- an update has the same root mean square as AdamW's (0.2, Liu et al., 2025, "Muon is Scalable for LLM Training"), so
  one learning rate and one weight decay serve both;
- a fused projection (query, key and value in one matrix) is split first, since each part is a separate map;
- plain matrix products, in bfloat16 if the processor has it, otherwise in float32. `torch.optim.Muon` always uses
  `addmm` in bfloat16. On two CPU threads this took 1.3 s per update for a 4-layer model of width 256, instead of 0.05 s
  here, and 8 s where bfloat16 is emulated.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fast_electra.models.shares import as_shares_of, own_share, share_of, whole

# Jordan et al.: the quintic with the steepest slope at zero; five steps bring singular values between 0.7 and 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
# Root mean square of an AdamW update of transformers: 0.2 to 0.4 (Liu et al., 2025, section 2.2).
_UPDATE_RMS = 0.2


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices with the singular vectors of `matrices` and singular values near one, by Newton-Schulz iteration.

    Args:
        matrices: (..., rows, columns).
        dtype: type of the matrix products.

    Returns:
        (..., rows, columns) in `dtype`.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if is_tall else matrices
    x = (wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(_STEPS):
        gram = x @ x.mT
        polynomial = (gram @ gram).mul_(c).add_(gram, alpha=b)
        x = (polynomial @ x).add_(x, alpha=a)
    return x.mT if is_tall else x


def step_flops(shape: Sequence[int], parts: int) -> int:
    """FLOPs of the matrix products in one step of a matrix (rows, columns) that stacks `parts` maps."""
    short, long = sorted((shape[0] // parts, shape[1]))
    return parts * _STEPS * (2 * 2 * short**2 * long + 2 * short**3)


class Muon:
    """Updates matrices; each has one momentum buffer."""

    def __init__(
        self, matrices: list[Tensor], parts: Sequence[int], momentum: float, weight_decay: float, dtype: torch.dtype
    ):
        """Set the momentum to zero.

        Args:
            matrices: (rows, columns) each; `step` reads their gradients.
            parts: number of maps stacked along the rows of each.
            momentum: decay of the gradient's moving average.
            weight_decay: decoupled and times the learning rate, as in AdamW.
            dtype: type of the matrix products.
        """
        self.matrices = matrices
        self.state = {"momentum": [torch.zeros_like(matrix) for matrix in matrices]}
        self._parts = parts
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._dtype = dtype

    @torch.no_grad()
    def step(self, rate: float | Tensor, skipped: Tensor) -> None:
        """Update the matrices from their gradients at learning rate `rate`, and clear the gradients.

        Args:
            rate: the learning rate.
            skipped: scalar: 1.0 if nothing may change, because a gradient is not finite, else 0.0.
        """
        applied = 1.0 - skipped
        for matrix, buffer, parts in zip(self.matrices, self.state["momentum"], self._parts, strict=True):
            assert matrix.grad is not None
            own, momentum, gradient = map(own_share, (matrix, buffer, matrix.grad))
            gradient = gradient.where(skipped == 0, 0.0)
            momentum.lerp_(gradient, (1.0 - self._momentum) * applied)
            nesterov_PRC = whole(as_shares_of(matrix, gradient.lerp(momentum, self._momentum))).unflatten(
                0, (parts, -1)
            )
            # R · C entries share min(R, C) singular values of one: their root mean square is 1 / sqrt(max(R, C)).
            scale = rate * _UPDATE_RMS * max(nesterov_PRC.shape[1:]) ** 0.5
            change = share_of(matrix, orthogonalise(nesterov_PRC, self._dtype).flatten(0, 1))
            own.mul_(1.0 - rate * self._weight_decay * applied)
            own.sub_(change * (scale * applied))
            matrix.grad = None
