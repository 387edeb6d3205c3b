"""Token shards: a corpus as memory-mapped integers, written by several processes, checked before it is read.

A folder holds manifest.json, tokenizer/, and for each split NAME-00000.bin, NAME-00000.ends.bin, NAME-00001.bin, …

Notable:
- a split is one stream: each document's tokens and a separator; `.ends.bin` says where documents end;
- memory is bounded: text goes through in chunks, a fixed number of them at a time, and the documents already seen are
  remembered by 64 bits each;
- the same documents give the same bytes, whatever the number of processes;
- whether a document is for validation follows from a digest of its text, not from its place;
- the manifest, with a digest of every file, is written last, and the folder appears by rename.

The format is described in docs/data.md.
"""

import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fast_electra.data.encoding import CHUNK, Chunk, Encoder, encode_in_order, peak_memory
from fast_electra.data.files import (
    MANIFEST,
    canonical_digest,
    staged_folder,
    verify_manifest,
    write_manifest,
)
from fast_electra.data.sources import Document, Sources, reading_losses
from fast_electra.data.tokenizer import (
    ENCODING_PIECE,
    TRAINING_PIECE,
    fingerprint,
    load_tokenizer,
    pieces,
    train_tokenizer,
    unknown_id,
    vocabulary_size,
)
from fast_electra.errors import DataError
from fast_electra.terminal import command

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fast_electra.data.settings import DataConfig

FORMAT = "fast-electra token shards"
VERSION = 1
SPLITS = ("train", "validation")
SHARD_TOKENS = 2**26
"""tokens after which the next document starts a new shard"""
TOKENIZER_SAMPLE = 64_000_000
"""bytes of text, about, that a tokenizer is trained on, from the whole corpus"""
LARGEST_UNKNOWN = 0.1
"""share of unknown tokens from which on the tokenizer does not fit the text"""

_REBUILD = "delete the folder and run `fast-electra data build` again"

Split = Literal["train", "validation"]
Progress = Callable[[str, int, int | None], None]
"""told of (stage, bytes done, bytes in all or None); stages: "tokenizer", "tokens" """


@dataclass
class SplitReport:
    """What a split holds."""

    documents: int = 0
    tokens: int = 0
    """separators included"""
    rows: int = 0
    """of `data.length`"""
    packing_efficiency: float = 0.0
    """share of the rows' positions that isn't padding"""


