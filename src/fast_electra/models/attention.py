"""The attention that the models train with: plain matrix products, and masks from document ids.

Notable:
- on a CPU the backward pass of fused SDPA is 35 to 40 % of a training step at length 128; two batched matrix products
  and a softmax in the weights' own precision are faster (`fast-electra bench` shows it);
- one registered name covers every class that Transformers routes through its attention interface: no encoder of ours;
- the mask is built from document ids given as a 3-D `attention_mask` (batch, 1, length), which reaches the registered
  mask function as it is; sliding windows (ModernBERT) come along as the `mask_function` of Transformers' own call.

Shapes: B sequences, H heads, S positions, D width of a head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

MATMUL_ATTENTION = "fast_electra_matmul"


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Softmax(Q Kᵀ · scaling + mask) V; (B, H, S, D) → (B, S, H, D)."""
    heads, width = query.shape[1], query.shape[3]
    scale = width**-0.5 if scaling is None else scaling
    if key.shape[1] != heads:  # grouped-query attention
        key = key.repeat_interleave(heads // key.shape[1], 1)
        value = value.repeat_interleave(heads // value.shape[1], 1)
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    if attention_mask is not None:
        # In the scores' own type: a float32 mask would promote everything after it.
        scores = scores + attention_mask.to(scores.dtype)
    weights = scores.softmax(-1)
    if dropout:
        weights = nn.functional.dropout(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor | bool] | None = None,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_bidirectional_skip: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Tensor | None:
    """Additive mask (B, 1, S, S) from document ids (B, 1, S) or a padding mask (B, S); None when all see all."""
    # A sliding window is said by `local_size` too, and hides something only in rows longer than that.
    may_skip = allow_is_bidirectional_skip and (local_size is None or kv_length < local_size)
    if may_skip and (attention_mask is None or (attention_mask.ndim == 2 and bool(attention_mask.all()))):
        return None
    rows = torch.arange(q_length, device=device)[:, None] + q_offset
    columns = torch.arange(kv_length, device=device)[None, :] + kv_offset
    allowed = torch.ones(1, 1, q_length, kv_length, dtype=torch.bool, device=device)
    if mask_function is not None:
        # Bidirectional, causal and sliding-window functions are arithmetic on indices, so they broadcast.
        allowed = allowed & torch.as_tensor(mask_function(0, 0, rows, columns), device=device)
    if attention_mask is not None and attention_mask.ndim == 3:
        allowed = allowed & (attention_mask[:, :, :, None] == attention_mask[:, :, None, :])
    elif attention_mask is not None:
        allowed = allowed & attention_mask.bool()[:, None, None, :]
    return torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, torch.finfo(torch.bfloat16).min)


AttentionInterface.register(MATMUL_ATTENTION, _attention)
AttentionMaskInterface.register(MATMUL_ATTENTION, _mask)
