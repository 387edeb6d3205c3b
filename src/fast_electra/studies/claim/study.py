"""Tests the paper's claim: compares masked language models, joint ELECTRA and Fast-ELECTRA at equal training time.

The steps for each corpus:
  shards → speed of every method → auxiliaries → learning rates → runs → evaluation → a page

Notable:
- the clock decides nothing inside a run: the speed of all methods is measured first, in turns in one process, and a
  budget in seconds becomes a number of updates. The results give the seconds of the budget and those that a run took;
- Fast-ELECTRA takes part twice: with its auxiliary for free (one auxiliary serves many runs), and with the auxiliary's
  seconds subtracted from its own. Every seed has another auxiliary, so the intervals include the auxiliary's variation;
- learning rates are chosen with a seed that no result uses, on validation text of pre-training;
- every result is stored: a run is an ordinary run folder whose name has a digest of its configuration, an answer is a
  cell in the run's `evaluation/`. The same command continues where it was stopped; when all is done, it only prints;
- intervals are Student's over pre-training seeds, and differences are paired by seed. A difference is not decided if
  its interval contains 0, or if it is below the minimal detectable difference.

    OUT/corpora/      unpacked text, token shards
    OUT/calibration.json, OUT/lr.json
    OUT/runs/         METHOD-CORPUS-SEED-DIGEST
    OUT/results.json, OUT/claim.md, OUT/claim.html, OUT/claim.svg
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from fast_electra.config.loading import load_config
from fast_electra.data.files import write_json_atomically, write_text_atomically
from fast_electra.data.locks import folder_lock
from fast_electra.report.claim_page import chart_of, markdown_of, page_of
from fast_electra.report.plots import save_svg
from fast_electra.studies.claim.corpora import StudyCorpus, StudyRecord
from fast_electra.studies.claim.methods import METHODS, Study
from fast_electra.studies.claim.trial import Listener, Trial
from fast_electra.training.precision import Execution, choose_execution


def claim(study: Study, corpora: Sequence[StudyCorpus], out: Path, command: str, listener: Listener) -> StudyRecord:
    """Train and evaluate every run that is missing, and write results.json, claim.md, claim.html and claim.svg.

    Args:
        study: the study's settings.
        corpora: corpora with different names.
        out: the study's folder.
        command: the command that repeats the study, for the page.
        listener: receives progress and can stop the study.

    Returns:
        the content of results.json. Its figures are rounded as in claim.md; the runs contain exact figures.

    Raises:
        UserError: a run, an auxiliary or a task cannot be made or used.
        Interrupted: the listener stopped the study; the same command continues.
    """
    execution = choose_execution(load_config("quickstart", study.overrides).execution)
    out = out.resolve()
    with folder_lock(out):
        return _claim(study, corpora, out, command, listener, execution)


def _claim(
    study: Study, corpora: Sequence[StudyCorpus], out: Path, command: str, listener: Listener, execution: Execution
) -> StudyRecord:
    """`claim` in a folder that no other process writes."""
    results: StudyRecord = {
        "command": command,
        "seconds": study.seconds,
        "auxiliary_seconds": round(study.auxiliary_seconds, 1),
        "seeds": list(study.seeds),
        "choosing_seed": study.choosing_seed,
        "choosing_seconds": round(study.choosing_seconds, 1),
        "machine": {
            "device": f"{execution.device.type} {torch.backends.cpu.get_cpu_capability()}",
            "precision": execution.precision,
            "threads": execution.threads,
        },
        "versions": {name: version(name) for name in ("fast-electra", "torch", "transformers", "scikit-learn")},
        "methods": {METHODS[name].title: METHODS[name].overrides for name in study.methods},
        "corpora": [Trial(study, corpus, out, execution, listener).results() for corpus in corpora],
    }
    write_json_atomically(out / "results.json", results)
    write_text_atomically(out / "claim.md", markdown_of(results))
    write_text_atomically(out / "claim.html", page_of(results))
    save_svg(chart_of(results), out / "claim.svg")
    return results
