"""`fast-electra quickstart`: the whole pipeline in small, on this machine's Python code or on the user's own text.

The stages:
  corpus → tokenizer → token shards → auxiliary (MLM) → main model (Fast-ELECTRA) → downstream → own task → report

Notable:
- every stage writes its result to the folder, so the same command continues where it was stopped;
- the presets set the number of updates, so the same seed gives the same figures on the same machine;
- the report includes the cost of training the auxiliary.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.data.files import (
    copy_folder_atomically,
    write_json_atomically,
    write_sealed_json,
    write_text_atomically,
)
from fast_electra.data.python_corpus import HELD_OUT, Corpus, collect
from fast_electra.data.seals import refuse_broken_seal
from fast_electra.data.settings import DataConfig, Source
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.data.sources import Document, Sources
from fast_electra.diagnosis.doctor import DoctorObserver
from fast_electra.errors import ConfigError, DataError
from fast_electra.evaluation.bugs.benchmark import BugBenchmark
from fast_electra.evaluation.bugs.mutation import KINDS
from fast_electra.evaluation.bugs.scoring import evaluate_masked
from fast_electra.evaluation.bugs.statistics import judge
from fast_electra.evaluation.detector import detector_of, masked_prediction, untrained_detectors
from fast_electra.evaluation.sentences import most_suspicious_sentences
from fast_electra.models.build import transformers_config
from fast_electra.models.loading import load_model
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.pipelines.own_task import check_task, judge_on_task
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.pipelines.quickstart_page import bug_examples, cost_of, environment_of, snippets, summary_of
from fast_electra.pipelines.stages import OTHER_SECONDS, Outlook, Stages
from fast_electra.report import evaluation_page
from fast_electra.report.figures import decimal, percent
from fast_electra.report.inspect import print_summary_table
from fast_electra.report.page import render_page
from fast_electra.report.run_content import REPORT_FILE
from fast_electra.runs.folder import load_run
from fast_electra.runs.models import resolve_model
from fast_electra.runs.paths import located
from fast_electra.terminal import Terminal, command
from fast_electra.training.assembly import Assembled, assemble, special_ids
from fast_electra.training.precision import choose_execution
from fast_electra.training.telemetry import ProgressDisplay

_EVERY_TOKEN = 10  # number of pairs in which the auxiliary judges every token
# Presets of the auxiliary and of the main model: for Python code, and for the user's text.
_CODE_PRESETS = ("quickstart-auxiliary", "quickstart")
_TEXT_PRESETS = ("text-hour-auxiliary", "text-hour")
# Shares of the training time of auxiliary and main model; the key says whether the text is the user's.
_SHARES = {False: (0.42, 0.58), True: (0.6, 0.4)}
# With the user's text and without --minutes, these settings are those of the presets for code.
_LENGTH = ("updates", "validate_every", "checkpoint_every")
# Vocabulary sizes for the user's text: the first entry applies whose number of bytes is below the text's.
_VOCABULARIES = ((10_000_000, 16384), (2_000_000, 8192), (400_000, 4096), (-1, 1024))
_TOKENIZER_SAMPLE = 10_000_000

USAGE = """from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

