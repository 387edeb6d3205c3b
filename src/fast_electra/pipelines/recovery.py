"""What a run changes when it has to start again from its newest checkpoint.

Notable:
- after a divergence it leaves out the batches, once for each checkpoint;
- where PyTorch cannot compile it trains without, and where memory runs out with fewer rows at a time, if these were
  chosen by the program. The resumed run is the same except for rounding.
"""

from dataclasses import dataclass

import torch

from fast_electra import distributed
from fast_electra.config.tree import Config
from fast_electra.errors import ResourceError
from fast_electra.runs.checkpoints import checkpoint_updates
from fast_electra.runs.folder import RunFolder
from fast_electra.training.assembly import Assembled
from fast_electra.training.compilation import CompilationFailed
from fast_electra.training.internals import InternalsObserver
from fast_electra.training.loop import Diverged, Plan
from fast_electra.training.micro_batches import smaller
from fast_electra.training.state import State

Trouble = Diverged | CompilationFailed | torch.OutOfMemoryError


@dataclass(frozen=True)
class Session:
    """What this process trains: a new run, or a run that it continues."""

    run: RunFolder
    config: Config
    """the resolved configuration, with the number of updates"""
    parts: Assembled
    state: State
    plan: Plan
    internals: InternalsObserver


@dataclass(frozen=True)
class Change:
    """What a run does differently from its newest checkpoint on."""

    config: Config
    """as the user gave it, except for the change"""
    run: RunFolder
    left_out: list[int]
    """the numbers of the batches that are left out"""
    reason: str
    what: str
    """a clause"""


def way_out(config: Config, session: Session, trouble: Trouble, recovered: set[int]) -> Change:
    """Find what to change.

    Args:
        config: the configuration as the user gave it.
        session: the session that met trouble.
        trouble: why it cannot go on.
        recovered: updates of the checkpoints that the run went back to after a divergence; this one may be added.

    Raises:
        Diverged: the run went back to the same checkpoint before.
        CompilationFailed: the user asked for compilation.
        torch.OutOfMemoryError: the user gave the number of rows.
        ResourceError: one row is too much; or there are other processes, which must begin again too.
    """
    run, left_out = session.run, session.parts.schedule.left_out
    if isinstance(trouble, CompilationFailed):
        return Change(_not_compiled(config, trouble), run, left_out, trouble.reason, "trains without compilation")
    if isinstance(trouble, Diverged):
        left_out = _left_out(session, trouble, recovered)
        return Change(config, run, left_out, trouble.reason, f"leaves out {len(left_out)} batches")
    run, what = _with_smaller_micro_batch(config, session, trouble)
    return Change(config, run, left_out, "memory ran out", what)


def _not_compiled(config: Config, failed: CompilationFailed) -> Config:
    """The configuration without compilation.

    Raises:
        CompilationFailed: the user asked for compilation.
    """
    if config.training.compile != "auto":
        raise failed
    return config.model_copy(update={"training": config.training.model_copy(update={"compile": False})})


def _left_out(session: Session, trouble: Diverged, recovered: set[int]) -> list[int]:
    """The numbers of the batches to leave out after going back to the newest checkpoint.

    Args:
        session: the session that diverged.
        trouble: why.
        recovered: updates of the checkpoints that the run went back to before; this one is added.

    Raises:
        Diverged: the run went back to the same checkpoint before.
    """
    schedule = session.parts.schedule
    batches = [schedule.batch_number(update - 1) for update in trouble.updates]
    newest = max(checkpoint_updates(session.run.checkpoints), default=0)
    if newest in recovered:
        if distributed.is_main():
            rows = {batch: schedule.rows_of(batch).tolist() for batch in batches}
            session.run.write_divergence({"reason": trouble.reason, "updates": trouble.updates, "rows": rows})
        raise trouble
    recovered.add(newest)
    return sorted({*schedule.left_out, *batches})


def _with_smaller_micro_batch(config: Config, session: Session, error: torch.OutOfMemoryError) -> tuple[RunFolder, str]:
    """Record a smaller micro-batch for the phase in which memory ran out.

    Returns:
        the run with it, and what changes, as a clause.

    Raises:
        torch.OutOfMemoryError: the user gave the number.
        ResourceError: the micro-batch is one row; or there are other processes, which must begin again too.
    """
    phase = session.plan.phase(session.state.update)
    if config.each_phase[phase].training.micro_batch_size != "auto":
        raise error
    stored = session.run.config
    sizes = [each.training.rows_at_a_time for each in stored.each_phase]
    rows = sizes[phase]
    sizes[phase] = smaller(stored.each_phase[phase].training.batch_size, rows)
    # The others wait in an exchange for this process, whichever it is, until they hear that it has ended.
    with distributed.alone():
        run = session.run.with_resolved(stored.with_micro_batches(sizes))
    if distributed.size() > 1:
        raise ResourceError(
            f"memory ran out with {rows} rows at a time, and {sizes[phase]} are now in {run.path}: start the same "
            "command again, and it continues."
        )
    return run, f"has {sizes[phase]} rows at a time in place of {rows}"
