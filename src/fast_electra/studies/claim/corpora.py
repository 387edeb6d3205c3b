"""The claim study's corpora for pre-training, and the questions that evaluate its runs.

| corpus | evaluated by                                                                                       |
| ------ | -------------------------------------------------------------------------------------------------- |
| code   | finding a wrong operator or variable without fine-tuning; "is the function changed?" with it       |
| text   | CoLA, SST-2 and MRPC, with fine-tuning                                                             |

Notable:
- a question identifies its examples by a digest, which takes a second; the examples are made for its first answer;
- without fine-tuning, a main model says which of two versions is more suspicious, and a masked language model which
  version is likelier behind a mask. These are different questions, so the answers are never compared.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fast_electra.data.files import canonical_digest
from fast_electra.data.settings import DataConfig
from fast_electra.data.sources import Document, Sources
from fast_electra.errors import DataError
from fast_electra.evaluation.baselines import bag_of_words, majority
from fast_electra.evaluation.bugs.benchmark import BugBenchmark
from fast_electra.evaluation.bugs.functions import SourceText
from fast_electra.evaluation.bugs.mutation import KINDS, Bug, BugKind
from fast_electra.evaluation.bugs.scoring import evaluate_bugs, evaluate_masked, frequency_table
from fast_electra.evaluation.bugs.task import bug_task
from fast_electra.evaluation.bugs.tokens import encode_bugs
from fast_electra.evaluation.detector import detector_of, masked_prediction
from fast_electra.evaluation.fine_tuning import fine_tune
from fast_electra.evaluation.glue import load_glue
from fast_electra.evaluation.recipes import Recipe, recipe_for
from fast_electra.evaluation.tasks import Task, with_examples, without_tests
from fast_electra.models.classifier import load_task_tokenizer
from fast_electra.models.loading import load_model
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.runs.folder import load_run
from fast_electra.runs.models import resolve_model
from fast_electra.training.assembly import special_ids
from fast_electra.training.precision import Execution

StudyRecord = dict[str, Any]
RECIPE = "fast"
EXAMPLES = 4_000
"""largest number of examples to fine-tune on"""
TASKS = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC"}
_ZERO_SHOT = "zero-shot"


class Answer(Protocol):
    """A function that answers a question with a run's model."""

    def __call__(self, run: Path, seed: int, execution: Execution, untrained: bool = False) -> StudyRecord:
        """The answer's record, with the `score` in [0, 1]; the score is None if fine-tuning failed.

        Args:
            run: the model's run.
            seed: of fine-tuning.
            execution: device, precision, threads.
            untrained: use an encoder of the same shape with new weights instead; only for questions with fine-tuning.
        """
        ...


@dataclass(frozen=True, eq=False)
class Question:
    """A test that evaluates a model."""

    name: str
    title: str
    metric: str
    settings: Mapping[str, Any]
    """the method of evaluation: the name "zero-shot", or the values of a fine-tuning recipe"""
    digest: str
    """digest of the examples"""
    answer: Answer
    baselines: Callable[[], dict[str, float]]
    """function that returns the scores of baselines without an encoder"""

    @property
    def zero_shot(self) -> bool:
        """Whether the model is tested without fine-tuning."""
        return self.settings["name"] == _ZERO_SHOT


class StudyCorpus(Protocol):
    """A text for pre-training, with the questions that evaluate its models."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def judging_seconds(self) -> float:
        """A rough estimate of the seconds to evaluate one run, with four layers × 256 on two cores."""
        ...

    def settings(self, data: DataConfig) -> dict[str, Any]:
        """The settings that this corpus changes in a configuration's section `data`."""
        ...

    def documents(self) -> Iterable[Document]:
        """The documents; they can be iterated several times."""
        ...

    def validation(self) -> Callable[[Document], bool] | None:
        """A function that says which documents are held out; None: a share chosen by digest."""
        ...

    def questions(self, width: int) -> list[Question]:
        """The questions for models of a width."""
        ...


# --- Code -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Code:
    """Python source, split by files; its questions are about bugs in held-out functions."""

    name: str
    train: Sequence[SourceText]
    held_out: Sequence[SourceText]
    """files with functions for the questions; none equals a training file"""
    validation_texts: Sequence[SourceText]
    """files for validation during training"""
    pairs: tuple[int, int] = (2_500, 1_500)
    """number of functions with a wrong operator, and with a wrong variable"""
    examples: int = EXAMPLES // 4
    """largest number of functions to fine-tune on"""
    scored: int = 1_000
    """largest number of functions to score a fine-tuned model on"""

    judging_seconds = 240.0

    def settings(self, data: DataConfig) -> dict[str, Any]:
        """Settings for a code tokenizer."""
        return {"format": "code", "tokenizer": data.tokenizer.model_dump() | {"path": None, "kind": "code"}}

    def documents(self) -> Iterable[Document]:
        """The training files, followed by the files for validation; they can be iterated several times."""
        return _Documents((*self.train, *self.validation_texts))

    def validation(self) -> Callable[[Document], bool]:
        """A function that recognises validation files by name."""
        names = frozenset(text.source for text in self.validation_texts)
        return lambda document: document.source in names

    @functools.cached_property
    def digest(self) -> str:
        """The digest of all files that bugs are made from."""
        return canonical_digest([[_digest(text.text) for text in texts] for texts in (self.train, self.held_out)])

    @functools.cached_property
    def benchmark(self) -> BugBenchmark:
        """The bug-finding benchmark of this corpus."""
        return BugBenchmark(self.train, self.held_out, *self.pairs)

    def questions(self, width: int) -> list[Question]:
        """One question for pairs of each kind, and one with fine-tuning."""
        asked = [self._pairs(kind, size) for kind, size in zip(KINDS, self.pairs, strict=True)]
        digest = canonical_digest([self.digest, self.examples, self.scored])
        recipe = recipe_for(RECIPE, width)
        return [*asked, fine_tuned("bugs", "bugs, fine-tuned", lambda: self.task, digest, "accuracy", recipe)]

    @functools.cached_property
    def task(self) -> Task:
        """The task for fine-tuning: decide whether a function is changed."""
        return bug_task(self.benchmark, train_functions=self.examples, dev_functions=self.scored)

    def _pairs(self, kind: BugKind, size: int) -> Question:
        def answer(run: Path, seed: int, execution: Execution, untrained: bool = False) -> StudyRecord:
            return pair_score(run, self.benchmark.bugs_of(kind), execution)

        def baselines() -> dict[str, float]:
            found = frequency_table(self.benchmark.bugs_of(kind), self.benchmark.frequencies)
            return {"frequency_table": float(found.mean())}

        digest = canonical_digest([self.digest, kind, size])
        return Question(f"{kind}s", f"wrong {kind}s", "pairs", {"name": _ZERO_SHOT}, digest, answer, baselines)


