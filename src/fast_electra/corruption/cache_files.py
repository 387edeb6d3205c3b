"""The files of a corruption cache: temperature paths packed into arrays, written whole and read by row.

docs/cache.md describes the format. `cache.py` has the folder that these files make up.

Notable:
- masks are not stored: they are computed again from seed, epoch and row. Paths are stored in the order of the masked
  positions;
- files are memory-mapped, and a batch is read by a few vectorised look-ups;
- the expected number of replaced tokens is stored at `KNOTS` temperatures and interpolated between them.

Shapes: B rows of a batch, R rows of a file, M masked positions of a row (padded), G segments, K knots, N = B · M,
V vocabulary.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_electra.corruption.masking import Masked
from fast_electra.corruption.race import TemperaturePath
from fast_electra.data.files import write_bytes_atomically

KNOTS = 7
"""number of inverse temperatures, evenly over the interval, at which expected numbers of replaced tokens are stored"""


@dataclass(frozen=True)
class PartFile:
    """A file with the paths of some rows."""

    file: str
    rows: int
    slots: int
    """M, slots of a row"""
    positions: int
    """number of masked positions, without padding"""
    segments: int
    """number of segments of all positions"""


@dataclass
class PackedPaths:
    """The paths of a batch, packed into arrays."""

    segments_BM: np.ndarray
    """uint8: number of segments; 0 in slots that hold no masked position"""
    tokens: np.ndarray
    """int64: the tokens of the segments, position by position, from the highest temperature to the lowest"""
    starts: np.ndarray
    """float32: inverse temperature at which each segment begins, without the first of each position"""
    expected_BK: np.ndarray
    """float16: expected number of replaced tokens of each row at each knot"""

    @classmethod
    def of(cls, path: TemperaturePath, masked: Masked, expected_BK: Tensor) -> "PackedPaths":
        """Pack the paths of a batch, as `replacement.race` returns them."""
        used_NG = path.starts_NG < float("inf")
        used_NG[:, 0] = True
        used_NG &= masked.valid_BM.flatten()[:, None]
        segments_BM = used_NG.sum(1).view_as(masked.valid_BM)
        return cls(
            segments_BM.cpu().numpy().astype(np.uint8, casting="unsafe"),
            path.tokens_NG[used_NG].cpu().numpy(),
            path.starts_NG[:, 1:][used_NG[:, 1:]].cpu().numpy(),
            expected_BK.cpu().numpy().astype(np.float16),
        )


class PathReader:
    """Reads one file of paths, memory-mapped."""

    def __init__(self, file: Path, part: PartFile, tokens: str) -> None:
        content = np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)
        arrays, offset = {}, 0
        for name, (dtype, shape) in _layout(part, tokens).items():
            size = prod(shape) * np.dtype(dtype).itemsize
            arrays[name] = content[offset : offset + size].view(dtype).reshape(shape)
            offset += size
        self._arrays = arrays

    def at(self, rows_R: np.ndarray, inverse_temperature: np.float32) -> tuple[np.ndarray, np.ndarray]:
        """The tokens (R, M) at an inverse temperature, and the expected numbers of replaced tokens (R, K)."""
        arrays = self._arrays
        segments_RM = arrays["segments"][rows_R].astype(np.int64)
        later_RM = np.maximum(segments_RM - 1, 0)
        token_RM = arrays["tokens_from"][rows_R].astype(np.int64)[:, None] + segments_RM.cumsum(1) - segments_RM
        start_RM = arrays["starts_from"][rows_R].astype(np.int64)[:, None] + later_RM.cumsum(1) - later_RM
        for number in range(int(later_RM.max())):
            there_RM = later_RM > number
            begins_RM = arrays["starts"][np.where(there_RM, start_RM + number, 0)]
            token_RM += there_RM & (begins_RM <= inverse_temperature)
        return arrays["tokens"][np.where(segments_RM > 0, token_RM, 0)], arrays["expected"][rows_R]


def write_part(
    folder: Path, name: str, pieces: Sequence[PackedPaths], vocabulary: int
) -> tuple[PartFile, dict[str, Any]]:
    """Write one file of paths, whole or not at all.

    Returns:
        what the file holds, and its manifest entry: `bytes` and `sha256`.
    """
    segments_RM = np.concatenate([piece.segments_BM for piece in pieces])
    later_RM = np.maximum(segments_RM.astype(np.int64) - 1, 0)
    part = PartFile(
        name, *segments_RM.shape, positions=int((segments_RM > 0).sum()), segments=int(segments_RM.sum(dtype=np.int64))
    )
    arrays = {
        "tokens_from": _exclusive(segments_RM.sum(1, dtype=np.int64)),
        "starts_from": _exclusive(later_RM.sum(1)),
        "starts": np.concatenate([piece.starts for piece in pieces]),
        "tokens": np.concatenate([piece.tokens for piece in pieces]),
        "expected": np.concatenate([piece.expected_BK for piece in pieces]),
        "segments": segments_RM,
    }
    layout = _layout(part, token_type(vocabulary))
    content = b"".join(arrays[key].astype(dtype).tobytes() for key, (dtype, _) in layout.items())
    write_bytes_atomically(folder / name, content)
    return part, {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def token_type(vocabulary: int) -> str:
    """NumPy's name of the type that holds the tokens of a vocabulary."""
    return "<u2" if vocabulary <= 2**16 else "<u4"


