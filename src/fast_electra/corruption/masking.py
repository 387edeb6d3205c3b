"""Which positions are masked: `max(1, round(rate · eligible tokens))` of each row, without replacement.

Notable:
- counter-based: a row's mask depends on seed, epoch, sample index and position alone, not on the batch around it;
- the probability is flat over eligible positions, the count exact; special and padding tokens are never masked;
- storage is padded to a fixed count, so shapes never change and nothing recompiles.

Shapes: B sequences, S positions, M masked positions (padded).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fast_electra.config.tree import MaskingConfig
from fast_electra.data.batches import Batch
from fast_electra.data.random import Stream, uniforms


@dataclass(frozen=True)
class Masked:
    """The masked positions of a batch."""

    positions_BM: Tensor
    """int64, ascending in each row; where `valid_BM` is False, some eligible position of no meaning"""
    valid_BM: Tensor
    """bool: which of the M slots hold a masked position"""

    def split(self, size: int) -> list["Masked"]:
        """Slices of `size` sequences, in step with `Batch.split`."""
        return [Masked(p, v) for p, v in zip(self.positions_BM.split(size), self.valid_BM.split(size), strict=True)]


Masker = Callable[[Batch, int], Masked]
"""(batch, seed) → masked positions: a pure function."""


def masked_ids(batch: Batch, masked: Masked, mask_id: int) -> Tensor:
    """The batch's ids (B, S) with `[MASK]` at the masked positions."""
    written_BM = torch.where(masked.valid_BM, mask_id, originals(batch, masked))
    return batch.ids.scatter(1, masked.positions_BM, written_BM)


def originals(batch: Batch, masked: Masked) -> Tensor:
    """The original tokens (B, M) at the masked positions."""
    return batch.ids.gather(1, masked.positions_BM)


def make_masker(config: MaskingConfig, tokenizer: PreTrainedTokenizerBase) -> Masker:
    """The masker of a configuration; the tokenizer says where words begin."""
    return lambda batch, seed: mask_random_tokens(batch, config.rate, seed)


def mask_random_tokens(batch: Batch, rate: float, seed: int) -> Masked:
    """Draw masked positions: the eligible positions with the smallest of independent uniform numbers.

    Args:
        batch: B rows of S tokens.
        rate: share of a row's eligible tokens, in (0, 1).
        seed: the run's seed.
    """
    eligible_BS = batch.eligible
    length = eligible_BS.shape[1]
    positions_S = torch.arange(length, device=eligible_BS.device)
    noise_BS = uniforms(seed, Stream.MASKING, batch.epochs[:, None], batch.indices[:, None], positions_S[None, :])
    noise_BS = noise_BS.masked_fill(~eligible_BS, 2.0)
    eligible_B = eligible_BS.sum(1)
    count_B = (rate * eligible_B).round().long().clamp(min=1).minimum(eligible_B)
    slots = max(1, round(rate * length))
    chosen_BM = noise_BS.argsort(dim=1, stable=True)[:, :slots]
    valid_BM = torch.arange(slots, device=eligible_BS.device)[None, :] < count_B[:, None]
    # Ascending positions, valid ones first: readable in a debugger, and gathers walk memory forwards.
    order_BM = torch.where(valid_BM, chosen_BM, chosen_BM + length).argsort(dim=1)
    return Masked(chosen_BM.gather(1, order_BM), valid_BM)
