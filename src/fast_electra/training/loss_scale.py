"""Loss scaling for float16: a factor of the loss that keeps small gradients from being rounded to zero.

Notable:
- float16 holds numbers from 6e-8 to 65,504. The loss is a mean over all tokens of an update, so most gradients of
  hidden states are smaller; gradients of weights are divided by the factor again, in float32;
- the factor is a power of two, so it rounds nothing. It is halved when a gradient overflows, and that update changes
  nothing; it is doubled after `GROWS_AFTER` updates without an overflow;
- everything stays on the device, so no update waits for it;
- at a factor of 1 an overflow is no longer the factor's fault, and counts as any other gradient that is not finite.

Micikevicius et al., 2018, "Mixed Precision Training" (arXiv 1710.03740); the same rule as `torch.amp.GradScaler`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_START, _MOST = 2.0**16, 2.0**24
GROWS_AFTER = 2000
"""number of updates without an overflow after which the factor is doubled"""


@dataclass
class LossScale:
    """The factor, and when it changed last."""

    factor: Tensor
    """float32 scalar, a power of two"""
    since: Tensor
    """float32 scalar: number of updates without an overflow since the factor changed"""

    @classmethod
    def of(cls, state: list[float], device: torch.device) -> Self:
        """The one with a `state` that `state()` returned, on a device."""
        return cls(*torch.tensor(state, dtype=torch.float32).to(device, non_blocking=True).unbind())

    @classmethod
    def start(cls, device: torch.device) -> Self:
        """The factor of a run's first update."""
        return cls.of([_START, 0.0], device)

    def state(self) -> list[float]:
        """What a checkpoint stores."""
        return torch.stack((self.factor, self.since)).tolist()

    def follow(self, overflowed: Tensor, otherwise_bad: Tensor) -> Tensor:
        """Change the factor after an update.

        Args:
            overflowed: scalar, not 0 if a gradient of any process is not finite.
            otherwise_bad: scalar, not 0 if the loss or a metric is not finite either; then the factor stays.

        Returns:
            bool scalar: whether the factor was too large, and nothing else is wrong.
        """
        is_sound = otherwise_bad == 0
        too_large = (overflowed != 0) & is_sound & (self.factor > 1.0)
        since = torch.where((overflowed == 0) & is_sound, self.since + 1.0, self.since)
        grows = since >= GROWS_AFTER
        factor = torch.where(too_large, 0.5 * self.factor, torch.where(grows, 2.0 * self.factor, self.factor))
        # In place, since a CUDA graph writes to the same memory in every update.
        self.factor.copy_(factor.clamp(max=_MOST))
        self.since.copy_(torch.where(too_large | grows, 0.0, since))
        return too_large
