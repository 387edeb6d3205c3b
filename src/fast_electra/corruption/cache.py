"""The corruption cache: temperature paths of all masked positions that a run will see, computed ahead of time.

One pass of the frozen auxiliary serves every schedule. A path (race.py) holds the sample of `softmax(l / T)` for every
T of an interval, so a run reads its replacements and needs no auxiliary in memory.

Notable:
- a row is found by its place in the run's order (`Batch.samples`), which the seed fixes. So one cache serves any batch
  size, and any number of updates up to what it holds. Validation rows have a file of their own;
- `cache.json` says what the paths depend on. A run that differs is refused, and the message names the difference. The
  manifest, with a digest of every file, is written last.

docs/cache.md describes the format. `cache_files.py` packs and reads the paths; `pipelines/corrupt.py` computes them.

Shapes: B rows of a batch, R rows of a file, M masked positions of a row (padded), K knots.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.cache_files import KNOTS, PartFile, PathReader, interpolation, knots
from fast_electra.corruption.masking import Masked
from fast_electra.corruption.replacement import Corrupted, CorruptionSource, Replacements
from fast_electra.data.batches import Batch
from fast_electra.data.files import MANIFEST, canonical_digest, differing_parts, verify_manifest, write_json_atomically
from fast_electra.errors import ConfigError, DataError

FORMAT = "fast-electra corruption cache"
VERSION = 2
"""version 1 drew special tokens too, and had the order and masks of the auxiliary's own run"""
IDENTITY = "cache.json"

_REBUILD = "run `fast-electra corrupt` again with the same settings, or choose another folder"


@dataclass(frozen=True)
class CachedCorruption(CorruptionSource):
    """Reads replacements instead of running an auxiliary."""

    cache: "CorruptionCache"

    def stored(self, batch: Batch, difficulty: Difficulty) -> Replacements:
        """The stored samples of `softmax(l / T)`."""
        tokens_BM, expected_B = self.cache.read(batch.samples.numpy(), difficulty.temperature)
        return Replacements(torch.from_numpy(tokens_BM), torch.from_numpy(expected_B))

    def corrupt(self, batch: Batch, masked: Masked, difficulty: Difficulty, seed: int) -> Corrupted:
        """The batch with stored samples of `softmax(l / T)`; `seed` is not used, since the cache has its own."""
        return self.stored(batch, difficulty).to(batch.ids.device).written(batch, masked)


