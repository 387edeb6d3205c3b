"""What a step costs: FLOPs by formula and by count, the matrix products, and the bytes of activations.

Notable:
- only the FLOPs of matrix products count; a multiply and an add are two;
- the counts run the real modules; on the meta device this needs no memory and almost no time, whatever the shape;
- `FlopCounterMode` does not count fused attention on a CPU; models/attention.py uses plain matrix products there.

Shapes: S positions of a row, d width, L layers.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel


def count_flops(function: Callable[[], Any]) -> int:
    """Run `function` and return the FLOPs of its matrix products; a multiply and an add are two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def forward_flops(model: PreTrainedModel, length: int, head_positions: int) -> int:
    """FLOPs of a forward pass over one row, by formula; forward and backward together need three times as many.

        2 · weights of the encoder's linear maps · S  +  4 · S² · d · L  +  2 · weights of the head's linear maps · H

    The middle term is attention's two products. The formula leaves out the extra products of relative positions
    (DeBERTa), and counts layers that share weights (ALBERT) once.

    Args:
        model: a Transformers encoder with a head.
        length: number of tokens in the row (S).
        head_positions: number of positions that the head computes (H).
    """
    encoder = cast(nn.Module, model.base_model)
    inside = {id(module) for module in encoder.modules()}
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    encoder_weights = sum(module.weight.numel() for module in linear if id(module) in inside)
    head_weights = sum(module.weight.numel() for module in linear if id(module) not in inside)
    attention = 4 * length**2 * model.config.hidden_size * model.config.num_hidden_layers
    return 2 * encoder_weights * length + attention + 2 * head_weights * head_positions


def kept_bytes(function: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """Bytes of activations that autograd keeps for the backward pass of `function`; each storage counts once.

    Args:
        function: runs a forward pass; its result is not used.
        parameters: weights of the model; their storages are not counted.
    """
    # Holding the storages prevents that one is freed and its address used again.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    for parameter in parameters:
        kept.pop(parameter.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in kept.values())


@dataclass(frozen=True)
class MatrixProduct:
    """One (batched) matrix product: the sizes and strides of both operands, and their type."""

    first: tuple[tuple[int, ...], tuple[int, ...]]
    second: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: torch.dtype

    def operands(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Random operands in the same layout."""
        made = []
        for size, stride in (self.first, self.second):
            made.append(torch.empty_strided(size, stride, dtype=self.dtype, device=device).normal_())
        return made[0], made[1]


def matrix_products(function: Callable[[], Any]) -> Counter[MatrixProduct]:
    """Run `function` and return its matrix products, forward and backward, with how often each ran."""
    recorder = _Recorder()
    with recorder:
        function()
    return recorder.found


class _Recorder(TorchDispatchMode):
    """Records every matrix product just before its kernel runs, below autograd and autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[MatrixProduct] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        if func._overloadpacket in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm):
            first, second = args[:2] if func._overloadpacket in (aten.mm, aten.bmm) else args[1:3]
            layouts = [(tuple(tensor.shape), tuple(tensor.stride())) for tensor in (first, second)]
            self.found[MatrixProduct(layouts[0], layouts[1], first.dtype)] += 1
        return func(*args, **(kwargs or {}))
