"""The claim put to the test: masked language models, joint ELECTRA and Fast-ELECTRA at equal seconds of training.

In this order, for each corpus:
  shards → updates a second of every method → auxiliaries → learning rates → runs → what they are worth → a page

Notable:
- no clock decides inside a run: the speed of all methods is measured first, in turns in one process, and a budget in
  seconds becomes a number of updates; the seconds that a run then took stand beside those that it was given;
- Fast-ELECTRA is there twice: its auxiliary for free, as where one serves many runs, and its auxiliary's seconds taken
  off its own. Every seed has an auxiliary of its own, so that the auxiliary's luck is in the intervals;
- learning rates are chosen from a seed that nothing is judged by, on validation text of pre-training;
- everything is kept: a run is an ordinary run folder named after its configuration, an answer a cell in its
  `evaluation/`. The same command goes on where it was stopped, and then only prints;
- intervals are Student's over pre-training seeds, differences are seed by seed; what is within the minimal detectable
  difference, or whose interval holds 0, is not decided.

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
from fast_electra.report.claim_page import chart_of, markdown_of, page_of
from fast_electra.report.plots import save_svg
from fast_electra.studies.claim.corpora import Corpus, Record
from fast_electra.studies.claim.methods import METHODS, Study
from fast_electra.studies.claim.trial import Listener, Trial
from fast_electra.training.precision import choose_execution


def claim(study: Study, corpora: Sequence[Corpus], out: Path, command: str, listener: Listener) -> Record:
    """Train and judge what is not there yet, and write results.json, claim.md, claim.html and claim.svg.

    Args:
        study: what to do.
        corpora: different names.
        out: the study's folder.
        command: that repeats it, for the page.
        listener: is told of progress.

    Returns:
        the content of results.json: everything in it is in claim.md too, rounded as there; what is not rounded is in
        the runs.

    Raises:
        UserError: a run, an auxiliary or a task can't be made or used.
        Interrupted: stopped on request; the same command goes on.
    """
    execution = choose_execution(load_config("quickstart", study.overrides).execution)
    out = out.resolve()
    results: Record = {
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
