"""`fast-electra evaluate`: GLUE, one's own tasks, the bug-finding benchmark, minimal pairs; one model, one folder.

Notable:
- everything that can be refused is refused before a model is loaded: options first, then data, then the model;
- `bugs` stands for three tasks: fine-tuned (is this function changed?), and for a model with an RTD head zero-shot, as
  at the end of a quickstart, for operators and variables;
- `blimp` stands for minimal pairs out of a file, judged without training (evaluation/blimp.py);
- torch is imported where something is computed, so that a misspelt name is answered at once.
"""

import difflib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fast_electra.data.files import canonical_digest, sha256_of_file, write_text_atomically
from fast_electra.data.python_corpus import Corpus, collect
from fast_electra.errors import ConfigError, DataError, ModelError
from fast_electra.evaluation.glue import GLUE, SERVER_FILES, load_glue
from fast_electra.evaluation.overlap import in_train, without_train_texts
from fast_electra.evaluation.readers import is_conll, load_own
from fast_electra.evaluation.results import (
    PAIRS,
    RESULTS_FILE,
    ZERO_SHOT,
    Evaluation,
    Result,
    Scores,
    load,
    results_folder,
    store,
    zero_shot_result,
)
from fast_electra.evaluation.tasks import Task

if TYPE_CHECKING:
    from fast_electra.evaluation.bugs.mutation import BugKind
    from fast_electra.evaluation.detector import Detector
    from fast_electra.evaluation.minimal_pairs import MinimalPairs
    from fast_electra.evaluation.runner import Subject

Say = Callable[[str], None]
Progress = Callable[[float, float, str], object]
BUGS = "bugs"
BLIMP = "blimp"
REPORT_FILE = "report.html"
CURVE_FILE = "examples.svg"
_LOOKED_AT = 1_000
"""texts of a split that are looked at for unknown tokens"""
_LONGEST = 512
"""tokens of a function; a longer one is cropped around its bug"""


