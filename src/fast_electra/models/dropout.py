"""Dropout on a CPU at a fifth of its cost.

Notable:
- PyTorch draws one number of its serial generator for each element: 11 % of a fine-tuning update, and more on several
  threads. Here 64 bits serve four elements, and the mask is made by one vectorised comparison;
- drawn from the same generator, so seeded by whoever seeds it; the same share of zeros to 1 in 131,072;
- a mode, so that it holds in every module and in our attention without touching a class.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_LEVELS = 2**16


class FastDropout(TorchFunctionMode):
    """Within it, `torch.nn.functional.dropout`, and so `nn.Dropout`, drops by `drop` what is on a CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Step in for dropout alone."""
        if func is nn.functional.dropout:
            return _dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def drop(values: Tensor, rate: float) -> Tensor:
    """Each element zero with probability `rate`, else divided by 1 - rate; any shape and floating type, on a CPU."""
    dropped = round(rate * _LEVELS)
    # The whole range: by default the highest bit would always be 0.
    bits = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = bits.view(torch.int16)[: values.numel()].view(values.shape)
    # Written as 0 and 1 at once: a mask of booleans would take ten times as long to convert.
    kept = torch.ge(levels, dropped - _LEVELS // 2, out=torch.empty(values.shape, dtype=values.dtype))
    return values * kept.mul_(_LEVELS / (_LEVELS - dropped))


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or not 0 < p < 1 or input.device.type != "cpu":
        return nn.functional.dropout(input, p, training, inplace)
    return drop(input, p)
