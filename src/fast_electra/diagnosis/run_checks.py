"""Checks on a run's folder, its data and its exported models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import PreTrainedModel

from fast_electra.config.tree import Config
from fast_electra.data.files import differing_parts
from fast_electra.data.shards import open_shards
from fast_electra.diagnosis.curve_checks import Curves, Finding, plateau_finding
from fast_electra.diagnosis.internal_checks import judge
from fast_electra.errors import UserError
from fast_electra.models.loading import load_model
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.runs.paths import located
from fast_electra.training.assembly import Assembled
from fast_electra.training.internals import measure, weight_figures
from fast_electra.training.outlook import MOST_EPOCHS

_TOKENS = 2_000_000  # number of the corpus's first tokens that estimate its entropy


@dataclass(frozen=True)
class Run:
    """A run's folder and its curves."""

    folder: RunFolder
    curves: Curves

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.curves.config


def read_run(folder: Path) -> Run:
    """Read a run's folder and its metrics.

    Raises:
        CheckpointError: the folder is no run, or a run of another version.
    """
    found = load_run(folder)
    return Run(found, Curves(located(found.config, found), found.updates, found.metrics()))


def progress(run: Run) -> Finding:
    """How far the run is; a warning if it stopped before its first record."""
    if not run.curves.records:
        every = run.config.training.log_every
        remedy = (
            "read what the run printed when it stopped; if the loss was not finite in the first updates, lower "
            "optimizer.learning_rate or raise optimizer.warmup"
        )
        normal = f"a line of metrics.jsonl every {every} updates"
        return Finding("progress", "warning", "no record of metrics", normal, remedy)
    done = f"{run.folder.status}, update {run.curves.records[-1]['update']:,} of {run.curves.updates:,}"
    return Finding("progress", "ok", done)


def unigram_entropy(run: Run) -> list[Finding]:
    """Compare the masked language model's loss with the entropy of the corpus's token frequencies.

    A model that has learned the frequencies, but nothing about context, has this loss. It is the second sign of the
    unigram plateau.
    """
    field = run.config.objective.mlm_loss
    found = run.curves.latest(field, "masked_accuracy")
    shards = _shards(run)
    if found is None or found[0] < 0.1 or shards is None:
        return []
    stream = shards.split("train")
    counts = np.bincount(stream.read(0, min(stream.tokens, _TOKENS)), minlength=shards.vocabulary_size).astype(float)
    counts[list(shards.special_tokens.values())] = 0
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    done, loss = found[0], found[1][field]
    measured, normal = f"MLM loss {loss:.2f} nats, the corpus's unigram entropy {entropy:.2f}", "clearly below it"
    if loss < 0.97 * entropy:
        return [Finding("unigram entropy", "ok", measured, normal)]
    remedy = "the same as for the unigram plateau: train longer, or raise the learning rate"
    return [Finding("unigram entropy", "problem" if done >= 0.5 else "warning", measured, normal, remedy)]


def repetition(run: Run) -> list[Finding]:
    """Check how often the whole run sees each token of the corpus.

    BERT saw its corpus about 40 times (arXiv 1810.04805, appendix A.2), each sequence under ten masks; here every epoch
    has new masks. Causal language models, which have no masks, lose nothing up to 4 epochs and gain nothing after about
    40 (Muennighoff et al., arXiv 2305.16264).
    """
    shards = _shards(run)
    if shards is None:
        return [Finding("repetition", "skipped", f"no shards at {run.config.data.shards}")]
    corpus = shards.split("train").tokens
    planned = run.config.planned_phases(run.curves.updates)
    rows = [
        (phase.stop - phase.start) * phase.config.training.batch_size * phase.config.data.length
        for phase in planned
        if phase.config.data.shards == run.config.data.shards
    ]
    epochs = sum(rows) / corpus
    measured = f"{epochs:.1f} epochs of {corpus:,} tokens"
    normal = f"at most {MOST_EPOCHS} (BERT: about 40)"
    if epochs <= MOST_EPOCHS:
        return [Finding("repetition", "ok", measured, normal)]
    remedy = "give more text, or train a smaller model for fewer updates"
    return [Finding("repetition", "warning", measured, normal, remedy)]


def unchanged_inputs(run: Run, parts: Assembled) -> list[Finding]:
    """Check by digests that auxiliary and data are the same as at the start of the run."""
    findings = []
    for name, now in (("auxiliary", parts.auxiliary_digest), ("data", parts.data_digest)):
        before = run.folder.digest(name)
        if before is None or now is None:
            continue
        differing = differing_parts(before, now)
        at_start, at_end = differing or (before[:12], "")
        measured = f"digest {at_start} at the start" + (f", {at_end} now" if differing else "")
        normal = "the same from start to end" + (", because it is frozen" if name == "auxiliary" else "")
        if differing is None:
            findings.append(Finding(f"{name} unchanged", "ok", measured, normal))
        else:
            remedy = f"restore the old {name}, or start again in another folder: this run's curves mix two of them"
            findings.append(Finding(f"{name} unchanged", "problem", measured, normal, remedy))
    return findings


def exported_model(run: Run, parts: Assembled) -> list[Finding]:
    """Check a finished run's exported models with `internal_checks`, if an earlier version wrote no `internals`."""
    if any("internals" in record for record in run.curves.records):
        return []
    findings: list[Finding] = []
    models = parts.objective.models()
    for name, fresh in models.items():
        folder = run.folder.model(name)
        if not folder.exists():
            continue
        head = run.config.objective.head_of(name)
        rows, by_document = parts.validation[0].batch, run.config.data.attention == "document"
        start = weight_figures(cast(PreTrainedModel, fresh), rows)
        figures = measure(load_model(folder, head), rows, by_document, start)
        findings += judge(figures, 1.0, name if len(models) > 1 else "", "its exported model")
    return findings


def auxiliary_plateau(run: Run, parts: Assembled) -> list[Finding]:
    """Compare the frozen auxiliary's masked accuracy on the run's validation text with the unigram baseline's."""
    measures = parts.auxiliary_measures
    if not measures or run.config.auxiliary.is_baseline:  # a baseline cannot be above itself
        return []
    accuracy, unigram = measures["masked_accuracy"], measures["unigram_accuracy"]
    return [plateau_finding("auxiliary plateau", accuracy, unigram, progress=1.0)]


def _shards(run: Run) -> Any:
    """The run's shards, without verification of their bytes; None if they are not available."""
    try:
        return open_shards(run.config.data.shards, verify=False) if run.config.data.shards else None
    except (UserError, OSError):
        return None