@dataclass(frozen=True)
class Request:
    """What is asked for: the command's options, checked against each other."""

    model: str
    tasks: tuple[str, ...] = ()
    """names of GLUE's tasks, "bugs" and "blimp" """
    data: Path | None = None
    """the folder of the GLUE download; None: the hub"""
    pairs: Path | None = None
    """the file of minimal pairs"""
    pairs_per_set: int | None = None
    """the most pairs of each set; None: as many as are worth their time"""
    train: Path | None = None
    """one's own task"""
    dev: Path | None = None
    test: Path | None = None
    """scored and reported as the test set's, dev then being for selection only"""
    text: tuple[str, ...] = ()
    label: str | None = None
    recipe: str | None = None
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    probe: bool = False
    start: str | None = None
    examples: tuple[int, ...] = ()
    """train on this number, the same ones for the model and all baselines"""
    overlap: Path | None = None
    """token shards or text that the model was pre-trained on"""
    drop_overlap: bool = False
    """leave dev examples whose texts are also in train out of the scores"""
    predictions: Path | None = None
    save: bool = False
    workers: int | None = None
    """processes that compute side by side; None: one for each CUDA device, otherwise one"""
    out: Path | None = None
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: says what, and what to do.
        """
        from fast_electra.evaluation.recipes import recipe_for

        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: give a number from 1.")
        if not self.tasks and self.train is None:
            raise ConfigError("nothing to evaluate on: give --tasks, or --train with --text and --label.")
        known = [*GLUE, BUGS, BLIMP]
        for name in self.tasks:
            if name not in known:
                close = difflib.get_close_matches(name.lower().replace("-", ""), known, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"the tasks are {', '.join(known)}."
                raise ConfigError(f"--tasks: {name} is no task; {remedy}")
            if self.tasks.count(name) > 1:
                raise ConfigError(f"--tasks: {name} is there twice.")
        if BLIMP in self.tasks and self.pairs is None:
            raise ConfigError(
                "--tasks blimp needs its pairs: give --data FILE.jsonl, a JSON object a line with sentence_good and "
                "sentence_bad (also .jsonl.gz and .jsonl.xz)."
            )
        if BLIMP not in self.tasks and self.pairs is not None:
            raise ConfigError(f"--data {self.pairs} is a file of minimal pairs: give --tasks blimp too.")
        if self.pairs_per_set is not None and (self.pairs_per_set < 1 or BLIMP not in self.tasks):
            raise ConfigError(
                f"--pairs {self.pairs_per_set}: give a number from 1: --tasks blimp takes this many pairs of each set."
            )
        own = {"--dev": self.dev, "--test": self.test, "--text": self.text, "--label": self.label}
        if self.train is None and (given := [option for option, value in own.items() if value]):
            raise ConfigError(f"{given[0]} is about a task of your own: give --train too.")
        if self.train is not None and self.train.stem in known:
            raise ConfigError(f"{self.train} is called like the task {self.train.stem}; rename the file.")
        for option, path in {"--train": self.train, "--dev": self.dev, "--test": self.test}.items():
            if path is not None and not path.is_file():
                raise ConfigError(f"{option} {path} is no file; name a table or a CoNLL file.")
        if self.train is not None and not (self.text and self.label) and not is_conll(self.train):
            raise ConfigError(
                "--train needs --text and --label: the columns to read and to predict. A CoNLL file needs none, and is "
                "one with a word and its tag (O, B-…, I-…) a line."
            )
        if self.recipe is not None:
            recipe_for(self.recipe, 256)
        fine_tuning = {
            "--recipe": self.recipe,
            "--learning-rates": self.learning_rates,
            "--examples": self.examples,
            "--start": self.start,
            "--save": self.save,
            "--predictions": self.predictions,
        }
        if self.probe and (given := [option for option, value in fine_tuning.items() if value]):
            raise ConfigError(f"{given[0]} is about fine-tuning, and --probe trains no encoder: leave one of them out.")
        if self.predictions is not None and len(self.examples) > 1:
            raise ConfigError("--predictions is of one fine-tuned model a task: give one number to --examples.")
        if self.predictions is not None and (
            other := [*({BUGS, BLIMP} & {*self.tasks}), *([self.train] if self.train else [])]
        ):
            raise ConfigError(f"--predictions writes files for GLUE's server, which has no task {other[0]}.")
        of_training = fine_tuning | {
            "--probe": self.probe,
            "--overlap": self.overlap,
            "--drop-overlap": self.drop_overlap,
            "--workers": self.workers,
        }
        if self.tasks == (BLIMP,) and self.train is None:
            if given := [option for option, value in of_training.items() if value]:
                raise ConfigError(f"{given[0]} is for tasks with training examples: leave it out, or add such a task.")
            if self.data is not None:
                raise ConfigError(f"--data {self.data} is for tasks of GLUE: leave it out, or add such a task.")
        for option, folder in {"--out": self.out, "--predictions": self.predictions}.items():
            nearest = next((path for path in (folder, *folder.parents) if path.exists()), None) if folder else None
            if nearest is not None and not nearest.is_dir():
                raise ConfigError(f"{option} {folder}: {nearest} is a file; name a folder.")

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out or results_folder(self.model)


def evaluate_model(request: Request, say: Say, progress: Progress) -> tuple[Evaluation, list[Result]]:
    """Evaluate a model and write results.json and the page; what is finished is not done again.

    Args:
        request: what to do.
        say: is told one sentence at a time.
        progress: (training examples done, in all, what is being done).

    Returns:
        all that the folder now holds of the model, and what was asked for.

    Raises:
        UserError: data or model can't be used.
    """
    repeated: dict[str, dict[str, int]] = {}

    def checked(task: Task) -> Task:
        repeated[task.name] = {split: len(places) for split, places in in_train(task).items()}
        return without_train_texts(task) if request.drop_overlap else task

    tasks = [checked(task) for task in load_tasks(request, say)]
    pairs = load_pairs(request)
    from fast_electra.evaluation.runner import Setup, count_seen, evaluate, open_subject, write_predictions
    from fast_electra.evaluation.side_by_side import compute_side_by_side, workers_for
    from fast_electra.report.evaluation_page import curve_chart, render_evaluation_page
    from fast_electra.report.plots import save_svg
    from fast_electra.training.precision import choose_execution

    out = request.folder
    subject = open_subject(request.model, out, say)
    held = load(out)
    if request.out is not None and held is not None and held.digest != subject.digest:
        raise ConfigError(
            f"{out} holds the results of other weights, given as {held.model}; give another folder by --out, or delete "
            f"{RESULTS_FILE} there: the cells stay."
        )
    if BUGS in request.tasks:
        tasks.append(checked(load_bugs(say)))
    for note in _unknown(subject, tasks, pairs):
        say(note)
    setup = Setup(
        recipe=request.recipe,
        seeds=request.seeds,
        learning_rates=request.learning_rates,
        probe=request.probe,
        start=request.start,
        save=request.save,
        examples=request.examples,
    )
    execution = choose_execution()
    seen = {} if request.overlap is None else count_seen(tasks, request.overlap, out, say)
    results: list[Result] = []

    def keep(found: Sequence[Result]) -> Evaluation:
        results.extend(
            replace(
                result,
                overlap=seen.get(result.task),
                repeated=repeated.get(result.task, {}),
                drops_repeated=request.drop_overlap,
            )
            for result in found
        )
        commands = [request.command] if request.command else []
        return store(Evaluation(subject.name, subject.digest, out, results, commands), say)

    if pairs is not None:  # first, since a model without a head for it is refused
        from fast_electra.evaluation.blimp import judge_minimal_pairs

        keep([judge_minimal_pairs(subject, pairs, request.pairs_per_set, out, execution, say, progress)])
    workers = request.workers or workers_for(execution)
    compute_side_by_side(subject, tasks, setup, out, execution, workers, say=say, progress=progress)
    for result in evaluate(subject, tasks, setup, out, execution, say=say, progress=progress):
        keep([result])
    whole = keep(zero_shot(subject, out, say) if BUGS in request.tasks else [])
    if request.predictions is not None:
        files = write_predictions(results, tasks, out, request.predictions)
        say(f"predictions for GLUE's server: {', '.join(path.name for path in files)} in {request.predictions}.")
    write_text_atomically(out / REPORT_FILE, render_evaluation_page(whole))
    if (curve := curve_chart(whole.results)) is not None:
        save_svg(curve, out / CURVE_FILE)
    return whole, results


def _unknown(subject: "Subject", tasks: Sequence[Task], pairs: "MinimalPairs | None") -> list[str]:
    """A warning for each task whose texts the model's tokenizer does not know, by their first ones."""
    from fast_electra.data.tokenizer import unknown_note
    from fast_electra.models.classifier import load_task_tokenizer

    splits = {task.name: (task.train, *task.dev.values()) for task in tasks}
    texts = {name: [" ".join(text) for split in of for text in split.texts[:_LOOKED_AT]] for name, of in splits.items()}
    if pairs is not None:
        texts[BLIMP] = pairs.good[:_LOOKED_AT]
    tokenizer = load_task_tokenizer(subject.source)
    notes = (unknown_note(tokenizer, some, name) for name, some in texts.items())
    return [note for note in notes if note]


