"""Encodes text as ids in several processes, chunk by chunk, with a fixed number of chunks at a time.

Notable:
- results come in the order of the chunks, so the number of processes changes only the time;
- processes import neither PyTorch nor Transformers, so each starts in a fraction of a second;
- the name of a special token in the text is ordinary text.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from fast_electra.data.shards import Split
from fast_electra.data.workers import worker_pool
from fast_electra.errors import DataError

CHUNK = 1_000_000
"""number of characters that a process gets at a time"""


@dataclass(frozen=True)
class Chunk:
    """Pieces of documents of one split and source; each with a bool that says whether a document ends after it."""

    split: Split
    pieces: list[tuple[str, bool]]
    part: int = 0
    """number of the source; 0 without a mixture"""
    identities: list[tuple[int, int]] = field(default_factory=list)
    """of the documents that end in the chunk, each with its bytes"""


@dataclass(frozen=True)
class Encoded:
    """A chunk's ids (uint32), the places after each separator in them (uint64), and statistics."""

    ids: np.ndarray
    ends: np.ndarray
    unknown: int
    """number of tokens for text that the tokenizer does not know"""
    lost: int
    """bytes of text, without white space, that a tokenizer without such a token leaves out"""
    process: int
    peak_bytes: int


class Encoder:
    """Encodes chunks."""

    def __init__(self, content: str, separator: int, unknown: int | None) -> None:
        """Load a tokenizer from its JSON; the ids are those of its separator and, if it has one, of unknown text."""
        self.arguments = (content, separator, unknown)
        self._separator, self._unknown = separator, -1 if unknown is None else unknown
        self._drops = unknown is None and _drops_characters(content)
        self._tokenizer: Tokenizer = Tokenizer.from_str(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # "[MASK]" in a corpus is text, not the token

    def __call__(self, chunk: Chunk) -> Encoded:
        """Encode a chunk; a separator follows each document."""
        encode = self._tokenizer.encode_batch if self._drops else self._tokenizer.encode_batch_fast  # without offsets
        try:
            encodings = encode([text for text, _ in chunk.pieces], add_special_tokens=False)
        except Exception as error:  # a plain Exception from Rust, if there is no token for unknown text
            raise DataError(
                f"the tokenizer can't encode the text ({error}): give it a token for unknown text, leave "
                "data.tokenizer.path out, or name another tokenizer."
            ) from error
        ids: list[int] = []
        ends: list[int] = []
        unknown = lost = 0
        for encoding, (text, last) in zip(encodings, chunk.pieces, strict=True):
            ids += encoding.ids
            unknown += encoding.ids.count(self._unknown)
            lost += _uncovered(text, encoding.offsets) if self._drops else 0
            if last:
                ids.append(self._separator)
                ends.append(len(ids))
        arrays = np.array(ids, dtype=np.uint32), np.array(ends, dtype=np.uint64)
        return Encoded(*arrays, unknown, lost, os.getpid(), peak_memory())


def _drops_characters(content: str) -> bool:
    """Whether a tokenizer, given as JSON, leaves out unknown characters: BPE does, unless it has all bytes."""
    model = json.loads(content)["model"]
    if model["type"] != "BPE" or model["unk_token"] is not None or model["byte_fallback"]:
        return False
    return not model["vocab"].keys() >= {*pre_tokenizers.ByteLevel.alphabet()}


def _uncovered(text: str, offsets: list[tuple[int, int]]) -> int:
    """Number of UTF-8 bytes of a text, without white space, that are in no token."""
    covered = bytearray(len(text))
    for start, end in offsets:
        covered[start:end] = b"\1" * (end - start)
    left_out = (character for character, has_token in zip(text, covered, strict=True) if not has_token)
    return sum(len(character.encode()) for character in left_out if not character.isspace())


_worker: Encoder | None = None


def _start_worker(content: str, separator: int, unknown: int | None) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is one process for each core
    _worker = Encoder(content, separator, unknown)


def _work(chunk: Chunk) -> Encoded:
    assert _worker is not None
    return _worker(chunk)


def encode_in_order(
    encoder: Encoder, chunks: Iterator[Chunk], workers: int
) -> Generator[tuple[Chunk, Encoded], None, None]:
    """Encode chunks in `workers` processes; gives each chunk with its ids, in order, a few chunks at a time.

    Less text than one full chunk (`CHUNK`) is encoded in this process, since starting others would take longer.
    """
    first = list(islice(chunks, 2))
    chunks = chain(first, chunks)
    if workers == 1 or len(first) < 2 or sum(len(text) for chunk in first for text, _ in chunk.pieces) < CHUNK:
        for chunk in chunks:
            yield chunk, encoder(chunk)
        return
    waiting: deque[tuple[Chunk, Future[Encoded]]] = deque()
    remedy = "use fewer processes, or one with data.workers=1"
    with worker_pool(workers, "tokenises", remedy, _start_worker, encoder.arguments) as pool:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) > 2 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    try:
        # Unlike ru_maxrss, this does not include the memory of the parent process.
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource  # not on every system

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
