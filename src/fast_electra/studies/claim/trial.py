"""One corpus of the claim study: its shards, speeds, learning rates, runs and answers. Each is made once and stored."""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedModel

from fast_electra.config.loading import load_config
from fast_electra.data.files import canonical_digest, read_kept_json, write_sealed_json
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.diagnosis.doctor import examine
from fast_electra.errors import TrainingError
from fast_electra.evaluation.cells import finished_cell, keep_cell, make_cell
from fast_electra.evaluation.subject import open_subject
from fast_electra.models.loading import load_model
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.runs.models import resolve_model
from fast_electra.stopping import Interrupted
from fast_electra.studies.bench.setup import with_settings
from fast_electra.studies.claim.corpora import Question, StudyCorpus, StudyRecord
from fast_electra.studies.claim.findings import Measure, differences, summarise
from fast_electra.studies.claim.methods import METHODS, REFERENCE, Contestant, Study, updates_of
from fast_electra.studies.claim.runs import Material, Planned, helper_shape, identity_of
from fast_electra.studies.claim.speed import time_updates
from fast_electra.training.assembly import assemble
from fast_electra.training.precision import Execution, apply_threads
from fast_electra.training.telemetry import Observer, QuietObserver

_AUXILIARY = "auxiliary"
_LOST = "restore it, or delete it to measure again; runs of other numbers of updates are then trained again"
_DETECTION = Measure("rtd_auc", "replaced tokens of validation text", "rtd_auc", zero_shot=True)


@dataclass(frozen=True)
class Listener:
    """Functions that a study calls to report its progress and to ask whether to stop."""

    say: Callable[[str], object] = lambda _: None
    """called with one sentence at a time"""
    display: Callable[[str], Observer] = lambda _: QuietObserver()
    """makes the progress display of a run"""
    stop: Callable[[], bool] = lambda: False
    """returns True to stop the study"""


