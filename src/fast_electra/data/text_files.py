"""Opens a user's text files. Their content decides what they are, not their names: UTF-8, packed, or something else.

`files.py` writes our own files.

Notable:
- every text of a user is opened here: corpora, tables, minimal pairs, texts to inspect;
- gzip, xz, bzip2 and Zstandard are unpacked, whatever the file's name. Anything else that is not UTF-8 text is refused,
  with a remedy; a reader of columns may accept Parquet and Arrow. A further format is one more line of `_PACKED` or
  `_REFUSED`;
- the first 64 KiB decide. Bytes that are not UTF-8 are refused here only if they are many, as in another encoding or
  in a binary file. The caller decides what to do about a few of them.
"""

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from fast_electra.data.columns import is_columns
from fast_electra.errors import DataError

LOOKED_AT = 65_536
"""number of bytes at the beginning of a file that decide what it is"""
PACKED_ENDINGS = (".gz", ".xz", ".bz2", ".zst")
"""endings of packed files, after the ending of the name"""
LARGEST_UNDECODABLE = 0.1
"""largest share of characters that are not UTF-8; most other encodings of other scripts have more than half"""
LARGEST_CONTROL = 0.01
"""largest share of control characters among the bytes; text has almost none"""
_FEW = 16  # as many broken bytes are not enough to refuse a file
# Without \b \t \n \v \f \r and escape, which occur in logs and manuals
_CONTROL = bytes([*range(0x08), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F])


def zstd_module() -> Any:
    """Python's own module from 3.14 on, or its backport; unlike `zstandard`, it refuses a file that was cut short."""
    if sys.version_info >= (3, 14):
        from compression import zstd  # pyright: ignore[reportMissingImports]
    else:
        from backports import zstd  # pyright: ignore[reportMissingImports]
    return zstd


def _unpack_zstd(file: BinaryIO) -> Any:
    zstd = zstd_module()
    # The default is 27; files of `zstd --long=31` need the most.
    return zstd.ZstdFile(file, options={zstd.DecompressionParameter.window_log_max: 31})


_PACKED: dict[re.Pattern[bytes], Callable[[BinaryIO], Any]] = {
    re.compile(rb"\x1f\x8b"): lambda file: gzip.GzipFile(fileobj=file),
    re.compile(rb"\xfd7zXZ\x00"): lzma.LZMAFile,
    re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"): bz2.BZ2File,
    re.compile(rb"\x28\xb5\x2f\xfd"): _unpack_zstd,
}
_CONVERT = "save it as UTF-8, for example by `iconv -f {0} -t UTF-8 {1} > NEW`, and give the new file"
CONVERT = "save it as UTF-8, for example by `iconv -f ENCODING -t UTF-8`, and give the new file"
"""remedy for another encoding"""
# The beginnings of files that are not text, what they are, and what to do.
_REFUSED = {
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": ("UTF-32 text, not UTF-8", _CONVERT.replace("{0}", "UTF-32")),
    rb"\xff\xfe|\xfe\xff": ("UTF-16 text, not UTF-8", _CONVERT.replace("{0}", "UTF-16")),
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": (
        "a ZIP archive, or a document of Word or Excel, not text",
        "unpack it, or save the document as text or CSV, and give the new files",
    ),
    rb"7z\xbc\xaf\x27\x1c|Rar!\x1a": ("an archive, not text", "unpack it, and give the new files"),
    rb"(?s:.{257})ustar": ("a tar archive, not text", "unpack it by `tar -xf {1}`, and give the new files"),
    rb"PAR1\x15": (
        "a Parquet file, not text",
        "`data build` reads it with data.format=auto, and a table of a task may be named .parquet",
    ),
    rb"ARROW1|\xff\xff\xff\xff(?s:.{3})\x00\x10\x00\x00\x00": (
        "an Arrow file, not text",
        "`data build` reads it with data.format=auto; otherwise write its rows as JSON lines (.jsonl)",
    ),
    rb"%PDF-": ("a PDF, not text", "write its text to a file, for example by `pdftotext {1}`, and give the file"),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a document of Word or Excel, not text", "save it as text or CSV"),
    rb"\{\\rtf": ("a document in RTF, not plain text", "save it as plain text"),
    rb"SQLite format 3\x00": ("an SQLite database, not text", "write its rows as JSON lines (.jsonl)"),
    rb"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "get the file by `git lfs pull`"),
}
_MARKS = {re.compile(mark): reason for mark, reason in _REFUSED.items()}
_PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)  # the content of many failed downloads
_NOT_TEXT = "leave it out, or write its text to a UTF-8 file"
_STRING = r'"(?:[^"\\]|\\.)*"'
_JSON = re.compile(rf"\s*(?:(\[)\s*(?:\{{\s*{_STRING}\s*:|{_STRING}\s*[,\]])|\{{\s*{_STRING}\s*:)")