class _Documents:
    """Files as documents; each file is read when the iteration reaches it."""

    def __init__(self, texts: Sequence[SourceText]) -> None:
        self._texts = texts

    def __iter__(self) -> Iterator[Document]:
        return (Document(text.text, text.source) for text in self._texts)


def pair_score(run: Path, found: Sequence[Bug], execution: Execution) -> StudyRecord:
    """The share of pairs for which a run's model is right, by its RTD logits or behind a mask; a tie counts half."""
    config, model_folder = load_run(run).config, resolve_model(run)
    tokenizer = load_task_tokenizer(model_folder)
    special = special_ids(tokenizer)
    pairs = encode_bugs(found, tokenizer, config.data.length)
    if not config.objective.detects:
        model = MaskedLM(load_model(model_folder, "mlm")).freeze(execution.auxiliary_dtype)
        scores: NDArray[np.float64] = evaluate_masked(
            pairs, masked_prediction(model), mask_id=special["mask"], pad_id=special["pad"], every_token=0
        ).pair
    else:
        scores = evaluate_bugs(pairs, detector_of(load_model(model_folder, "rtd")), pad_id=special["pad"]).pair
    return {"score": float(scores.mean()), "examples": len(pairs)}


# --- Text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Text:
    """English text that the user gives; its questions are tasks of GLUE."""

    name: str
    path: Path
    """a file or folder in a format that `data build` reads"""
    tasks: Mapping[str, Task]
    """the tasks of `TASKS` without test sets; SST-2 in full"""
    examples: int = EXAMPLES
    """largest number of a task's examples to fine-tune on"""

    judging_seconds = 150.0

    @staticmethod
    def open(name: str, path: Path, glue: Path, say: Callable[[str], object], examples: int = EXAMPLES) -> "Text":
        """Read the tasks, so that a missing file is an error before any work starts.

        Raises:
            DataError: the text or a task does not exist.
        """
        if not path.exists():
            raise DataError(f"{path} does not exist: give python, or a file or folder of text.")
        return Text(name, path, {task: without_tests(load_glue(task, glue, say=say)) for task in TASKS}, examples)

    def settings(self, data: DataConfig) -> dict[str, Any]:
        """Settings for a text tokenizer."""
        return {"format": "auto", "tokenizer": data.tokenizer.model_dump() | {"path": None, "kind": "text"}}

    def documents(self) -> Iterable[Document]:
        """The documents, as `data build` reads them."""
        return Sources([self.path])

    def validation(self) -> None:
        """None: a share of the documents, chosen by digest, is held out."""

    def questions(self, width: int) -> list[Question]:
        """One question with fine-tuning for each of the three tasks."""
        recipe = recipe_for(RECIPE, width).model_copy(update={"train_examples": self.examples})
        return [
            fine_tuned(
                name, title, functools.partial(self.tasks.__getitem__, name), task.digest, task.metrics[0], recipe
            )
            for name, title in TASKS.items()
            if (task := self.tasks[name])
        ]


# --- Both -------------------------------------------------------------------------------------------------------------


def fine_tuned(name: str, title: str, task: Callable[[], Task], digest: str, metric: str, recipe: Recipe) -> Question:
    """Make a question from a task with fine-tuning.

    Args:
        name: of the question.
        title: of the question, for tables.
        task: function that makes the task; it is called only when a question is answered.
        digest: of the task's examples.
        metric: the task's primary metric.
        recipe: for fine-tuning.
    """

    def answer(run: Path, seed: int, execution: Execution, untrained: bool = False) -> StudyRecord:
        record = fine_tune(resolve_model(run), task(), recipe, seed, execution, untrained=untrained).record()
        del record["test_predictions"], record["model"]
        score = None if record["failed"] else record["scores"]["dev"][metric]
        return {"score": score, "examples": record["n_dev"], **record}

    def baselines() -> dict[str, float]:
        used = with_examples(task(), recipe.train_examples)
        found = {"majority": majority(used), "bag_of_words": bag_of_words(used)}
        return {baseline: scores["dev"][metric] for baseline, scores in found.items()}

    return Question(name, title, metric, recipe.values(), digest, answer, baselines)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
