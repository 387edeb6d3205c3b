"""The corruption cache: temperature paths of all masked positions that a run will see, computed ahead of time.

One pass of the frozen auxiliary serves every schedule: a path (race.py) holds the sample of `softmax(l / T)` for every
T of an interval, so a run reads its replacements, and has no auxiliary in memory.

Notable:
- a row is found by its place in the run's order (`Batch.samples`), which the seed fixes; so one cache serves any batch
  size and any number of updates up to what it holds. Validation rows lie in a part of their own;
- masks are not stored: they follow from counters, and the paths lie in the order of the masked positions;
- memory-mapped; a batch is read by a few vectorised look-ups;
- `cache.json` says what the paths depend on, and a run with anything else is refused by name. The manifest, with a
  digest of every file, is written last.

The format is described in docs/cache.md.

Shapes: B rows of a batch, R rows of a part, M masked positions a row (padded), G segments, N = B · M.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import Masked
from fast_electra.corruption.race import TemperaturePath
from fast_electra.corruption.sources import Corrupted, replace
from fast_electra.data.batches import Batch
from fast_electra.data.files import (
    MANIFEST,
    canonical_digest,
    verify_manifest,
    write_bytes_atomically,
    write_json_atomically,
)
from fast_electra.errors import ConfigError, DataError

FORMAT = "fast-electra corruption cache"
VERSION = 2
"""1 drew special tokens too, and had the order and masks of the auxiliary's own run"""
IDENTITY = "cache.json"
KNOTS = 7
"""inverse temperatures, evenly over the interval, at which the expected number of replaced tokens is stored"""

_REBUILD = "run `fast-electra corrupt` again with the same settings, or take another folder"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two identities, in words; empty if nothing does."""
    return "; ".join(
        f"{key} is {_short(there.get(key))} there and {_short(here.get(key))} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    )


@dataclass(frozen=True)
class Part:
    """Some rows' paths in one file."""

    file: str
    rows: int
    slots: int
    """M"""
    positions: int
    """masked ones, without padding"""
    segments: int
    """of all positions"""


@dataclass
class Piece:
    """Paths of a batch, packed."""

    segments_BM: np.ndarray
    """uint8; 0 in slots that hold no masked position"""
    tokens: np.ndarray
    """int64: the segments of each position in turn, from the hottest to the coldest"""
    starts: np.ndarray
    """float32: where each begins, but for a position's first"""
    expected_BK: np.ndarray
    """float16: expected number of replaced tokens of a row at each knot"""

    @classmethod
    def of(cls, path: TemperaturePath, masked: Masked, expected_BK: Tensor) -> "Piece":
        """Pack the paths of a batch, as `sources.race` gives them."""
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


def knots(interval: Sequence[float]) -> np.ndarray:
    """Inverse temperatures (K,), float64."""
    low, high = interval
    return np.linspace(1.0 / high, 1.0 / low, KNOTS)


@torch.no_grad()
def expected_replaced(logits_NV: Tensor, originals_BM: Tensor, valid_BM: Tensor, interval: Sequence[float]) -> Tensor:
    """Expected number of replaced tokens (B, K) of each row at each knot: the sum of `1 - p_T(original)`.

    Knots lie evenly, so that `exp(b_k · l)` is `exp(b_0 · l) · exp(step · l)^k`: two exponentials instead of K.

    Args:
        logits_NV: N = B · M rows.
        originals_BM: int64.
        valid_BM: bool.
        interval: lowest and highest temperature.
    """
    first, step = (float(number) for number in (knots(interval)[0], np.diff(knots(interval))[0]))
    kept_NK = torch.empty(len(logits_NV), KNOTS, device=logits_NV.device)
    rows = 16 if logits_NV.device.type == "cpu" else 4096  # few at a time stay in a CPU's cache
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


