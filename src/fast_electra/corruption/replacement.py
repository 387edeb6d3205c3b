"""Replacing tokens: the method of Fast-ELECTRA (section 3) in one place. Start reading here.

  1. draw positions M and replace them by [MASK]               masking.py, masking_kinds.py
  2. the frozen auxiliary gives logits l_t at each t in M      auxiliary.py, counted.py, auxiliary_kinds.py
  3. the curriculum gives the temperature T(u)                 schedules.py, augmentations.py, adaptive.py, initial.py
  4. sample x'_t ~ softmax(l_t / T) (equation 3)               sampling.py; race.py for all temperatures at once;
                                                               triton_sampling.py in one kernel with the output layer
  5. write the samples, label a token 1 if x'_t ≠ x_t, else 0  `replace`

The loss on the labels is in `objectives/detection.py`.

Notable:
- only masked positions pass through the auxiliary's output layer;
- a sample that equals the original counts as original;
- `OnTheFly` runs the auxiliary for every batch. `CachedCorruption` (cache.py) reads samples that were computed ahead of
  time, in the loader's thread if the temperature is known there. Both are a `CorruptionSource`.

Shapes: B sequences, S positions, M masked positions (padded), N = B · M.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Auxiliary
from fast_electra.corruption.masking import Masked, originals
from fast_electra.corruption.race import RaceKey, TemperaturePath, gumbel_race
from fast_electra.corruption.sampling import Samples, sample
from fast_electra.data.batches import Batch
from fast_electra.data.random import Stream, uniforms


@dataclass(frozen=True)
class Corrupted:
    """A corrupted batch, its labels, and sums over masked positions for the metrics."""

    ids_BS: Tensor
    """int64: what the main model sees"""
    replaced_BS: Tensor
    """bool: the labels"""
    masked: Masked
    expected_replaced: Tensor
    """scalar: expected number of replaced tokens, the sum of 1 - p_T(original)"""
    entropy: Tensor | None
    """scalar, nats: sum of the entropies of softmax(l_t / T); None from a cache, which does not store it"""


@dataclass(frozen=True)
class Replacements:
    """Samples that were read from a cache for a batch."""

    tokens_BM: Tensor
    """int64; no meaning in slots that hold no masked position"""
    expected_B: Tensor
    """float32: expected number of tokens of each row that differ from the original"""

    def tensors(self) -> list[Tensor]:
        """The tensors that move to a device."""
        return [self.tokens_BM, self.expected_B]

    def to(self, device: torch.device) -> "Replacements":
        """A copy on a device."""
        return Replacements(*(tensor.to(device, non_blocking=True) for tensor in self.tensors()))

    def pinned(self) -> "Replacements":
        """A copy in page-locked memory."""
        return Replacements(*(tensor.pin_memory() for tensor in self.tensors()))

    def split(self, size: int) -> list["Replacements"]:
        """The replacements of each `size` sequences, as `Batch.split` splits them."""
        return [Replacements(*parts) for parts in zip(*(each.split(size) for each in self.tensors()), strict=True)]

    def written(self, batch: Batch, masked: Masked) -> Corrupted:
        """The batch with these samples at its masked positions."""
        ids_BS, replaced_BS = replace(batch, masked, self.tokens_BM)
        return Corrupted(ids_BS, replaced_BS, masked, self.expected_B.sum(), entropy=None)


class CorruptionSource(Protocol):
    """Gives corrupted sequences: on the fly, or from samples that were computed ahead of time."""

    def stored(self, batch: Batch, difficulty: Difficulty) -> Replacements | None:
        """The samples that are stored for a batch on the CPU; None if they are made on the fly."""
        return None

    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """The batch with replacements at its masked positions; the same arguments give the same replacements."""
        ...


def replace(batch: Batch, masked: Masked, tokens_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Write sampled tokens at the masked positions.

    Returns:
        corrupted ids (B, S) and labels (B, S): True where a token differs from the original.
    """
    written_BM = torch.where(masked.valid_BM, tokens_BM, originals(batch, masked))
    ids_BS = batch.ids.scatter(1, masked.positions_BM, written_BM)
    return ids_BS, ids_BS != batch.ids


