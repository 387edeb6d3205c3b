"""Writes the shards of one split, chunk by chunk, and counts what it writes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fast_electra.data.shard_report import BuildReport, SplitReport
from fast_electra.data.shards import SPLITS, Split, row_count
from fast_electra.errors import DataError


class ShardWriter:
    """Appends encoded chunks to the shards of one split."""

    def __init__(self, folder: Path, split: str, vocabulary: int, shard_tokens: int, length: int, source: str) -> None:
        """Prepare to write; a mixture's source has a name, and files of its own in the split."""
        self.dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
        self.digests: dict[str, str] = {}
        self.shards: list[dict[str, Any]] = []
        self.report = SplitReport()
        self._folder, self._shard_tokens = folder, shard_tokens
        self._name = f"{split}-{source}" if source else split
        self._about = {"source": source} if source else {}
        self._content = length - 2  # tokens of a row without its first and last
        self._borders = 0  # separators at the border of a row, where the row has its own
        self.counts = np.zeros(vocabulary, dtype=np.int64)
        """of each token"""
        self._files: dict[str, Any] = {}
        self._hashes: dict[str, Any] = {}

    def append(self, ids: np.ndarray, ends: np.ndarray, identities: np.ndarray | None = None) -> None:
        """Append the ids of a chunk, and the places in it where documents end; the chunk may stop inside a document.

        Args:
            ids: uint32.
            ends: uint64, places after each separator.
            identities: uint64 (documents, 2), what `Seen` knows each document by, and its bytes; only in parts, for
                the merging.
        """
        if not self._files:
            self._start(identities is not None)
        if identities is not None:
            self._put(self.shards[-1]["identities"], identities)
        shard = self.shards[-1]
        self._put(shard["file"], ids.astype(self.dtype.newbyteorder("<")))
        self._put(shard["ends"], (ends + np.uint64(shard["tokens"])).astype("<u8"))
        self.counts += np.bincount(ids, minlength=len(self.counts))
        behind = ends.astype(np.int64) + self.report.tokens
        self._borders += int(np.sum(behind % self._content == 0) + np.sum((behind - 1) % self._content == 0))
        for counts in (shard, vars(self.report)):
            counts["tokens"] += len(ids)
            counts["documents"] += len(ends)
        whole = bool(len(ends)) and int(ends[-1]) == len(ids)
        if whole and shard["tokens"] >= self._shard_tokens:
            self.close()

    def close(self) -> None:
        """Close the files of the current shard."""
        for name, file in self._files.items():
            file.close()
            self.digests[name] = self._hashes[name].hexdigest()
        self._files, self._hashes = {}, {}

    def finish(self) -> None:
        """Close the last shard and compute how full the rows are."""
        self.close()
        report = self.report
        report.rows = row_count(report.tokens, self._content + 2)
        if report.rows:
            # The last separator of the stream is a border too; it was counted if it fills its row or is alone in one.
            rest = report.tokens % self._content
            tokens = report.tokens - self._borders - (1 if rest > 1 else 0) + 2 * report.rows
            report.packing_efficiency = tokens / (report.rows * (self._content + 2))

    def _start(self, identities: bool) -> None:
        number = f"{self._name}-{len(self.shards):05d}"
        shard = {"file": f"{number}.bin", "ends": f"{number}.ends.bin", "tokens": 0, "documents": 0, **self._about}
        if identities:
            shard["identities"] = f"{number}.identities.bin"
        self.shards.append(shard)
        for name in [value for key, value in shard.items() if key in ("file", "ends", "identities")]:
            self._files[name] = open(self._folder / name, "wb")  # noqa: SIM115
            self._hashes[name] = hashlib.sha256()

    def _put(self, name: str, numbers: np.ndarray) -> None:
        data = numbers.tobytes()
        self._files[name].write(data)
        self._hashes[name].update(data)


Writers = dict[tuple[Split, int], ShardWriter]
"""the writers of a folder by split and number of the source"""


def writers_in(folder: Path, vocabulary: int, shard_tokens: int, length: int, weights: Mapping[str, float]) -> Writers:
    """A writer for each split and source; `weights` are those of a mixture's sources."""
    return {
        (split, part): ShardWriter(folder, split, vocabulary, shard_tokens, length, name)
        for split in SPLITS
        for part, name in enumerate(weights or [""])
    }


def fill_in_splits(report: BuildReport, writers: Writers, weights: Mapping[str, float]) -> None:
    """Finish all writers, and put what they wrote into the report; `weights` are those of a mixture's sources."""
    for writer in writers.values():
        writer.finish()
    for split in SPLITS:
        report.splits[split] = SplitReport.of([writer.report for (name, _), writer in writers.items() if name == split])
    for part, (name, weight) in enumerate(weights.items()):
        share, tokens = weight / sum(weights.values()), writers["train", part].report.tokens
        report.mixture[name] = {"weight": weight, "share": share, "tokens": tokens}


def refuse_empty_sources(writers: Writers, weights: Mapping[str, float]) -> None:
    """Raise DataError if a source of a mixture got no document in a split."""
    for part, name in enumerate(weights):
        documents = {split: writers[split, part].report.documents for split in SPLITS}
        empty = next((split for split, count in documents.items() if not count), None)
        if empty is not None:
            raise DataError(
                f"none of the {sum(documents.values())} documents of the source {name} (data.sources) fell to {empty}: "
                "give it more text, or set another data.validation_fraction."
            )
