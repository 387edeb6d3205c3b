"""Joins the parts that `data build --shard i/n` wrote to the token shards that one build would have written.

Notable:
- parts are joined in their order, so the stream of tokens is that of one build: a part holds consecutive files;
- a document that occurs in two parts is kept once, the first time, as in one build;
- a few million tokens are in memory at a time.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fast_electra.data.documents import Seen, StreamDigest
from fast_electra.data.files import MANIFEST, staged_folder
from fast_electra.data.shard_building import SHARD_TOKENS, finish_shards
from fast_electra.data.shard_report import BuildReport, refuse_empty, stored_report
from fast_electra.data.shard_writer import fill_in_splits, refuse_empty_sources, writers_in
from fast_electra.data.shards import Split, TokenShards, open_shards, refuse_other_content
from fast_electra.errors import DataError

_TOKENS = 2_000_000  # read at a time
_ADDED = (
    *("documents", "text_bytes", "lost_bytes", "files", "replaced_files", "replaced_characters", "cut_documents"),
    *("seconds", "tokenizer_seconds"),
)


def part_name(share: tuple[int, int]) -> str:
    """The name of a part's folder."""
    return f"part-{share[0]:05d}-of-{share[1]:05d}"


def merge_shards(parts: str | Path, folder: str | Path) -> BuildReport:
    """Join the parts in a folder. If the shards of these parts are there already, nothing is done.

    Args:
        parts: holds the folders `part-i-of-n` of `data build --shard`, all of one n.
        folder: the token shards to write: new, empty, or with the finished shards of these parts.

    Returns:
        the report of all parts; a document that occurs in two of them counts as a duplicate.

    Raises:
        DataError: a part is missing, damaged or of another build, or `folder` holds something.
    """
    parts, folder = Path(parts), Path(folder)
    opened = _opened(parts)
    manifest, weights = opened[0].manifest, opened[0].mixture
    stream = StreamDigest()
    for part in opened:
        stream.join(StreamDigest(part.manifest["source_digest"], part.manifest["report"]["documents"]))
    about = {
        "settings": {key: value for key, value in manifest["settings"].items() if key != "part"},
        "source_digest": stream.hexdigest(),
    }
    if (folder / MANIFEST).exists():
        there = open_shards(folder, verify=False).manifest
        if about.items() <= there.items():
            return stored_report(folder, there)
        raise DataError(f"{folder} holds other shards: choose another folder, or delete this one.")
    refuse_other_content(folder)
    report = _added(folder, opened)
    unknown = manifest["special_tokens"]["unk"]
    with staged_folder(folder) as staged:
        shutil.copytree(opened[0].folder / "tokenizer", staged / "tokenizer")
        writers = writers_in(staged, report.vocabulary_size, SHARD_TOKENS, manifest["row_length"], weights)
        seen = Seen()
        for part in opened:
            for split, source in writers:
                for ids, ends in _unseen(part, split, source, seen, report):
                    writers[split, source].append(ids, ends)
                    report.unknown_tokens += int((ids == unknown).sum()) if unknown is not None else 0
        fill_in_splits(report, writers, weights)
        refuse_empty(report, manifest["settings"]["data.validation_fraction"], None, smallest_share=1.0)
        refuse_empty_sources(writers, weights)
        report.bytes_per_token = report.kept_bytes / report.tokens
        content = {key: manifest[key] for key in ("tokenizer_fingerprint", "special_tokens")}
        content |= {"mixture": weights} if weights else {}
        finish_shards(staged, content | about, writers, report, set(opened[0].special_tokens.values()))
    return report


def _opened(parts: Path) -> list[TokenShards]:
    """All parts in their order, checked."""
    found = sorted(path for path in parts.glob("part-*-of-*") if re.fullmatch(r"part-\d{5}-of-\d{5}", path.name))
    if not found:
        raise DataError(
            f"{parts} holds no parts: write them with `fast-electra data build CONFIG --shard i/n --out …`."
        )
    count = int(found[-1].name[-5:])
    names = [part_name((number, count)) for number in range(1, count + 1)]
    if missing := next((name for name in names if not (parts / name).is_dir()), None):
        number = int(missing[5:10])
        raise DataError(f"{parts / missing} is missing: run `fast-electra data build` with --shard {number}/{count}.")
    if other := next((path for path in found if path.name not in names), None):
        raise DataError(f"{other} belongs to another number of parts than {count}: delete it.")
    opened = [open_shards(parts / name, part=True) for name in names]
    for part in opened:
        there, here = ({**one.manifest["settings"], "part": None} for one in (opened[0], part))
        if there != here or part.tokenizer_fingerprint != opened[0].tokenizer_fingerprint:
            key = next((key for key in there | here if there.get(key) != here.get(key)), "the tokenizer")
            raise DataError(
                f"{part.folder} was built with other settings than {opened[0].folder} ({key}): delete it and build it "
                "again."
            )
    return opened


def _added(folder: Path, opened: list[TokenShards]) -> BuildReport:
    """The report of all parts, without what the merging counts."""
    report = BuildReport(folder, vocabulary_size=opened[0].vocabulary_size)
    largest = max(opened, key=lambda part: part.manifest["report"]["documents"])
    report.tokenizer = largest.manifest["report"]["tokenizer"]
    for part in opened:
        stored = part.manifest["report"] | part.manifest["report"]["timing"]
        for name in _ADDED:
            setattr(report, name, getattr(report, name) + stored[name])
        for reason, count in stored["dropped"].items():
            report.drop(reason, count["documents"], count["bytes"])
        # Every part walks through all folders, so each counts all files that are left out.
        report.left_out_files, report.sources = stored["left_out_files"], stored["sources"]
        report.workers = max(report.workers, stored["workers"])
        report.peak_memory_bytes = max(report.peak_memory_bytes, stored["peak_memory_bytes"])
    report.megabytes_per_second = report.text_bytes / 1e6 / max(report.seconds, 1e-9)
    return report


def _unseen(
    part: TokenShards, split: Split, source: int, seen: Seen, report: BuildReport
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids (uint32) and ends (uint64) of the documents of a part that were in no part before, some at a time."""
    stream = part.sources(split)[source]
    if not stream.documents:
        return
    ends = np.concatenate(list(stream.ends()))
    about = part.identities(split, source)
    done = 0
    while done < len(ends):
        first = int(ends[done - 1]) if done else 0
        stop = max(done + 1, int(np.searchsorted(ends, first + _TOKENS, side="right")))
        new = np.array([seen.add(int(identity)) for identity in about[done:stop, 0]])
        report.drop("duplicate", int((~new).sum()), int(about[done:stop, 1][~new].sum()))
        lengths = np.diff(ends[done:stop], prepend=first)
        ids = stream.read(first, int(ends[stop - 1])).astype(np.uint32)[np.repeat(new, lengths)]
        if len(ids):
            yield ids, lengths[new].cumsum().astype(np.uint64)
        done = stop
