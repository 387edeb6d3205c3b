"""What a file holds, by its content and not by its name: UTF-8 text, packed text, or something else.

Notable:
- every path that reads a user's text opens it here: corpora, tables, minimal pairs, texts to inspect;
- gzip, xz and bzip2 are unpacked whatever the file is called; anything else that is no UTF-8 text is refused, with a
  way out. One more format is one more line of `_PACKED` or `_REFUSED`;
- the first 64 KiB decide. Bytes that are not UTF-8 are refused here only where they are many, as in another encoding or
  in a binary file: what to do about a few is for whoever reads on.
"""

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from fast_electra.errors import DataError

LOOKED_AT = 65_536
"""bytes of a file that decide what it is"""
PACKED_ENDINGS = (".gz", ".xz", ".bz2")
"""what may stand behind the ending of a name"""
LARGEST_UNDECODABLE = 0.1
"""share of characters that are not UTF-8; in most other encodings of other scripts it is above a half"""
LARGEST_CONTROL = 0.01
"""share of bytes that are control characters; text has next to none"""
_FEW = 16  # broken bytes that say nothing of a file
# Not \b \t \n \v \f \r and escape, which stand in logs and manuals
_CONTROL = bytes([*range(0x08), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F])

_PACKED: dict[re.Pattern[bytes], Callable[[BinaryIO], Any]] = {
    re.compile(rb"\x1f\x8b"): lambda file: gzip.GzipFile(fileobj=file),
    re.compile(rb"\xfd7zXZ\x00"): lzma.LZMAFile,
    re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"): bz2.BZ2File,
}
_CONVERT = "save it as UTF-8, for example by `iconv -f {0} -t UTF-8 {1} > NEW`, and give the new file"
CONVERT = "save it as UTF-8, for example by `iconv -f ENCODING -t UTF-8`, and give the new file"
"""what to do about another encoding"""
# How files begin that are no text, what they are, and what to do.
_REFUSED = {
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": ("UTF-32 text, not UTF-8", _CONVERT.replace("{0}", "UTF-32")),
    rb"\xff\xfe|\xfe\xff": ("UTF-16 text, not UTF-8", _CONVERT.replace("{0}", "UTF-16")),
    rb"\x28\xb5\x2f\xfd": (
        "packed by Zstandard, and no text",
        "unpack it by `zstd -d {1}`, and give the new file",
    ),
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": (
        "a ZIP archive, or a document of Word or Excel, and no text",
        "unpack it, or save the document as text or CSV, and give the new files",
    ),
    rb"7z\xbc\xaf\x27\x1c|Rar!\x1a": ("an archive, and no text", "unpack it, and give the new files"),
    rb"(?s:.{257})ustar": ("a tar archive, and no text", "unpack it by `tar -xf {1}`, and give the new files"),
    rb"PAR1\x15": (
        "a Parquet file, and no text",
        "write its rows as JSON lines (.jsonl); a table of a task may be named .parquet",
    ),
    rb"ARROW1|\xff\xff\xff\xff(?s:.{3})\x00\x10\x00\x00\x00": (
        "an Arrow file, and no text",
        "write its rows as JSON lines (.jsonl), as `to_json` of `datasets` does",
    ),
    rb"%PDF-": ("a PDF, and no text", "write its text to a file, for example by `pdftotext {1}`, and give that"),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a document of Word or Excel, and no text", "save it as text or CSV"),
    rb"\{\\rtf": ("a document in RTF, and no plain text", "save it as plain text"),
    rb"SQLite format 3\x00": ("an SQLite database, and no text", "write its rows as JSON lines (.jsonl)"),
    rb"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "get the file by `git lfs pull`"),
}
_MARKS = {re.compile(mark): reason for mark, reason in _REFUSED.items()}
_PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)  # what many a failed download holds
_NOT_TEXT = "leave it out, or write its text to a UTF-8 file"
_STRING = r'"(?:[^"\\]|\\.)*"'
_JSON = re.compile(rf"\s*(?:(\[)\s*(?:\{{\s*{_STRING}\s*:|{_STRING}\s*[,\]])|\{{\s*{_STRING}\s*:)")


def is_other_encoding(undecodable: int, characters: int) -> bool:
    """Whether a file has too many characters that are not UTF-8 to be UTF-8 text with a few broken bytes."""
    return undecodable > max(_FEW, LARGEST_UNDECODABLE * characters)


