"""Sampling from `softmax(l / T)` in one Triton kernel with the output layer, so that the logits are never in memory.

`sampling.py` reads logits (N, V) that the output layer wrote: at 2,432 × 30,522 in float32 these are 297 MB, and it
passes over them a few times. Here each program multiplies some hidden states by a tile of the output layer, keeps the
logits in registers, and writes five numbers a row: the tile's maximum, its sum of exp, the sum that the entropy needs,
the logit of the original if it is there, and one token, drawn within the tile. Which tile the token comes from is drawn
afterwards, from the sums of all tiles (N, V / 128).

Notable:
- the draw is that of `sampling.py`, an inverse of the distribution in blocks, with a number of its own for the place
  within the block, since the block is not known yet. Its noise is as counter-based;
- sums within a tile are in float32, those over tiles in float64;
- logits stay in float32, where the plain way rounds them to the auxiliary's bfloat16. So draws of the two may differ;
- a bias of -inf excludes a token, at no cost;
- PyTorch knows the kernel as an operator, with a count of its operations. It has no backward pass: the auxiliary is
  frozen;
- `TRITON_INTERPRET=1` runs the kernel on a CPU, for tests. Triton's interpreter cannot multiply bfloat16.

Shapes: N rows (masked positions), d width, V vocabulary, T tiles; in the kernel n, v and d are those of one program.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Auxiliary, MaskedLanguageModel
from fast_electra.corruption.masking import Masked, originals
from fast_electra.corruption.replacement import Corrupted, CorruptionSource, corrupted_by
from fast_electra.corruption.sampling import Samples
from fast_electra.data.batches import Batch
from fast_electra.data.random import Stream, uniform_pairs
from fast_electra.errors import ConfigError

ROWS, COLUMNS, DEPTH, WARPS = 64, 128, 64, 8
"""rows, tokens and width that a program multiplies at a time, and its warps; not tuned on a GPU yet"""


@dataclass(frozen=True)
class OutputLayer:
    """The linear map from hidden states to logits."""

    weight_Vd: Tensor
    """of the auxiliary's type"""
    bias_V: Tensor
    """float32; -inf for tokens that are never drawn"""


@dataclass(frozen=True)
class TritonSampling(CorruptionSource):
    """Runs the frozen auxiliary on every batch, with the kernel in place of its output layer."""

    auxiliary: MaskedLanguageModel
    output: OutputLayer
    disallow_correct: bool = False
    """never sample the original"""

    @classmethod
    def of(cls, auxiliary: Auxiliary, disallow_correct: bool = False) -> "TritonSampling":
        """For an auxiliary, whose output layer is taken out of its model.

        Raises:
            ConfigError: the auxiliary is no masked language model, or not on a GPU.
            ModelError: its output layer is no linear map.
        """
        if not isinstance(auxiliary, MaskedLanguageModel):
            raise ConfigError(
                "corruption.sampler=triton needs a masked language model as auxiliary: use "
                "corruption.sampler=inverse_cdf."
            )
        device, candidates = auxiliary.candidates.excluded_E.device, auxiliary.candidates
        if device.type != "cuda" and not triton.knobs.runtime.interpret:
            raise ConfigError(
                f"corruption.sampler=triton needs a CUDA GPU, and the device is {device.type}: use "
                "corruption.sampler=inverse_cdf."
            )
        layer = auxiliary.model.take_output_layer()
        weight_Vd = layer.weight.detach()[: candidates.vocabulary]
        bias_V = torch.zeros(len(weight_Vd), device=device) if layer.bias is None else layer.bias.detach().float()
        bias_V = bias_V[: candidates.vocabulary].index_fill(0, candidates.excluded_E, float("-inf"))
        return cls(auxiliary, OutputLayer(weight_Vd, bias_V), disallow_correct)

    @torch.no_grad()
    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """The batch with samples of `softmax(l / T)` at its masked positions; no gradient reaches the auxiliary."""
        positions_BM = masked.positions_BM
        noise = uniform_pairs(
            seed,
            Stream.SAMPLING,
            batch.epochs[:, None],
            batch.indices[:, None],
            positions_BM,
            torch.zeros_like(positions_BM),
        )
        samples = sample_hidden(
            self.auxiliary.before_output(batch, masked, difficulty),
            self.output,
            difficulty.temperature,
            (noise[0].flatten(), noise[1].flatten()),
            originals(batch, masked).flatten(),
            self.disallow_correct,
        )
        return corrupted_by(samples, batch, masked)