def load_tasks(request: Request, say: Say) -> list[Task]:
    """GLUE's tasks and one's own, in the order asked for; test sets only where they are to be predicted.

    Raises:
        DataError: a file is missing or not as said.
    """
    if request.overlap is not None and not request.overlap.exists():
        raise DataError(f"{request.overlap} does not exist: name token shards, or a file or folder of text.")
    tasks: list[Task] = []
    for name in request.tasks:
        if name in (BUGS, BLIMP):
            continue
        task = load_glue(name, request.data, say=say)
        if request.predictions is not None and not task.test:
            file = "test_matched.tsv" if name == "mnli" else "test.tsv"
            where = f"{request.data}/{GLUE[name].folder}/{file}" if request.data else f"the test set of {name}"
            raise DataError(f"{where} is missing, which --predictions needs; put it there, or leave --predictions out.")
        if name == "mnli" and request.predictions is not None and task.test.keys() != SERVER_FILES.keys():
            raise DataError(
                f"{request.data}/MNLI needs both test_matched.tsv and test_mismatched.tsv for --predictions."
            )
        tasks.append(task)
    if request.train is not None:
        tasks.append(load_own(request.train, request.dev, request.text, request.label, test=request.test))
    if request.predictions is None:
        from fast_electra.evaluation.runner import without_tests

        tasks = [without_tests(task) for task in tasks]
    return tasks


def load_pairs(request: Request) -> "MinimalPairs | None":
    """The minimal pairs asked for.

    Raises:
        DataError: their file is not as said.
    """
    if request.pairs is None:
        return None
    from fast_electra.evaluation.minimal_pairs import read_minimal_pairs

    return read_minimal_pairs(request.pairs)