def write_part(folder: Path, name: str, pieces: Sequence[Piece], vocabulary: int) -> tuple[Part, dict[str, Any]]:
    """Write one file of paths, whole or not at all.

    Returns:
        what it holds, and its manifest entry: `bytes` and `sha256`.
    """
    segments_RM = np.concatenate([piece.segments_BM for piece in pieces])
    later_RM = np.maximum(segments_RM.astype(np.int64) - 1, 0)
    part = Part(
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


def write_cache_manifest(
    folder: Path, train: Sequence[Part], validation: Part, files: Mapping[str, Mapping[str, Any]]
) -> None:
    """Make a folder a finished cache.

    Args:
        folder: holds `cache.json` and the parts.
        train: in the run's order, all but the last of `chunk_rows` rows.
        validation: the validation rows.
        files: manifest entries of the parts, by name.
    """
    described = (folder / IDENTITY).read_bytes()
    own = {"bytes": len(described), "sha256": hashlib.sha256(described).hexdigest()}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "train": [asdict(part) for part in train],
        "validation": asdict(validation),
        "files": {IDENTITY: own, **files},
    }
    write_json_atomically(folder / MANIFEST, manifest | {"digest": canonical_digest(manifest)})


def token_type(vocabulary: int) -> str:
    """NumPy's name of the type that holds the tokens of a vocabulary."""
    return "<u2" if vocabulary <= 2**16 else "<u4"