def sample_hidden(
    hidden_Nd: Tensor,
    output: OutputLayer,
    temperature: float,
    uniforms_N: tuple[Tensor, Tensor],
    originals_N: Tensor,
    disallow_correct: bool = False,
) -> Samples:
    """Draw one token per row from `softmax(l / temperature)`, with l the output layer of the hidden states.

    Args:
        hidden_Nd: on a GPU, any float type; they are cast to the type of the output layer.
        output: the output layer.
        temperature: > 0.
        uniforms_N: two float64 in (0, 1) for each row: for the tile, and for the place in it.
        originals_N: int64, the tokens that were masked.
        disallow_correct: never draw the original.

    Returns:
        the samples: the same for the same arguments, and never a token of probability 0.
    """
    maxima_NT, sums_NT, moments_NT, tokens_NT, originals = _tiles(
        hidden_Nd.to(output.weight_Vd.dtype),
        output.weight_Vd,
        output.bias_V,
        uniforms_N[1].float(),
        originals_N,
        1.0 / temperature,
        disallow_correct,
    )
    if not len(hidden_Nd):
        return Samples(originals_N, originals, originals)
    highest_N1 = maxima_NT.amax(1, keepdim=True)
    shifts_NT = (maxima_NT - highest_N1).double()
    scales_NT = shifts_NT.exp()
    sums_NT, moments_NT = sums_NT * scales_NT, moments_NT * scales_NT
    cumulative_NT = sums_NT.cumsum(1)
    total_N1 = cumulative_NT[:, -1:]
    # A little below the total, so that the tile is one with a sum above 0.
    target_N1 = uniforms_N[0][:, None] * total_N1 * (1 - 2.0**-52)
    tile_N1 = torch.searchsorted(cumulative_NT, target_N1, right=True).clamp(max=sums_NT.shape[1] - 1)
    log_total_N = total_N1[:, 0].log()
    # H = log Z - E[l / T - max]
    expectation_N = (moments_NT + torch.where(sums_NT > 0, sums_NT * shifts_NT, 0.0)).sum(1) / total_N1[:, 0]
    return Samples(
        tokens_N=tokens_NT.gather(1, tile_N1)[:, 0].long(),
        original_probability_N=(originals.double() - highest_N1[:, 0] - log_total_N).exp().float(),
        entropy_N=(log_total_N - expectation_N).float(),
    )


