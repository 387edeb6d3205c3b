"""How many task texts a model may have read in pre-training, and which dev texts are also in train.

Notable:
- a text counts as seen when every run of eight of its words occurs somewhere in the corpus, whatever the case,
  punctuation and line breaks there: a quotation is found, a paraphrase is not;
- texts of fewer than eight words are not checked, since such runs occur by chance; they are counted as left out;
- dev examples that are also in train are whole ones, a pair as a pair, equal but for white space;
- only what the task's texts hold is remembered, so memory does not grow with the corpus;
- runs are compared by 64-bit hashes: with 10^9 runs in the corpus and 10^6 in the tasks, any false match at all has
  odds of 1 to 18,000.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_electra.errors import DataError
from fast_electra.evaluation.tasks import TEST, Task, make_task

RUN = 8
"""words of a run"""
_WORD = re.compile(r"[^\W_]+")
_HELD = 1_000_000  # words of the corpus looked at together
_FACTOR = 0x9E3779B97F4A7C15  # any odd number with well-mixed bits: powers of it tell a run's places apart


class Overlap(NamedTuple):
    """Texts of a split; an example has one or two, and a text that stands in several examples counts each time."""

    texts: int
    checked: int
    """of at least `RUN` words"""
    seen: int
    """of those checked, all of whose runs occur in the corpus"""


class _Runs(NamedTuple):
    """Runs of all texts of a split, one after the other."""

    hashes: NDArray[np.uint64]
    owners: NDArray[np.int64]
    """the text that a run belongs to"""
    lengths: NDArray[np.int64]
    """words of each text"""


def in_train(task: Task) -> dict[str, list[int]]:
    """{dev split: places of the examples whose texts are also in train}, where there are some."""
    trained = {_normal(texts) for texts in task.train.texts}
    found = {
        name: [place for place, texts in enumerate(dev.texts) if _normal(texts) in trained]
        for name, dev in task.dev.items()
    }
    return {name: places for name, places in found.items() if places}


def without_train_texts(task: Task) -> Task:
    """The task without the dev examples whose texts are also in train.

    Raises:
        DataError: nothing, or no example of a class, is left to score.
    """
    repeated = in_train(task)
    if not repeated:
        return task
    dev = dict(task.dev)
    for name, places in repeated.items():
        left = dev[name].at(sorted({*range(len(dev[name]))} - {*places}))
        lost = task.kind == "classification" and name != TEST and set(left.labels) != set(dev[name].labels)  # type: ignore[arg-type]
        if lost or not left.texts:
            raise DataError(
                f"{task.name}: --drop-overlap leaves no example {'of one label ' if left.texts else ''}in {name}, "
                "since train has the texts of all of them; add other examples there, or leave --drop-overlap out."
            )
        dev[name] = left
    swapped = task.augment_swapped
    return make_task(
        task.name, task.kind, task.labels, task.train, dev, task.test, task.metrics, augment_swapped=swapped
    )


def _normal(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts)


def count_overlap(tasks: Iterable[Task], documents: Iterable[str]) -> dict[str, dict[str, Overlap]]:
    """Count the texts of all splits that occur in a corpus, read once.

    Args:
        tasks: with different names.
        documents: texts of the corpus, for example those of `data.sources.Sources`.

    Returns:
        {task: {"train": …, "dev": …, "test": …}}, MNLI's as "dev matched" and so on.
    """
    number_of: dict[str, int] = {}
    runs = {task.name: {name: _runs(texts, number_of) for name, texts in _texts(task)} for task in tasks}
    wanted = np.unique(np.concatenate([split.hashes for splits in runs.values() for split in splits.values()]))
    found = np.zeros(len(wanted), dtype=bool)
    for words in _gathered(documents, number_of) if wanted.size else ():
        hashes = _hash(np.asarray(words, dtype=np.uint64))
        places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        found[places[wanted[places] == hashes]] = True
    counts: dict[str, dict[str, Overlap]] = {}
    for task, splits in runs.items():
        counts[task] = {}
        for name, split in splits.items():
            missing = split.owners[~found[np.searchsorted(wanted, split.hashes)]]
            checked = split.lengths >= RUN
            seen = checked & (np.bincount(missing, minlength=len(split.lengths)) == 0)
            counts[task][name] = Overlap(len(checked), int(checked.sum()), int(seen.sum()))
    return counts


def _texts(task: Task) -> Iterator[tuple[str, list[str]]]:
    splits = {"train": task.train}
    for role, named in (("dev", task.dev), ("test", task.test)):
        splits |= {role if name == role else f"{role} {name}": split for name, split in named.items()}
    for name, split in splits.items():
        if task.kind == "tokens":
            yield name, [" ".join(words) for words in split.texts]
        else:
            yield name, [text for texts in split.texts for text in texts]


def _runs(texts: list[str], number_of: dict[str, int]) -> _Runs:
    """Runs of `texts`; their words are added to `number_of`, each with 64 bits drawn from its letters."""
    numbers: list[int] = []
    lengths = np.zeros(len(texts), dtype=np.int64)
    for place, text in enumerate(texts):
        words = _WORD.findall(text.casefold())
        lengths[place] = len(words)
        for word in words:
            if word not in number_of:
                number_of[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            numbers.append(number_of[word])
    hashes = _hash(np.asarray(numbers, dtype=np.uint64))
    owners = np.repeat(np.arange(len(texts)), lengths)[: len(hashes)]
    last = np.cumsum(lengths) - RUN  # where the last run of each text begins
    inside = np.arange(len(hashes)) <= last[owners]
    return _Runs(hashes[inside], owners[inside], lengths)


def _gathered(documents: Iterable[str], number_of: dict[str, int]) -> Iterator[list[int]]:
    """Word numbers of several documents, 0 for a word that no task has and between two documents."""
    held: list[int] = []
    for document in documents:
        held += [number_of.get(word, 0) for word in _WORD.findall(document.casefold())]
        held.append(0)
        if len(held) >= _HELD:
            yield held
            held = []
    yield held


def _hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(max(0, words - 7),) hashes of every run, polynomials modulo 2^64."""
    count = max(0, len(words) - RUN + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(RUN):
        hashes = hashes * np.uint64(_FACTOR) + words[place : place + count]
    return hashes
