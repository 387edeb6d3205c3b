"""Trains joint ELECTRA and Fast-ELECTRA for the same seconds, in the time that is left (studies/gpu.yaml)."""

import json
from pathlib import Path
from typing import Any

from fast_electra.studies.grid.running import Listener, read_progress, run_study
from fast_electra.studies.grid.settings import StudyConfig, read_study
from tools.gpu.correctness import ROOT
from tools.gpu.running import Skipped, Trial
from tools.gpu.speed import TINY

_SHARE = 0.08
"""part of the time that a run has; the rest is for building data, measuring speeds and judging"""


def methods(corpus: Path | None, data: Path | None, trial: Trial) -> None:
    """The scores of each method; a method's scores are reported as soon as it is judged.

    Args:
        corpus: text to train on; None: the check is skipped.
        data: folder with some of `NCBI-disease`, `blimp` and `glue`.
        trial: the trial.
    """
    if corpus is None:
        raise Skipped("no text was given by --corpus FILE")
    study = _study(corpus.resolve(), data, trial)
    out, cells = trial.folder / "study", trial.folder / "cells"

    def report(sentence: str = "") -> None:
        print(sentence, flush=True)
        for cell in read_progress(study, cells).records.values():
            scores = {key: value for key, value in cell["scores"].items() if _is_shown(key, study)}
            trial.report({f"{cell['method']}_{key}": value for key, value in scores.items()})

    progress = run_study(study, out, cells, Listener(say=report))
    report()
    failed = "; ".join(progress.failures.values())
    trial.require(not progress.missing, failed or "a method has no result")


def _study(corpus: Path, data: Path | None, trial: Trial) -> StudyConfig:
    """The study on a corpus, with the evaluations whose files are there, and a budget that fits the time."""
    text: dict[str, Any] = {"sources": [str(corpus)]}
    changes: dict[str, Any] = {"budget": {"seconds": max(5, round(_SHARE * trial.seconds))}}
    if trial.tiny:
        text["tokenizer.vocabulary_size"] = 320
        small = {key: value for key, value in TINY.items() if key not in ("data.tokenizer.vocabulary_size",)}
        changes = {"budget": {"updates": 20, "stages": "free"}, "shared": small, "set": {"training.batch_size": 8}}
    changes["stages"] = {"corpus": {"corpus": text}}
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    study = read_study(ROOT / "studies" / "gpu.yaml", overrides)
    evaluate = {name: _with_files(options, data) for name, options in study.evaluate.items()}
    chosen = ("joint", "copied") if trial.tiny else study.methods
    return study.model_copy(
        update={
            "methods": {name: study.methods[name] for name in chosen},
            "evaluate": {name: given for name, given in evaluate.items() if given},
        }
    )


def _with_files(options: dict[str, Any], data: Path | None) -> dict[str, Any] | None:
    """An evaluation with its files in a folder; None if they are not there."""
    if data is None:
        return None
    placed = {
        key: [str(data / each) for each in value] if key == "data" else str(data / value)
        for key, value in options.items()
        if key in ("data", "train", "dev", "test")
    }
    paths = [Path(path) for value in placed.values() for path in ([value] if isinstance(value, str) else value)]
    return options | placed if all(path.exists() for path in paths) else None


def _is_shown(score: str, study: StudyConfig) -> bool:
    return score in ("rtd_auc", "loss") or any(name in score for name in study.evaluate)
