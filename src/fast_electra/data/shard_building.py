"""Building token shards: text → documents → splits → tokens → files. `shards.py` has the format and the reader.

Notable:
- memory is bounded: text goes through in chunks, a fixed number of them at a time, and each document that was seen is
  remembered by 64 bits;
- the same documents give the same bytes, whatever the number of processes;
- whether a document is for validation follows from a digest of its text, not from its place;
- the folder is staged next to its place, and renamed when it is complete.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fast_electra.data.documents import Digest, Seen, Splitter
from fast_electra.data.encoding import CHUNK, Chunk, Encoder, available_cores, encode_in_order, peak_memory
from fast_electra.data.files import MANIFEST, staged_folder, write_manifest
from fast_electra.data.settings import mixture
from fast_electra.data.shard_report import BuildReport, refuse_empty, refuse_other_language, stored_report
from fast_electra.data.shard_writer import Writers, fill_in_splits, refuse_empty_sources, writers_in
from fast_electra.data.shards import FORMAT, SPLITS, VERSION, Split, open_shards, refuse_other_content
from fast_electra.data.sources import Document, Sources
from fast_electra.data.tokenizer import (
    ENCODING_PIECE,
    TRAINING_PIECE,
    fingerprint,
    load_tokenizer,
    pieces,
    unknown_id,
    vocabulary_size,
)
from fast_electra.data.tokenizer_facts import Sample, tokenizer_facts
from fast_electra.data.tokenizer_training import train_tokenizer
from fast_electra.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fast_electra.data.settings import DataConfig

SHARD_TOKENS = 2**26
"""tokens after which the next document starts a new shard"""
TOKENIZER_SAMPLE = 64_000_000
"""approximate number of bytes of text that a tokenizer is trained on, drawn from the whole corpus"""

BuildProgress = Callable[[str, int, int | None], None]
"""called with the stage ("tokenizer" or "tokens"), the bytes done, and the total number of bytes or None"""


def build_shards(
    documents: Iterable[Document] | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: str | Path,
    config: "DataConfig",
    validation: Callable[[Document], bool] | None = None,
    progress: BuildProgress | None = None,
    shard_tokens: int = SHARD_TOKENS,
    tokenizer_sample: int = TOKENIZER_SAMPLE,
    share: tuple[int, int] | None = None,
) -> BuildReport:
    """Tokenise documents into `folder`. If the folder holds the same shards already, nothing is done.

    Args:
        documents: None: those of `config.sources`. An iterator is enough if a tokenizer is given.
        tokenizer: None: the one that `config.tokenizer` names, or one trained on the training documents.
        folder: new, empty, or with finished shards of the same documents and settings.
        config: how to read, tokenise and split. `length` is used for the report only.
        validation: says which documents are for validation; None: a digest chooses the share
            `config.validation_fraction`.
        progress: called during the build.
        shard_tokens: the size of a shard; its last chunk may exceed it.
        tokenizer_sample: approximate number of bytes of text that a tokenizer is trained on.
        share: (i, n) with i from 1: only the i-th of n shares of the files of `config.sources`, as a part for
            `merge_shards`; the tokenizer must be given.

    Returns:
        what was read, kept and left out; from the manifest if the folder was finished before.

    Raises:
        DataError: there is nothing to read, a split gets no document, the disk is full, or the folder holds something
            else. An unfinished folder is removed.
    """
    folder = Path(folder)
    report_progress = progress or (lambda stage, done, total: None)
    if documents is None:
        documents = Sources(config.sources, config.format, config.text_field, config.invalid_utf8, share or (1, 1))
    if share and tokenizer is None and config.tokenizer.path is None:
        raise ConfigError(
            "--shard needs one tokenizer for all parts: train it on a sample by `fast-electra data build CONFIG "
            "data.sources=[SAMPLE] --out sample`, and set data.tokenizer.path=sample/tokenizer."
        )
    settings = _settings(config, tokenizer, validation)
    if share:
        settings["part"] = list(share)
    if (folder / MANIFEST).exists():
        return _existing(folder, settings, documents, validation)
    refuse_other_content(folder)
    report = BuildReport(folder, workers=config.workers or available_cores())
    began = time.perf_counter()
    if tokenizer is None:
        tokenizer = _tokenizer(documents, config, validation, report_progress, tokenizer_sample)
    report.tokenizer_seconds = time.perf_counter() - began
    missing = [name for name in ("pad", "cls", "sep", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise DataError(f"the tokenizer has no {' and no '.join(missing)} token; take one for encoders.")
    report.vocabulary_size = vocabulary_size(tokenizer)
    with staged_folder(folder) as staged:
        try:
            tokenizer.save_pretrained(str(staged / "tokenizer"))
        except (ValueError, TypeError) as error:  # such as half of a surrogate pair in its settings
            raise DataError(f"the tokenizer can't be saved ({error}): name another in data.tokenizer.path.") from error
        # Some tokenizers change when they are saved; the stored one must be the one that was used.
        if fingerprint(load_tokenizer(staged / "tokenizer")) != fingerprint(tokenizer):
            raise DataError("the tokenizer changes when it is saved and loaded; use the saved one instead.")
        began = time.perf_counter()
        weights = mixture(config.sources)
        writers = writers_in(staged, report.vocabulary_size, shard_tokens, config.length, weights)
        source_digest = _write(documents, tokenizer, config, validation, writers, report, report_progress, share)
        report.seconds = time.perf_counter() - began
        report.megabytes_per_second = report.text_bytes / 1e6 / max(report.seconds, 1e-9)
        content = {
            "tokenizer_fingerprint": fingerprint(tokenizer),
            "special_tokens": {
                name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")
            }
            | {"unk": unknown_id(tokenizer)},
            "settings": settings,
            "source_digest": source_digest,
        }
        if weights:
            content["mixture"] = weights
        if share:
            content["row_length"] = config.length
        finish_shards(staged, content, writers, report, set(tokenizer.all_special_ids))
    return report


def finish_shards(
    folder: Path, content: dict[str, Any], writers: Writers, report: BuildReport, special: set[int]
) -> None:
    """Write the manifest of a folder whose shards are complete.

    Args:
        folder: holds all other files.
        content: keys that do not follow from the other arguments.
        writers: by split and number of the source.
        report: of the build.
        special: ids of the special tokens, which are never the most frequent token.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": writers["train", 0].dtype.name,
        "vocabulary_size": report.vocabulary_size,
        "splits": {
            name: [shard for (split, _), writer in writers.items() if split == name for shard in writer.shards]
            for name in SPLITS
        },
        "most_frequent_token": _most_frequent(writers, special),
        "report": report.to_json(),
        **content,
    }
    del content["report"]["folder"], content["report"]["existed"]
    write_manifest(folder, content, {n: d for writer in writers.values() for n, d in writer.digests.items()})


