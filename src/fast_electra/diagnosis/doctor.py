"""`fast-electra doctor`: is a run learning, and if not, why? Some checks also give warnings during training.

Notable:
- `curve_checks` and `internal_checks` look at metric records, `run_checks` at the folder and its data, `part_checks` at
  the parts, which are built again;
- the run does not change: the parts are built in float32 on the CPU, and one batch goes through them;
- if something is missing (shards moved, an auxiliary deleted), a finding says so, and the checks that need it are
  skipped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fast_electra import distributed
from fast_electra.config.tree import Config, ExecutionConfig
from fast_electra.diagnosis.curve_checks import CURVE_CHECKS, Curves, Finding
from fast_electra.diagnosis.internal_checks import inside
from fast_electra.diagnosis.part_checks import (
    auxiliary_is_frozen,
    labels_stay_out,
    parameter_groups,
    tensor_names,
    weights_move,
)
from fast_electra.diagnosis.run_checks import (
    auxiliary_plateau,
    exported_model,
    progress,
    read_run,
    repetition,
    unchanged_inputs,
    unigram_entropy,
)
from fast_electra.errors import CheckpointError, UserError
from fast_electra.runs.checkpoints import newest_checkpoint
from fast_electra.runs.metrics import Record
from fast_electra.training.assembly import assemble
from fast_electra.training.precision import choose_execution
from fast_electra.training.telemetry import QuietObserver

_ROWS = 8  # rows of the batch that goes through the parts
_CHECKS = (*CURVE_CHECKS, inside)


@distributed.alone()
def examine(folder: Path) -> list[Finding]:
    """Run every check on a run's folder; the run may be unfinished. Under a launcher each process does all of it.

    Raises:
        CheckpointError: the folder is no run, or a run of another version.
    """
    run = read_run(folder)
    findings = [progress(run)]
    for check in _CHECKS:
        findings += check(run.curves)
    findings += [*unigram_entropy(run), *repetition(run)]
    try:
        parts = assemble(*_on_cpu(run.config))
    except (UserError, OSError) as error:
        reason = f"the run's parts cannot be built here: {str(error).rstrip('.')}"
        remedy = "run the command where data and auxiliary are available"
        return [*findings, Finding("parts", "skipped", reason, remedy=remedy)]
    prepared = parts.objective.prepare(parts.schedule.at(0).split(_ROWS)[0], parts.seed)
    try:
        checkpoint = newest_checkpoint(run.folder.checkpoints, say=lambda _: None)
    except CheckpointError as error:
        checkpoint = None
        findings.append(Finding("weights", "problem", str(error).rstrip("."), "an undamaged checkpoint"))
    findings += exported_model(run, parts)
    findings += unchanged_inputs(run, parts)
    findings += auxiliary_plateau(run, parts)
    findings += auxiliary_is_frozen(parts.objective, tensor_names(checkpoint) if checkpoint else ())
    findings += parameter_groups(parts.objective)
    findings += labels_stay_out(parts.objective, prepared)
    if checkpoint:
        findings += weights_move(
            parts.objective, checkpoint, run.curves.updates, continued=run.config.main.model is not None
        )
    return findings


class DoctorObserver(QuietObserver):
    """Prints warnings about the curves while a run trains, once for each check.

    The checks run at every validation and whenever the number of records has grown by a twentieth; besides validations
    that is some dozens of times in the longest run.
    """

    def __init__(self, config: Config, say: Callable[[str], None]):
        """`config` is the run's; `say` is called with one sentence at a time."""
        self._config, self._say = config, say
        self._updates = 0
        self._records: list[Record] = []
        self._next_look = 1.0
        self._told: set[str] = set()

    def started(self, update: int, updates: int) -> None:
        """Store the run's number of updates."""
        self._updates = updates

    def logged(self, record: Record) -> None:
        """Store the record, and run the checks if it is time."""
        self._records.append(record)
        if len(self._records) < self._next_look and "validation" not in record:
            return
        self._next_look = 1.05 * len(self._records) + 1
        curves = Curves(self._config, self._updates, self._records)
        for check in _CHECKS:
            for finding in check(curves):
                if finding.severity in ("warning", "problem") and finding.check not in self._told:
                    self._told.add(finding.check)
                    self._say(f"{finding.severity}: {finding.sentence()}.")


def _on_cpu(config: Config) -> tuple[Config, Any]:
    execution = ExecutionConfig(device="cpu", precision="float32")
    return config.model_copy(update={"execution": execution}), choose_execution(execution)
