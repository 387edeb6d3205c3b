"""A pre-training run: one configuration, one folder, from a fresh start or from its newest checkpoint.

Notable:
- everything that can be refused is refused before the first update: data, tokenizer, auxiliary, a foreign run folder;
- a budget in tokens, FLOPs or hours becomes a number of updates once, at the start, and is written down;
- the resolved configuration, with everything that was chosen automatically, is `config.yaml`; running it again repeats
  the run;
- a finished run can be extended: it goes on from its last checkpoint with schedules over the new number of updates, and
  `run.json` lists the segments.

A run folder: config.yaml, run.json, metrics.jsonl, checkpoints/, model/, and generator/ of joint ELECTRA or masked_lm/
of corrective language modelling.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

import fast_electra
from fast_electra.config.loading import dump_config
from fast_electra.config.tree import Config
from fast_electra.corruption.schedules import with_initial
from fast_electra.data.files import write_json_atomically, write_text_atomically
from fast_electra.errors import CheckpointError
from fast_electra.models.export import export_model
from fast_electra.models.layers import cast_weights
from fast_electra.training.assembly import Assembled, assemble
from fast_electra.training.card import earlier_flops, model_card
from fast_electra.training.checkpoints import Checkpoint, load_tensors, newest_checkpoint, save_checkpoint
from fast_electra.training.internals import InternalsObserver
from fast_electra.training.loop import Plan, State, make_update, train
from fast_electra.training.optimizer import GroupOptimizer, learning_rate
from fast_electra.training.outlook import flops_per_update, warnings
from fast_electra.training.precision import Execution, apply_threads, choose_execution
from fast_electra.training.telemetry import MetricsFile, Observer, TensorBoard, read_metrics

Say = Callable[[str], None]

_SPEED_UPDATES = 5


@dataclass(frozen=True)
class RunResult:
    """What a finished run found."""

    folder: Path
    updates: int
    tokens: int
    validation: dict[str, float]
    flops: int
    """of the whole run: matrix products of every part of the step"""
    seconds: float
    """of this session's training, set-up included"""
    fresh: bool
    """False when the run had been finished before, and nothing was done"""


