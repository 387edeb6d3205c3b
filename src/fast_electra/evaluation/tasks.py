"""Tasks that a fine-tuned model is judged by: texts, labels, and what they are scored with.

Notable:
- one shape for GLUE, for one's own files and for the bug-finding benchmark, so everything downstream is written once;
- classes are numbers, their names are the task's; a split without labels (GLUE's test sets) has none at all;
- the digest covers kind, class names and all examples: equal digests are equal tasks, wherever they were read from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from fast_electra.data.files import canonical_digest
from fast_electra.errors import DataError

Kind = Literal["classification", "regression", "tokens"]
OUTSIDE = "O"
"""the token label of words that belong to nothing; always class 0 where a task has it"""


@dataclass(frozen=True)
class Split:
    """Examples with their labels."""

    texts: list[tuple[str, ...]]
    """one or two texts an example; for tokens the words of one sentence"""
    labels: list[int] | list[float] | list[list[int]]
    """a class number, a value, or a class number a word; [] for a test split without labels"""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Task:
    """Examples to train on, to select and report by (dev), and to predict for a server (test)."""

    name: str
    """"cola", or the file's stem for one's own"""
    kind: Kind
    labels: tuple[str, ...]
    """class names in order; () for regression"""
    train: Split
    dev: dict[str, Split]
    """{"dev": …}, or {"matched": …, "mismatched": …} for MNLI"""
    test: dict[str, Split]
    """may be empty"""
    metrics: tuple[str, ...]
    """names of `scores.score`; the first is the primary one"""
    digest: str = field(repr=False)
    """SHA-256 over kind, class names and all examples"""
    augment_swapped: bool = False
    """training examples may be doubled with their sentences swapped, where a recipe asks for it"""


def make_task(
    name: str,
    kind: Kind,
    labels: tuple[str, ...],
    train: Split,
    dev: Mapping[str, Split],
    test: Mapping[str, Split],
    metrics: tuple[str, ...],
    *,
    augment_swapped: bool = False,
) -> Task:
    """Check the splits against one another, and compute the digest.

    Raises:
        DataError: train or a dev split is empty; there is one class only; a class of dev is missing in train; or, for
            classification, a class of train in dev, since a score would not say how well it is told from the others.
    """
    for split, examples in {"train": train, **dev}.items():
        if not examples.texts:
            raise DataError(f"{name}: {_named(split)} is empty; give at least one example for each label.")
    if kind == "regression":
        for split, examples in {"train": train, **dev}.items():
            if len(values := set(cast("list[float]", examples.labels))) == 1:
                raise DataError(
                    f"{name}: all of {_named(split)} has the value {values.pop()}; give two values or more."
                )
    else:
        trained = _classes(train)
        if len(trained) == 1:
            raise DataError(f"{name}: all of train has the label {labels[min(trained)]!r}; give two labels or more.")
        for split, examples in dev.items():
            found = _classes(examples)
            if unknown := found - trained:
                raise DataError(
                    f"{name}: {_named(split)} has the label {labels[min(unknown)]!r}, which train lacks; add examples "
                    "of it to train, or leave it out."
                )
            # A rare token label may well be missing in a dev file, and entities are scored together.
            if kind == "classification" and (missing := trained - found):
                raise DataError(
                    f"{name}: train has the label {labels[min(missing)]!r}, which {_named(split)} lacks; add examples "
                    "of it there, or leave it out."
                )
    splits = {"train": {"train": train}, "dev": dev, "test": test}
    content = {role: {split: [s.texts, s.labels] for split, s in named.items()} for role, named in splits.items()}
    digest = canonical_digest([kind, labels, content])
    return Task(name, kind, labels, train, dict(dev), dict(test), metrics, digest, augment_swapped)


def _classes(split: Split) -> set[int]:
    found: set[int] = set()
    for label in split.labels:
        found.update(label) if isinstance(label, list) else found.add(int(label))
    return found


def _named(split: str) -> str:
    return split if split in ("train", "dev") else f"dev ({split})"
