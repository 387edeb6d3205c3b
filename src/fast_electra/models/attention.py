"""The attention that the models use: plain matrix products, SDPA or the flash kernel, and masks from document ids.

Notable:
- on a CPU the backward pass of fused SDPA takes 35 to 40 % of a training step at length 128. Two batched matrix
  products and a softmax in the weights' precision are faster (`fast-electra bench` shows it), also without gradients:
  in bfloat16 3.3 ms instead of 10.1 for 32 rows of 128 and 4 heads of 64. A GPU uses SDPA, which never stores all
  scores;
- one registered name serves every class that uses the attention interface of Transformers, so we need no encoder of
  our own;
- the mask is built from document ids, given as a 3-D `attention_mask` (batch, 1, length), which reaches the registered
  mask function unchanged. Sliding windows (ModernBERT) come as the `mask_function` of Transformers' call;
- on a GPU documents get no mask, since SDPA leaves its flash kernel for one. `attention_mask` (N + 1,) says where they
  start in the rows one after another. The flash kernel takes this, with windows and dropout. FlexAttention would need a
  compiler even in runs that are not compiled. PyTorch's `varlen_attn` is a Python operator around the same kernel: its
  call costs the host 50 µs more, and it has no dropout;
- the kernel's backward pass adds in no fixed order, so two runs on a GPU differ by rounding; so does SDPA's;
- MPNet computes its attention itself, but adds the registered mask. DeBERTa uses neither, so two hooks give it the mask
  of the same document ids.

Shapes: B sequences, H heads, S positions, D width of a head, N documents.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

MATMUL_ATTENTION = "fast_electra_matmul"
_KERNEL_TYPES = (torch.bfloat16, torch.float16)
"""types that the flash kernel computes in"""

# Share of attention weights that is dropped in any mode of the model. `torch.compile` can read a plain global.
_dropped = 0.0

Watch = Callable[[Tensor, Tensor | None], None]
_watch: Watch | None = None


class Documents(NamedTuple):
    """What the flash kernel needs in place of a mask."""

    starts: Tensor
    """(N + 1,) int32: where each document starts in the rows one after another, ascending, and the end"""
    window: int | None
    """how many tokens a token sees to each side; None: the whole document"""


def takes_starts(model: PreTrainedModel) -> bool:
    """Whether `Documents.starts` can be the `attention_mask` of a model: the flash kernel serves its device and class.

    Transformers says of each class whether FlashAttention can serve it. A token must see both sides.
    """
    return (
        _has_flash_kernel(model.device)
        and model._supports_flash_attn
        and not next((module.is_causal for module in model.modules() if hasattr(module, "is_causal")), False)
    )


def _has_flash_kernel(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


@contextmanager
def attention_dropping(rate: float) -> Iterator[None]:
    """Within the block, a share `rate` of attention weights is dropped and the others are scaled up, in any mode."""
    global _dropped
    before, _dropped = _dropped, rate
    try:
        yield
    finally:
        _dropped = before


@contextmanager
def watching_attention(watch: Watch) -> Iterator[None]:
    """Within the block, `watch` is called with the weights (B, H, S, S) of each attention and the added mask or None.

    It does not see the attention of classes that compute it in their own way.
    """
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Documents | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Softmax(Q Kᵀ · scaling + bias + mask) V; (B, H, S, D) → (B, S, H, D).

    T5 passes `position_bias` (1 or B, H, S, S). Gemma 2 passes `softcap`, a bound c of scores: c · tanh(score / c).
    """
    heads, width = query.shape[1], query.shape[3]
    scale = width**-0.5 if scaling is None else scaling
    if key.shape[1] != heads:  # grouped-query attention
        key = key.repeat_interleave(heads // key.shape[1], 1)
        value = value.repeat_interleave(heads // value.shape[1], 1)
    dropout = dropout or _dropped
    if isinstance(attention_mask, Documents):
        plain = position_bias is None and softcap is None
        if plain and value.dtype in _KERNEL_TYPES and width % 8 == 0 and width <= 256:
            joined = [states.to(value.dtype).transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
            found = _flash(joined, attention_mask, query.shape[2], dropout, scale)
            return found.unflatten(0, (query.shape[0], query.shape[2])), None
        attention_mask = _dense(attention_mask, query)
    if softcap is None and query.is_cuda and _watch is None:
        bias = attention_mask if attention_mask is None else attention_mask.to(query.dtype)
        if position_bias is not None:
            bias = position_bias.to(query.dtype) if bias is None else bias + position_bias.to(query.dtype)
        found = nn.functional.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale)
        return found.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    if position_bias is not None:
        scores = scores + position_bias
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        # In the type of the scores: a float32 mask would promote everything after it.
        scores = scores + attention_mask.to(scores.dtype)
    weights = scores.softmax(-1)
    if _watch is not None:
        _watch(weights, attention_mask)
    if dropout:
        weights = nn.functional.dropout(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _flash(states: list[Tensor], documents: Documents, longest: int, dropout: float, scale: float) -> Tensor:
    """Attention within documents of at most `longest` tokens.

    Args:
        states: queries, keys and values (B · S, H, D) of the tokens of all rows.
        documents: where they start, and a window.
        longest: tokens.
        dropout: share of the weights that is dropped.
        scale: factor of the scores.

    Returns:
        (B · S, H, D).
    """
    starts, windows = documents.starts, dict.fromkeys(("window_size_left", "window_size_right"), documents.window)
    return torch.ops.aten._flash_attention_forward(
        *states, starts, starts, longest, longest, dropout, False, False, scale=scale, **windows
    )[0]


def _dense(documents: Documents, query: Tensor) -> Tensor:
    """The additive mask (B, 1, S, S) that says the same, for what the flash kernel cannot do."""
    rows, _, length, _ = query.shape
    tokens = torch.arange(rows * length, dtype=torch.int32, device=query.device)
    numbers_BS = torch.searchsorted(documents.starts, tokens, right=True).view(rows, length)
    window = length if documents.window is None else documents.window

    def within(_row: int, _head: int, one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs() <= window

    ids_B1S = numbers_BS[:, None]
    return cast(Tensor, _mask(rows, length, length, 0, 0, within, ids_B1S, device=query.device, dtype=query.dtype))


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
    dtype: torch.dtype = torch.float32,
    **_: Any,
) -> Tensor | Documents | None:
    """Additive mask (B, 1, S, S) from document ids (B, 1, S) or a padding mask (B, S); None if nothing is masked.

    Starts of documents (N + 1,) get no mask.
    """
    if attention_mask is not None and attention_mask.ndim == 1:
        return Documents(attention_mask, local_size)
    # `local_size` is the size of a sliding window, which masks something only in longer rows. Whether there is padding
    # is known on the host: a padding mask is given only if there is, so nothing waits for a GPU here.
    masks_nothing = allow_is_bidirectional_skip and (local_size is None or kv_length < local_size)
    if masks_nothing and attention_mask is None:
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
    # In the model's type: MPNet adds the mask unchanged, and cannot multiply the results of a wider type.
    mask = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~allowed, torch.finfo(torch.bfloat16).min)


def use_document_masks(model: PreTrainedModel) -> None:
    """Let a DeBERTa take document ids (B, 1, S) as `attention_mask`, in place; other classes use the registered mask.

    Its embeddings would multiply by a 3-D mask, without an error if length equals width. So hooks pass the ids around
    the embeddings.
    """
    if model.config.model_type in ("deberta", "deberta-v2"):
        model.base_model.register_forward_pre_hook(_keep_documents, with_kwargs=True)
        cast(nn.Module, model.base_model.encoder).register_forward_pre_hook(_apply_documents)


def _keep_documents(base_model: nn.Module, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    documents = keywords.get("attention_mask")
    if documents is None or documents.ndim != 3:
        documents = None
    else:
        keywords = keywords | {"attention_mask": None}
    base_model.encoder.documents_B1S = documents  # type: ignore[assignment]  # plain attribute, read once
    return arguments, keywords


def _apply_documents(encoder: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    documents: Any = encoder.documents_B1S
    encoder.documents_B1S = None  # type: ignore[assignment]
    if documents is None:
        return arguments
    hidden, _, *rest = arguments
    return hidden, documents[:, :, :, None] == documents[:, :, None, :], *rest


AttentionInterface.register(MATMUL_ATTENTION, _attention)
AttentionMaskInterface.register(MATMUL_ATTENTION, _mask)