def _most_frequent(writers: Writers, special: set[int]) -> int:
    """The id of the training split's most frequent token that is not special."""
    counts = np.sum([writer.counts for (split, _), writer in writers.items() if split == "train"], axis=0)
    counts[list(special)] = -1
    return int(counts.argmax())


def is_validation_text(text: str, fraction: float) -> bool:
    """Whether a document with this text is for validation when a digest chooses the split."""
    return Digest(text).share < fraction


def _existing(
    folder: Path,
    settings: dict[str, Any],
    documents: Iterable[Document],
    validation: Callable[[Document], bool] | None,
) -> BuildReport:
    """The report of shards that exist already; DataError if their text or settings differ."""
    manifest = open_shards(folder, verify=False, part="part" in settings).manifest
    there = manifest["settings"]
    differing = [
        f"{key} is {there.get(key)} there and {settings.get(key)} here"
        for key in sorted(there | settings)
        if there.get(key) != settings.get(key)
    ]
    if not differing:
        fraction = settings["data.validation_fraction"]
        splitter = Splitter(fraction if validation is None else 0.0, validation)
        for document in documents:
            splitter(document, Digest(document.text))
        if splitter.hexdigest() == manifest["source_digest"]:
            return stored_report(folder, manifest)
        differing = ["the text has changed"]
    raise DataError(f"{folder} holds other shards ({'; '.join(differing)}): choose another folder, or delete this one.")


def _settings(
    config: "DataConfig", tokenizer: "PreTrainedTokenizerBase | None", validation: object | None
) -> dict[str, Any]:
    """What the shards depend on besides the text, by configuration key."""
    settings: dict[str, Any] = {
        "data.format": config.format,
        "data.text_field": config.text_field,
        "data.invalid_utf8": config.invalid_utf8,
        "data.validation_fraction": config.validation_fraction if validation is None else "given",
    }
    if weights := mixture(config.sources):
        settings["data.sources"] = weights
    if tokenizer is not None:
        settings["tokenizer"] = fingerprint(tokenizer)
    else:
        settings |= {
            f"data.tokenizer.{name}": value for name, value in config.tokenizer.model_dump(mode="json").items()
        }
    return settings