def knots(interval: Sequence[float]) -> np.ndarray:
    """The inverse temperatures (K,) at which expected numbers of replaced tokens are stored, float64."""
    low, high = interval
    return np.linspace(1.0 / high, 1.0 / low, KNOTS)


def interpolation(knots_K: np.ndarray, place: float) -> np.ndarray:
    """Weights (K,) of the values at the knots, for the value at `place` of the polynomial through them."""
    weights = [
        np.prod([(place - other) / (knot - other) for j, other in enumerate(knots_K) if j != i])
        for i, knot in enumerate(knots_K)
    ]
    return np.array(weights)


@torch.no_grad()
def expected_replaced(logits_NV: Tensor, originals_BM: Tensor, valid_BM: Tensor, interval: Sequence[float]) -> Tensor:
    """Expected number of replaced tokens (B, K) of each row at each knot: the sum of `1 - p_T(original)`.

    The knots are evenly spaced, so `exp(b_k · l)` is `exp(b_0 · l) · exp(step · l)^k`: two exponentials instead of K.

    Args:
        logits_NV: N = B · M rows.
        originals_BM: int64.
        valid_BM: bool.
        interval: lowest and highest temperature.
    """
    first, step = (float(number) for number in (knots(interval)[0], np.diff(knots(interval))[0]))
    kept_NK = torch.empty(len(logits_NV), KNOTS, device=logits_NV.device)
    rows = 16 if logits_NV.device.type == "cpu" else 4096  # a few rows fit into a CPU's cache
    for part_NV, originals_N, kept_RK in zip(
        logits_NV.split(rows), originals_BM.flatten().split(rows), kept_NK.split(rows), strict=True
    ):
        relative_NV = part_NV.float()
        relative_NV = relative_NV - relative_NV.amax(1, keepdim=True)
        ratio_NV = (relative_NV * step).exp_()
        weight_NV = relative_NV.mul_(first).exp_()
        for knot in range(KNOTS):
            if knot:
                weight_NV *= ratio_NV
            kept_RK[:, knot] = weight_NV.gather(1, originals_N[:, None])[:, 0] / weight_NV.sum(1)
    return ((1.0 - kept_NK.view(*valid_BM.shape, KNOTS)) * valid_BM[:, :, None]).sum(1)


def _layout(part: PartFile, tokens: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of the arrays of a file, in their order; each begins at a multiple of its items' size."""
    return {
        "tokens_from": ("<u4", (part.rows,)),
        "starts_from": ("<u4", (part.rows,)),
        "starts": ("<f4", (part.segments - part.positions,)),
        "tokens": (tokens, (part.segments,)),
        "expected": ("<f2", (part.rows, KNOTS)),
        "segments": ("|u1", (part.rows, part.slots)),
    }


def _exclusive(counts: np.ndarray) -> np.ndarray:
    return counts.cumsum() - counts