class Trial:
    """Trains and evaluates all runs on one corpus of a study."""

    def __init__(self, study: Study, corpus: StudyCorpus, out: Path, execution: Execution, listener: Listener) -> None:
        self.study, self.corpus, self._out, self._execution, self._listener = study, corpus, out, execution, listener
        home = out / "corpora" / corpus.name
        self.material = Material(study, corpus, out / "runs", home / "shards", self._shards(home))
        width = self.material.base.main.hidden_size
        assert width is not None
        self.questions = corpus.questions(width)
        self.rates = self._calibrated()

    def _shards(self, home: Path) -> str:
        self._listener.say(f"{self.corpus.name}: tokenizer and token shards")
        config = load_config("quickstart", self.study.overrides)
        data = with_settings(config, data=self.corpus.settings(config.data)).data
        report = build_shards(self.corpus.documents(), None, home / "shards", data, self.corpus.validation())
        for name, loss in report.losses().items():
            self._listener.say(f"{self.corpus.name}: {name}: {loss}.")
        return open_shards(home / "shards", verify=False).fingerprint

    # Speed

    def _calibrated(self) -> dict[str, dict[str, float]]:
        """Updates per second of the auxiliary and of each method, from calibration.json if they are stored there.

        A method that is added later is timed together with the stored ones, and its speed is scaled to theirs. So
        finished runs keep their number of updates, and a machine that is slower today reduces no budget.
        """
        path = self._out / "calibration.json"
        stored = read_kept_json(path, _LOST)
        execution = self._execution
        identity = canonical_digest(
            [
                self.material.fingerprint,
                {
                    **identity_of(self.material.method(REFERENCE, 1, 0)),
                    "data": self.material.base.data.length,
                },
                [execution.device.type, execution.precision, execution.threads, torch.__version__],
                torch.backends.cpu.get_cpu_capability(),
            ]
        )
        known: dict[str, dict[str, float]] = stored.get(identity, {}).get("rates", {})
        known = {name: rate for name, rate in known.items() if name == _AUXILIARY or name in METHODS}
        wanted = [_AUXILIARY, *self.study.methods]
        if not set(wanted) <= known.keys():
            measured = self._timed(list(dict.fromkeys([*known, *wanted])))
            scale = statistics.median([known[name]["median"] / measured[name]["median"] for name in known] or [1.0])
            scaled = {name: {key: scale * value for key, value in rate.items()} for name, rate in measured.items()}
            known = scaled | known
            write_sealed_json(path, stored | {identity: {"corpus": self.corpus.name, "rates": known}})
        return {name: known[name] for name in wanted}

    def _timed(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        self._listener.say(f"{self.corpus.name}: measuring the updates per second of {', '.join(names)}, in turns")
        material, execution = self.material, self._execution
        with tempfile.TemporaryDirectory() as folder:
            config = material.auxiliary(1, 0)
            parts = assemble(config, execution)  # an auxiliary with random weights takes as long as a trained one
            cast(PreTrainedModel, parts.objective.models()["main"]).save_pretrained(folder)
            parts.tokenizer.save_pretrained(folder)
            configs = {
                name: config if name == _AUXILIARY else material.method(name, 1, 0, auxiliary=Path(folder))
                for name in names
            }
            return time_updates(configs, execution, self.study.rounds, self.study.timed_updates, self._listener.stop)

    # Runs

    def auxiliary(self, seed: int) -> Planned:
        """Plan the auxiliary of a seed."""
        seconds = self.study.auxiliary_seconds
        config = self.material.auxiliary(updates_of(seconds, self.rates[_AUXILIARY]["median"]), seed)
        return self.material.planned(_AUXILIARY, config, seconds)

    def run(self, method: str, seed: int, seconds: float, factor: float) -> Planned:
        """Plan a method's run."""
        auxiliary = self.auxiliary(seed) if METHODS[method].auxiliary else None
        updates = updates_of(seconds, self.rates[method]["median"])
        folder = auxiliary and self.material.runs / auxiliary.name
        config = self.material.method(method, updates, seed, factor, folder)
        return self.material.planned(method, config, seconds, auxiliary)

    def trained(self, planned: Planned) -> Path:
        """The folder of a run; the run is trained first if it is not finished.

        Raises:
            TrainingError: the run diverged.
            Interrupted: the listener stopped the study.
        """
        folder = self.material.runs / planned.name
        run, failure = RunFolder.find(folder), folder / "diverged.json"
        if failure.exists():  # it would diverge again; delete the folder to repeat it
            raise TrainingError(read_kept_json(failure, "delete it to train the run again")["said"])
        if run is None or not run.is_finished:
            if planned.auxiliary is not None:
                self.trained(planned.auxiliary)
            self._listener.say(f"{planned.name}: {planned.config.training.updates} updates, {planned.seconds:.0f} s")
            try:
                pretrain(planned.config, folder, [self._listener.display(planned.name)], stop=self._listener.stop)
            except TrainingError as error:
                write_sealed_json(failure, {"said": f"{planned.name}: {error}"})
                raise TrainingError(f"{planned.name}: {error}") from error
        return folder

    # Learning rates

    @cached_property
    def choices(self) -> dict[str, StudyRecord]:
        """For each method, the record of the trials of learning rates; `factor` is that of the best trial."""
        path = self._out / "lr.json"
        stored = read_kept_json(path, _LOST)  # earlier versions wrote only the list
        records: list[StudyRecord] = stored.get("records", []) if isinstance(stored, dict) else stored
        chosen: dict[str, StudyRecord] = {}
        for method in self.study.methods:
            runs = {
                f"{factor:g}": self.run(method, self.study.choosing_seed, self.study.choosing_seconds, factor)
                for factor in self.study.factors
            }
            by = "masked_accuracy" if method == "mlm" else "rtd_auc"
            judge = [] if method == "mlm" else [self._reference_name]
            identity = canonical_digest([*judge, *(planned.name for planned in runs.values())])
            record = next((record for record in records if record["identity"] == identity), None)
            if record is None:
                scores = {factor: self._choosing_score(planned) for factor, planned in runs.items()}
                record = {
                    "corpus": self.corpus.name,
                    "method": method,
                    "by": by,
                    "scores": scores,
                    "factor": best_factor(scores, f"{METHODS[method].title} on {self.corpus.name}"),
                    "runs": [planned.name for planned in runs.values()],
                    "identity": identity,
                }
                records.append(record)
                write_sealed_json(path, {"records": records})
            chosen[method] = record
        return chosen

    def _choosing_score(self, planned: Planned) -> float | None:
        """The score on validation text: masked accuracy, or ROC-AUC on the reference auxiliary's replacements."""
        try:
            run = self.trained(planned)
        except TrainingError:
            return None
        if not planned.config.objective.detects:
            return load_run(run).metrics()[-1]["validation"]["masked_accuracy"]
        return self._rtd_auc(run)

    # Evaluation

    def judged(self, contestant: Contestant, seed: int) -> StudyRecord:
        """The record of a contestant's run with a seed: its budget, its diagnosis, and its scores in points."""
        factor = self.choices[contestant.method]["factor"]
        planned = self.run(contestant.method, seed, self.study.seconds_of(contestant), factor)
        record: StudyRecord = {
            "contestant": contestant.title,
            "method": contestant.method,
            "counted": contestant.counted,
            "seed": seed,
            "run": planned.name,
            "given_seconds": round(planned.seconds, 1),
            "updates": planned.config.training.updates,
        }
        try:
            run = self.trained(planned)
        except TrainingError as error:
            return record | {"failed": str(error), "scores": {}}
        diagnosis = self._kept(
            run, "diagnosis", self._reference_name, {"name": "diagnosis"}, lambda: self._diagnosis(run)
        )
        detection = diagnosis["diagnosis"]["rtd_auc"]
        answers = {question: self._answer(run, question, seed) for question in self.questions}
        points = {
            question.name: round(100 * answer["score"], 2)
            for question, answer in answers.items()
            if answer["score"] is not None
        }
        points |= {} if detection is None else {_DETECTION.name: round(100 * detection, 2)}
        remarks = [f"{question.title}: {said}" for question, answer in answers.items() if (said := remark(answer))]
        return record | diagnosis["diagnosis"] | {"scores": points, "remarks": remarks}

    def _answer(self, run: Path, question: Question, seed: int, untrained: bool = False) -> StudyRecord:
        def answer() -> StudyRecord:
            self._listener.say(f"{run.name}: {question.title}{', untrained' if untrained else ''}")
            apply_threads(self._execution)
            return question.answer(run, seed, self._execution, untrained)

        return self._kept(run, question.name, question.digest, question.settings, answer, seed, untrained)

    def _kept(
        self,
        run: Path,
        name: str,
        digest: str,
        settings: Mapping[str, Any],
        compute: Callable[[], StudyRecord],
        seed: int = 0,
        untrained: bool = False,
    ) -> StudyRecord:
        """A cell of a run's evaluation; it is computed if it is not stored."""
        out = run / "evaluation"
        cell = make_cell(name, digest, settings, seed, untrained, open_subject(str(run), out).digest)
        record = finished_cell(out, cell)
        if record is None:
            if self._listener.stop():
                raise Interrupted(f"stopped before {name} of {run.name}")
            record = keep_cell(out, cell, compute())
        return record

    def baselines(self, judged: StudyRecord) -> dict[str, dict[str, float]]:
        """{question: {baseline: points}}; with fine-tuning, an untrained encoder of the run's shape is a baseline."""
        run = self.material.runs / judged["run"]
        found: dict[str, dict[str, float]] = {}
        for question in self.questions:
            name = f"{question.name}-baselines"
            kept = self._kept(run, name, question.digest, {"name": "baselines"}, question.baselines)
            scores = {name: score for name, score in kept.items() if name != "identity"}
            if not question.zero_shot:
                scores["untrained"] = self._answer(run, question, judged["seed"], untrained=True)["score"]
            found[question.name] = {k: round(100 * score, 2) for k, score in scores.items() if score is not None}
        return found

    # Diagnosis

    @property
    def _reference_name(self) -> str:
        return self.auxiliary(self.study.choosing_seed).name

    @cached_property
    def _reference(self) -> tuple[FastElectra, list[Any]]:
        """Corruption by the auxiliary of the choosing seed, which trained no run of the results."""
        auxiliary = self.trained(self.auxiliary(self.study.choosing_seed))
        parts = assemble(self.material.method("constant-1", 1, 0, auxiliary=auxiliary), self._execution)
        return cast(FastElectra, parts.objective), parts.validation

    def _diagnosis(self, run: Path) -> StudyRecord:
        """A record with `diagnosis`: a run's speed, mean temperature, `rtd_auc` and findings of the doctor."""
        records = load_run(run).metrics()
        seconds = seconds_of(records)

        def mean(key: str, scale: float = 1.0, digits: int = 3) -> float | None:
            values = [record[key] for record in records if key in record]
            return round(scale * float(np.mean(values)), digits) if values else None

        clipped = [key for key in records[-1] if key.split(".")[0] == "clipped"]
        findings = [each for each in examine(run) if each.severity in ("warning", "problem")]
        found: StudyRecord = {
            "seconds": round(seconds, 1),
            "updates_per_second": round(records[-1]["update"] / seconds, 3),
            "clipped": {key.removeprefix("clipped").lstrip(".") or "main": mean(key, 100, 1) for key in clipped},
            "temperature": mean("temperature"),
            "replaced": mean("replaced_fraction", 100, 1),
            "rtd_auc": None,
            "findings": len(findings),
            "found": [each.sentence() for each in findings],
        }
        if load_run(run).config.objective.detects:
            found["rtd_auc"] = round(self._rtd_auc(run), 4)
        return {"diagnosis": found}

    def _rtd_auc(self, run: Path) -> float:
        objective, validation = self._reference
        execution = self._execution
        model = load_model(resolve_model(run), "rtd").to(execution.weights_dtype)  # type: ignore[arg-type]
        objective.main = ReplacedTokenDetector(model.to(execution.device).eval())  # type: ignore[arg-type]
        with execution.autocast():
            return objective.validate([batch.to(execution.device) for batch in validation], seed=0)["rtd_auc"]

    # Results

    def results(self) -> StudyRecord:
        """The corpus's section of results.json; trains and evaluates whatever is missing."""
        study = self.study
        choices = self.choices
        runs = [self.judged(contestant, seed) for seed in study.seeds for contestant in study.contestants]
        auxiliaries = [record for seed in self._auxiliary_seeds() if (record := self._auxiliary_record(seed))]
        shards = open_shards(self.material.shards, verify=False)
        main, helper = self.material.base.main, helper_shape(self.material.base.main)
        optimizer = self.material.base.optimizer
        measures = [*(Measure(q.name, q.title, q.metric, q.zero_shot) for q in self.questions), _DETECTION]
        return {
            "corpus": self.corpus.name,
            "tokens": {name: shards.split(name).tokens for name in ("train", "validation")},
            "vocabulary": shards.vocabulary_size,
            "model": {"architecture": main.architecture, "layers": main.layers, "width": main.hidden_size},
            "generator_layers": helper["layers"],
            "questions": [measure._asdict() for measure in measures],
            "calibration": [
                {"what": METHODS[name].title if name in METHODS else name}
                | {key: round(value, 3) for key, value in rate.items()}
                for name, rate in self.rates.items()
            ],
            "learning_rates": [
                {
                    "method": METHODS[method].title,
                    "by": record["by"],
                    "factor": record["factor"],
                    "learning_rate": optimizer.learning_rate * record["factor"],
                    "scores": {f: None if s is None else round(100 * s, 2) for f, s in record["scores"].items()},
                }
                for method, record in choices.items()
            ],
            "auxiliaries": auxiliaries,
            "runs": runs,
            "baselines": next((self.baselines(run) for run in runs if "failed" not in run), {}),
            "contestants": [summarise(contestant, measures, runs) for contestant in study.contestants],
            "differences": differences(study.contestants, measures, runs),
        }

    def _auxiliary_seeds(self) -> list[int]:
        used = any(METHODS[name].auxiliary for name in self.study.methods)
        return [self.study.choosing_seed, *(self.study.seeds if used else ())]

    def _auxiliary_record(self, seed: int) -> StudyRecord | None:
        """The record of a seed's auxiliary; None if it diverged, which the runs that need it report."""
        planned = self.auxiliary(seed)
        try:
            records = load_run(self.trained(planned)).metrics()
        except TrainingError:
            return None
        measured = records[-1]["validation"]
        return {
            "seed": seed,
            "run": planned.name,
            "given_seconds": round(planned.seconds, 1),
            "seconds": round(seconds_of(records), 1),
            "updates": planned.config.training.updates,
            "masked_accuracy": round(100 * measured["masked_accuracy"], 2),
            "unigram_accuracy": round(100 * measured["unigram_accuracy"], 2),
        }


def seconds_of(records: Sequence[StudyRecord]) -> float:
    """Seconds of a run's updates, from its metrics. Updates without a record, after a stop, count at mean speed."""
    timed = sum(record["timing"]["seconds"] for record in records)
    tokens = sum(record["timing"]["seconds"] * record["timing"]["tokens_per_second"] for record in records)
    return timed * records[-1]["tokens"] / tokens


def remark(answer: StudyRecord) -> str | None:
    """A remark about a fine-tuning that failed or learned nothing; None if there is nothing to say."""
    if answer.get("failed"):
        return answer["failed"]
    return "every example gets the same label" if answer.get("degenerate") else None


def best_factor(scores: Mapping[str, float | None], who: str) -> float:
    """The factor with the best score; of equal scores, the factor nearest to 1.

    Raises:
        TrainingError: the runs of all factors diverged.
    """
    found = {float(factor): score for factor, score in scores.items() if score is not None}
    if not found:
        raise TrainingError(f"{who} diverged at every learning rate that was tried: give smaller --factors.")
    return max(found, key=lambda factor: (found[factor], -abs(np.log(factor))))