@torch.library.custom_op("fast_electra::sample_tiles", mutates_args=())
def _tiles(
    hidden_Nd: Tensor,
    weight_Vd: Tensor,
    bias_V: Tensor,
    uniforms_N: Tensor,
    originals_N: Tensor,
    scale: float,
    disallow_correct: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For each row and tile: maximum, sum of exp, sum of (l - max) · exp, and a token; for each row its original's l.

    Here l are the logits times `scale`, and -inf for an original outside of the vocabulary. Tokens are int32.
    """
    (rows, width), vocabulary = hidden_Nd.shape, len(weight_Vd)
    if weight_Vd.shape[1] != width or len(bias_V) != vocabulary or not len(uniforms_N) == len(originals_N) == rows:
        raise ValueError("the shapes of hidden states, output layer, uniforms and originals do not fit")
    tiles = triton.cdiv(vocabulary, COLUMNS)
    # A tile's rows lie side by side, as a program writes them.
    maxima_TN, sums_TN, moments_TN = (hidden_Nd.new_empty(tiles, rows, dtype=torch.float32) for _ in range(3))
    tokens_TN = hidden_Nd.new_empty(tiles, rows, dtype=torch.int32)
    originals = hidden_Nd.new_full((rows,), float("-inf"), dtype=torch.float32)
    if rows:
        # Programs that share a tile of the output layer run at the same time, and find it in the GPU's cache.
        _kernel[(triton.cdiv(rows, ROWS), tiles)](  # pyright: ignore[reportIndexIssue]
            *(given.contiguous() for given in (hidden_Nd, weight_Vd, bias_V, uniforms_N, originals_N)),
            *(maxima_TN, sums_TN, moments_TN, tokens_TN, originals),
            *(rows, vocabulary, width, scale),
            DISALLOW=disallow_correct,
            WIDEN=triton.knobs.runtime.interpret,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            DEPTH=DEPTH,
            num_warps=WARPS,
        )
    return maxima_TN.T, sums_TN.T, moments_TN.T, tokens_TN.T, originals


@register_flop_formula(torch.ops.fast_electra.sample_tiles)
def _flops(hidden_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * hidden_shape[0] * weight_shape[0] * weight_shape[1]


@triton.jit
def _kernel(
    hidden,
    weight,
    bias,
    uniforms,
    originals,
    maxima,
    sums,
    moments,
    tokens,
    original_logits,
    rows,
    vocabulary,
    width,
    scale,
    DISALLOW: tl.constexpr,
    WIDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    tile = tl.program_id(1)
    row_n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place_v = tl.arange(0, COLUMNS)
    token_v = tile * COLUMNS + place_v
    is_row_n, is_token_v = row_n < rows, token_v < vocabulary
    hidden_n1 = hidden + row_n.to(tl.int64)[:, None] * width
    weight_1v = weight + token_v.to(tl.int64)[None, :] * width
    logits_nv = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, DEPTH):
        depth_d = start + tl.arange(0, DEPTH)
        is_depth_d = depth_d < width
        hidden_nd = tl.load(hidden_n1 + depth_d[None, :], is_row_n[:, None] & is_depth_d[None, :], other=0.0)
        weight_dv = tl.load(weight_1v + depth_d[:, None], is_depth_d[:, None] & is_token_v[None, :], other=0.0)
        if WIDEN:
            hidden_nd, weight_dv = hidden_nd.to(tl.float32), weight_dv.to(tl.float32)
        logits_nv = tl.dot(hidden_nd, weight_dv, logits_nv, input_precision="ieee")
    bias_v = tl.load(bias + token_v, is_token_v, other=float("-inf"))
    original_n = tl.load(originals + row_n, is_row_n, other=-1)
    uniform_n = tl.load(uniforms + row_n, is_row_n, other=0.0)
    logits_nv = (logits_nv + bias_v[None, :]) * scale
    is_original_nv = token_v[None, :] == original_n[:, None]
    if DISALLOW:
        logits_nv = tl.where(is_original_nv, float("-inf"), logits_nv)
    maximum_n = tl.max(logits_nv, 1)
    shifted_nv = logits_nv - tl.where(maximum_n == float("-inf"), 0.0, maximum_n)[:, None]
    weights_nv = tl.exp(shifted_nv)
    sum_n = tl.sum(weights_nv, 1)
    moment_n = tl.sum(weights_nv * tl.where(weights_nv > 0.0, shifted_nv, 0.0), 1)
    # A parallel cumulative sum may fall by a rounding error, so a token of weight 0 must be ruled out.
    is_beyond_nv = (tl.cumsum(weights_nv, 1) > (uniform_n * sum_n)[:, None]) & (weights_nv > 0.0)
    first_n = tl.min(tl.where(is_beyond_nv, place_v[None, :], COLUMNS), 1)
    last_n = tl.max(tl.where(weights_nv > 0.0, place_v[None, :], 0), 1)
    token_n = tile * COLUMNS + tl.minimum(first_n, last_n)  # the tile's first token if its logits are not finite
    at_n = tile.to(tl.int64) * rows + row_n
    tl.store(maxima + at_n, maximum_n, is_row_n)
    tl.store(sums + at_n, sum_n, is_row_n)
    tl.store(moments + at_n, moment_n, is_row_n)
    tl.store(tokens + at_n, token_n, is_row_n)
    is_here_n = is_row_n & (original_n >= tile * COLUMNS) & (original_n < (tile + 1) * COLUMNS)
    original_logit_n = tl.sum(tl.where(is_original_nv, logits_nv, 0.0), 1)
    tl.store(original_logits + row_n, original_logit_n, is_here_n & (original_n < vocabulary))
