"""Reads documents from folders, text files, code, JSON lines, Parquet, Arrow and the Hugging Face hub, as a stream.

Notable:
- only one document is in memory; in text and code, one of over 16 million bytes is cut at a line break; in the other
  formats, a row of over 64 million bytes is refused;
- folders are read in the order of their names, links in them are not followed, hidden files are left out;
- a file's content decides what it is, not its name (text_files.py): packed text is unpacked, binary files are refused;
- no text is lost silently: `Reading` counts files left out, files with broken UTF-8 and documents that were cut;
- line ends become a line feed, and a byte-order mark is dropped.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal

from fast_electra.data.columns import column_cells, is_columns
from fast_electra.data.hub import PREFIX, HubDataset, saved_dataset
from fast_electra.data.reading import Reading
from fast_electra.data.settings import Source
from fast_electra.data.text_files import (
    CONVERT,
    LOOKED_AT,
    PACKED_ENDINGS,
    flat,
    is_other_encoding,
    json_in,
    open_text,
    refuse_whole_json,
    shown,
)
from fast_electra.errors import DataError

Format = Literal["auto", "text", "code", "jsonl", "parquet"]

_NAMES = {
    "text": ".txt .text .md .markdown .rst .tex .org .adoc",
    "jsonl": ".jsonl .ndjson",
    "parquet": ".parquet .arrow",
    "code": ".py .pyi .pyx .c .h .cc .cpp .cxx .hpp .cu .cuh .java .kt .scala .js .jsx .ts .tsx .go .rs .rb .php .pl "
    ".sh .lua .r .jl .swift .cs .hs .ml .sql .f90",
}
ENDINGS = {kind: frozenset(names.split()) for kind, names in _NAMES.items()}
"""endings of the names that are read from folders, by format"""
LARGEST_DOCUMENT = 16_000_000
"""bytes of a text or code document; a larger one is cut at a line break"""
LARGEST_ROW = 64_000_000
"""bytes of a line of JSON, or of a cell of Parquet; a larger one is refused"""
_REPLACED = "\N{REPLACEMENT CHARACTER}"
_EXPANSION = 4  # bytes of text in a packed byte, a rough estimate


@dataclass(frozen=True)
class Document:
    """One text, and where it is from."""

    text: str
    source: str
    part: int = 0
    """number of its source in data.sources"""


class Sources:
    """The documents of files and folders. It can be iterated repeatedly; `reading` has the counts of the last time."""

    def __init__(
        self,
        sources: "Sequence[str | Path | dict[str, Any]]",
        format: Format = "auto",
        text_field: str = "text",
        invalid_utf8: Literal["replace", "refuse"] = "replace",
        share: tuple[int, int] = (1, 1),
    ) -> None:
        """Prepare to read; arguments as in `DataConfig`.

        `share` is (i, n): only the i-th of n shares of the files, which follow each other and have about equal sizes.
        """
        self.sources = [Source.of(source) for source in sources]
        self.places: list[Path | HubDataset] = []
        """where each source is; a data set of the hub with its revision"""
        self.format: Format = format
        self.text_field = text_field
        self.invalid_utf8 = invalid_utf8
        self.share = share
        self.reading = Reading()
        if not self.sources:
            raise DataError("data.sources is empty: name files or folders of text.")
        for source in self.sources:
            if source.path.startswith(PREFIX):
                self.places.append(HubDataset.at(source.path, source.streaming).pinned())
                continue
            path = Path(source.path)
            self.places.append(path)
            if not path.exists():
                raise DataError(f"{path} (data.sources) does not exist; name files or folders of text.")
            if not path.is_file() and not path.is_dir():  # a pipe, which cannot be read twice
                raise DataError(
                    f"{path} (data.sources) is not a regular file; write the text to a file, and name that file."
                )

    def sizes(self) -> tuple[int, int]:
        """Bytes of all files that would be read, on disk and as text; the second is a guess for compressed files.

        Raises:
            DataError: the size of a data set is not known, since it is streamed.
        """
        on_disk = text = 0
        for _, path, kind in self.files(Reading()):
            if isinstance(path, HubDataset):
                if (size := path.size(self.text_field)) is None:
                    raise DataError(
                        f"{path} does not say its size, from which the tokenizer's sample is drawn: set "
                        "data.tokenizer.path, or leave streaming out."
                    )
                on_disk, text = on_disk + size, text + size
                continue
            size = path.stat().st_size
            on_disk += size
            packed = path.suffix.lower() in PACKED_ENDINGS or kind == "parquet"
            text += size * _EXPANSION if packed else size
        return on_disk, text

    def __iter__(self) -> Iterator[Document]:
        reading = self.reading = Reading()
        for part, path, kind in self.files(reading):
            for document in self.documents(path, kind, reading):
                yield document if part == 0 else Document(document.text, document.source, part)
            reading.files += 1
        if self.share != (1, 1):
            return
        if reading.files == 0 and reading.links:
            raise DataError(
                f"{', '.join(map(str, self.places))} (data.sources): {reading.links:,} links, which are not followed "
                "in folders, and no other file to read; name the folder that they lead to, or the links themselves."
            )
        if reading.files == 0:
            kinds = ENDINGS if self.format == "auto" else {self.format: ENDINGS[self.format]}
            names = " ".join(sorted(ending for endings in kinds.values() for ending in endings))
            raise DataError(
                f"{', '.join(map(str, self.places))} (data.sources): no file with a name to read "
                f"({names}, each also with {', '.join(PACKED_ENDINGS)}; links are not followed); name the files "
                "themselves, or set data.format."
            )

    def files(self, reading: Reading) -> Iterator[tuple[int, Path | HubDataset, str]]:
        """Number of the source, file and format (text, code, jsonl, parquet) of this share, in the order of reading.

        `reading` counts what is left out.
        """
        every = ((part, *found) for part, place in enumerate(self.places) for found in self._files(place, reading))
        if self.share == (1, 1):
            yield from every
            return
        files = list(every)
        sizes = [self._size(path) for _, path, _ in files]
        number, count = self.share
        for file, size, end in zip(files, sizes, accumulate(sizes), strict=True):
            if (number - 1) * sum(sizes) <= (end - size / 2) * count < number * sum(sizes):
                yield file

    def _size(self, path: Path | HubDataset) -> int:
        """Bytes on disk, or of a data set's text; 0 if it is not known."""
        return path.stat().st_size if isinstance(path, Path) else path.size(self.text_field) or 0

    def _files(self, place: Path | HubDataset, reading: Reading) -> Iterator[tuple[Path | HubDataset, str]]:
        if isinstance(place, HubDataset):
            yield place, "parquet"
            return
        if not place.is_dir():
            yield place, (_kind_of(place) or "text") if self.format == "auto" else self.format
            return
        for folder, folders, names in os.walk(place, onerror=_refuse):
            if saved := saved_dataset(Path(folder)):
                folders.clear()
                yield from ((file, "parquet") for file in saved)
                continue
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            reading.left_out_files += sum(Path(folder, name).is_symlink() for name in folders)
            for name in sorted(name for name in names if not name.startswith(".")):
                file = Path(folder, name)
                kind = _kind_of(file)
                if kind and self.format in ("auto", kind) and file.is_file() and not file.is_symlink():
                    yield file, kind
                else:
                    reading.left_out_files += 1
                    reading.links += file.is_symlink()

    def documents(self, path: Path | HubDataset, kind: str, reading: Reading) -> Iterator[Document]:
        """The documents of one of `files`; `reading` counts."""
        source = str(path)
        if isinstance(path, HubDataset):
            for document in self._from_cells(path.cells(self.text_field), path, reading):
                reading.bytes_done += len(document.text.encode())
                yield document
            return
        try:
            columns = "parquet" in (kind, self.format) or self.format == "auto"
            with open_text(path, "correct it or leave it out of data.sources", columns) as (raw, file):
                reading.open_file = raw
                head = file.read(LOOKED_AT)
                file.seek(0)
                if is_columns(head) and columns:
                    cells = column_cells(file, path, self.text_field, packed=file is not raw)
                    yield from self._from_cells(cells, path, reading)
                elif kind == "parquet":
                    raise DataError(f"{path} is neither Parquet nor Arrow: give it the ending of what it is.")
                else:
                    self._refuse_other_json(head, kind, path)
                    lines = self._lines(file, path, reading, whole=kind == "jsonl")
                    if kind == "jsonl":
                        yield from self._from_json(lines, path, reading)
                    else:
                        for text in _join(lines, kind == "text", reading):
                            yield Document(text, source)
                reading.bytes_done += path.stat().st_size
        finally:
            reading.open_file = None

    def _refuse_other_json(self, head: bytes, kind: str, path: Path) -> None:
        if kind != "jsonl" and (kind != "text" or self.format != "auto"):
            return
        refuse_whole_json(head, path)
        if kind == "text" and json_in(head) == "lines":
            raise DataError(
                f"{path} holds one JSON object per line, not plain text: set data.format=jsonl, or give it "
                "a name in .jsonl; data.format=text reads it as it is."
            )

    def _lines(self, file: BinaryIO, path: Path, reading: Reading, whole: bool) -> Iterator[str]:
        """Decoded lines with line feeds as ends; a line longer than a document comes in pieces, unless `whole`."""
        rest = b""
        replaced = characters = 0
        limit = LARGEST_ROW + 1 if whole else LARGEST_DOCUMENT
        number = 0
        while line := rest + file.readline(limit):
            if number == 0:
                line = line.removeprefix(b"\xef\xbb\xbf")
            number += 1
            rest = b""
            if whole:
                _refuse_huge(line, f"{path}, line {number}")
            elif not line.endswith(b"\n") and len(line) >= LARGEST_DOCUMENT:
                line, rest = _whole_characters(line)
            text, broken = self._decoded(line, f"{path}, line {number}")
            replaced += broken
            characters += len(text)
            yield text[:-2] + "\n" if text.endswith("\r\n") else text
        if is_other_encoding(replaced, characters):
            raise DataError(
                f"{path} is binary, or in another encoding than UTF-8 ({replaced / characters:.0%} of its characters "
                f"can't be read): {CONVERT}."
            )
        reading.replaced_files += replaced > 0
        reading.replaced_characters += replaced

    def _decoded(self, line: bytes, where: str) -> tuple[str, int]:
        """Bytes as text, and the number of U+FFFD for bytes that are not UTF-8 and NUL bytes."""
        replaced = 0
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            if self.invalid_utf8 == "refuse":
                raise DataError(
                    f"{where}: not UTF-8 ({error.reason}); convert the file, or set data.invalid_utf8=replace."
                ) from error
            text = line.decode(errors="replace")
            replaced = text.count(_REPLACED) - line.count(_REPLACED.encode())
        if "\0" in text:  # after the first bytes of the file, where it would have been refused
            if self.invalid_utf8 == "refuse":
                raise DataError(f"{where}: a NUL byte; remove it, or set data.invalid_utf8=replace.")
            replaced += text.count("\0")
            text = text.replace("\0", _REPLACED)
        return text, replaced

    def _from_cells(self, cells: Iterator[bytes | None], path: object, reading: Reading) -> Iterator[Document]:
        broken = 0
        for number, cell in enumerate(cells, 1):
            where = f"{path}, row {number}"
            if cell is None:
                raise DataError(f"{where}: no text under {self.text_field!r}; remove the row, or write its text there.")
            _refuse_huge(cell, where)
            text, replaced = self._decoded(cell, where)
            broken += replaced
            yield Document(text.replace("\r\n", "\n"), where)
        reading.replaced_files += broken > 0
        reading.replaced_characters += broken

    def _from_json(self, lines: Iterator[str], path: Path, reading: Reading) -> Iterator[Document]:
        replaced = False
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({error}); correct or remove the line.") from error
            keys = flat(content) if isinstance(content, dict) else {}
            text = keys.get(self.text_field)
            if not isinstance(text, str):
                strings = [repr(key) for key, value in keys.items() if isinstance(value, str)][:5]
                there = f" (strings are under {', '.join(strings)})" if strings else f" in {shown(content)}"
                raise DataError(
                    f"{where}: no string under {self.text_field!r}{there}; correct the line, or set data.text_field to "
                    "the key of the text."
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:  # half of a surrogate pair, such as "\ud800"
                if self.invalid_utf8 == "refuse":
                    raise DataError(
                        f"{where}: half of a surrogate pair; correct the line, or set data.invalid_utf8=replace."
                    ) from error
                given = text.count(_REPLACED)
                text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                replaced = True
                reading.replaced_characters += text.count(_REPLACED) - given
            yield Document(text.replace("\r\n", "\n"), where)
        reading.replaced_files += replaced


def _join(lines: Iterator[str], blank_ends: bool, reading: Reading) -> Iterator[str]:
    """Join lines to documents; with `blank_ends` a blank line ends a document, which has no line end of its own."""
    held: list[str] = []
    size = 0
    for line in lines:
        if blank_ends and not line.strip():
            if held:
                yield "".join(held).removesuffix("\n")
            held, size = [], 0
            continue
        if held and size + len(line) > LARGEST_DOCUMENT:
            reading.cut_documents += 1
            yield "".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if held or not blank_ends:
        text = "".join(held)
        yield text.removesuffix("\n") if blank_ends else text


def _refuse_huge(row: bytes, where: str) -> None:
    if len(row) > LARGEST_ROW:
        raise DataError(f"{where}: more than {LARGEST_ROW / 1e6:.0f} MB; split its text into several rows.")


def _kind_of(path: Path) -> str | None:
    name, ending = os.path.splitext(path.name.lower())
    if ending in PACKED_ENDINGS:
        ending = os.path.splitext(name)[1]
    return next((kind for kind, endings in ENDINGS.items() if ending in endings), None)


def _whole_characters(line: bytes) -> tuple[bytes, bytes]:
    """Split an incomplete UTF-8 character off the end of a line: (complete part, rest)."""
    for back in range(1, min(4, len(line))):
        if line[-back] & 0xC0 != 0x80:  # the first byte of a character
            return (line[:-back], line[-back:]) if line[-back] >= 0xC0 else (line, b"")
    return line, b""


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} can't be read ({error.strerror}); leave it out of data.sources.") from error