class CorruptionCache:
    """A finished folder of paths; use `open_cache`."""

    def __init__(self, folder: Path, about: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about
        """what `cache.json` says: `identity`, `numerics`, `auxiliary`, ..."""
        self.parts = [Part(**part) for part in manifest["train"]]
        self.rows = sum(part.rows for part in self.parts)
        """of the run's order"""
        self.bytes = sum(entry["bytes"] for entry in manifest["files"].values())
        self._validation = Part(**manifest["validation"])
        self._validation_indices = np.array(about["validation"], dtype=np.int64)
        self._low, self._high = about["identity"]["corruption.race_interval"]
        self._knots = knots((self._low, self._high))
        # A run goes through its parts in order: few are open at a time, however many there are.
        self._open = lru_cache(maxsize=8)(lambda part: _Paths(folder / part.file, part, about["token_type"]))

    def refuse_other(self, here: Mapping[str, Any]) -> None:
        """Check that a run may read from this cache.

        Args:
            here: the run's `identity`; the auxiliary's keys only where the run names one.

        Raises:
            ConfigError: names what differs.
        """
        there = {key: value for key, value in self.about["identity"].items() if key in here}
        if found := differences(there, here):
            raise ConfigError(
                f"the corruption cache {self.folder} is of another run: {found}; give corruption.cache another "
                "folder, or write it there with `fast-electra corrupt`."
            )

    def refuse_short(self, rows: int) -> None:
        """Check that the cache holds every row of a run.

        Args:
            rows: that the run reads.

        Raises:
            ConfigError: it holds fewer.
        """
        if rows > self.rows:
            raise ConfigError(
                f"the corruption cache {self.folder} holds {self.rows:,} rows, and the run reads {rows:,} "
                "(training.updates × training.batch_size): run `fast-electra corrupt` with these updates, which adds "
                "what is missing."
            )

    def read(self, samples_B: np.ndarray, temperature: float) -> tuple[np.ndarray, float]:
        """The samples of `softmax(l / temperature)` at the masked positions of some rows.

        Args:
            samples_B: int64, `Batch.samples`: all in the run's order, or all outside of it.
            temperature: within the interval.

        Returns:
            tokens (B, M), int64, of no meaning in slots without a masked position; and the expected number of those
            that differ from the original.

        Raises:
            ValueError: the temperature lies outside the interval.
            DataError: the cache doesn't hold the row.
        """
        if not self._low <= temperature <= self._high:
            raise ValueError(f"temperature {temperature:g} lies outside the cache's {self._low:g} to {self._high:g}")
        inverse = 1.0 / temperature
        found = [(chosen_B, *part.at(rows_R, np.float32(inverse))) for chosen_B, part, rows_R in self._find(samples_B)]
        tokens_BM = np.empty((len(samples_B), found[0][1].shape[1]), dtype=np.int64)
        expected_K = np.zeros(KNOTS)
        for chosen_B, tokens_RM, expected_RK in found:
            tokens_BM[chosen_B] = tokens_RM
            expected_K += expected_RK.sum(0, dtype=np.float64)
        return tokens_BM, float(expected_K @ interpolation(self._knots, inverse))

    def _find(self, samples_B: np.ndarray) -> Iterator[tuple[np.ndarray, "_Paths", np.ndarray]]:
        """Which of the rows lie in which part, and where in it."""
        if samples_B[0] < 0:
            indices_B = ~samples_B
            rows_B = np.searchsorted(self._validation_indices, indices_B).clip(max=len(self._validation_indices) - 1)
            if (self._validation_indices[rows_B] != indices_B).any():
                raise DataError(f"{self.folder} holds no paths of this validation row: {_REBUILD}.")
            yield np.arange(len(samples_B)), self._open(self._validation), rows_B
            return
        if samples_B.max() >= self.rows:
            raise DataError(f"{self.folder} holds {self.rows:,} rows, not row {samples_B.max():,}: {_REBUILD}.")
        parts_B, rows_B = np.divmod(samples_B, self.about["chunk_rows"])
        for number in np.unique(parts_B):
            chosen_B = np.flatnonzero(parts_B == number)
            yield chosen_B, self._open(self.parts[number]), rows_B[chosen_B]


class _Paths:
    """One file of paths, memory-mapped."""

    def __init__(self, file: Path, part: Part, tokens: str) -> None:
        content = np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)
        arrays, offset = {}, 0
        for name, (dtype, shape) in _layout(part, tokens).items():
            size = prod(shape) * np.dtype(dtype).itemsize
            arrays[name] = content[offset : offset + size].view(dtype).reshape(shape)
            offset += size
        self._arrays = arrays

    def at(self, rows_R: np.ndarray, inverse_temperature: np.float32) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (R, M) at an inverse temperature, and expected numbers of replaced tokens (R, K)."""
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


def open_cache(folder: str | Path, verify: bool = True) -> CorruptionCache:
    """Open a folder that `fast-electra corrupt` wrote.

    Args:
        folder: holds manifest.json.
        verify: read every byte and compare digests (about 1 s a GB); otherwise sizes alone.

    Raises:
        DataError: it is no cache, not finished, or a file is missing, cut short or changed.
    """
    folder = Path(folder)
    if not (folder / IDENTITY).exists():
        raise DataError(f"{folder} holds no corruption cache (no {IDENTITY}): write one with `fast-electra corrupt`.")
    if not (folder / MANIFEST).exists():
        raise DataError(
            f"{folder} is not finished (no {MANIFEST}): run `fast-electra corrupt` again, every --shard of it."
        )
    manifest = verify_manifest(folder, verify, _REBUILD)
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise DataError(
            f"{folder} holds no {FORMAT} of version {VERSION} (its version is {manifest.get('version')}): write one "
            "into another folder with `fast-electra corrupt`."
        )
    return CorruptionCache(folder, json.loads((folder / IDENTITY).read_bytes()), manifest)


@dataclass(frozen=True)
class CachedCorruption:
    """Reads replacements instead of asking an auxiliary."""

    cache: CorruptionCache

    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """Corrupt a batch by samples of `softmax(l / T)`; the seed is the cache's own, whatever is given."""
        tokens_BM, expected = self.cache.read(batch.samples.numpy(), difficulty.temperature)
        device = batch.ids.device
        ids_BS, replaced_BS = replace(batch, masked, torch.from_numpy(tokens_BM).to(device, non_blocking=True))
        return Corrupted(ids_BS, replaced_BS, masked, torch.full((), expected, device=device), entropy=None)


def _layout(part: Part, tokens: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Arrays of a part's file in their order: type and shape; each begins at a multiple of its items' size."""
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


def interpolation(knots_K: np.ndarray, place: float) -> np.ndarray:
    """Weights (K,) of values at the knots in the polynomial through them, at a place."""
    weights = [
        np.prod([(place - other) / (knot - other) for j, other in enumerate(knots_K) if j != i])
        for i, knot in enumerate(knots_K)
    ]
    return np.array(weights)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return f"{text[1:13]}…" if isinstance(value, str) and len(value) == 64 else text
