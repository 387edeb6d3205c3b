"""The report of a build of token shards: what was read, kept and left out, and when that is too little.

`build_shards` fills it in, stores it in the manifest, and refuses a corpus that leaves a split empty or that the
tokenizer does not know.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fast_electra.data.reading import reading_losses
from fast_electra.errors import DataError

LARGEST_UNKNOWN = 0.1
"""share of unknown tokens above which a build is refused, since the tokenizer does not fit the text"""


@dataclass
class SplitReport:
    """Counts of one split, or of one source in it."""

    documents: int = 0
    tokens: int = 0
    """including separators"""
    rows: int = 0
    """of `data.length` tokens each"""
    packing_efficiency: float = 0.0
    """share of the rows' positions that is not padding, 0 to 1"""

    @classmethod
    def of(cls, parts: "list[SplitReport]") -> "SplitReport":
        """The counts of several sources together."""
        if len(parts) == 1:
            return parts[0]
        rows = sum(part.rows for part in parts)
        filled = sum(part.packing_efficiency * part.rows for part in parts)
        documents, tokens = (sum(getattr(part, name) for part in parts) for name in ("documents", "tokens"))
        return cls(documents, tokens, rows, filled / max(1, rows))


@dataclass
class BuildReport:
    """What a build read, kept and left out."""

    folder: Path
    documents: int = 0
    """documents read, including those that were dropped"""
    text_bytes: int = 0
    """their text in UTF-8 bytes"""
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    """by reason: `documents` and `bytes`; all tokens of the other documents are kept"""
    splits: dict[str, SplitReport] = field(default_factory=dict)
    mixture: dict[str, dict[str, float]] = field(default_factory=dict)
    """by source of a mixture: its `weight`, its `share` of the tokens that are trained on, and `tokens` for training"""
    vocabulary_size: int = 0
    bytes_per_token: float = 0.0
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """`tokens_per_word`, `tokens_per_character`, `words_in_one_token` (share) and `longest_tokens`, on a sample"""
    unknown_tokens: int = 0
    """number of [UNK] tokens, for text that the tokenizer does not know"""
    lost_bytes: int = 0
    """bytes of text that the tokenizer does not know and leaves out, since it has no [UNK]"""
    sources: list[str] = field(default_factory=list)
    """where the text is from; data sets of the hub with their revision"""
    files: int = 0
    left_out_files: int = 0
    """files in folders whose names are not read, and links"""
    replaced_files: int = 0
    """files with bytes that are not UTF-8, which became U+FFFD"""
    replaced_characters: int = 0
    """number of U+FFFD that these bytes became"""
    cut_documents: int = 0
    """number of cuts in documents of more than 16 MB"""
    workers: int = 1
    tokenizer_seconds: float = 0.0
    """for training or loading the tokenizer"""
    seconds: float = 0.0
    """for reading, tokenising and writing"""
    megabytes_per_second: float = 0.0
    """text read, tokenised and written per second"""
    peak_memory_bytes: int = 0
    """sum of the largest resident sizes of this process and of each process that tokenised"""
    existed: bool = False
    """whether the folder held these shards already, so that nothing was done"""

    @property
    def tokens(self) -> int:
        """Number of tokens kept, including separators."""
        return sum(split.tokens for split in self.splits.values())

    @property
    def kept_bytes(self) -> int:
        """Bytes of text of the documents that were kept."""
        return self.text_bytes - sum(reason["bytes"] for reason in self.dropped.values())

    @property
    def text_tokens(self) -> int:
        """Number of tokens kept, without separators."""
        return self.tokens - sum(split.documents for split in self.splits.values())

    @property
    def unknown_share(self) -> float:
        """Share of [UNK] among the tokens without separators, 0 to 1."""
        return self.unknown_tokens / max(1, self.text_tokens)

    @property
    def lost_share(self) -> float:
        """Share of the text's bytes that the tokenizer leaves out, 0 to 1."""
        return self.lost_bytes / max(1, self.text_bytes)

    def drop(self, reason: str, documents: int, size: int) -> None:
        """Count documents of `size` bytes together that are left out."""
        if documents:
            count = self.dropped.setdefault(reason, {"documents": 0, "bytes": 0})
            count["documents"] += documents
            count["bytes"] += size

    def losses(self) -> dict[str, str]:
        """A description of each loss of text that occurred, by its kind."""
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
        """The report as plain JSON; what depends on the clock or the machine is under `timing`."""
        content = {**asdict(self), "folder": str(self.folder), "tokens": self.tokens}
        names = ("workers", "tokenizer_seconds", "seconds", "megabytes_per_second", "peak_memory_bytes")
        return {"timing": {name: content.pop(name) for name in names}} | content


def refuse_empty(report: BuildReport, fraction: float, validation: object | None, smallest_share: float) -> None:
    """Refuse a corpus of which a split got no document.

    Args:
        report: of the build.
        fraction: `data.validation_fraction`, which chose the splits.
        validation: what else chose them, or None.
        smallest_share: the least `validation_fraction`, about, that gives validation a document.

    Raises:
        DataError: says what to change.
    """
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
        share = smallest_share * 1.001 + 0.001
        remedy = "give more text"
        remedy = f"set data.validation_fraction={share:.3f} or more, or {remedy}" if share < 0.499 else remedy
    else:
        remedy = "give more text, or set a smaller data.validation_fraction"
    raise DataError(
        f"none of {sum(kept.values())} documents fell to {'validation' if kept['train'] else 'training'} with "
        f"data.validation_fraction={fraction}: {remedy}."
    )


def stored_report(folder: Path, manifest: Mapping[str, Any]) -> BuildReport:
    """The report of shards that were there before, from their manifest."""
    stored = dict(manifest["report"])
    timing, splits = stored.pop("timing"), stored.pop("splits")
    del stored["tokens"]
    reports = {name: SplitReport(**split) for name, split in splits.items()}
    return BuildReport(folder=folder, **{**stored, **timing, "splits": reports, "existed": True})


def refuse_other_language(report: BuildReport) -> None:
    """Raise DataError if the tokenizer knows none, or too little, of the text."""
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