def load_bugs(say: Say) -> Task:
    """The bug-finding benchmark for fine-tuning, out of this machine's Python source."""
    from fast_electra.evaluation.bugs.benchmark import BugBenchmark
    from fast_electra.evaluation.bugs.task import bug_task

    say("bugs: functions are collected from this machine's Python source; half a minute.")
    return bug_task(BugBenchmark(_corpus().train, _corpus().held_out))


# --- Bug finding without fine-tuning ----------------------------------------------------------------------------------


@functools.cache
def _corpus() -> Corpus:
    return collect()


def zero_shot(subject: "Subject", out: Path, say: Say) -> list[Result]:
    """The bug-finding benchmark as a quickstart ends with, for a model with an RTD head; [] for any other.

    A frequency table and ten untrained encoders of the same shape stand beside it.
    """
    from fast_electra.evaluation.bugs.mutation import KINDS
    from fast_electra.evaluation.detector import Detector
    from fast_electra.evaluation.runner import finished_cell, keep_cell, make_cell

    try:
        detector = Detector(subject.source)
    except ModelError as error:
        say(f"bugs without fine-tuning are left out, since they need a main model with its RTD head: {error}")
        return []
    corpus = _corpus()
    files = [[[file.source, sha256_of_file(file.path)] for file in half] for half in (corpus.train, corpus.held_out)]
    digest = canonical_digest(files)
    settings = {"name": ZERO_SHOT, "longest": _LONGEST}
    cells = {
        kind: make_cell(f"{BUGS}-{kind}", digest, settings, 0, untrained=False, model=subject.digest) for kind in KINDS
    }
    records = {kind: finished_cell(out, cell) for kind, cell in cells.items()}
    if None in records.values():
        say("bugs without fine-tuning: both versions of 4,000 functions are scored; about a minute.")
        for kind, record in _judge(detector).items():
            records[kind] = keep_cell(out, cells[kind], record)
    found = ((cells[kind].file, record) for kind, record in records.items() if record is not None)
    return [
        zero_shot_result(record["task"], ZERO_SHOT, digest, {"name": ZERO_SHOT}, record, file, _baselines(record))
        for file, record in found
    ]


def _judge(detector: "Detector") -> "dict[BugKind, dict[str, Any]]":
    """A record of each kind of bug."""
    from fast_electra.evaluation.bugs.benchmark import BugBenchmark
    from fast_electra.evaluation.bugs.mutation import KINDS
    from fast_electra.evaluation.bugs.statistics import judge
    from fast_electra.evaluation.detector import untrained_detectors

    benchmark = BugBenchmark(_corpus().train, _corpus().held_out)
    place_of = {id(bug): place for place, bug in enumerate(benchmark.bugs)}
    untrained = untrained_detectors(detector.config)
    pad_id = cast(int, detector.tokenizer.pad_token_id)
    records: dict[BugKind, dict[str, Any]] = {}
    for kind in KINDS:
        began = time.perf_counter()
        pairs = benchmark.pairs(kind, detector.tokenizer, min(detector.length, _LONGEST))
        judged, summary = judge(pairs, benchmark.frequencies, detector.suspicion, untrained, pad_id=pad_id)
        records[kind] = {
            "task": f"{BUGS}-{kind}",
            "seed": 0,
            "scores": {"dev": {PAIRS: summary["model"]["pair"]}},
            # With its place among all: another tokenizer leaves out other ones.
            "predictions": {
                "dev": [[place_of[id(pair.bug)], won] for pair, won in zip(pairs, judged.pair.tolist(), strict=True)]
            },
            "n_dev": len(pairs),
            "failed": None,
            "summary": summary,
            "timing": {"seconds": time.perf_counter() - began},
        }
    return records


def _baselines(record: dict[str, Any]) -> dict[str, Scores]:
    def scores(share: float) -> Scores:
        return {"dev": {PAIRS: share}}

    return {
        "chance": scores(0.5),
        "majority": scores(0.5),  # one answer for all is a tie in every pair
        "frequency_table": scores(record["summary"]["frequency_table"]["pair"]),
        "untrained": scores(record["summary"]["untrained"]["pair"]),
    }