def pretrain(
    config: Config,
    folder: Path,
    observers: Sequence[Observer] = (),
    say: Say = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    extend: int | None = None,
    observe: Callable[[Assembled], Sequence[Observer]] = lambda _: (),
) -> RunResult:
    """Run a configuration in a folder, or go on with it there.

    Args:
        config: as the user gave it; `auto` values are filled in.
        folder: the run's; new, or of the same run.
        observers: told of updates and records.
        say: is told one sentence at a time.
        stop: asked after every update; when it says yes, a checkpoint is written and `Interrupted` raised.
        extend: go on with a finished run until it has this many updates in all.
        observe: gives further observers, those that look at the models themselves (probes). They come first, so that
            they can add to a record before it is written.

    Raises:
        ConfigError, DataError, ModelError: something doesn't fit; nothing was written.
        CheckpointError: the folder holds another run, no sound checkpoint, or no run that can be extended.
        Interrupted: stopped on request; the same command goes on.
    """
    began = time.perf_counter()
    record = _read_run(folder)
    if record:
        _refuse_another_version(record, folder)
        _refuse_another(config, record, folder)
    if extend is not None:
        record = _extended(record, extend, folder)
    execution = choose_execution(config.training)
    apply_threads(execution)
    resolved = _resolve(config, record, execution)
    parts = assemble(resolved, execution)
    resolved = resolved.model_copy(update={"corruption": parts.corruption})
    if record:
        _refuse_other_inputs(record, parts, folder)
    if record and record["status"] == "finished":
        say(f"{folder} is finished: {record['result']['updates']} updates; nothing to do.")
        return _result(folder, record, seconds=0.0, fresh=False)
    for note in parts.notes:
        say(note)
    if resolved.training.updates is None:
        resolved = _with_updates(resolved, _updates_for_budget(resolved, parts, execution))
        say(f"the budget is {resolved.training.updates} updates.")
        parts = assemble(resolved, execution)  # the speed was measured on these weights: start afresh
    if not record:
        for sentence in warnings(config, resolved, parts, execution):
            say(sentence)
    checkpoint = newest_checkpoint(folder / "checkpoints", say)
    if record:
        _refuse_lost_segment(record, checkpoint, folder)
    if extend is not None and record:
        say(_extension(resolved, parts, record))
        write_text_atomically(folder / "config.yaml", dump_config(resolved))
        write_json_atomically(folder / "run.json", record)
    training = resolved.training
    rows = parts.validation[0].batch  # the figures of the start are taken here, before a checkpoint is read
    by_document = resolved.data.attention == "document"
    internals = InternalsObserver(parts.objective.models(), rows, by_document, training.log_every, execution)
    state, plan = start(resolved, parts, execution)
    folder.mkdir(parents=True, exist_ok=True)
    if not record:
        write_text_atomically(folder / "config.yaml", dump_config(resolved))
        record = _new_record(config, resolved, parts, execution)
        write_json_atomically(folder / "run.json", record)
    if checkpoint:
        load_tensors(checkpoint, state.tensors())
        state.restore(checkpoint.update, checkpoint.scalars, execution.device)
        say(f"going on from update {checkpoint.update} of {plan.updates}.")
        for name, now in _numerics(execution).items():
            if record["environment"][name] != now:
                say(f"{name} is {now} and was {record['environment'][name]}: no longer bit-identical.")
    flops = plan.updates * flops_per_update(resolved, parts, execution)
    own: list[Observer] = [internals, MetricsFile(folder / "metrics.jsonl", keep_through=state.update)]
    if training.tensorboard:
        own.append(TensorBoard(folder / "tensorboard"))
    train(
        state,
        plan,
        batches=lambda update: parts.objective.prepare(parts.schedule.at(update), plan.seed),
        validate=lambda: validate(parts, execution),
        save=lambda state: _save(state, folder, training.keep_checkpoints),
        execution=execution,
        observers=[*observe(parts), *own, *observers],
        stop=stop,
    )
    records = read_metrics(folder / "metrics.jsonl")
    result = {"updates": plan.updates, "tokens": state.tokens, "validation": records[-1]["validation"], "flops": flops}
    for name, model in parts.objective.models().items():
        assert isinstance(model, PreTrainedModel)
        card = model_card(resolved, record, result, name, model)
        export_model(model, parts.tokenizer, folder / ("model" if name == "main" else name), card)
    record |= {"status": "finished", "result": result}
    write_json_atomically(folder / "run.json", record)
    return _result(folder, record, seconds=time.perf_counter() - began, fresh=True)


def start(config: Config, parts: Assembled, execution: Execution) -> tuple[State, Plan]:
    """Optimizers with float32 masters; after that the models take the precision's type."""
    updates = config.training.updates
    assert updates is not None
    optimizers = [GroupOptimizer(group, execution.auxiliary_dtype) for group in parts.objective.parameter_groups()]
    for model in parts.objective.models().values():
        cast_weights(model, execution.weights_dtype)
    plan = Plan(
        updates=updates,
        seed=parts.seed,
        micro_batch_size=config.training.micro_batch_size or config.training.batch_size,
        log_every=config.training.log_every,
        validate_every=config.training.validate_every or updates,
        checkpoint_every=config.training.checkpoint_every,
    )
    return State(parts.objective, optimizers), plan


