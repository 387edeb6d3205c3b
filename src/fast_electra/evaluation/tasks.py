"""Tasks for fine-tuning and probing: texts, labels and metrics.

Notable:
- GLUE, the user's own files and the bug-finding benchmark have the same form, so the code that uses them exists once;
- classes are numbers, and the task has their names. A split without labels (GLUE's test sets) has an empty list;
- the digest covers kind, class names and all examples: tasks with equal digests are equal, whatever their source;
- one shuffle draws a part of train for every model, seed and baseline: all learn from the same examples, and all
  choices are made on the same held-out examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from fast_electra.data.files import canonical_digest
from fast_electra.errors import DataError

Kind = Literal["classification", "regression", "tokens"]
OUTSIDE = "O"
"""label of words that belong to no entity; always class 0 if a task has it"""
TEST = "test"
"""name of the dev split that is a test set"""
ENTITY_F1 = "entity_f1"
"""metric of tasks with tags of entities"""


@dataclass(frozen=True)
class Split:
    """Examples with their labels."""

    texts: list[tuple[str, ...]]
    """one or two texts of each example; the words of a sentence for kind "tokens" """
    labels: list[int] | list[float] | list[list[int]]
    """class number, value, or class numbers of the words of each example; [] for a test split without labels"""

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, places: Sequence[int]) -> "Split":
        """Return the examples at some places in the given order."""
        return Split([self.texts[i] for i in places], [self.labels[i] for i in places])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Task:
    """Examples for training, for selection and reports (dev), and for predictions that a server scores (test)."""

    name: str
    """"cola", or the name of the user's own task"""
    kind: Kind
    labels: tuple[str, ...]
    """class names in order; () for regression"""
    train: Split
    dev: dict[str, Split]
    """labelled splits: {"dev": …}, {"matched": …, "mismatched": …} for MNLI, {"dev": …, "test": …} for the user's own
    files with a test file"""
    test: dict[str, Split]
    """splits without labels, for a server; may be empty"""
    metrics: tuple[str, ...]
    """names for `scores.score`; the first one is the primary metric"""
    digest: str = field(repr=False)
    """SHA-256 over kind, class names and all examples"""
    augment_swapped: bool = False
    """whether a recipe may double the training examples by swapping their sentences"""

    @property
    def reported(self) -> list[str]:
        """Dev splits in the order of reports: a test set first, because dev is then used for selection only."""
        return sorted(self.dev, key=lambda name: name != TEST)

    @property
    def has_entities(self) -> bool:
        """Whether words have IOB2 tags, in the order of `entities.class_names`."""
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
    """Make a task: check its splits and compute the digest.

    Returns:
        the task.

    Raises:
        DataError: train or a dev split is empty; there is only one class; a class of dev is missing in train (the
            reader checks the types of tags); or, for classification, a class of train is missing in dev, because the
            score would not show how well it is recognised.
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
                    f"{name}: {_named(split)} has the label {labels[min(unknown)]!r}, which is not in train; add "
                    "examples of it to train, or leave it out."
                )
            # A rare label of words may be missing in dev, and entities are scored together. The examples of a test set
            # cannot be chosen.
            if kind == "classification" and split != TEST and (missing := trained - found):
                raise DataError(
                    f"{name}: train has the label {labels[min(missing)]!r}, which is not in {_named(split)}; add "
                    "examples of it there, or leave it out."
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
    """Return at most `most` examples of a split, in the order of the split.

    They are the first ones of a fixed shuffle, so a smaller sample is part of a larger one. It is the same for every
    model, seed and baseline.
    """
    if most is None or len(split) <= most:
        return split
    return split.at(sorted(_shuffled(len(split))[:most]))


def with_examples(task: Task, most: int | None) -> Task:
    """Return the task with at most `most` training examples (see `sample`); its digest depends on `most`."""
    train = sample(task.train, most)
    return task if train is task.train else replace(task, train=train, digest=canonical_digest([task.digest, most]))


def held_size(examples: int) -> int:
    """Return the size of `held_out`: a tenth, at least the smaller of 200 and a quarter, at most 2,000."""
    return min(2_000, max(examples // 10, min(examples // 4, 200)))


def held_out(task: Task) -> Task | None:
    """Hold out a part of train in place of dev, so that choices are made without dev.

    Equal texts are on the same side. The part is the same for every model, seed and baseline.

    Returns:
        the task with the part as its only dev split "held"; None if train has fewer than four different texts.
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


def without_tests(task: Task) -> Task:
    """The task without its test sets: its digest is the same on machines with and without them."""
    if not task.test:
        return task
    swapped = task.augment_swapped
    return make_task(task.name, task.kind, task.labels, task.train, task.dev, {}, task.metrics, augment_swapped=swapped)
