"""Floating-point operations, counted on the real modules: matrix products, forward and backward."""

from collections.abc import Callable
from typing import Any

from torch.utils.flop_counter import FlopCounterMode


def count_flops(function: Callable[[], Any]) -> int:
    """FLOPs of the matrix products that `function` runs; a multiply and an add are two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())
