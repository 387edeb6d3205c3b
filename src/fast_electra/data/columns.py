"""Reads one column of text from Parquet and Arrow files, some hundred rows at a time.

Notable:
- the content says which of the two a file is; Arrow files are streams, as Hugging Face Datasets writes them, or files
  with an index at their end;
- pyarrow is imported only here, and only when such a file is read (extra `data`);
- texts are given as bytes, since a column of text may hold bytes that are not UTF-8.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fast_electra.errors import DataError, first_line

_ROWS = 256  # rows that are turned into Python objects at a time
_PARQUET = re.compile(rb"PAR1\x15")
_ARROW_STREAM = re.compile(rb"\xff\xff\xff\xff(?s:.{3})\x00\x10\x00\x00\x00")
_ARROW_FILE = re.compile(rb"ARROW1")


def is_columns(head: bytes) -> bool:
    """Whether a file with this beginning is Parquet or Arrow."""
    return any(mark.match(head) for mark in (_PARQUET, _ARROW_STREAM, _ARROW_FILE))


@contextmanager
def opened_parquet(file: Path | BinaryIO, path: Path) -> Iterator[Any]:
    """Open a Parquet file as `pyarrow.parquet.ParquetFile`; `path` is its name for messages.

    Raises:
        DataError: pyarrow is not installed, or the file cannot be read, also if this is found later, inside the block.
    """
    with _reading(path, "Parquet"):
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]

        with parquet.ParquetFile(file) as opened:
            yield opened


def column_cells(file: BinaryIO, path: Path, name: str, packed: bool = False) -> Iterator[bytes | None]:
    """The texts of a column as bytes; None for a cell without text.

    Args:
        file: a Parquet or Arrow file, at its beginning.
        path: its name, for messages.
        name: of the column, or `outer.inner` for a column inside another.
        packed: the file is slow to seek in, so it is copied to a temporary file first.

    Raises:
        DataError: there is no such column of text, pyarrow is not installed, or the file cannot be read.
    """
    with ExitStack() as stack:
        if packed:
            copied = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copied)
            copied.seek(0)
            file = copied
        head = file.read(16)
        file.seek(0)
        batches = _parquet_batches if _PARQUET.match(head) else _arrow_batches
        yield from batches(file, path, name, bool(_ARROW_FILE.match(head)))


def table_cells(table: Any, path: object, name: str) -> Iterator[bytes | None]:
    """The texts of a column of a `pyarrow.Table`, as `column_cells` gives them."""
    place = _place(table.schema, path, name)
    for batch in table.to_batches():
        yield from _cells(batch, place)


def _parquet_batches(file: BinaryIO, path: Path, name: str, _: bool) -> Iterator[bytes | None]:
    with opened_parquet(file, path) as opened:
        place = _place(opened.schema_arrow, path, name)
        for batch in opened.iter_batches(_ROWS, columns=[".".join(place)], use_threads=False):
            yield from _cells(batch, place)


def _arrow_batches(file: BinaryIO, path: Path, name: str, indexed: bool) -> Iterator[bytes | None]:
    with _reading(path, "Arrow"):
        from pyarrow import ipc  # pyright: ignore[reportMissingImports]

        with ipc.open_file(file) if indexed else ipc.open_stream(file) as opened:
            place = _place(opened.schema, path, name)
            for batch in map(opened.get_batch, range(opened.num_record_batches)) if indexed else opened:
                for start in range(0, batch.num_rows, _ROWS):
                    yield from _cells(batch.slice(start, _ROWS), place)


def _cells(batch: Any, place: tuple[str, ...]) -> list[bytes | None]:
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import compute  # pyright: ignore[reportMissingImports]

    cells = batch.column(place[0])
    for name in place[1:]:
        cells = compute.struct_field(cells, name)  # pyright: ignore[reportAttributeAccessIssue]
    if pyarrow.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    kinds = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
    cells = cells.view(kinds.get(cells.type, pyarrow.binary_view()))
    cells.validate(full=True)  # Arrow has no checksums: broken offsets would be read from anywhere in memory
    return cells.to_pylist()


def _place(schema: Any, path: object, name: str) -> tuple[str, ...]:
    """The names that lead to a column of text, from the outside to the inside."""
    there = _text_columns(schema)
    if name not in there:
        columns = ", ".join(repr(column) for column in list(there)[:5])
        of_text = f"columns of text are {columns}" if there else "no column holds text"
        raise DataError(f"{path} has no column of text {name!r} ({of_text}): set data.text_field to such a column.")
    return there[name]


def _text_columns(fields: Any, above: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    from pyarrow import types  # pyright: ignore[reportMissingImports]

    found: dict[str, tuple[str, ...]] = {}
    for field in fields:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        place = (*above, field.name)
        if types.is_struct(kind):
            found |= _text_columns([kind.field(number) for number in range(kind.num_fields)], place)
        elif types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            found[".".join(place)] = place
    return found


@contextmanager
def _reading(path: Path, format: str) -> Iterator[None]:
    try:
        from pyarrow import ArrowException  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(f"{path}: reading {format} needs pyarrow: pip install pyarrow.") from None
    try:
        yield
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} can't be read as {format} ({first_line(error)}); write it again.") from error
