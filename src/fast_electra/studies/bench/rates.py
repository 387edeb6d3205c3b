"""FLOPs per second: of a step, of its matrix products alone, of large products on the device, and of its data sheet."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fast_electra.training.flops import MatrixProduct
from fast_electra.training.precision import Execution, synchronize

# Dense bfloat16 products with float32 sums (float16 where there is no bfloat16), in FLOPs per second, by a part of the
# device's name; the first that fits.
# From NVIDIA's data sheets; where these give the rate with sparsity, half of it.
_DATA_SHEETS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "V100": 125e12,
    "T4": 65e12,
}


def data_sheet_rate(device: str) -> float | None:
    """FLOPs per second of bfloat16 products by the data sheet of a device with this name; None if it is not known."""
    return next((rate for name, rate in _DATA_SHEETS.items() if name in device), None)


def large_product_rate(execution: Execution) -> float:
    """FLOPs per second of products of large square matrices, in the type of the step's products."""
    on_gpu = execution.device.type == "cuda"
    size = 8192 if on_gpu else 1024
    dtype = {"float32": torch.float32, "float16_autocast": torch.float16}.get(execution.precision, torch.bfloat16)
    first, second = (torch.randn(size, size, device=execution.device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(10 if on_gpu else 1):
            torch.matmul(first, second)
        synchronize(execution.device)

    return 2 * size**3 * (10 if on_gpu else 1) / median_seconds(multiply)


def interval(values: Sequence[float]) -> dict[str, float]:
    """The median and its 95 % bootstrap interval, from 2,000 resamples with a fixed seed."""
    found = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(found), size=(2000, len(found)))
    low, high = np.quantile(np.median(found[draws], axis=1), (0.025, 0.975))
    return {"median": float(np.median(found)), "low": float(low), "high": float(high)}


def rates(seconds: Sequence[float], product_seconds: Sequence[float], flops: int) -> dict[str, Any]:
    """FLOPs per second of a step with given replacements and of its matrix products alone; their share of the time.

    Args:
        seconds: of an update, by round.
        product_seconds: of its matrix products alone, in the same rounds.
        flops: of an update.
    """
    shares = [alone / whole for alone, whole in zip(product_seconds, seconds, strict=True)]
    return {
        "flops_per_second": flops / float(np.median(seconds)),
        "matmul_flops_per_second": flops / float(np.median(product_seconds)),
        "matmul_share": float(np.median(shares)),
        "matmul_share_interval": interval(shares),
    }


class Products:
    """All matrix products of an update, one after the other, on operands that are in memory."""

    def __init__(self, products: Counter[MatrixProduct], device: torch.device) -> None:
        self._device = device
        self._products = [(*product.operands(device), count) for product, count in products.items()]
        self()

    def __call__(self) -> float:
        """Run the products and return the seconds."""
        synchronize(self._device)
        began = time.perf_counter()
        for first, second, count in self._products:
            for _ in range(count):
                torch.matmul(first, second)
        synchronize(self._device)
        return time.perf_counter() - began


def median_seconds(function: Callable[[], Any]) -> float:
    """Median seconds of a call, over half a second of calls and at least three, after a call that is not timed."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.5:
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