class CorruptionCache:
    """A finished folder of temperature paths; open it with `open_cache`."""

    def __init__(self, folder: Path, about: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.about = about
        """the content of `cache.json`: `identity`, `numerics`, `auxiliary`, …"""
        self.parts = [PartFile(**part) for part in manifest["train"]]
        self.rows = sum(part.rows for part in self.parts)
        """number of rows of the run's order"""
        self.bytes = sum(entry["bytes"] for entry in manifest["files"].values())
        self._validation = PartFile(**manifest["validation"])
        self._validation_indices = np.array(about["validation"], dtype=np.int64)
        self._low, self._high = about["identity"]["corruption.race_interval"]
        self._knots = knots((self._low, self._high))
        # A run reads its files in order, so few need to be open at a time.
        self._open = lru_cache(maxsize=8)(lambda part: PathReader(folder / part.file, part, about["token_type"]))

    def refuse_other(self, here: Mapping[str, Any]) -> None:
        """Check that a run may read from this cache.

        Args:
            here: the run's `identity`; it has the keys of the auxiliary only if the run names one.

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
            rows: number of rows that the run reads.

        Raises:
            ConfigError: it holds fewer.
        """
        if rows > self.rows:
            raise ConfigError(
                f"the corruption cache {self.folder} holds {self.rows:,} rows, and the run reads {rows:,} "
                "(training.updates × training.batch_size): run `fast-electra corrupt` with these updates, which adds "
                "what is missing."
            )

    def read(self, samples_B: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Read the samples of `softmax(l / temperature)` at the masked positions of some rows.

        Args:
            samples_B: int64, `Batch.samples`: either all in the run's order, or all validation rows.
            temperature: within the cache's interval.

        Returns:
            tokens (B, M), int64, without meaning in slots that hold no masked position; and the expected number of
            tokens of each row that differ from the original (B,), float32.

        Raises:
            ValueError: the temperature lies outside the interval.
            DataError: the cache does not hold a row.
        """
        if not self._low <= temperature <= self._high:
            raise ValueError(f"temperature {temperature:g} lies outside the cache's {self._low:g} to {self._high:g}")
        inverse = 1.0 / temperature
        found = [(chosen_B, *part.at(rows_R, np.float32(inverse))) for chosen_B, part, rows_R in self._find(samples_B)]
        tokens_BM = np.empty((len(samples_B), found[0][1].shape[1]), dtype=np.int64)
        expected_BK = np.empty((len(samples_B), KNOTS))
        for chosen_B, tokens_RM, expected_RK in found:
            tokens_BM[chosen_B], expected_BK[chosen_B] = tokens_RM, expected_RK
        return tokens_BM, (expected_BK @ interpolation(self._knots, inverse)).astype(np.float32)

    def _find(self, samples_B: np.ndarray) -> Iterator[tuple[np.ndarray, PathReader, np.ndarray]]:
        """For each file: which of the rows it holds, its reader, and their places in it."""
        if samples_B[0] < 0:
            indices_B = ~samples_B
            rows_B = np.searchsorted(self._validation_indices, indices_B).clip(max=len(self._validation_indices) - 1)
            if (self._validation_indices[rows_B] != indices_B).any():
                raise DataError(f"{self.folder} holds no paths of this validation row: {_REBUILD}.")
            yield np.arange(len(samples_B)), self._open(self._validation), rows_B
            return
        if samples_B.max() >= self.rows:
            raise DataError(
                f"{self.folder} holds {self.rows:,} rows, not row {samples_B.max():,}, which a run reads that left out "
                "batches that diverged: run `fast-electra corrupt` with a larger training.updates, which adds what is "
                "missing."
            )
        parts_B, rows_B = np.divmod(samples_B, self.about["chunk_rows"])
        for number in np.unique(parts_B):
            chosen_B = np.flatnonzero(parts_B == number)
            yield chosen_B, self._open(self.parts[number]), rows_B[chosen_B]


def open_cache(folder: str | Path, verify: bool = True) -> CorruptionCache:
    """Open a folder that `fast-electra corrupt` wrote.

    Args:
        folder: holds manifest.json.
        verify: read every byte and compare digests (about 1 s per GB); otherwise only sizes.

    Raises:
        DataError: it is not a cache, not finished, or a file is missing, cut short or changed.
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


def write_cache_manifest(
    folder: Path, train: Sequence[PartFile], validation: PartFile, files: Mapping[str, Mapping[str, Any]]
) -> None:
    """Make a folder a finished cache.

    Args:
        folder: holds `cache.json` and the files of paths.
        train: the files in the run's order; each has `chunk_rows` rows, the last may have fewer.
        validation: the file of the validation rows.
        files: manifest entries of the files of paths, by name.
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


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The differences between two identities, in words; empty if there are none."""
    return "; ".join(
        f"{key} is {one} there and {other} here"
        for key in sorted(there.keys() | here.keys())
        for one, other in _differing(there.get(key), here.get(key))
    )


def _differing(there: Any, here: Any) -> list[tuple[str, str]]:
    """Two values in words, if they differ; of digests their beginnings."""
    if all(isinstance(value, str) and len(value) >= 64 for value in (there, here)):
        found = differing_parts(there, here)
        return [(f"{found[0]}…", f"{found[1]}…")] if found else []
    return [(_short(there), _short(here))] if there != here else []


def _short(value: Any) -> str:
    text = json.dumps(value)
    return f"{text[1:13]}…" if isinstance(value, str) and len(value) >= 64 else text
