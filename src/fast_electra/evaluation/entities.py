"""Named entities: their tags, their spans, and what F1 over whole entities counts.

Notable:
- spans are read by seqeval, which follows the script of the CoNLL tasks: an entity also begins at a tag that only
  continues one. So IOB1, IOB2 and BIOES are read by one rule, in files and in predictions alike;
- inside the program tags are IOB2, and classes have a fixed order: 0 is "O", 2k + 1 begins an entity of type k, 2k + 2
  continues it. So class numbers alone tell where entities are;
- an entity is right when its type, its first and its last word are.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from seqeval.metrics.sequence_labeling import get_entities

from fast_electra.evaluation.tasks import OUTSIDE

# BIOES, and what others write for its letters: L (last) for E, U (unit) for S, M (middle) for I.
_PREFIXED = re.compile(r"([BIESLUM])(?:-(.+))?")
_LETTERS = {"L": "E", "U": "S", "M": "I"}
_UNNAMED = "entity"
"""type of tags that are a letter alone"""


class Span(NamedTuple):
    """An entity of a sentence."""

    type: str
    first: int
    """place of its first word"""
    last: int


def is_prefixed(tag: str) -> bool:
    """Whether a tag says itself how an entity goes on: B-PER, I-PER, E-PER, S-PER, or the letter alone."""
    return _PREFIXED.fullmatch(tag) is not None


def read_spans(tags: Sequence[str]) -> list[Span]:
    """Entities of a sentence from tags with prefixes; tags without one are types, of which equal neighbours are one."""
    return [Span(*span) for span in get_entities([_normal(tag) for tag in tags])]


def _normal(tag: str) -> str:
    if tag == OUTSIDE:
        return tag
    if (found := _PREFIXED.fullmatch(tag)) is None:
        return f"I-{tag}"
    return f"{_LETTERS.get(found[1], found[1])}-{found[2] or _UNNAMED}"


def class_names(types: Iterable[str]) -> tuple[str, ...]:
    """The IOB2 tags of some types, in the order of their class numbers."""
    return (OUTSIDE, *(f"{letter}-{name}" for name in sorted(set(types)) for letter in "BI"))


def classes_of(spans: Iterable[Span], words: int, types: Sequence[str]) -> list[int]:
    """The class of each word of a sentence with these entities."""
    classes = [0] * words
    for span in spans:
        begin = 2 * types.index(span.type) + 1
        classes[span.first : span.last + 1] = [begin] + [begin + 1] * (span.last - span.first)
    return classes


def tags_of(classes: Sequence[int]) -> list[str]:
    """Tags of class numbers, with the types' numbers in place of their names."""
    return [f"{'IB'[number % 2]}-{(number - 1) // 2}" if number else OUTSIDE for number in classes]


def spans_of(classes: Sequence[int]) -> list[Span]:
    """Entities of a sentence from class numbers, whatever their order; types are numbers as text."""
    return read_spans(tags_of(classes))


def count_entities(
    labels: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What F1 is made of, for each sentence.

    Returns:
        (N,) entities that are predicted right; (N,) entities that are there plus entities that are predicted. F1 is
        twice the sum of the first over the sum of the second.
    """
    right_N, either_N = np.zeros(len(labels)), np.zeros(len(labels))
    for place, (true, found) in enumerate(zip(labels, predictions, strict=True)):
        there, named = set(spans_of(true)), set(spans_of(found))
        right_N[place], either_N[place] = len(there & named), len(there) + len(named)
    return right_N, either_N