@contextmanager
def open_text(path: Path, remedy: str = "give another file") -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A file as it is on disk, and the bytes of its UTF-8 text, unpacked.

    Args:
        path: of a file.
        remedy: how the sentence about a file that can't be read ends.

    Raises:
        DataError: it is no text, or can't be read; also what goes wrong while it is being read.
    """
    try:
        with open(path, "rb") as opened:
            file = opened if opened.seekable() else io.BytesIO(opened.read())  # a pipe: /dev/stdin, <(command)
            yield file, text_bytes(file, path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} can't be read ({reason}); {remedy}.") from error


def text_bytes(file: BinaryIO, name: object) -> BinaryIO:
    """The bytes of a text, unpacked, from their beginning.

    Args:
        file: can be wound back.
        name: for messages.

    Raises:
        DataError: it is no UTF-8 text; says what it is, and what to do.
    """
    head = _head(file)
    unpack = next((opener for mark, opener in _PACKED.items() if mark.match(head)), None)
    if unpack is not None:
        file = unpack(file)
        head = _head(file)
    elif _PAGE.match(head) and Path(str(name)).suffix.lower() in PACKED_ENDINGS:
        raise DataError(f"{name} is a web page, not what its name says: download the file again.")
    if (found := _refusal(head)) is not None:
        what, remedy = found
        if unpack is not None:
            what = f"packed, and inside is {what}"
        remedy = remedy.replace("{1}", shlex.quote(str(name)) if isinstance(name, Path) else "FILE")
        raise DataError(f"{name} is {what}: {remedy}.")
    return cast(BinaryIO, file)


def json_in(head: bytes) -> Literal["lines", "array", "object"] | None:
    """Whether a text begins as JSON: an object a line, an array of objects or strings, or an object over lines."""
    text = head.decode("utf-8-sig", errors="replace")
    found = _JSON.match(text)
    if found is None:
        return None
    if found[1]:
        return "array"
    line, _, rest = text.strip().partition("\n")
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        if rest:
            return "object" if error.pos >= len(line.rstrip()) else None  # None: its first line is broken
        return "lines" if len(head) == LOOKED_AT else None  # a line that goes on behind what was looked at
    except RecursionError:
        return None
    return "lines"


def flat(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """A JSON object's values by key, those of objects inside it by `outer.inner`."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {above + key: value}
    return found


def shown(value: Any) -> str:
    """A value of a user's file for a message: as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def refuse_whole_json(head: bytes, name: object) -> None:
    """DataError where a text that should have a JSON object a line begins as one array, or one object over lines."""
    found = json_in(head)
    if found in ("array", "object"):
        query = "'.[]'" if found == "array" else "."
        raise DataError(
            f"{name} is one JSON {found} over the whole file, and one object a line is read: write it so, for example "
            f"by `jq -c {query} {shlex.quote(str(name))} > NEW.jsonl`, and give the new file (data.format=jsonl)."
        )


def _head(file: BinaryIO) -> bytes:
    """The first bytes; the file is wound back."""
    head = file.read(LOOKED_AT)
    file.seek(0)
    return head


def _refusal(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins like this, and what to do; None for UTF-8 text."""
    for mark, reason in _MARKS.items():
        if mark.match(head):
            return reason
    if any(mark.match(head) for mark in _PACKED):
        return "packed twice", "unpack it, and give the new file"
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head, final=len(head) < LOOKED_AT)
    undecodable = text.count("\N{REPLACEMENT CHARACTER}") - head.count("\N{REPLACEMENT CHARACTER}".encode())
    control = len(head) - len(head.translate(None, _CONTROL))
    if nul := head.count(0):
        even, odd = head[0::2].count(0), head[1::2].count(0)
        if nul > len(head) / 10 and 10 * min(even, odd) < max(even, odd):
            encoding = "UTF-16LE" if odd > even else "UTF-16BE"
            return f"{encoding[:6]} text without a byte-order mark, not UTF-8", _CONVERT.replace("{0}", encoding)
        if control - nul < _FEW and undecodable < _FEW and nul < len(head) / 10:
            return f"text with {nul:,} NUL bytes", r"remove them by `tr -d '\000' < {1} > NEW`, and give the new file"
        return "a binary file, and no text", _NOT_TEXT
    if control > max(_FEW, LARGEST_CONTROL * len(head)):
        return "a binary file, and no text", _NOT_TEXT
    if is_other_encoding(undecodable, len(text)):
        share = f"{undecodable / len(text):.0%} of its first characters can't be read"
        return f"binary, or in another encoding than UTF-8 ({share})", CONVERT
    return None
