"""A run's metrics: JSON lines, one object per logged update."""

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def read_metrics(path: Path) -> list[Record]:
    """The records of a `metrics.jsonl`, without an incomplete last line; an empty list if there is no such file."""
    records: list[Record] = []
    if not path.exists():
        return records
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records


def cut_metrics(path: Path, keep_through: int) -> None:
    """Remove the records after update `keep_through`, because a resumed run writes them again."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for record in read_metrics(path):
            if record["update"] <= keep_through:
                file.write(json.dumps(record) + "\n")
    os.replace(partial, path)