@dataclass
class BuildReport:
    """What a build read, kept and left out."""

    folder: Path
    documents: int = 0
    """read, the dropped ones included"""
    text_bytes: int = 0
    """UTF-8 bytes of their text"""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """reason → documents and bytes; of a document that is kept no token is dropped"""
    splits: dict[str, SplitReport] = field(default_factory=dict)
    vocabulary_size: int = 0
    bytes_per_token: float = 0.0
    unknown_tokens: int = 0
    """[UNK]: they stand for text that the tokenizer does not know"""
    lost_bytes: int = 0
    """of text that the tokenizer does not know and leaves out, since it has no [UNK]"""
    files: int = 0
    left_out_files: int = 0
    """found in folders, but of no kind that was asked for, or links"""
    replaced_files: int = 0
    """with bytes that are not UTF-8, replaced by U+FFFD"""
    replaced_characters: int = 0
    """the U+FFFD that they became"""
    cut_documents: int = 0
    """cuts in documents of more than 16 MB"""
    workers: int = 1
    tokenizer_seconds: float = 0.0
    """training or loading the tokenizer"""
    seconds: float = 0.0
    """reading, tokenising and writing"""
    megabytes_per_second: float = 0.0
    """text through reading, tokenising and writing"""
    peak_memory_bytes: int = 0
    """largest resident size of this process and of each that tokenised, added up"""
    existed: bool = False
    """the folder held these shards already, and nothing was done"""

    @property
    def tokens(self) -> int:
        """Tokens kept, separators included."""
        return sum(split.tokens for split in self.splits.values())

    @property
    def text_tokens(self) -> int:
        """Tokens kept, without separators."""
        return self.tokens - sum(split.documents for split in self.splits.values())

    @property
    def unknown_share(self) -> float:
        """Share of [UNK] among the tokens of text."""
        return self.unknown_tokens / max(1, self.text_tokens)

    @property
    def lost_share(self) -> float:
        """Share of the text that the tokenizer leaves out."""
        return self.lost_bytes / max(1, self.text_bytes)

    def losses(self) -> dict[str, str]:
        """What of the text is not in the shards as it was, by what happened to it; nothing that did not happen."""
        found = reading_losses(self.left_out_files, self.replaced_files, self.replaced_characters, self.cut_documents)
        for reason, count in self.dropped.items():
            found[f"dropped, {reason}"] = f"{count['documents']:,} documents, {count['bytes'] / 1e6:,.1f} MB"
        if self.unknown_tokens:
            found["unknown"] = (
                f"{self.unknown_tokens:,} tokens ({self.unknown_share:.2%}) are [UNK]: text unknown to the tokenizer"
            )
        if self.lost_bytes:
            found["lost"] = f"{self.lost_bytes:,} bytes ({self.lost_share:.2%}): text unknown to the tokenizer"
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what depends on the clock or the machine lies under `timing`."""
        content = {**asdict(self), "folder": str(self.folder), "tokens": self.tokens}
        names = ("workers", "tokenizer_seconds", "seconds", "megabytes_per_second", "peak_memory_bytes")
        return {**content, "timing": {name: content.pop(name) for name in names}}


def build_shards(
    documents: Iterable[Document] | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: str | Path,
    config: "DataConfig",
    validation: Callable[[Document], bool] | None = None,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
    tokenizer_sample: int = TOKENIZER_SAMPLE,
) -> BuildReport:
    """Tokenise documents into `folder`, or say that it holds them already.

    Args:
        documents: None: those of `config.sources`. An iterator will do where a tokenizer is given.
        tokenizer: None: by `config.tokenizer`, loaded or trained on the training documents.
        folder: new, empty, or with finished shards of the same documents and settings.
        config: how to read, tokenise and split; `length` is for the report alone.
        validation: which documents are for validation; None: the share `config.validation_fraction`, by a digest.
        progress: told how far it is.
        shard_tokens: the size of a shard, but for the rest of its last chunk.
        tokenizer_sample: bytes of text, about, that a tokenizer is trained on.

    Raises:
        DataError: nothing to read, no document for a split, the disk is full, or the folder holds something else;
            a folder that was begun is removed.
    """
    folder = Path(folder)
    tell = progress or (lambda stage, done, total: None)
    if documents is None:
        documents = Sources(config.sources, config.format, config.text_field, config.invalid_utf8)
    settings = _settings(config, tokenizer, validation)
    if (folder / MANIFEST).exists():
        return _existing(folder, settings, documents, validation)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} holds something that is not token shards; choose a new or empty folder.")
    report = BuildReport(folder, workers=config.workers or available_cores())
    began = time.perf_counter()
    if tokenizer is None:
        tokenizer = _tokenizer(documents, config, validation, tell, tokenizer_sample)
    report.tokenizer_seconds = time.perf_counter() - began
    missing = [name for name in ("pad", "cls", "sep", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise DataError(f"the tokenizer has no {' and no '.join(missing)} token; take one for encoders.")
    report.vocabulary_size = vocabulary_size(tokenizer)
    with staged_folder(folder) as staged:
        tokenizer.save_pretrained(str(staged / "tokenizer"))
        # What is stored must be what was used: a tokenizer may not survive being saved.
        if fingerprint(load_tokenizer(staged / "tokenizer")) != fingerprint(tokenizer):
            raise DataError("the tokenizer changes when it is saved and loaded; use the saved one instead.")
        began = time.perf_counter()
        writers = {name: _Writer(staged, name, report.vocabulary_size, shard_tokens, config.length) for name in SPLITS}
        source_digest = _write(documents, tokenizer, config, validation, writers, report, tell)
        report.seconds = time.perf_counter() - began
        report.megabytes_per_second = report.text_bytes / 1e6 / max(report.seconds, 1e-9)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "dtype": writers["train"].dtype.name,
            "vocabulary_size": report.vocabulary_size,
            "tokenizer_fingerprint": fingerprint(tokenizer),
            "special_tokens": {
                name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")
            }
            | {"unk": unknown_id(tokenizer)},
            "splits": {name: writer.shards for name, writer in writers.items()},
            "most_frequent_token": writers["train"].most_frequent(set(tokenizer.all_special_ids)),
            "settings": settings,
            "source_digest": source_digest,
            "report": report.to_json(),
        }
        del content["report"]["folder"], content["report"]["existed"]
        write_manifest(staged, content, {n: d for writer in writers.values() for n, d in writer.digests.items()})
    return report


def is_validation_text(text: str, fraction: float) -> bool:
    """Whether a document with this text is for validation when the split goes by digest."""
    return _Digest(text).share < fraction


class TokenStream:
    """A split as one stream of tokens: each document and a separator."""

    def __init__(self, folder: Path, shards: list[dict[str, Any]], dtype: np.dtype) -> None:
        self._tokens = [np.memmap(folder / s["file"], dtype=dtype, mode="r", shape=(s["tokens"],)) for s in shards]
        self._ends = [np.memmap(folder / s["ends"], dtype="<u8", mode="r", shape=(s["documents"],)) for s in shards]
        self._starts = np.cumsum([0, *(s["tokens"] for s in shards)])
        self.tokens = int(self._starts[-1])
        """separators included"""
        self.documents = sum(s["documents"] for s in shards)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` (exclusive) as int64, over the borders of shards."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of a stream of {self.tokens}")
        found = np.empty(stop - start, dtype=np.int64)
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = start
        while done < stop:
            until = min(stop, int(self._starts[shard + 1]))
            base = int(self._starts[shard])
            found[done - start : until - start] = self._tokens[shard][done - base : until - base]
            done, shard = until, shard + 1
        return found

    def ends(self) -> Iterator[np.ndarray]:
        """Where documents end (behind their separators), int64, a shard at a time."""
        for ends, start in zip(self._ends, self._starts[:-1], strict=True):
            yield ends.astype(np.int64) + start


class TokenShards:
    """A finished folder of shards; use `open_shards`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokenizer_fingerprint: str = manifest["tokenizer_fingerprint"]
        self.vocabulary_size: int = manifest["vocabulary_size"]
        """largest id + 1"""
        self.special_tokens: dict[str, int] = {k: v for k, v in manifest["special_tokens"].items() if v is not None}
        """pad, unk, cls, sep, mask → id"""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all tokens, their order and their tokenizer; not of how or when they were made."""
        names = [shard[key] for split in SPLITS for shard in self.manifest["splits"][split] for key in ("file", "ends")]
        tokens = [[name, self.manifest["files"][name]["sha256"]] for name in names]
        return canonical_digest([self.tokenizer_fingerprint, self.manifest["dtype"], tokens])

    def split(self, name: Split) -> TokenStream:
        """The stream of a split."""
        return TokenStream(
            self.folder, self.manifest["splits"][name], np.dtype(self.manifest["dtype"]).newbyteorder("<")
        )

    def most_frequent_token(self) -> int:
        """The training split's most frequent token, special tokens left out: the best guess without context."""
        return self.manifest["most_frequent_token"]