folder = {folder!r}
model = AutoModelForTokenClassification.from_pretrained(folder)   # or AutoModel, for the bare encoder
find = pipeline("token-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
text = {example!r}
for token in find(text):
    print(text[token["start"] : token["end"]], token["entity"], round(float(token["score"]), 2))
"""


@dataclass(frozen=True)
class QuickstartText:
    """The quickstart's text, and which documents are held out."""

    documents: Iterable[Document]
    is_validation: Callable[[Document], bool] | None
    found: str
    """description of the corpus, for the terminal and the report"""
    corpus: Corpus | None
    """the Python corpus; None for the user's text"""
    example: str
    """short text for the usage example of the report"""


def quickstart(
    folder: Path,
    console: Terminal,
    text: Sequence[Path] = (),
    minutes: float | None = None,
    overrides: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    task: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run every stage that is not done yet; the report is `folder/report.html`.

    Args:
        folder: a new folder, or the folder of the same quickstart.
        console: prints a message about every stage.
        text: files and folders of the user's text; empty: this machine's Python source code.
        minutes: approximate duration of the whole command; it sets the number of updates.
        overrides: settings `section.key=value` for both models.
        stop: called after each update; if it returns True, a checkpoint is written and `Interrupted` raised.
        task: the user's labelled examples, to compare with an encoder without pre-training.

    Returns:
        the content of `folder/summary.json`.

    Raises:
        UserError: a stage refuses its input.
        Interrupted: `stop` returned True; the same command continues.
    """
    request = None if task is None else check_task(task, folder)
    stages = Stages(folder, console, own_text=bool(text), has_task=request is not None)
    auxiliary_config, main_config = _configs(folder, text, minutes, overrides)
    with stages.stage("corpus") as found:
        sources = _own_text(main_config.data) if text else _python_source()
        found(sources.found)
    shards_folder = folder / "shards"
    with stages.stage("tokens") as found:
        found(_tokens(sources, auxiliary_config, shards_folder, stages.note))
    with stages.stage("auxiliary") as found:
        outlook = Outlook(console, stages, main_config)
        doctor = DoctorObserver(auxiliary_config, stages.note)
        display = ProgressDisplay(console, "auxiliary")
        auxiliary = pretrain(auxiliary_config, folder / "auxiliary", [display, outlook, doctor], stages.note, stop)
        accuracy, unigram = auxiliary.validation["masked_accuracy"], auxiliary.validation["unigram_accuracy"]
        found(f"predicts {percent(accuracy)} of masked tokens; the most frequent token alone: {percent(unigram)}")
    with stages.stage("main") as found:
        doctor = DoctorObserver(main_config, stages.note)
        display = ProgressDisplay(console, "main model")
        main = pretrain(main_config, folder / "main", [display, doctor], stages.note, stop)
        auc = main.validation.get("rtd_auc")  # None if all tokens of the validation rows have the same label
        found(f"detects replaced tokens with a ROC-AUC of {decimal(auc)}")
    if not (folder / "model").exists():
        trained = load_run(folder / "main").model()
        refuse_broken_seal(trained)
        copy_folder_atomically(trained, folder / "model")
    execution = choose_execution(main_config.execution)
    finished = load_run(folder / "main")
    resolved = located(finished.config, finished)
    parts = assemble(resolved, execution)
    model = load_model(folder / "model", "rtd")
    with stages.stage("downstream") as found:
        downstream, shown = _downstream(sources, parts, model, folder, main_config)
        found(_verdict(downstream))
    judged = None
    if request is not None:
        with stages.stage("task") as found:
            judged = judge_on_task(request, folder / "auxiliary", stages.note, stop)
            found(" ".join(judged["sentences"]))
    with stages.stage("report"):
        records = {name: load_run(folder / name).metrics() for name in ("auxiliary", "main")}
        summary = summary_of(auxiliary, main, downstream, resolved, records, stages.seconds)
        if judged is not None:
            summary["task"] = judged
        write_json_atomically(folder / "summary.json", summary)
        content = {
            "title": "fast-electra quickstart",
            "subtitle": sources.found,
            "summary": summary,
            "auxiliary_metrics": records["auxiliary"],
            "main_metrics": records["main"],
            "stages": stages.found(),
            "cost": cost_of(auxiliary, main, parts, stages.seconds, main_config),
            "snippets": snippets(parts, model),
            "usage_code": USAGE.format(folder=str(folder / "model"), example=sources.example),
            "environment": environment_of(main_config, execution.precision, execution.threads),
            **shown,
        }
        write_sealed_json(folder / REPORT_FILE, content)
        evaluation = evaluation_page.report_content(folder)
        write_text_atomically(folder / "report.html", render_page(content | {"evaluation": evaluation}))
    console.print()
    print_summary_table(summary, console)
    console.print()
    console.say(f"report   {folder / 'report.html'}")
    console.say(f"model    {folder / 'model'}  (AutoModel.from_pretrained loads it)")
    if judged is not None and judged["model"] is not None:
        console.say(f"tuned    {judged['model']}  (your task's model)")
    console.say(f"try      {command('inspect', folder / 'model', 'FILE')}")
    return summary


def _configs(
    folder: Path, text: Sequence[Path], minutes: float | None, overrides: Sequence[str]
) -> tuple[Config, Config]:
    """The configurations of the auxiliary and of the main model; `overrides` replace what is chosen here."""
    presets = _TEXT_PRESETS if text else _CODE_PRESETS
    given = {override.partition("=")[0].strip() for override in overrides}
    if own := sorted(given & {"data.shards", "data.sources", "auxiliary.model"}):
        remedy = "give your text with --text" if own[0] == "data.sources" else "leave it out"
        raise ConfigError(f"{own[0]} is set by the quickstart: {remedy}.")
    if minutes is not None and (
        budget := given & {f"training.{unit}" for unit in ("updates", "tokens", "flops", "hours")}
    ):
        raise ConfigError(f"--minutes and {budget.pop()} both set how long to train: keep one of them.")
    # Training gets at least a third of the time.
    hours = None if minutes is None else max(60 * minutes - OTHER_SECONDS, 20 * minutes) / 3600
    configs = []
    for preset, as_long_as, share in zip(presets, _CODE_PRESETS, _SHARES[bool(text)], strict=True):
        chosen: dict[str, Any] = {"data.shards": str(folder / "shards")}
        if text:
            size = sum(_bytes(path) for path in text)
            chosen["data.sources"] = [str(path) for path in text]
            chosen["data.tokenizer.vocabulary_size"] = next(n for least, n in _VOCABULARIES if size > least)
            training = load_config(as_long_as).training
            chosen |= {f"training.{key}": getattr(training, key) for key in _LENGTH}
        if hours is not None:
            chosen |= {"training.updates": None, "training.hours": hours * share}
        if configs:
            chosen["auxiliary.model"] = str(folder / "auxiliary")
        settings = [f"{key}={json.dumps(value)}" for key, value in chosen.items() if key not in given]
        configs.append(load_config(preset, [*settings, *overrides]))
    return configs[0], configs[1]


def _bytes(path: Path) -> int:
    if not path.exists():
        raise DataError(f"{path} does not exist: give files or folders of text.")
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def _python_source() -> QuickstartText:
    corpus = collect()
    packages = {file.package for file in corpus.train}
    return QuickstartText(
        documents=corpus.documents,
        is_validation=corpus.is_validation,
        found=f"{corpus.train_bytes / 1e6:.0f} MB of Python in {len(corpus.train):,} files of {len(packages)} "
        f"packages; {' and '.join(HELD_OUT)} held out",
        corpus=corpus,
        example="def middle(low, high):\n    return (low - high) // 2\n",
    )


def _own_text(data: DataConfig) -> QuickstartText:
    size = sum(_bytes(Path(Source.of(source).path)) for source in data.sources)
    return QuickstartText(
        documents=Sources(data.sources, data.format, data.text_field, data.invalid_utf8),
        is_validation=None,
        found=f"{size / 1e6:.1f} MB of your text",
        corpus=None,
        example="The cat sat on the moon.",
    )


def _tokens(sources: QuickstartText, config: Config, folder: Path, note: Callable[[str], None]) -> str:
    """Make the tokenizer and the shards if they do not exist yet, and note what was left out or replaced.

    Returns:
        the sizes of vocabulary and shards, in words.
    """
    if not folder.exists():
        validation, sample = sources.is_validation, _TOKENIZER_SAMPLE
        report = build_shards(sources.documents, None, folder, config.data, validation, tokenizer_sample=sample)
        for name, loss in report.losses().items():
            note(f"{name}: {loss}.")
    shards = open_shards(folder, verify=False)
    return (
        f"{shards.vocabulary_size:,} tokens in the vocabulary; "
        f"{shards.split('train').tokens / 1e6:.1f} million tokens to train on, "
        f"{shards.split('validation').tokens / 1e6:.1f} million held out"
    )


def _downstream(
    sources: QuickstartText, parts: Assembled, model: Any, folder: Path, config: Config
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The main model's figures without fine-tuning for the summary, and examples for the page."""
    suspicion = detector_of(model)
    if sources.corpus is None:
        validation = _validation_texts(sources, config)
        most, least = most_suspicious_sentences(validation, parts.tokenizer, suspicion, config.data.length)
        return {}, {"sentences": {"most": [vars(s) for s in most], "least": [vars(s) for s in least]}}
    benchmark = BugBenchmark(sources.corpus.train, sources.corpus.held_out)
    auxiliary = masked_prediction(
        MaskedLM(load_model(resolve_model(folder / "auxiliary"), "mlm")).freeze(
            choose_execution(config.execution).auxiliary_dtype
        )
    )
    special = special_ids(parts.tokenizer)
    untrained = untrained_detectors(
        transformers_config(config.main, parts.shards.vocabulary_size, special, config.data.length)
    )
    scores: dict[str, Any] = {}
    examples: list[dict[str, Any]] = []
    for kind in KINDS:
        pairs = benchmark.pairs(kind, parts.tokenizer, config.data.length)
        masked = evaluate_masked(
            pairs, auxiliary, mask_id=special["mask"], pad_id=special["pad"], every_token=_EVERY_TOKEN
        )
        trained, scores[kind] = judge(pairs, benchmark.frequencies, suspicion, untrained, masked, pad_id=special["pad"])
        examples += bug_examples(pairs, trained)
    return scores, {"bugs": examples}


def _validation_texts(sources: QuickstartText, config: Config) -> list[Document]:
    """The user's documents that the shards hold out for validation."""
    from fast_electra.data.shard_building import is_validation_text

    fraction = config.data.validation_fraction
    return [document for document in sources.documents if is_validation_text(document.text, fraction)]


def _verdict(downstream: Mapping[str, Any]) -> str:
    if not downstream:
        return "the most and least suspicious held-out sentences are in the report"
    operator = downstream["operator"]
    return (
        f"the changed operator is the more suspicious one in {percent(operator['model']['pair'])} of pairs "
        f"(frequency table {percent(operator['frequency_table']['pair'])}, "
        f"untrained {percent(operator['untrained']['pair'])})"
    )
