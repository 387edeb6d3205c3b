"""The order of rows, and of the sources of a mixture: pure functions of a seed and a place.

Notable:
- a keyed permutation gives the order entry by entry, so the order of a billion rows takes no memory;
- a mixture has the same number of rows of each source in every block of 1,000 places, in a random order. So its shares
  are exact after every block, and the number of rows of a source before any place is known without counting.
"""

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fast_electra.errors import DataError

# Largest number of rows that are ordered by sorting.
_SORTED = 4096
BLOCK = 1000
"""places in which each source of a mixture has its share of the rows"""
_SOURCES = 0x736F75726365  # another key than those of the rows' order


class Mixture:
    """The source of each place in a run's order."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Prepare the order of the sources with these weights.

        Raises:
            DataError: a weight is so small that its source would get no row of 1,000.
        """
        ends = np.cumsum(weights) / sum(weights) * BLOCK
        self._ends = tuple(int(end) for end in ends.round())
        self._sizes: list[int] = np.diff(self._ends, prepend=0).tolist()  # rows of each source in a block
        self._seed = seed
        if min(self._sizes) < 1:
            weight = weights[self._sizes.index(min(self._sizes))]
            raise DataError(
                f"the weight {weight:g} in data.sources is less than a thousandth of all weights: give a larger one, "
                "or leave its source out."
            )

    def at(self, places_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each place (B,), and the place in the order of this source (B,), int64."""
        blocks_B, inside_B = np.divmod(places_B, BLOCK)
        sources_B, found_B = np.empty_like(places_B), np.empty_like(places_B)
        for block in np.unique(blocks_B):
            chosen = blocks_B == block
            sources, ranks = _block(self._ends, self._seed, int(block))
            sources_B[chosen] = sources[inside_B[chosen]]
            found_B[chosen] = block * np.array(self._sizes)[sources_B[chosen]] + ranks[inside_B[chosen]]
        return sources_B, found_B

    def counts(self, places: int) -> list[int]:
        """The number of rows of each source in the first places."""
        blocks, rest = divmod(places, BLOCK)
        sources, _ = _block(self._ends, self._seed, blocks)
        return [blocks * size + int((sources[:rest] == source).sum()) for source, size in enumerate(self._sizes)]


@lru_cache(maxsize=16)
def _block(ends: tuple[int, ...], seed: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The source of each place in a block, and the number of places before it with the same source."""
    drawn = permute(np.arange(BLOCK), BLOCK, (seed ^ _SOURCES, block))
    sources = np.searchsorted(ends, drawn, side="right")
    ranks = np.empty(BLOCK, dtype=np.int64)
    for source in range(len(ends)):
        chosen = sources == source
        ranks[chosen] = np.arange(chosen.sum())
    return sources, ranks


def permute(places: np.ndarray, count: int, key: tuple[int, int]) -> np.ndarray:
    """Some entries of a permutation of [0, count) that depends on `key`.

    Up to 4,096 numbers are sorted by keyed 64-bit numbers, no two of which are equal. For more numbers, a Feistel
    network permutes the smallest range of 2^k numbers that holds `count`; a result outside [0, count) is permuted again
    until it lies inside ("cycle walking"), which keeps it a permutation (Black and Rogaway, 2002).

    Args:
        places: int64, any shape, each in [0, count).
        count: 1 to 2^62.
        key: (seed, epoch), each 0 to 2^64 - 1.

    Returns:
        the permutation at `places`: int64, of the same shape.
    """
    round_keys = _round_keys(key)
    if count <= _SORTED:
        # SplitMix64's sequence from a keyed start
        numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + round_keys[0]
        return np.argsort(_hash(numbers))[places]
    bits = (count - 1).bit_length()
    found = _feistel(places.astype(np.uint64), bits, round_keys)
    while (outside := found >= count).any():
        found[outside] = _feistel(found[outside], bits, round_keys)
    return found.astype(np.int64)


@lru_cache(maxsize=64)
def _round_keys(key: tuple[int, int]) -> tuple[np.uint64, ...]:
    digest = hashlib.blake2b(struct.pack("<2Q", *key), person=b"row order", digest_size=64).digest()
    return tuple(np.uint64(number) for number in struct.unpack("<8Q", digest))


def _feistel(numbers: np.ndarray, bits: int, round_keys: tuple[np.uint64, ...]) -> np.ndarray:
    """Permute [0, 2^bits): each round changes one part by a hash of the other, and exchanges the parts."""
    right_bits = bits // 2
    left_bits = bits - right_bits
    left, right = numbers >> np.uint64(right_bits), numbers & np.uint64((1 << right_bits) - 1)
    for round_key in round_keys:
        left, right = right, left ^ (_hash(right ^ round_key) & np.uint64((1 << left_bits) - 1))
        left_bits, right_bits = right_bits, left_bits
    return (left << np.uint64(right_bits)) | right


def _hash(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al., 2014): every input bit flips every output bit half of the time."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
