"""`fast-electra evaluate`: one model on GLUE, your own tasks, the bug-finding benchmark and minimal pairs.

Notable:
- everything that can be refused is refused before a model is loaded: options first, then data, then the model;
- `bugs` is a fine-tuned task (is this function changed?). A model with an RTD head also gets two tasks without
  training, as at the end of a quickstart: operators and variables;
- `blimp` is minimal pairs from a file, judged without training (evaluation/blimp.py);
- torch is imported where something is computed, so that a misspelt name is answered at once.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fast_electra import distributed
from fast_electra.data.files import canonical_digest, sha256_of_file, write_text_atomically
from fast_electra.data.python_corpus import Corpus, collect
from fast_electra.errors import ConfigError, DataError, ModelError
from fast_electra.evaluation.evaluations import RESULTS_FILE, Evaluation, load, store
from fast_electra.evaluation.glue import GLUE, load_glue
from fast_electra.evaluation.glue_scores import SERVER_FILES
from fast_electra.evaluation.overlap import in_train, without_train_texts
from fast_electra.evaluation.own_files import load_own
from fast_electra.evaluation.results import PAIRS, ZERO_SHOT, Result, Scores, zero_shot_result
from fast_electra.evaluation.settings import BLIMP, BUGS, EvaluationConfig
from fast_electra.evaluation.tasks import Task
from fast_electra.terminal import Progress, Say

if TYPE_CHECKING:
    from fast_electra.evaluation.bugs.mutation import BugKind
    from fast_electra.evaluation.detector import Detector
    from fast_electra.evaluation.minimal_pairs import MinimalPairs
    from fast_electra.evaluation.subject import Subject

REPORT_FILE = "report.html"
CURVE_FILE = "examples.svg"
_LOOKED_AT = 1_000
"""texts of a split that are looked at for unknown tokens"""
_LONGEST = 512
"""tokens of a function; a longer one is cropped around its bug"""


def evaluate_model(
    config: EvaluationConfig, say: Say, progress: Progress, command: str = ""
) -> tuple[Evaluation, list[Result]]:
    """Evaluate a model and write results.json and the page; finished cells are not computed again.

    Args:
        config: what to do.
        say: called with one sentence at a time.
        progress: called with (training examples done, training examples of all cells, what is being computed).
        command: the command that repeats this, for the page.

    Returns:
        all results of the model that the folder now holds, and the results that `config` asks for. All processes of a
        launcher return the same.

    Raises:
        UserError: data or model can't be used.
    """
    repeated: dict[str, dict[str, int]] = {}

    def checked(task: Task) -> Task:
        repeated[task.name] = {split: len(places) for split, places in in_train(task).items()}
        return without_train_texts(task) if config.drop_overlap else task

    tasks = [checked(task) for task in load_tasks(config, say)]
    pairs = None
    if config.pairs_file is not None:
        from fast_electra.evaluation.minimal_pairs import read_minimal_pairs

        pairs = read_minimal_pairs(config.pairs_file)
    from fast_electra.evaluation.overlap import count_seen
    from fast_electra.evaluation.runner import Work, evaluate
    from fast_electra.evaluation.side_by_side import compute_side_by_side
    from fast_electra.evaluation.subject import open_subject
    from fast_electra.training.precision import choose_execution

    out = config.folder
    results: list[Result] = []
    execution = choose_execution(config.execution)
    with distributed.connected(execution.device, distributed.UNLIMITED):
        with distributed.main_first():
            subject = open_subject(config.model, out, say)
            _refuse_other_weights(config, subject)
        if BUGS in config.tasks:
            tasks.append(checked(load_bugs(say)))
        seen: dict[str, dict[str, Any]] = {}

        def keep(found: Sequence[Result]) -> Evaluation:
            results.extend(
                replace(
                    result,
                    overlap=seen.get(result.task),
                    repeated=repeated.get(result.task, {}),
                    drops_repeated=config.drop_overlap,
                )
                for result in found
            )
            commands = [command] if command else []
            return store(Evaluation(subject.name, subject.digest, out, results, commands), say)

        work = Work(subject, config, execution, say, progress)
        with distributed.together():
            if distributed.is_main():
                for note in _unknown(subject, tasks, pairs):
                    say(note)
                if config.overlap is not None:
                    seen = count_seen(tasks, config.overlap, out, say)
                if pairs is not None:  # first, since a model without a head for it is refused
                    from fast_electra.evaluation.blimp import judge_minimal_pairs

                    keep([judge_minimal_pairs(subject, pairs, config.pairs, out, execution, say, progress)])
        compute_side_by_side(tasks, work)
        stored: tuple[Evaluation, list[Result]] | None = None
        with distributed.together():
            if distributed.is_main():
                for result in evaluate(tasks, work):
                    keep([result])
                stored = keep(zero_shot(subject, out, say) if BUGS in config.tasks else []), results
                _write(*stored, tasks, config, say)
        return _of_main(stored)


def _of_main(stored: tuple[Evaluation, list[Result]] | None) -> tuple[Evaluation, list[Result]]:
    """What rank 0 has stored, on every process."""
    if distributed.size() == 1:
        assert stored is not None
        return stored
    sent: Any = stored and [
        asdict(stored[0]) | {"folder": str(stored[0].folder)},
        [asdict(result) for result in stored[1]],
    ]
    about, found = distributed.from_main(sent)
    results = [[Result(**result) for result in of] for of in (about["results"], found)]
    return Evaluation(**about | {"folder": Path(about["folder"]), "results": results[0]}), results[1]


def _refuse_other_weights(config: EvaluationConfig, subject: "Subject") -> None:
    """Refuse a folder, given by --out, that holds the results of another model."""
    held = load(config.folder)
    if config.out is not None and held is not None and held.digest != subject.digest:
        raise ConfigError(
            f"{config.out} holds the results of other weights, given as {held.model}; give another folder by --out, or "
            f"delete {RESULTS_FILE} there: the cells stay."
        )


def _write(
    whole: Evaluation, results: Sequence[Result], tasks: Sequence[Task], config: EvaluationConfig, say: Say
) -> None:
    """Write the page, the chart, and the predictions that were asked for."""
    from fast_electra.evaluation.glue_scores import write_predictions
    from fast_electra.report.evaluation_charts import curve_chart
    from fast_electra.report.evaluation_page import render_evaluation_page
    from fast_electra.report.plots import save_svg

    if config.predictions is not None:
        files = write_predictions(results, tasks, whole.folder, config.predictions)
        say(f"predictions for GLUE's server: {', '.join(path.name for path in files)} in {config.predictions}.")
    write_text_atomically(whole.folder / REPORT_FILE, render_evaluation_page(whole))
    if (curve := curve_chart(whole.results)) is not None:
        save_svg(curve, whole.folder / CURVE_FILE)


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


def load_tasks(config: EvaluationConfig, say: Say) -> list[Task]:
    """The tasks of GLUE in the given order, then the user's task; with test sets only if they are predicted.

    Raises:
        DataError: a file is missing, or is not of the expected kind.
    """
    if config.overlap is not None and not config.overlap.exists():
        raise DataError(f"{config.overlap} does not exist: name token shards, or a file or folder of text.")
    tasks: list[Task] = []
    for name in config.tasks:
        if name in (BUGS, BLIMP):
            continue
        task = load_glue(name, config.glue_folder, say=say)
        if config.predictions is not None and not task.test:
            file = "test_matched.tsv" if name == "mnli" else "test.tsv"
            where = (
                f"{config.glue_folder}/{GLUE[name].folder}/{file}" if config.glue_folder else f"the test set of {name}"
            )
            raise DataError(f"{where} is missing, which --predictions needs; put it there, or leave --predictions out.")
        if name == "mnli" and config.predictions is not None and task.test.keys() != SERVER_FILES.keys():
            raise DataError(
                f"{config.glue_folder}/MNLI needs both test_matched.tsv and test_mismatched.tsv for --predictions."
            )
        tasks.append(task)
    if config.train is not None:
        tasks.append(load_own(config.train, config.dev, config.text, config.label, test=config.test))
    if config.predictions is None:
        from fast_electra.evaluation.tasks import without_tests

        tasks = [without_tests(task) for task in tasks]
    return tasks


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
    """The results of the bug-finding benchmark without fine-tuning; [] for a model without an RTD head.

    The baselines are a frequency table and ten untrained encoders of the same shape.
    """
    from fast_electra.evaluation.bugs.mutation import KINDS
    from fast_electra.evaluation.cells import finished_cell, keep_cell, make_cell
    from fast_electra.evaluation.detector import Detector

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
