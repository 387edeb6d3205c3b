"""Named entities: their tags, their spans, and the counts for F1 over whole entities.

Notable:
- seqeval reads spans and follows the script of the CoNLL tasks: an entity may begin with a tag that only continues one.
  So one rule reads IOB1, IOB2 and BIOES, in files and in predictions;
- inside the program tags are IOB2 and classes have a fixed order: 0 is "O", 2k + 1 begins an entity of type k, 2k + 2
  continues it. So class numbers are enough to find entities;
- an entity is correct if its type, its first word and its last word are correct.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_electra.evaluation.tasks import OUTSIDE

# BIOES and its variants: L (last) for E, U (unit) for S, M (middle) for I.
_PREFIXED = re.compile(r"([BIESLUM])(?:-(.+))?")
_LETTERS = {"L": "E", "U": "S", "M": "I"}
_UNNAMED = "entity"
"""type of tags that are only a letter"""


class Span(NamedTuple):
    """An entity of a sentence."""

    type: str
    first: int
    """index of its first word"""
    last: int


def is_prefixed(tag: str) -> bool:
    """Return whether a tag has a prefix, as B-PER, I-PER, E-PER and S-PER do, or is only the letter."""
    return _PREFIXED.fullmatch(tag) is not None


def read_spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities of a sentence; equal neighbouring tags without prefix are one entity."""
    from seqeval.metrics.sequence_labeling import get_entities  # here, since it takes seconds

    return [Span(*span) for span in get_entities([_normal(tag) for tag in tags])]


def _normal(tag: str) -> str:
    if tag == OUTSIDE:
        return tag
    if (found := _PREFIXED.fullmatch(tag)) is None:
        return f"I-{tag}"
    return f"{_LETTERS.get(found[1], found[1])}-{found[2] or _UNNAMED}"


def class_names(types: Iterable[str]) -> tuple[str, ...]:
    """Return the IOB2 tags of some types in the order of their class numbers."""
    return (OUTSIDE, *(f"{letter}-{name}" for name in sorted(set(types)) for letter in "BI"))


def classes_of(spans: Iterable[Span], words: int, types: Sequence[str]) -> list[int]:
    """Return the class number of each word of a sentence with these entities."""
    classes = [0] * words
    for span in spans:
        begin = 2 * types.index(span.type) + 1
        classes[span.first : span.last + 1] = [begin] + [begin + 1] * (span.last - span.first)
    return classes


def tags_of(classes: Sequence[int]) -> list[str]:
    """Return the tags of class numbers, with numbers in place of the names of types."""
    return [f"{'IB'[number % 2]}-{(number - 1) // 2}" if number else OUTSIDE for number in classes]


def spans_of(classes: Sequence[int]) -> list[Span]:
    """Return the entities of a sentence from class numbers in any order; types are numbers as text."""
    return read_spans(tags_of(classes))


def count_entities(
    labels: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count entities of each sentence for F1.

    Returns:
        number of correctly predicted entities, (N,); number of true entities plus predicted entities, (N,). F1 is
        twice the sum of the first over the sum of the second.
    """
    right_N, either_N = np.zeros(len(labels)), np.zeros(len(labels))
    for place, (true, found) in enumerate(zip(labels, predictions, strict=True)):
        there, named = set(spans_of(true)), set(spans_of(found))
        right_N[place], either_N[place] = len(there & named), len(there) + len(named)
    return right_N, either_N