def validate(parts: Assembled, execution: Execution) -> dict[str, float]:
    """The objective's measures on the run's validation rows, in evaluation mode."""
    models = parts.objective.models().values()
    for model in models:
        model.eval()
    try:
        with execution.autocast():
            return parts.objective.validate([b.to(execution.device) for b in parts.validation], seed=0)
    finally:
        for model in models:
            model.train()


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a yes from the yielded function; a second one acts as usual."""
    asked = False
    previous: dict[signal.Signals, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for name, handler in previous.items():
            signal.signal(name, handler)

    for name in (signal.SIGINT, signal.SIGTERM):
        previous[name] = signal.signal(name, ask)
    try:
        yield lambda: asked
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _resolve(config: Config, record: dict[str, Any] | None, execution: Execution) -> Config:
    """Fill in what was left to the program; the number of updates only where it is known."""
    chosen = {"device": execution.device.type, "precision": execution.precision, "threads": execution.threads}
    resolved = _replaced(config, config.training.model_dump() | chosen)
    if record:
        chosen = record["resolved"]["corruption"]["schedule"]["initial"]
        corruption = resolved.corruption if chosen == "auto" else with_initial(resolved.corruption, chosen)
        return _with_updates(resolved.model_copy(update={"corruption": corruption}), record["updates"])
    if config.training.tokens is not None:
        per_update = config.training.batch_size * config.data.length
        return _with_updates(resolved, max(1, config.training.tokens // per_update))
    return resolved


def _updates_for_budget(config: Config, parts: Assembled, execution: Execution) -> int:
    """A budget in FLOPs or hours as a number of updates."""
    if config.training.flops is not None:
        return max(1, int(config.training.flops / flops_per_update(config, parts, execution)))
    assert config.training.hours is not None
    state, plan = start(_with_updates(config, 10**6), parts, execution)
    seconds = []
    for update in range(_SPEED_UPDATES + 1):
        began = time.perf_counter()
        make_update(state, plan, parts.objective.prepare(parts.schedule.at(update), plan.seed), execution)
        seconds.append(time.perf_counter() - began)
    return max(1, int(config.training.hours * 3600 / (sum(seconds[1:]) / _SPEED_UPDATES)))


def _with_updates(config: Config, updates: int) -> Config:
    return _replaced(
        config, config.training.model_dump() | {"updates": updates, "tokens": None, "flops": None, "hours": None}
    )


def _replaced(config: Config, training: dict[str, Any]) -> Config:
    return config.model_copy(update={"training": type(config.training).model_validate(training)})


def _save(state: State, folder: Path, keep: int) -> None:
    save_checkpoint(folder / "checkpoints", state.update, state.tensors(), state.scalars(), keep)


def _read_run(folder: Path) -> dict[str, Any] | None:
    if (folder / "run.json").exists():
        record = json.loads((folder / "run.json").read_text())
        # What runs of earlier versions lack.
        return {"segments": [{"from": 0, "updates": record["updates"]}], "main": None, "earlier_flops": {}} | record
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            f"{folder} holds something that is no run of this program: choose an empty or new folder."
        )
    return None


def _new_record(config: Config, resolved: Config, parts: Assembled, execution: Execution) -> dict[str, Any]:
    return {
        "status": "started",
        "requested": config.model_dump(mode="json"),
        "resolved": resolved.model_dump(mode="json"),
        "updates": resolved.training.updates,
        "segments": [{"from": 0, "updates": resolved.training.updates}],
        "data": parts.shards.fingerprint,
        "tokenizer": parts.shards.tokenizer_fingerprint,
        "auxiliary": parts.auxiliary_digest,
        "auxiliary_measures": parts.auxiliary_measures,
        "main": parts.main_digest,
        "earlier_flops": earlier_flops(resolved),
        "environment": {
            "fast_electra": fast_electra.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **_numerics(execution),
        },
    }


def _numerics(execution: Execution) -> dict[str, Any]:
    """What the rounding of a run depends on besides its configuration."""
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": execution.device.type,
        "precision": execution.precision,
        "threads": execution.threads,
    }


def _extended(record: dict[str, Any] | None, updates: int, folder: Path) -> dict[str, Any]:
    """The record of a run that goes on to `updates`; the same record when it is on its way there already."""
    if record is None:
        raise CheckpointError(f"{folder} holds no run to extend: run it without --extend first.")
    if record["updates"] == updates and len(record["segments"]) > 1:
        return record
    if record["status"] != "finished":
        raise CheckpointError(
            f"{folder} has not finished its {record['updates']} updates, and only a finished run can be extended: "
            "run the same command without --extend first."
        )
    if updates <= record["updates"]:
        raise CheckpointError(
            f"{folder} has {record['updates']} updates already: --extend takes the new number in all, a larger one."
        )
    resolved = record["resolved"] | {"training": record["resolved"]["training"] | {"updates": updates}}
    segment = {"from": record["updates"], "updates": updates}
    return record | {
        "status": "started",
        "resolved": resolved,
        "updates": updates,
        "segments": [*record["segments"], segment],
    }


def _refuse_lost_segment(record: dict[str, Any], checkpoint: Checkpoint | None, folder: Path) -> None:
    """An extension starts where the segment before it ended; from an earlier update it would be another run."""
    first = record["segments"][-1]["from"]
    if first and (checkpoint is None or checkpoint.update < first):
        raise CheckpointError(
            f"{folder} has no sound checkpoint of update {first}, where its extension starts: continue from its "
            f"exported weights in a new folder with main.model={folder}."
        )


def _extension(config: Config, parts: Assembled, record: dict[str, Any]) -> str:
    """What an extension does to the schedules, in a sentence."""
    done, updates = (record["segments"][-1][key] for key in ("from", "updates"))
    before = {"learning rate": learning_rate(config.optimizer, done - 1, done)}
    after = {"learning rate": learning_rate(config.optimizer, done, updates)}
    before |= parts.objective.settings((done - 1) / done)
    after |= parts.objective.settings(done / updates)
    changes = ", ".join(f"{name} from {before[name]:.4g} to {after[name]:.4g}" for name in before)
    return f"extended from {done} to {updates} updates: the schedules are recomputed over all {updates}, {changes}."


def _refuse_another(config: Config, record: dict[str, Any], folder: Path) -> None:
    asked = _flat(config.model_dump(mode="json"))
    stored = [_flat(record[name]) for name in ("requested", "resolved")]
    if asked in stored:
        return
    differing = [
        f"{key} is {asked.get(key)} and was {stored[0].get(key)}"
        for key in sorted(asked | stored[0])
        if asked.get(key) != stored[0].get(key)
    ]
    raise CheckpointError(
        f"{folder} holds another run: {'; '.join(differing[:5])}"
        + (f"; and {len(differing) - 5} more" if len(differing) > 5 else "")
        + "; choose another folder"
        + (", or go on with a finished run by --extend." if differing[0].startswith("training.updates") else ".")
    )


def _refuse_another_version(record: dict[str, Any], folder: Path) -> None:
    """A minor version may draw other batches and have other settings: a run of another one can't be gone on with."""
    began = record["environment"]["fast_electra"]
    if began.split(".")[:2] != fast_electra.__version__.split(".")[:2]:
        raise CheckpointError(
            f"{folder} is a run of fast-electra {began}, and this is {fast_electra.__version__}, whose batches and "
            f"settings differ: go on with fast-electra {began}, or start in a new folder"
            + (f"; main.model={folder} continues from its weights." if record["status"] == "finished" else ".")
        )


def _refuse_other_inputs(record: dict[str, Any], parts: Assembled, folder: Path) -> None:
    for name, now in (
        ("tokenizer", parts.shards.tokenizer_fingerprint),
        ("data", parts.shards.fingerprint),
        ("auxiliary", parts.auxiliary_digest),
        ("main", parts.main_digest),
    ):
        if record[name] != now:
            raise CheckpointError(
                f"{folder} was started with another {name} (digest {str(record[name])[:12]}, now {str(now)[:12]}): "
                "put the old one back, or choose another folder."
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _result(folder: Path, record: dict[str, Any], seconds: float, fresh: bool) -> RunResult:
    return RunResult(folder=folder, seconds=seconds, fresh=fresh, **record["result"])
