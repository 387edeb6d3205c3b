"""Writes the shards of one split, chunk by chunk, and counts what it writes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fast_electra.data.shard_report import SplitReport
from fast_electra.data.shards import row_count


class ShardWriter:
    """Appends encoded chunks to the shards of one split."""

    def __init__(
        self, folder: Path, split: str, vocabulary: int, shard_tokens: int, length: int, source: str = ""
    ) -> None:
        """Prepare to write; `source` is the name of a mixture's source, for which the split has files of its own."""
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

    def append(self, ids: np.ndarray, ends: np.ndarray) -> None:
        """Append the ids of a chunk, and the places in it where documents end; the chunk may stop inside a document."""
        if not self._files:
            self._start()
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

    def _start(self) -> None:
        number = f"{self._name}-{len(self.shards):05d}"
        shard = {"file": f"{number}.bin", "ends": f"{number}.ends.bin", "tokens": 0, "documents": 0, **self._about}
        self.shards.append(shard)
        for name in (shard["file"], shard["ends"]):
            self._files[name] = open(self._folder / name, "wb")  # noqa: SIM115
            self._hashes[name] = hashlib.sha256()

    def _put(self, name: str, numbers: np.ndarray) -> None:
        data = numbers.tobytes()
        self._files[name].write(data)
        self._hashes[name].update(data)
