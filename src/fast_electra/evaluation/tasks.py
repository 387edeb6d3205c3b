"""Tasks that a fine-tuned model is judged by: texts, labels, and what they are scored with.

Notable:
- one shape for GLUE, for one's own files and for the bug-finding benchmark, so everything downstream is written once;
- classes are numbers, their names are the task's; a split without labels (GLUE's test sets) has none at all;
- the digest covers kind, class names and all examples: equal digests are equal tasks, wherever they were read from;
- a part of train is drawn by one shuffle for everybody: whoever is compared learns from the same examples, and what has
  to be chosen is chosen on the same held-out ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from fast_electra.data.files import canonical_digest
from fast_electra.errors import DataError

Kind = Literal["classification", "regression", "tokens"]
OUTSIDE = "O"
"""the token label of words that belong to nothing; always class 0 where a task has it"""
TEST = "test"
"""the dev split that is a test set"""
ENTITY_F1 = "entity_f1"
"""metric of tasks whose words have tags of entities"""


@dataclass(frozen=True)
class Split:
    """Examples with their labels."""

    texts: list[tuple[str, ...]]
    """one or two texts an example; for tokens the words of one sentence"""
    labels: list[int] | list[float] | list[list[int]]
    """a class number, a value, or a class number a word; [] for a test split without labels"""

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, places: Sequence[int]) -> "Split":
        """The examples at some places, in that order."""
        return Split([self.texts[i] for i in places], [self.labels[i] for i in places])  # type: ignore[arg-type]


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
    """labelled, to report by: {"dev": …}, {"matched": …, "mismatched": …} for MNLI, {"dev": …, "test": …} for one's own
    with a test file"""
    test: dict[str, Split]
    """without labels, for a server; may be empty"""
    metrics: tuple[str, ...]
    """names of `scores.score`; the first is the primary one"""
    digest: str = field(repr=False)
    """SHA-256 over kind, class names and all examples"""
    augment_swapped: bool = False
    """training examples may be doubled with their sentences swapped, where a recipe asks for it"""

    @property
    def reported(self) -> list[str]:
        """Dev splits in the order of reports: a test set first, since dev is then for selection only."""
        return sorted(self.dev, key=lambda name: name != TEST)

    @property
    def has_entities(self) -> bool:
        """Words have IOB2 tags, in the order of `entities.class_names`."""
        return self.metrics[0] == ENTITY_F1


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
        DataError: train or a dev split is empty; there is one class only; a class of dev is missing in train (of tags
            the reader looks at the types); or, for classification, a class of train in dev, since a score would not say
            how well it is told from the others.
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
            if metrics[0] != ENTITY_F1 and (unknown := found - trained):
                raise DataError(
                    f"{name}: {_named(split)} has the label {labels[min(unknown)]!r}, which train lacks; add examples "
                    "of it to train, or leave it out."
                )
            # A rare token label may well be missing in a dev file, and entities are scored together. Of a test set
            # nobody can choose the examples.
            if kind == "classification" and split != TEST and (missing := trained - found):
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
    return split if split in ("train", "dev", TEST) else f"dev ({split})"


# --- Parts of train ---------------------------------------------------------------------------------------------------


def sample(split: Split, most: int | None) -> Split:
    """At most `most` examples of a split: the first of one shuffle, so that fewer are a part of more.

    The shuffle is the same for every model, seed and baseline. The examples keep the order of the split.
    """
    if most is None or len(split) <= most:
        return split
    return split.at(sorted(_shuffled(len(split))[:most]))


def with_examples(task: Task, most: int | None) -> Task:
    """The task with at most so many training examples (`sample`), and a digest that says so."""
    train = sample(task.train, most)
    return task if train is task.train else replace(task, train=train, digest=canonical_digest([task.digest, most]))


def held_size(examples: int) -> int:
    """Examples of `held_out`: a tenth, of few examples up to a quarter but no more than 200, never more than 2,000."""
    return min(2_000, max(examples // 10, min(examples // 4, 200)))


def held_out(task: Task) -> Task | None:
    """The task with a part of train in place of dev: what is chosen by it is chosen without dev.

    Equal texts stay on one side. The part is the same for every model, seed and baseline.

    Returns:
        None where train has fewer than four different texts.
    """
    places: dict[tuple[str, ...], list[int]] = {}
    for place, texts in enumerate(task.train.texts):
        places.setdefault(texts, []).append(place)
    if len(places) < 4:
        return None
    groups, held = list(places.values()), set[int]()
    for group in _shuffled(len(groups)):
        if len(held) >= held_size(len(task.train)):
            break
        held.update(groups[group])
    rest = [place for place in range(len(task.train)) if place not in held]
    parts = task.train.at(rest), {"held": task.train.at(sorted(held))}
    return replace(task, train=parts[0], dev=parts[1], test={}, digest=canonical_digest([task.digest, "held"]))


def _shuffled(count: int) -> list[int]:
    return np.random.Generator(np.random.Philox(key=0)).permutation(count).tolist()