def is_other_encoding(undecodable: int, characters: int) -> bool:
    """Whether a file has too many characters that are not UTF-8 to be UTF-8 text with a few broken bytes."""
    return undecodable > max(_FEW, LARGEST_UNDECODABLE * characters)


@contextmanager
def open_text(
    path: Path, remedy: str = "give another file", columns: bool = False
) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file; gives the file as it is on disk, and the bytes of its UTF-8 text, unpacked.

    Args:
        path: the file.
        remedy: the end of the sentence about a file that cannot be read.
        columns: also accept Parquet and Arrow (`is_columns`).

    Raises:
        DataError: it is not text or cannot be read, also if this is found later, inside the block.
    """
    try:
        with open(path, "rb") as opened:
            file = opened if opened.seekable() else io.BytesIO(opened.read())  # else a pipe: /dev/stdin, <(command)
            yield file, text_bytes(file, path, columns)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, *_zstd_errors()) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} can't be read ({reason}); {remedy}.") from error


def _zstd_errors() -> tuple[type[Exception], ...]:
    names = ("compression.zstd", "backports.zstd")
    return tuple(sys.modules[name].ZstdError for name in names if name in sys.modules)


def text_bytes(file: BinaryIO, name: object, columns: bool = False) -> BinaryIO:
    """The bytes of a text file, unpacked, from the beginning.

    Args:
        file: a seekable file.
        name: its name, for messages.
        columns: also accept Parquet and Arrow.

    Raises:
        DataError: it is not UTF-8 text; the message says what it is, and what to do.
    """
    head = _head(file)
    unpack = next((opener for mark, opener in _PACKED.items() if mark.match(head)), None)
    if unpack is not None:
        try:
            file = unpack(file)
        except ImportError:
            raise DataError(f"{name} is packed by Zstandard: pip install backports.zstd, or unpack it.") from None
        head = _head(file)
    elif _PAGE.match(head) and Path(str(name)).suffix.lower() in PACKED_ENDINGS:
        raise DataError(f"{name} is a web page, not what its name says: download the file again.")
    if columns and is_columns(head):
        return cast(BinaryIO, file)
    if (found := _refusal(head)) is not None:
        what, remedy = found
        if unpack is not None:
            what = f"packed, and inside is {what}"
        remedy = remedy.replace("{1}", shlex.quote(str(name)) if isinstance(name, Path) else "FILE")
        raise DataError(f"{name} is {what}: {remedy}.")
    return cast(BinaryIO, file)


def json_in(head: bytes) -> Literal["lines", "array", "object"] | None:
    """How a text begins: a JSON object per line, an array, or an object over several lines; None if it is not JSON."""
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
        return "lines" if len(head) == LOOKED_AT else None  # the line is longer than the beginning that was read
    except RecursionError:
        return None
    return "lines"


def flat(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The values of a JSON object by key; those of objects inside it have keys `outer.inner`."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {above + key: value}
    return found


def shown(value: Any) -> str:
    """A value from a user's file for a message, as JSON of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def refuse_whole_json(head: bytes, name: object) -> None:
    """Raise DataError if a text that should have one JSON object per line begins as an array or as one long object."""
    found = json_in(head)
    if found in ("array", "object"):
        query = "'.[]'" if found == "array" else "."
        raise DataError(
            f"{name} is one JSON {found} over the whole file, but each line must be an object: convert it, for example "
            f"by `jq -c {query} {shlex.quote(str(name))} > NEW.jsonl`, and give the new file (data.format=jsonl)."
        )


def _head(file: BinaryIO) -> bytes:
    """The first bytes of a file, which is then back at its beginning."""
    head = file.read(LOOKED_AT)
    file.seek(0)
    return head


def _refusal(head: bytes) -> tuple[str, str] | None:
    """What a file with this beginning is, and what to do; None for UTF-8 text."""
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
        return "a binary file, not text", _NOT_TEXT
    if control > max(_FEW, LARGEST_CONTROL * len(head)):
        return "a binary file, not text", _NOT_TEXT
    if is_other_encoding(undecodable, len(text)):
        share = f"{undecodable / len(text):.0%} of its first characters can't be read"
        return f"binary, or in another encoding than UTF-8 ({share})", CONVERT
    return None