@dataclass(frozen=True)
class OnTheFly(CorruptionSource):
    """Runs the frozen auxiliary on every batch."""

    auxiliary: Auxiliary
    disallow_correct: bool = False
    """never sample the original"""
    race_interval: tuple[float, float] | None = None
    """draw temperature paths over this interval, as for a cache (race.py); None: sample at one T (sampling.py)"""

    @torch.no_grad()
    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """The batch with samples of `softmax(l / T)` at its masked positions; no gradient reaches the auxiliary."""
        logits_NV = self.auxiliary.logits(batch, masked, difficulty)
        corrupted = corrupt_by(logits_NV, batch, masked, difficulty.temperature, seed, self.disallow_correct)
        if self.race_interval is None:
            return corrupted
        # The tokens come from a path; what is known without drawing (the expected share of replacements) stays.
        path = race(logits_NV, batch, masked, seed, self.race_interval, self.disallow_correct)
        tokens_BM = path.at(difficulty.temperature).view_as(masked.positions_BM)
        ids_BS, replaced_BS = replace(batch, masked, tokens_BM)
        return dataclasses.replace(corrupted, ids_BS=ids_BS, replaced_BS=replaced_BS)


@dataclass(frozen=True)
class ByPhase(CorruptionSource):
    """Takes the source of each batch's phase."""

    sources: Sequence[CorruptionSource]

    def stored(self, batch: Batch, difficulty: Difficulty) -> Replacements | None:
        """What the source of the batch's phase has stored."""
        return self.sources[batch.phase].stored(batch, difficulty)

    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """The batch, corrupted by the source of its phase."""
        return self.sources[batch.phase].corrupt(batch, masked, difficulty, seed)


def race(
    logits_NV: Tensor,
    batch: Batch,
    masked: Masked,
    seed: int,
    interval: tuple[float, float],
    disallow_correct: bool = False,
) -> TemperaturePath:
    """Draw the temperature paths of a batch's masked positions.

    Args:
        logits_NV: logits of the auxiliary, N = B · M rows in the order of `masked.positions_BM`.
        batch: the original tokens.
        masked: the masked positions.
        seed: seed of the run; with the batch's epochs and indices it determines the noise.
        interval: lowest and highest temperature.
        disallow_correct: never sample the original.

    Returns:
        N paths, in the order of `masked.positions_BM`.
    """
    shape = masked.positions_BM.shape
    epochs_N, indices_N = (numbers[:, None].expand(shape).flatten() for numbers in (batch.epochs, batch.indices))
    if disallow_correct:
        logits_NV = logits_NV.scatter(1, originals(batch, masked).flatten()[:, None], float("-inf"))
    return gumbel_race(logits_NV, RaceKey(seed, epochs_N, indices_N, masked.positions_BM.flatten()), *interval)


@torch.no_grad()
def corrupt_by(
    logits_NV: Tensor, batch: Batch, masked: Masked, temperature: float, seed: int, disallow_correct: bool = False
) -> Corrupted:
    """Corrupt a batch by samples of `softmax(l / T)` at its masked positions.

    Args:
        logits_NV: N = B · M rows, in the order of `masked.positions_BM`; no gradient flows through the sampling.
        batch: the original tokens.
        masked: the masked positions.
        temperature: T > 0.
        seed: seed of the run; with the batch's epochs and indices it determines the noise.
        disallow_correct: never sample the original.

    Returns:
        the corrupted batch, its labels and sums for the metrics.
    """
    uniforms_BM = uniforms(seed, Stream.SAMPLING, batch.epochs[:, None], batch.indices[:, None], masked.positions_BM)
    originals_N = originals(batch, masked).flatten()
    if disallow_correct:
        logits_NV = logits_NV.scatter(1, originals_N[:, None], float("-inf"))
    return corrupted_by(sample(logits_NV, temperature, uniforms_BM.flatten(), originals_N), batch, masked)


def corrupted_by(samples: Samples, batch: Batch, masked: Masked) -> Corrupted:
    """The batch with samples (N = B · M, in the order of `masked.positions_BM`) at its masked positions."""
    ids_BS, replaced_BS = replace(batch, masked, samples.tokens_N.view_as(masked.positions_BM))
    valid_N = masked.valid_BM.flatten()
    return Corrupted(
        ids_BS=ids_BS,
        replaced_BS=replaced_BS,
        masked=masked,
        expected_replaced=((1.0 - samples.original_probability_N) * valid_N).sum(),
        entropy=(samples.entropy_N * valid_N).sum(),
    )
