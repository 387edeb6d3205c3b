"""Which texts of a task a model may have seen in pre-training, and which dev examples are also in train.

Notable:
- a text counts as seen if every run of eight of its words is somewhere in the corpus. Case, punctuation and line breaks
  do not matter: a quotation is found, a paraphrase is not;
- texts of fewer than eight words are not checked, because such short texts occur by chance; their number is reported;
- a dev example is also in train if its whole text, or its whole pair of texts, is equal except for white space;
- only the runs of the task's texts are stored, so memory does not grow with the corpus;
- runs are compared by 64-bit hashes: with 10^9 runs in the corpus and 10^6 in the tasks, the probability of any false
  match is 1 in 18,000.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_electra.data.files import MANIFEST, canonical_digest, read_sealed_json, write_sealed_json
from fast_electra.data.reading import reading_losses
from fast_electra.data.shards import open_shards
from fast_electra.data.sources import Sources
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import DataError
from fast_electra.evaluation.tasks import TEST, Task, make_task
from fast_electra.terminal import Say

RUN = 8
"""words in a run"""
_WORD = re.compile(r"[^\W_]+")
_HELD = 1_000_000  # words of the corpus that are compared together
_FACTOR = 0x9E3779B97F4A7C15  # any odd number with well-mixed bits: its powers make the hash depend on word order


class Overlap(NamedTuple):
    """Counts of the texts of a split; an example has one or two texts, and repeated texts count each time."""

    texts: int
    checked: int
    """texts of at least `RUN` words"""
    seen: int
    """checked texts whose runs are all in the corpus"""


class _Runs(NamedTuple):
    """Runs of all texts of a split in order."""

    hashes: NDArray[np.uint64]
    owners: NDArray[np.int64]
    """index of the text of each run"""
    lengths: NDArray[np.int64]
    """number of words of each text"""


def in_train(task: Task) -> dict[str, list[int]]:
    """Return {dev split: places of the examples whose texts are also in train}, for splits that have such examples."""
    trained = {_normal(texts) for texts in task.train.texts}
    found = {
        name: [place for place, texts in enumerate(dev.texts) if _normal(texts) in trained]
        for name, dev in task.dev.items()
    }
    return {name: places for name, places in found.items() if places}


def without_train_texts(task: Task) -> Task:
    """Return the task without the dev examples whose texts are also in train.

    Raises:
        DataError: no example, or no example of a class, is left.
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
                "because train has the texts of all of them; add other examples, or leave out --drop-overlap."
            )
        dev[name] = left
    swapped = task.augment_swapped
    return make_task(
        task.name, task.kind, task.labels, task.train, dev, task.test, task.metrics, augment_swapped=swapped
    )


def _normal(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts)


def count_overlap(tasks: Iterable[Task], documents: Iterable[str]) -> dict[str, dict[str, Overlap]]:
    """Count the texts of all splits that are in a corpus, which is read once.

    Args:
        tasks: with different names.
        documents: texts of the corpus, for example `data.sources.Sources`.

    Returns:
        {task: {"train": …, "dev": …, "test": …}}, for MNLI "dev matched" and so on.
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
    """Runs of `texts`; their words are added to `number_of`, each with a 64-bit hash of its letters."""
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
    """Word numbers of several documents, 0 between documents and for words that are in no task."""
    held: list[int] = []
    for document in documents:
        held += [number_of.get(word, 0) for word in _WORD.findall(document.casefold())]
        held.append(0)
        if len(held) >= _HELD:
            yield held
            held = []
    yield held


def _hash(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hashes of every run, (max(0, words - 7),), polynomials modulo 2^64."""
    count = max(0, len(words) - RUN + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(RUN):
        hashes = hashes * np.uint64(_FACTOR) + words[place : place + count]
    return hashes


def count_seen(tasks: Sequence[Task], corpus: Path, out: Path, say: Say = lambda _: None) -> dict[str, dict[str, Any]]:
    """Texts of each task that occur in a pre-training corpus, counted once and kept.

    Args:
        tasks: whose texts are looked for.
        corpus: token shards, or files or folders of text.
        out: the evaluation's folder.
        say: called with a sentence about text that was left out or changed while it was read.

    Returns:
        {task: {"corpus", "counts": {split: {"texts", "checked", "seen"}}}}.

    Raises:
        DataError: the corpus can't be read.
    """
    files = sorted(path for path in corpus.rglob("*") if path.is_file()) if corpus.is_dir() else [corpus]
    state = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    key = canonical_digest([state, [[task.name, task.digest] for task in tasks]])
    path = out / "tasks" / f"overlap-{key[:12]}.json"
    if (kept := read_sealed_json(path)) is None:
        sources = None if (corpus / MANIFEST).exists() else Sources([corpus])
        documents = _decoded(corpus) if sources is None else (document.text for document in sources)
        first = next(documents, None)
        if first is None:
            raise DataError(f"{corpus} holds no text; name token shards, or a file or folder of text.")
        counts = count_overlap(tasks, chain([first], documents))
        if sources is not None:
            read = sources.reading
            counted = read.left_out_files, read.replaced_files, read.replaced_characters, read.cut_documents
            for name, loss in reading_losses(*counted).items():
                say(f"{corpus}: {name}: {loss}.")
        kept = {
            task: {"corpus": str(corpus), "counts": {split: found._asdict() for split, found in splits.items()}}
            for task, splits in counts.items()
        }
        write_sealed_json(path, kept)
    return kept


def _decoded(folder: Path, together: int = 256) -> Iterator[str]:
    """The training documents of token shards as text."""
    shards = open_shards(folder, verify=False)
    backend = load_tokenizer(shards.folder / "tokenizer").backend_tokenizer
    stream = shards.split("train")
    held: list[list[int]] = []
    start = 0
    for ends in stream.ends():
        for end in ends.tolist():
            held.append(stream.read(start, end - 1).tolist())  # without its separator
            start = end
            if len(held) == together:
                yield from backend.decode_batch(held)
                held = []
    yield from backend.decode_batch(held)
