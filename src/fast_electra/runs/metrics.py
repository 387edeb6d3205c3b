"""A run's metrics: JSON lines, one object per logged update.

Notable:
- each line ends with a checksum of itself (`crc32`), so a damaged line is found, and all others are kept. Lines of
  earlier versions have none.
"""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fast_electra.data.files import write_bytes_atomically
from fast_electra.terminal import Say, tell

Record = dict[str, Any]

_CHECKSUM = re.compile(rb'(.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)
# A damaged byte behind a record: two records are then on one line, or the last line has no end.
_DAMAGED_END = re.compile(rb'(?<="\}).(?=\{"|\Z)', re.DOTALL)


def metrics_line(record: Record) -> str:
    """A record as a line of `metrics.jsonl`."""
    text = json.dumps(record)[:-1]
    return f'{text}, "crc32": "{zlib.crc32(text.encode()):08x}"}}\n'


def read_metrics(path: Path, say: Say = tell) -> list[Record]:
    """The records of a `metrics.jsonl`, without damaged lines; an empty list if there is no such file.

    Args:
        path: of the file.
        say: called with a sentence about each damaged line; an incomplete last line is no damage, since a kill may
            leave one.
    """
    return [record for record, _ in _records(path, say)]


def cut_metrics(path: Path, keep_through: int, say: Say = tell) -> None:
    """Remove the records after update `keep_through`, because a resumed run writes them again; `say` as above."""
    lines = [line + b"\n" for record, line in _records(path, say) if record["update"] <= keep_through]
    write_bytes_atomically(path, b"".join(lines))


def _records(path: Path, say: Say) -> Iterator[tuple[Record, bytes]]:
    """Each undamaged record with its line."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines, 1):
        for part in _DAMAGED_END.split(line):
            record = _record(part)
            if record is not None:
                yield record, part
            elif number < len(lines):  # what follows the last newline is empty, or an incomplete line
                say(f"line {number} of {path} is damaged and left out; the other lines are kept.")


def _record(line: bytes) -> Record | None:
    found = _CHECKSUM.fullmatch(line)
    if zlib.crc32(found[1]) != int(found[2], 16) if found else line.endswith(b'"}'):  # no line without one ends so
        return None
    try:
        record = json.loads(line)
        record.pop("crc32", None)
        return record if isinstance(record["update"], int) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