def _tokenizer(
    documents: Iterable[Document],
    config: "DataConfig",
    validation: Callable[[Document], bool] | None,
    report_progress: BuildProgress,
    sample: int,
) -> "PreTrainedTokenizerBase":
    """The tokenizer that the configuration names, or one trained on a sample of the training documents.

    The sample consists of pieces that are drawn by their digests. It takes its share from every large document and
    every folder, and does not depend on their order.
    """
    if config.tokenizer.path is not None:
        return load_tokenizer(config.tokenizer.path)
    if iter(documents) is documents:
        raise TypeError("an iterator of documents can be read only once: give a tokenizer, or a list or Sources")
    if isinstance(documents, Sources):
        on_disk, total = documents.sizes()
    else:
        on_disk = total = sum(len(document.text) for document in documents)
    share = sample / max(total, 1)

    def texts() -> Iterator[str]:
        read = reported = 0
        splitter = Splitter(config.validation_fraction, validation)
        for document in documents:
            digest = Digest(document.text)
            if splitter(document, digest) == "train":
                if share >= 1:
                    yield document.text
                else:
                    yield from (p for p in pieces(document.text, TRAINING_PIECE) if Digest(p).draw < share)
            read += digest.bytes
            if read - reported >= CHUNK:
                reported = read
                report_progress("tokenizer", _bytes_done(documents, read), on_disk)

    return train_tokenizer(texts(), config.tokenizer, config.length)


def _write(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    config: "DataConfig",
    validation: Callable[[Document], bool] | None,
    writers: Writers,
    report: BuildReport,
    report_progress: BuildProgress,
    share: tuple[int, int] | None,
) -> str:
    """Tokenise all documents into the writers and fill in the report; returns the digest of the documents."""
    splitter = Splitter(config.validation_fraction, validation)
    total = documents.sizes()[0] if isinstance(documents, Sources) else None
    peaks: dict[int, int] = {}
    encoder = Encoder(tokenizer.backend_tokenizer.to_str(), tokenizer.sep_token_id, unknown_id(tokenizer))  # type: ignore[attr-defined]
    weights = mixture(config.sources)
    chunks = _chunks(documents, splitter, report, bool(weights))
    sample = Sample()
    with closing(encode_in_order(encoder, chunks, report.workers)) as results:
        for chunk, encoded in results:
            sample.add(chunk.pieces[0][0])
            identities = np.array(chunk.identities, dtype="<u8") if share else None
            writers[chunk.split, chunk.part].append(encoded.ids, encoded.ends, identities)
            report.unknown_tokens += encoded.unknown
            report.lost_bytes += encoded.lost
            peaks[encoded.process] = encoded.peak_bytes
            report_progress("tokens", _bytes_done(documents, report.text_bytes), total)
    fill_in_splits(report, writers, weights)
    if isinstance(documents, Sources):
        reading = documents.reading
        report.sources = [str(place) for place in documents.places]
        report.files, report.left_out_files = reading.files, reading.left_out_files
        report.replaced_files, report.replaced_characters = reading.replaced_files, reading.replaced_characters
        report.cut_documents = reading.cut_documents
    if share is None:  # a part may have too little of something; `merge_shards` looks at the whole
        refuse_empty(report, config.validation_fraction, validation, splitter.smallest_share)
        refuse_empty_sources(writers, weights)
    if share is None or report.text_tokens:
        refuse_other_language(report)
    report.bytes_per_token = report.kept_bytes / max(1, report.tokens)
    report.tokenizer = tokenizer_facts(tokenizer, sample.texts)
    peaks[os.getpid()] = peak_memory()
    report.peak_memory_bytes = sum(peaks.values())
    return splitter.hexdigest()


def _chunks(documents: Iterable[Document], splitter: Splitter, report: BuildReport, mixed: bool) -> Iterator[Chunk]:
    """Gather documents into chunks, so that many small ones cost no more than a large one; counts dropped documents."""
    seen = Seen()
    held: dict[tuple[Split, int], list[tuple[str, bool]]] = defaultdict(list)
    sizes: dict[tuple[Split, int], int] = defaultdict(int)
    ended: dict[tuple[Split, int], list[tuple[int, int]]] = defaultdict(list)
    for document in documents:
        digest = Digest(document.text)
        split = splitter(document, digest)
        report.documents += 1
        report.text_bytes += digest.bytes
        reason = None if document.text.strip() else "empty"
        if reason is None and not seen.add(digest.identity):
            reason = "duplicate"
        if reason:
            report.drop(reason, 1, digest.bytes)
            continue
        cut = list(pieces(document.text, ENCODING_PIECE))
        key = split, document.part if mixed else 0
        for number, piece in enumerate(cut, 1):
            held[key].append((piece, number == len(cut)))
            sizes[key] += len(piece)
            if number == len(cut):
                ended[key].append((digest.identity, digest.bytes))
            if sizes[key] >= CHUNK:
                yield Chunk(split, held.pop(key), key[1], ended.pop(key, []))
                del sizes[key]
    for (split, part), rest in held.items():
        yield Chunk(split, rest, part, ended[split, part])


def _bytes_done(documents: Iterable[Document], text_bytes: int) -> int:
    return documents.reading.bytes_read if isinstance(documents, Sources) else text_bytes
