"""The bug-finding benchmark as a task for fine-tuning: is one operator or variable of a function wrong, or none.

Notable:
- every function is there twice, as it was written ("clean") and with one change ("changed"), so guessing scores 50 %,
  and nothing that both versions share (length, style, names) tells them apart;
- training functions come from the corpus, dev functions from packages that are held out; a training function whose text
  occurs among the dev functions is left out;
- only short functions, which nearly all models see whole: of a longer one the change might be cut off, and with it what
  the label says. What is cut all the same is counted (`truncated`).
"""

from collections.abc import Iterable, Iterator, Sequence

from fast_electra.errors import DataError
from fast_electra.evaluation.bugs import (
    KINDS,
    Bug,
    Frequencies,
    SourceText,
    count_frequencies,
    extract_functions,
    make_bug,
)
from fast_electra.evaluation.tasks import Split, Task, make_task

LABELS = ("clean", "changed")


def bug_task(
    train: Sequence[SourceText],
    held_out: Sequence[SourceText],
    *,
    train_functions: int = 4_000,
    dev_functions: int = 1_000,
    characters: int = 260,
    seed: int = 0,
) -> Task:
    """Functions with and without one change, to be told apart; pairs never straddle the splits.

    Args:
        train: Python source of the training corpus; frequencies of operators and names are counted here too.
        held_out: Python source of packages that the corpus doesn't have.
        train_functions: at most so many, in the order of the texts; each gives two examples.
        dev_functions: likewise, of the held-out texts.
        characters: of the longest function, in either version; at 260 the quickstart's tokenizer makes more than
            128 tokens of 1 in 300 training and 1 in 50 held-out examples, at 400 of 1 in 10.
        seed: of the changes.

    Raises:
        DataError: one side has no function of that length in which something can be changed.
    """
    frequencies = count_frequencies(train)
    dev = _bugs(held_out, frequencies, dev_functions, characters, seed, frozenset())
    seen = frozenset(bug.clean for bug in dev)
    trained = _bugs(train, frequencies, train_functions, characters, seed, seen)
    for side, found in (("training", trained), ("held-out", dev)):
        if not found:
            raise DataError(
                f"the {side} texts have no function of 4 to 60 lines and at most {characters} characters to put a bug "
                "in: give more Python files."
            )
    return make_task("bugs", "classification", LABELS, _split(trained), {"dev": _split(dev)}, {}, ("accuracy",))


def _bugs(
    texts: Iterable[SourceText],
    frequencies: Frequencies,
    count: int,
    characters: int,
    seed: int,
    left_out: frozenset[str],
) -> list[Bug]:
    """At most `count` functions with one change each, no function twice; both kinds by turns where both can be made."""
    found: list[Bug] = []
    seen = set(left_out)
    for text in texts:
        for function in extract_functions(text.text, text.source):
            if len(found) >= count:
                return found
            if len(function.text) > characters or function.text in seen:
                continue
            seen.add(function.text)
            kinds = KINDS if len(found) % 2 == 0 else KINDS[::-1]
            bugs: Iterator[Bug | None] = (make_bug(function, kind, frequencies, seed) for kind in kinds)
            bug = next((bug for bug in bugs if bug is not None and len(bug.changed) <= characters), None)
            if bug is not None:
                found.append(bug)
    return found


def _split(bugs: Sequence[Bug]) -> Split:
    return Split([(text,) for bug in bugs for text in (bug.clean, bug.changed)], [0, 1] * len(bugs))