def open_shards(folder: str | Path, verify: bool = True) -> TokenShards:
    """Open a folder that `build_shards` wrote.

    Args:
        folder: holds manifest.json.
        verify: read every byte and compare digests (about 1 s a GB); otherwise the manifest and sizes alone.

    Raises:
        DataError: names the file that is missing, cut short or changed, and what to do.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise DataError(_no_shards(folder))
    manifest = verify_manifest(folder, verify, _REBUILD)
    _refuse_other_format(folder, manifest)
    _refuse_inconsistent(folder, manifest)
    return TokenShards(folder, manifest)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- reading and splitting -------------------------------------------------------------------------------------------


class _Digest:
    """192 bits of a text: one part tells documents apart, one splits them, one draws pieces for the tokenizer."""

    def __init__(self, text: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        self.bytes = len(encoded)
        self.whole = hashlib.blake2b(encoded, digest_size=24).digest()
        self.identity, split, draw = struct.unpack("<3Q", self.whole)
        self.share = split / 2**64
        self.draw = draw / 2**64


class _Seen:
    """A set of 64-bit numbers in 16 to 32 bytes each (a Python set takes 60 to 120): open addressing."""

    def __init__(self) -> None:
        self._count = 0
        self._slots = memoryview(bytearray(8 << 12)).cast("Q")

    def add(self, number: int) -> bool:
        """False when the number was there."""
        number = number or 1  # 0 marks a free slot
        if 2 * self._count >= len(self._slots):
            old, self._slots = self._slots, memoryview(bytearray(16 * len(self._slots))).cast("Q")
            for kept in old:
                if kept:
                    self._slots[self._place(kept)] = kept
        place = self._place(number)
        if self._slots[place] == number:
            return False
        self._slots[place] = number
        self._count += 1
        return True

    def _place(self, number: int) -> int:
        slots, last = self._slots, len(self._slots) - 1
        place = number & last
        while slots[place] not in (0, number):
            place = (place + 1) & last
        return place


class _Splitter:
    """Decides where documents go, and digests the stream: every text, its order and its split."""

    def __init__(self, fraction: float, validation: Callable[[Document], bool] | None) -> None:
        self._fraction = fraction
        self._validation = validation
        self._hash = hashlib.sha256()
        self.smallest_share = 1.0

    def __call__(self, document: Document, digest: _Digest) -> Split:
        held_out = digest.share < self._fraction if self._validation is None else bool(self._validation(document))
        self._hash.update(digest.whole + (b"v" if held_out else b"t"))
        self.smallest_share = min(self.smallest_share, digest.share)
        return "validation" if held_out else "train"

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _tokenizer(
    documents: Iterable[Document],
    config: "DataConfig",
    validation: Callable[[Document], bool] | None,
    tell: Progress,
    sample: int,
) -> "PreTrainedTokenizerBase":
    """The tokenizer that the configuration names, or one trained on a sample of the training documents.

    The sample is of pieces, drawn by their digests: it has its share of every large document and of every folder, and
    does not depend on their order.
    """
    if config.tokenizer.path is not None:
        return load_tokenizer(config.tokenizer.path)
    if iter(documents) is documents:
        raise TypeError("an iterator of documents can be read once only: give a tokenizer, or a list or Sources")
    if isinstance(documents, Sources):
        on_disk, total = documents.sizes()
    else:
        on_disk = total = sum(len(document.text) for document in documents)
    share = sample / max(total, 1)

    def texts() -> Iterator[str]:
        read = told = 0
        splitter = _Splitter(config.validation_fraction, validation)
        for document in documents:
            digest = _Digest(document.text)
            if splitter(document, digest) == "train":
                if share >= 1:
                    yield document.text
                else:
                    yield from (p for p in pieces(document.text, TRAINING_PIECE) if _Digest(p).draw < share)
            read += digest.bytes
            if read - told >= CHUNK:
                told = read
                tell("tokenizer", _bytes_done(documents, read), on_disk)

    return train_tokenizer(texts(), config.tokenizer, config.length)


def _bytes_done(documents: Iterable[Document], text_bytes: int) -> int:
    return documents.reading.bytes_read if isinstance(documents, Sources) else text_bytes


def _settings(
    config: "DataConfig", tokenizer: "PreTrainedTokenizerBase | None", validation: object | None
) -> dict[str, Any]:
    """What decides the shards besides the text, by configuration key."""
    settings: dict[str, Any] = {
        "data.format": config.format,
        "data.text_field": config.text_field,
        "data.invalid_utf8": config.invalid_utf8,
        "data.validation_fraction": config.validation_fraction if validation is None else "given",
    }
    if tokenizer is not None:
        settings["tokenizer"] = fingerprint(tokenizer)
    else:
        settings |= {
            f"data.tokenizer.{name}": value for name, value in config.tokenizer.model_dump(mode="json").items()
        }
    return settings


def _existing(
    folder: Path,
    settings: dict[str, Any],
    documents: Iterable[Document],
    validation: Callable[[Document], bool] | None,
) -> BuildReport:
    """The report of shards that are there already; DataError when they are of other text or settings."""
    manifest = open_shards(folder, verify=False).manifest
    there = manifest["settings"]
    differing = [
        f"{key} is {there.get(key)} there and {settings.get(key)} here"
        for key in sorted(there | settings)
        if there.get(key) != settings.get(key)
    ]
    if not differing:
        fraction = settings["data.validation_fraction"]
        splitter = _Splitter(fraction if validation is None else 0.0, validation)
        for document in documents:
            splitter(document, _Digest(document.text))
        if splitter.hexdigest() == manifest["source_digest"]:
            stored = dict(manifest["report"])
            timing, splits = stored.pop("timing"), stored.pop("splits")
            del stored["tokens"]
            reports = {name: SplitReport(**split) for name, split in splits.items()}
            return BuildReport(folder=folder, **{**stored, **timing, "splits": reports, "existed": True})
        differing = ["the text has changed"]
    raise DataError(f"{folder} holds other shards ({'; '.join(differing)}): choose another folder, or delete this one.")


def _no_shards(folder: Path) -> str:
    here = "" if folder.is_absolute() else f" in {Path.cwd()}"
    why = "" if folder.is_dir() else f": it is no folder{here}"
    write = command("data", "build", "CONFIG", "data.sources=[TEXTS]", "--out", folder)
    name = f"name a folder of token shards as data.shards, or write one with `{write}`"
    return f"{folder} holds no token shards{why}; {name}."


def _refuse_other_format(folder: Path, manifest: dict[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise DataError(_no_shards(folder))
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{folder} has version {manifest.get('version')} of the shard format, "
            f"and this program reads {VERSION}: {_REBUILD}."
        )


def _refuse_inconsistent(folder: Path, manifest: dict[str, Any]) -> None:
    """Shards must be files of the manifest, whose names are checked, and as long as they say."""
    files, width = manifest["files"], np.dtype(manifest["dtype"]).itemsize
    for shard in chain.from_iterable(manifest["splits"][name] for name in SPLITS):
        for name, expected in ((shard["file"], shard["tokens"] * width), (shard["ends"], shard["documents"] * 8)):
            if name not in files or files[name]["bytes"] != expected:
                raise DataError(f"{folder / MANIFEST} contradicts itself about {name!r}: {_REBUILD}.")


# --- writing ---------------------------------------------------------------------------------------------------------


class _Writer:
    """Appends encoded chunks to the shards of one split."""

    def __init__(self, folder: Path, split: str, vocabulary: int, shard_tokens: int, length: int) -> None:
        self.dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
        self.digests: dict[str, str] = {}
        self.shards: list[dict[str, Any]] = []
        self.report = SplitReport()
        self._folder, self._split, self._shard_tokens = folder, split, shard_tokens
        self._content = length - 2  # of a row: without its first and last token
        self._borders = 0  # separators at a row's border, which the row's own stand for
        self._counts = np.zeros(vocabulary, dtype=np.int64)
        self._files: dict[str, Any] = {}
        self._hashes: dict[str, Any] = {}

    def append(self, ids: np.ndarray, ends: np.ndarray) -> None:
        """Ids of a chunk, and where in it documents end; the chunk may stop inside a document."""
        if not self._files:
            self._start()
        shard = self.shards[-1]
        self._put(shard["file"], ids.astype(self.dtype.newbyteorder("<")))
        self._put(shard["ends"], (ends + np.uint64(shard["tokens"])).astype("<u8"))
        self._counts += np.bincount(ids, minlength=len(self._counts))
        behind = ends.astype(np.int64) + self.report.tokens
        self._borders += int(np.sum(behind % self._content == 0) + np.sum((behind - 1) % self._content == 0))
        for counts in (shard, vars(self.report)):
            counts["tokens"] += len(ids)
            counts["documents"] += len(ends)
        whole = bool(len(ends)) and int(ends[-1]) == len(ids)
        if whole and shard["tokens"] >= self._shard_tokens:
            self.close()

    def close(self) -> None:
        """End the current shard."""
        for name, file in self._files.items():
            file.close()
            self.digests[name] = self._hashes[name].hexdigest()
        self._files, self._hashes = {}, {}

    def finish(self) -> None:
        """End the last shard and work out how full the rows are."""
        self.close()
        report = self.report
        report.rows = row_count(report.tokens, self._content + 2)
        if report.rows:
            # The stream's last separator is a border too, counted already where it fills its row or is alone in one.
            rest = report.tokens % self._content
            tokens = report.tokens - self._borders - (1 if rest > 1 else 0) + 2 * report.rows
            report.packing_efficiency = tokens / (report.rows * (self._content + 2))

    def most_frequent(self, special: set[int]) -> int:
        """The most frequent token that isn't special."""
        counts = self._counts.copy()
        counts[list(special)] = -1
        return int(counts.argmax())

    def _start(self) -> None:
        number = f"{self._split}-{len(self.shards):05d}"
        shard = {"file": f"{number}.bin", "ends": f"{number}.ends.bin", "tokens": 0, "documents": 0}
        self.shards.append(shard)
        for name in (shard["file"], shard["ends"]):
            self._files[name] = open(self._folder / name, "wb")  # noqa: SIM115
            self._hashes[name] = hashlib.sha256()

    def _put(self, name: str, numbers: np.ndarray) -> None:
        data = numbers.tobytes()
        self._files[name].write(data)
        self._hashes[name].update(data)


