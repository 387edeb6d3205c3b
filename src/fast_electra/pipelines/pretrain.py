"""Pre-training: runs one configuration in one folder, from the start or from the folder's newest checkpoint.

Notable:
- every refusal comes before the first update: data, tokenizer, auxiliary, a folder that holds another run;
- a budget in tokens, FLOPs or hours becomes a number of updates once, at the start, and is recorded;
- the resolved configuration, with everything that was chosen automatically, is `config.yaml`; running it again repeats
  the run;
- a finished run can be extended: it continues from its last checkpoint with schedules over the new number of updates,
  and run.json lists the segments (`runs.folder` describes the run's folder).
"""

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import PreTrainedModel

import fast_electra
from fast_electra import distributed
from fast_electra.config.phases import UNKNOWN_UPDATES
from fast_electra.config.reading import setting
from fast_electra.config.tree import Config
from fast_electra.corruption.cache import open_cache
from fast_electra.data.hub import pinned_sources
from fast_electra.data.locks import folder_lock
from fast_electra.errors import CheckpointError
from fast_electra.models.build import Head
from fast_electra.models.export import export_model
from fast_electra.pipelines.recovery import Session, Trouble, way_out
from fast_electra.publishing.card import earlier_flops, model_card, text_length
from fast_electra.runs.checkpoints import (
    Checkpoint,
    checkpoint_at,
    load_tensors,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.opening import Extend, Finished, New, Resume, open_run
from fast_electra.runs.paths import as_recorded, located, started_from
from fast_electra.stopping import postponed, unbroken
from fast_electra.terminal import Say
from fast_electra.training.assembly import Assembled, assemble
from fast_electra.training.checkpoint_models import read_model, write_models
from fast_electra.training.compilation import CompilationFailed, choose_compilation, naming_failures
from fast_electra.training.internals import InternalsObserver
from fast_electra.training.loop import Diverged, train
from fast_electra.training.micro_batches import largest_micro_batches
from fast_electra.training.optimizer import learning_rate
from fast_electra.training.outlook import flops_per_update, phases_in_words, warnings
from fast_electra.training.precision import Execution, apply_threads, choose_execution
from fast_electra.training.setup import batches_of, measured_seconds, memory_bytes, plan_of, start, validate
from fast_electra.training.state import State
from fast_electra.training.telemetry import MetricsFile, Observer
from fast_electra.training.trackers import TrackerObserver, refuse_missing_trackers
from fast_electra.training.watchdog import Watchdog


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run."""

    folder: Path
    updates: int
    tokens: int
    validation: dict[str, float]
    flops: int
    """FLOPs of the whole run: the matrix products of every part of the step"""
    seconds: float
    """duration of this session, set-up included"""
    fresh: bool
    """False if the run was finished before this session, which then did nothing"""


def pretrain(
    config: Config,
    folder: Path,
    observers: Sequence[Observer] = (),
    say: Say = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    extend: int | None = None,
    observe: Callable[[Assembled], Sequence[Observer]] = lambda _: (),
) -> RunResult:
    """Train a configuration in a folder, or continue the run in that folder.

    Args:
        config: the configuration as the user gave it; `auto` values are filled in.
        folder: a new folder, or the folder of the same run.
        observers: called after each update and with each record.
        say: called with one sentence at a time.
        stop: called after every update; when it returns True, a checkpoint is written and `Interrupted` is raised.
        extend: continue a finished run until it has this number of updates.
        observe: returns further observers, which look at the models themselves (probes). They come first, so that
            they can add to a record before it is written.

    Raises:
        ConfigError, DataError, ModelError: something does not fit, or another process writes the folder; nothing was
            written.
        CheckpointError: the folder holds another run, only damaged checkpoints, or no run that can be extended.
        Interrupted: `stop` returned True; the same call continues the run.
    """
    began = time.perf_counter()
    execution = choose_execution(config.execution)
    refuse_missing_trackers(config.training.trackers)
    if not distributed.is_main():
        say = _say_nothing
    with distributed.connected(execution.device), ExitStack() as stack:
        with distributed.together():
            if distributed.is_main():
                stack.enter_context(folder_lock(folder))
        with distributed.together():  # not before rank 0 holds the lock: this removes what a killed command left
            opened = open_run(folder, as_recorded(config, RunFolder.find(folder)), extend, say)
        if isinstance(opened, Finished):
            say(f"{folder} is finished: {opened.run.result['updates']} updates; nothing to do.")
            return RunResult(folder, seconds=0.0, fresh=False, **opened.run.result)
        result = _run(config, folder, opened, execution, observers, say, stop, observe)
    return RunResult(folder, seconds=time.perf_counter() - began, fresh=True, **result)


def _run(
    config: Config,
    folder: Path,
    opened: New | Resume | Extend,
    execution: Execution,
    observers: Sequence[Observer],
    say: Say,
    stop: Callable[[], bool],
    observe: Callable[[Assembled], Sequence[Observer]],
) -> dict[str, Any]:
    """Train to the end and write the result, which is returned.

    When it returns or raises, no frame that still runs holds the models, so they are freed before the processes part.
    """
    apply_threads(execution)
    if isinstance(opened, New):
        session = _begin(config, folder, execution, say)
    else:
        session = _go_on(config, opened, execution, say)
    recovered: set[int] = set()
    while trouble := _train(session, execution, observers, say, stop, observe, config.training.trackers):
        change = way_out(config, session, trouble, recovered)
        del session  # its memory is needed, and DDP and FSDP2 make cycles
        gc.collect()
        torch.cuda.empty_cache()
        config = change.config
        session = _go_on(config, Resume(change.run), execution, say)
        session.parts.schedule.left_out = change.left_out
        say(f"{change.reason}: the run goes back to update {session.state.update} and {change.what}.")
    with distributed.together(), session.state.parallel.whole_weights():
        validation = session.state.validation or validate(session.parts, execution, session.state)
    with distributed.together():
        result = _finish(session, validation) if distributed.is_main() else {}
    return distributed.from_main(result)


def _say_nothing(_: str) -> None:
    """What processes other than rank 0 say."""


def _train(
    session: Session,
    execution: Execution,
    observers: Sequence[Observer],
    say: Say,
    stop: Callable[[], bool],
    observe: Callable[[Assembled], Sequence[Observer]],
    trackers: Sequence[str],
) -> Trouble | None:
    """Train a session to its end; returns why it has to start again from a checkpoint, if it must."""
    parts, plan, run = session.parts, session.plan, session.run
    metrics = MetricsFile(run.metrics_file, session.state.update, say) if distributed.is_main() else None
    probes = observe(parts) if metrics else []
    writers: list[Observer] = []
    if metrics:
        writers.append(metrics)
        writers += [TrackerObserver(kind, run, session.config, session.state.update, say) for kind in trackers]
        writers += observers
    watchdog = Watchdog(60 * session.config.training.longest_update)
    try:
        with postponed(), watchdog.watching(), naming_failures():
            train(
                session.state,
                plan,
                batches=batches_of(parts, plan),
                validate=lambda: validate(parts, execution, session.state),
                save=lambda state: _save(state, run, session.config, parts, execution, metrics),
                execution=execution,
                observers=[*probes, session.internals, *writers, watchdog],
                stop=stop,
            )
    except (Diverged, torch.OutOfMemoryError) as trouble:
        return trouble.with_traceback(None)  # its frames hold the session
    except CompilationFailed as trouble:
        return CompilationFailed(trouble.reason)
    return None


def _finish(session: Session, validation: dict[str, float]) -> dict[str, Any]:
    """Export the models of the last checkpoint, and record the result, with the last `validation`."""
    run, plan, parts = session.run, session.plan, session.parts
    result = {
        "updates": plan.updates,
        "tokens": session.state.tokens,
        "validation": validation,
        "flops": run.flops(plan.updates),
    }
    # A kill may have come between the last checkpoint and the deletion of earlier ones.
    prune_checkpoints(run.checkpoints, plan.updates, session.config.training.keep_checkpoints)
    checkpoint = checkpoint_at(run.checkpoints, plan.updates)
    for name in parts.objective.models():
        model = read_model(checkpoint, name)
        length = text_length(run.config, name, model, parts.tokenizer, plan.updates)
        card = model_card(run, result, name, model, length)
        export_model(model, parts.tokenizer, run.model(name), card, length)
    run.finish(result)
    return result


def _begin(config: Config, folder: Path, execution: Execution, say: Say) -> Session:
    """Prepare a new run: its budget becomes a number of updates, and its folder is written last."""
    resolved, parts, internals = _assembled(_resolve(config, execution, say), execution, say)
    # Processes count on different rows.
    per_update = [
        distributed.from_main(flops_per_update(resolved, parts, execution, phase)) for phase in range(len(parts.phases))
    ]
    state: State | None = None
    if resolved.training.updates is None:
        if resolved.training.flops is not None:
            updates = resolved.updates_within(resolved.training.flops, per_update)
        else:
            assert resolved.training.hours is not None
            state, plan = start(resolved.with_updates(UNKNOWN_UPDATES), parts, execution)
            say(f"measuring on a few micro-batches how many updates training.hours={resolved.training.hours:g} allows.")
            with naming_failures():
                seconds = measured_seconds(state, plan, parts, execution)
            updates = distributed.from_main(resolved.updates_within(resolved.training.hours * 3600, seconds))
        say(f"the budget is {updates} updates.")
        if config.phases:  # the parts were built for phases that start elsewhere
            del parts, internals, state
            gc.collect()
            state = None
            resolved, parts, internals = _assembled(_resolve(config, execution).with_updates(updates), execution, say)
        else:
            resolved = resolved.with_updates(updates)
        for phase in resolved.planned_phases() if resolved.corruption.cache else ():
            open_cache(cast(Path, phase.config.corruption.cache), verify=False).refuse_short(phase.end)
    for sentence in [*phases_in_words(resolved, per_update), *warnings(config, resolved, parts, execution)]:
        say(sentence)
    if state is None:
        state, _ = start(resolved, parts, execution)
    inputs = (
        _digests(parts) | _about(resolved, parts, execution, per_update, state) | {"started_from": started_from(folder)}
    )
    with distributed.together():
        run = RunFolder.create(folder, config, resolved, inputs)
    return Session(run, resolved, parts, state, plan_of(resolved, parts), internals)


def _go_on(config: Config, opened: Resume | Extend, execution: Execution, say: Say) -> Session:
    """Prepare a run to continue from its newest undamaged checkpoint, or from its start if it has none yet."""
    run = opened.run
    resolved = _resolve(located(config, run, as_given=True), execution, say)
    if run.initial_temperature is not None:
        resolved = resolved.model_copy(update={"corruption": resolved.corruption.with_initial(run.initial_temperature)})
    starts = [cast(int, phase.start) for phase in run.config.phases]  # an extension makes the last phase longer
    if resolved.has_automatic_micro_batch:
        resolved = resolved.with_micro_batches([each.training.rows_at_a_time for each in run.config.each_phase])
    resolved = resolved.with_updates(opened.updates if isinstance(opened, Extend) else run.updates, starts)
    resolved, parts, internals = _assembled(resolved, execution, say)
    run.refuse_other_inputs(**_digests(parts))
    checkpoint = newest_checkpoint(run.checkpoints, say)
    _refuse_lost_segment(opened, checkpoint)
    state, plan = start(resolved, parts, execution)
    if isinstance(opened, Extend):
        say(_extension(resolved, parts, opened))
        run = run.extend(_pinned(as_recorded(resolved, run), parts))
    if checkpoint:
        load_tensors(checkpoint, state.tensors())
        state.restore(checkpoint.update, checkpoint.scalars, execution.device)
        parts.schedule.left_out = checkpoint.scalars.get("left_out", [])
        if distributed.is_main():  # later ones are damaged, and must not count towards those to keep
            prune_checkpoints(run.checkpoints, checkpoint.update, config.training.keep_checkpoints)
        say(f"continuing from update {checkpoint.update} of {plan.updates}.")
        for name, now in _numerics(resolved, execution).items():
            before = run.environment.get(name, now)
            if before != now:
                say(f"{name} is {now} and was {before}: results are no longer bit-identical.")
    return Session(run, resolved, parts, state, plan_of(resolved, parts), internals)


def _assembled(config: Config, execution: Execution, say: Say) -> tuple[Config, Assembled, InternalsObserver]:
    """The configuration with T0 and micro-batches as numbers, the run's parts, and the observer of its models."""
    with distributed.together():
        parts = assemble(config, execution)
    for note in parts.notes:
        say(note)
    if config.has_automatic_micro_batch:
        sizes = largest_micro_batches(config, parts, execution)
        config, parts = config.with_micro_batches(sizes), parts.with_micro_batches(sizes)
        say(f"training.micro_batch_size=auto: {' then '.join(map(str, sizes))} rows go through the model at a time.")
    rows, by_document = parts.validation[0].batch, config.data.attention == "document"
    internals = InternalsObserver(parts.objective.models(), rows, by_document, config.training.log_every, execution)
    return _pinned(config.model_copy(update={"corruption": parts.corruption}), parts), parts, internals


def _pinned(config: Config, parts: Assembled) -> Config:
    """A configuration whose sources have the revisions that the shards were made from."""
    sources = pinned_sources(config.data.sources, parts.shards.manifest["report"]["sources"])
    return config.model_copy(update={"data": config.data.model_copy(update={"sources": sources})})


def _resolve(config: Config, execution: Execution, say: Say = lambda _: None) -> Config:
    """Fill in device, precision, threads and compilation; a budget in tokens becomes a number of updates."""
    training = config.training.model_copy(update={"compile": choose_compilation(config, execution, say)})
    resolved = config.model_copy(update={"execution": execution.settings, "training": training})
    if config.known_updates is None:
        return resolved
    return resolved.with_updates(config.known_updates)


def _save(
    state: State, run: RunFolder, config: Config, parts: Assembled, execution: Execution, metrics: MetricsFile | None
) -> None:
    if metrics:
        metrics.sync()
    models = {name: cast(PreTrainedModel, model) for name, model in parts.objective.models().items()}
    heads: dict[str, Head] = {name: config.objective.head_of(name) for name in models}
    length = text_length(config, "main", models["main"], parts.tokenizer, state.update)

    def write_more(staged: Path) -> None:
        if distributed.is_main():
            run.copy_record(staged)
        write_models(staged, models, heads, state.optimizers, parts.tokenizer, length, execution.weights_dtype)

    with unbroken():
        save_checkpoint(
            run.checkpoints,
            state.update,
            state.tensors(),
            state.scalars() | {"left_out": parts.schedule.left_out},
            config.training.keep_checkpoints,
            write_more,
        )


def _digests(parts: Assembled) -> dict[str, str | None]:
    """The digests of the run's inputs."""
    return {
        "tokenizer": parts.shards.tokenizer_fingerprint,
        "data": parts.data_digest,
        "auxiliary": parts.auxiliary_digest,
        "main": parts.main_digest,
    }


def _about(
    config: Config, parts: Assembled, execution: Execution, flops: Sequence[int], state: State
) -> dict[str, Any]:
    """The keys of run.json besides configurations and digests; `flops` are those of an update of each phase."""
    return {
        "auxiliary_measures": parts.auxiliary_measures,
        "earlier_flops": earlier_flops(config),
        "flops_per_update": flops[0],
        "memory_bytes": memory_bytes(state),
        **({"flops_by_phase": flops} if config.phases else {}),
        "environment": {
            "fast_electra": fast_electra.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **_numerics(config, execution),
        },
    }


def _numerics(config: Config, execution: Execution) -> dict[str, Any]:
    """What the rounding of a run depends on, and what may differ when it continues."""
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        **execution.record(),
        "processes": distributed.size(),
        "compiled": config.training.compile,
    }


def _refuse_lost_segment(opened: Resume | Extend, checkpoint: Checkpoint | None) -> None:
    """Refuse to start an extension from an earlier update than the end of the previous segment."""
    run = opened.run
    first = run.updates if isinstance(opened, Extend) else run.first_update
    if first and (checkpoint is None or checkpoint.update < first):
        raise CheckpointError(
            f"{run.path} has no undamaged checkpoint of update {first}, where its extension starts: continue from its "
            f"exported weights in a new folder with {setting('main.model', run.path)}."
        )


def _extension(config: Config, parts: Assembled, opened: Extend) -> str:
    """A sentence that says how an extension changes the learning rate and the temperature."""
    done, updates = opened.run.updates, opened.updates
    own = opened.run.config.own_rates(), config.own_rates()
    before = {"learning rate": learning_rate(config.optimizer, done - 1, done, own[0])}
    after = {"learning rate": learning_rate(config.optimizer, done, updates, own[1])}
    before |= parts.objective.settings((done - 1) / done)
    after |= parts.objective.settings(done / updates)
    changes = ", ".join(f"{name} from {before[name]:.4g} to {after[name]:.4g}" for name in before)
    return f"extended from {done} to {updates} updates: the schedules are recomputed over all {updates}, {changes}."
