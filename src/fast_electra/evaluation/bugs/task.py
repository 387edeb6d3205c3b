"""The bug-finding benchmark as a task for fine-tuning: was one operator or variable of this function changed or not.

Notable:
- every function is in the task twice, as it was written ("clean") and with one change ("changed"). So guessing scores
  50 %, and what both versions share (length, style, names) does not help;
- training functions are from the corpus, dev functions from held-out packages. A training function with the text of a
  dev function is left out;
- only short functions are used, because a longer one may be truncated before the change. `truncated` counts what is
  truncated all the same.
"""

from collections.abc import Iterable, Iterator, Sequence

from fast_electra.errors import DataError
from fast_electra.evaluation.bugs.benchmark import BugBenchmark
from fast_electra.evaluation.bugs.functions import SourceText, extract_functions
from fast_electra.evaluation.bugs.mutation import KINDS, Bug, Frequencies, make_bug
from fast_electra.evaluation.tasks import Split, Task, make_task

LABELS = ("clean", "changed")
_LONGEST = 260
"""maximum length of both versions in characters. At 260 the quickstart's tokenizer makes more than 128 tokens of 1 in
300 training examples and of 1 in 50 held-out examples; at 400 of 1 in 10"""


def bug_task(benchmark: BugBenchmark, *, train_functions: int = 4_000, dev_functions: int = 1_000) -> Task:
    """Make a task of classifying functions as clean or changed. Both versions of a function are in the same split.

    Args:
        benchmark: its corpus gives the training functions, its held-out files the dev functions.
        train_functions: maximum number, the first ones; each gives two examples.
        dev_functions: maximum number, the first ones; each gives two examples.

    Returns:
        the task.

    Raises:
        DataError: the training or the held-out files have no short function in which something can be changed.
    """
    frequencies = benchmark.frequencies
    dev = _short_bugs(benchmark.held_out, frequencies, dev_functions)
    trained = _short_bugs(benchmark.train, frequencies, train_functions, {bug.clean for bug in dev})
    for side, found in (("training", trained), ("held-out", dev)):
        if not found:
            raise DataError(
                f"the {side} texts have no function of 4 to 60 lines and at most {_LONGEST} characters to put a bug "
                "in: give more Python files."
            )
    return make_task("bugs", "classification", LABELS, _split(trained), {"dev": _split(dev)}, {}, ("accuracy",))


def _short_bugs(
    texts: Iterable[SourceText],
    frequencies: Frequencies,
    count: int,
    left_out: Iterable[str] = (),
) -> list[Bug]:
    """Make one change in each of at most `count` different functions; the kinds alternate where both are possible."""
    found: list[Bug] = []
    seen = set(left_out)
    for text in texts:
        for function in extract_functions(text.text, text.source):
            if len(found) >= count:
                return found
            if len(function.text) > _LONGEST or function.text in seen:
                continue
            seen.add(function.text)
            kinds = KINDS if len(found) % 2 == 0 else KINDS[::-1]
            bugs: Iterator[Bug | None] = (make_bug(function, kind, frequencies) for kind in kinds)
            bug = next((bug for bug in bugs if bug is not None and len(bug.changed) <= _LONGEST), None)
            if bug is not None:
                found.append(bug)
    return found


def _split(bugs: Sequence[Bug]) -> Split:
    return Split([(text,) for bug in bugs for text in (bug.clean, bug.changed)], [0, 1] * len(bugs))
