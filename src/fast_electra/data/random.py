"""Counter-based random numbers: Philox4x32-10 (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3").

Notable:
- a number is a pure function of (key, counter), so masks and noise do not depend on anything that ran before;
- it is plain integer arithmetic in PyTorch, so every device gives the same bits;
- uniform numbers have 52 bits. The 24 bits of float32 would distort the sampling of rare tokens, and with 53 bits the
  largest number would be rounded up to 1.
"""

import hashlib
import struct
from enum import IntEnum

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK32 = 0xFFFFFFFF


class Stream(IntEnum):
    """The purpose of a random number; each purpose has numbers of its own."""

    MASKING = 1
    SAMPLING = 2
    REPLACEMENT_RULE = 3
    RACE = 4


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 × 32-bit product. The int64 product wraps, but its bits are correct."""
    product = a * b
    return (product >> 32) & _MASK32, product & _MASK32


def philox(key: tuple[int, int], counters: Tensor) -> Tensor:
    """Encrypt 128-bit counters to 128 random bits each.

    Args:
        key: two 32-bit integers.
        counters: (..., 4) int64, each a 32-bit value.

    Returns:
        (..., 4) int64, each a 32-bit value.
    """
    c0, c1, c2, c3 = counters.unbind(-1)
    k0, k1 = key[0] & _MASK32, key[1] & _MASK32
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return torch.stack((c0, c1, c2, c3), dim=-1)


def uniforms(seed: int, stream: Stream, epochs: Tensor, indices: Tensor, positions: Tensor) -> Tensor:
    """Uniform numbers in (0, 1), keyed by seed, stream, epoch, sample index and position.

    Args:
        seed: the run's seed.
        stream: purpose of the numbers.
        epochs: int64, below 2^16; epochs, indices and positions broadcast to one shape.
        indices: int64, below 2^48.
        positions: int64.

    Returns:
        float64 tensor of the broadcast shape; never 0 or 1.
    """
    return _as_uniforms(*_words(seed, stream, epochs, indices, positions, torch.zeros_like(positions))[:2])


def uniform_pairs(
    seed: int, stream: Stream, epochs: Tensor, indices: Tensor, positions: Tensor, entries: Tensor
) -> tuple[Tensor, Tensor]:
    """Two independent uniform numbers in (0, 1), keyed by seed, stream, epoch, sample index, position and entry.

    Args:
        seed: the run's seed.
        stream: purpose of the numbers.
        epochs: int64, below 2^16; epochs, indices, positions and entries broadcast to one shape.
        indices: int64, below 2^48.
        positions: int64.
        entries: int64, below 2^24.

    Returns:
        two float64 tensors of the broadcast shape.
    """
    words = _words(seed, stream, epochs, indices, positions, entries)
    return _as_uniforms(*words[:2]), _as_uniforms(*words[2:])


def _words(
    seed: int, stream: Stream, epochs: Tensor, indices: Tensor, positions: Tensor, entries: Tensor
) -> tuple[Tensor, ...]:
    epochs, indices, positions, entries = torch.broadcast_tensors(epochs, indices, positions, entries)
    counters = torch.stack(
        (indices & _MASK32, (indices >> 32) | (epochs << 16), positions, (entries << 8) | int(stream)), dim=-1
    )
    return philox((seed & _MASK32, (seed >> 32) & _MASK32), counters).unbind(-1)


def _as_uniforms(high: Tensor, low: Tensor) -> Tensor:
    """From two 32-bit words: the middle of one of 2^52 equal parts of (0, 1), which is exact in float64."""
    bits = (high << 20) | (low >> 12)
    return (bits.to(torch.float64) + 0.5) * 2.0**-52


def stage_seed(seed: int, stage: str) -> int:
    """The seed of a stage's order, masks and noise; stages with the same run's seed get unrelated seeds.

    Args:
        seed: the run's, 0 to 2^63 - 1.
        stage: the objective's kind: `mlm`, `fast_electra`, `electra`.

    Returns:
        0 to 2^63 - 1.
    """
    digest = hashlib.blake2b(struct.pack("<Q", seed) + stage.encode(), person=b"stage", digest_size=8).digest()
    return struct.unpack("<Q", digest)[0] >> 1