def row_count(tokens: int, length: int) -> int:
    """Rows of `length` in a stream of `tokens`; its last separator needs no room of its own."""
    return max(0, -(-(tokens - 1) // (length - 2)))


def _write(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    config: "DataConfig",
    validation: Callable[[Document], bool] | None,
    writers: dict[str, _Writer],
    report: BuildReport,
    tell: Progress,
) -> str:
    """Tokenise everything into the writers and fill in the report; returns the digest of the documents."""
    splitter = _Splitter(config.validation_fraction, validation)
    total = documents.sizes()[0] if isinstance(documents, Sources) else None
    peaks: dict[int, int] = {}
    encoder = Encoder(tokenizer.backend_tokenizer.to_str(), tokenizer.sep_token_id, unknown_id(tokenizer))  # type: ignore[attr-defined]
    chunks = _chunks(documents, splitter, report)
    with closing(encode_in_order(encoder, chunks, report.workers)) as results:
        for chunk, encoded in results:
            writers[chunk.split].append(encoded.ids, encoded.ends)
            report.unknown_tokens += encoded.unknown
            report.lost_bytes += encoded.lost
            peaks[encoded.process] = encoded.peak_bytes
            tell("tokens", _bytes_done(documents, report.text_bytes), total)
    for writer in writers.values():
        writer.finish()
    report.splits = {name: writer.report for name, writer in writers.items()}
    if isinstance(documents, Sources):
        reading = documents.reading
        report.files, report.left_out_files = reading.files, reading.left_out_files
        report.replaced_files, report.replaced_characters = reading.replaced_files, reading.replaced_characters
        report.cut_documents = reading.cut_documents
    _refuse_empty(report, config, validation, splitter)
    _refuse_other_language(report)
    kept_bytes = report.text_bytes - sum(reason["bytes"] for reason in report.dropped.values())
    report.bytes_per_token = kept_bytes / report.tokens
    peaks[os.getpid()] = peak_memory()
    report.peak_memory_bytes = sum(peaks.values())
    return splitter.hexdigest()


def _refuse_empty(report: BuildReport, config: "DataConfig", validation: object | None, splitter: _Splitter) -> None:
    kept = {name: split.documents for name, split in report.splits.items()}
    if not any(kept.values()):
        raise DataError(
            f"the corpus is empty: {report.documents} documents, none of them with text; "
            "name other files in data.sources."
        )
    if all(kept.values()):
        return
    if sum(kept.values()) == 1:
        raise DataError(
            "the corpus is a single document, and training and validation need one each; give more text, or end "
            "documents by blank lines with data.format=text."
        )
    if validation is not None:
        empty = next(name for name, count in kept.items() if not count)
        raise DataError(f"no document is left for {empty}; hold out other documents.")
    if kept["train"]:
        share = splitter.smallest_share * 1.001 + 0.001
        remedy = "give more text"
        remedy = f"set data.validation_fraction={share:.3f} or more, or {remedy}" if share < 0.499 else remedy
    else:
        remedy = "give more text, or set a smaller data.validation_fraction"
    raise DataError(
        f"none of {sum(kept.values())} documents fell to {'validation' if kept['train'] else 'training'} with "
        f"data.validation_fraction={config.validation_fraction}: {remedy}."
    )


def _refuse_other_language(report: BuildReport) -> None:
    if not report.text_tokens:
        raise DataError(
            f"the tokenizer finds no token in {report.documents} documents: leave data.tokenizer.path out, or name "
            "another tokenizer."
        )
    if report.lost_share > LARGEST_UNKNOWN:
        raise DataError(
            f"the tokenizer does not know {report.lost_share:.0%} of the text and would leave it out (at most "
            f"{LARGEST_UNKNOWN:.0%} are accepted): leave data.tokenizer.path out, so that one is trained on it, or "
            "name a tokenizer for its language."
        )
    if report.unknown_share > LARGEST_UNKNOWN:
        raise DataError(
            f"{report.unknown_share:.0%} of the tokens would be [UNK], since the tokenizer does not know this text "
            f"(at most {LARGEST_UNKNOWN:.0%} are accepted): leave data.tokenizer.path out, so that one is trained on "
            "it, or name a tokenizer for its language."
        )


def _chunks(documents: Iterable[Document], splitter: _Splitter, report: BuildReport) -> Iterator[Chunk]:
    """Gather documents into chunks, so that many small ones cost no more than a large one; count what is left out."""
    seen = _Seen()
    held: dict[Split, list[tuple[str, bool]]] = {"train": [], "validation": []}
    sizes: dict[Split, int] = {"train": 0, "validation": 0}
    for document in documents:
        digest = _Digest(document.text)
        split = splitter(document, digest)
        report.documents += 1
        report.text_bytes += digest.bytes
        reason = None if document.text.strip() else "empty"
        if reason is None and not seen.add(digest.identity):
            reason = "duplicate"
        if reason:
            count = report.dropped.setdefault(reason, {"documents": 0, "bytes": 0})
            count["documents"] += 1
            count["bytes"] += digest.bytes
            continue
        cut = list(pieces(document.text, ENCODING_PIECE))
        for number, piece in enumerate(cut, 1):
            held[split].append((piece, number == len(cut)))
            sizes[split] += len(piece)
            if sizes[split] >= CHUNK:
                yield Chunk(split, held[split])
                held[split], sizes[split] = [], 0
    for split, rest in held.items():
        if rest:
            yield Chunk(split, rest)
