"""Cells: what an evaluation computes once and keeps in a file.

Notable:
- a cell is one model, task, recipe and seed; its file is named after the digest of exactly these, is written whole or
  not at all, and is read instead of computed whenever it is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_electra.data.files import canonical_digest, read_sealed_json, write_sealed_json
from fast_electra.evaluation.evaluations import LONGEST_NAME

CellRecord = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What is computed once and kept in a file."""

    task: str
    kind: str
    """the recipe's name, "probe" or "zero-shot" """
    identity: Mapping[str, Any]
    """everything that the result depends on"""
    seed: int
    untrained: bool

    @property
    def name(self) -> str:
        """The name of its file under OUT/cells, without the ending."""
        untrained = "-untrained" if self.untrained else ""
        task = self.task[:LONGEST_NAME]
        return f"{task}-{self.kind}-{self.seed}{untrained}-{canonical_digest(self.identity)[:12]}"

    @property
    def file(self) -> str:
        """The name of its file under OUT/cells."""
        return f"{self.name}.json"


def make_cell(task: str, digest: str, settings: Mapping[str, Any], seed: int, untrained: bool, model: str) -> Cell:
    """A cell of a task (by name and digest) and a model (by digest), with the values of a recipe."""
    identity = {"task": digest, "recipe": settings, "seed": seed, "untrained": untrained, "model": model}
    return Cell(task, settings["name"], identity, seed, untrained)


def finished_cell(out: Path, cell: Cell) -> CellRecord | None:
    """The record of a finished cell; None if the cell is not finished."""
    record = read_sealed_json(out / "cells" / cell.file)
    return record if record is not None and record.get("identity") == cell.identity else None


def keep_cell(out: Path, cell: Cell, record: CellRecord) -> CellRecord:
    """Write the record of a cell together with its identity, and return both."""
    whole = {**record, "identity": dict(cell.identity)}
    write_sealed_json(out / "cells" / cell.file, whole)
    return whole
