"""LayerNorm with correct gradients of its weights in bfloat16 on a CPU.

Notable:
- PyTorch's backward pass there sums a weight's gradient over all tokens in bfloat16 and loses small addends: of a
  gradient of constant sign it loses 27 % at 2,048 tokens and three quarters at 16,384. Here the sum is in float32;
- the forward pass is PyTorch's. The backward pass is PyTorch's of float32, on casts of its inputs.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn


def use_exact_norms(model: nn.Module) -> None:
    """Let every LayerNorm of a model use `layer_norm`, in place; parameters and outputs do not change."""
    for module in model.modules():
        if type(module) is nn.LayerNorm and module.weight is not None:
            module.__class__ = _LayerNorm


def layer_norm(states: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """`(states - mean) / deviation · weight + bias` over the last dimension; gradients of weights are sums in float32.

    Args:
        states: (..., d).
        weight: (d,).
        bias: (d,), or None.
        epsilon: added to the variance.

    Returns:
        (..., d), in the type of `states`.
    """
    if states.device.type == "cpu" and states.dtype == weight.dtype == torch.bfloat16 and torch.is_grad_enabled():
        return cast(Tensor, _Normalise.apply(states, weight, bias, epsilon))
    return nn.functional.layer_norm(states, weight.shape, weight, bias, epsilon)


class _LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.weight, self.bias, self.eps)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
        ctx.types = weight.dtype, None if bias is None else bias.dtype
        # With float32 weights, mean and inverse deviation are in float32 too.
        weight, bias = weight.float(), None if bias is None else bias.float()
        normal, mean, inverse = torch.native_layer_norm(states, weight.shape, weight, bias, epsilon)
        ctx.save_for_backward(states, mean, inverse, weight, bias)
        return normal

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        states, mean, inverse, weight, bias = ctx.saved_tensors
        of_states, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
            gradient.float(),
            states.float(),
            weight.shape,
            mean,
            inverse,
            weight,
            bias,
            [ctx.needs_input_grad[0], True, bias is not None],
        )
        of_states = None if of_states is None else of_states.to(states.dtype)
        of_bias = None if of_bias is None else of_bias.to(ctx.types[1])
        return of_states, of_weight.to(ctx.types[0]), of_bias, None
