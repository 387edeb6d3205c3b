"""Makes the training loop's state and plan from a run's assembled parts, and validates the run."""

import time
from collections.abc import Callable
from statistics import median

import torch

from fast_electra import distributed
from fast_electra.config.tree import Config
from fast_electra.errors import ConfigError
from fast_electra.models.layers import cast_weights
from fast_electra.models.shares import own_share
from fast_electra.objectives.base import Prepared
from fast_electra.training.assembly import Assembled
from fast_electra.training.compilation import choose_compilation, compile_models
from fast_electra.training.graphs import UpdateGraphs
from fast_electra.training.loop import PhaseOfPlan, Plan, make_update
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.outlook import some_weights_are_unused
from fast_electra.training.parallel import Alone, Replicated, Sharded
from fast_electra.training.precision import Execution, synchronize
from fast_electra.training.state import State

# What measures the speed, for a budget in hours: micro-batches of an update, times, and rows of a micro-batch on a CPU.
_SPEED_PIECES, _SPEED_TIMES, _SPEED_ROWS = 3, 3, 16


def start(config: Config, parts: Assembled, execution: Execution) -> tuple[State, Plan]:
    """Make the optimizers, which take float32 masters, and cast the models to the precision's type.

    With several processes the models are wrapped by DDP, or sharded by FSDP2. Then all processes must call this.

    Returns:
        the loop's state at update 0, and its plan.

    Raises:
        ConfigError: the batch cannot be divided among the processes, or the models cannot be compiled as asked.
    """
    objective, exact = parts.objective, execution.reduction == "float32"
    compilation = choose_compilation(config, execution)
    parallel = Alone(objective)
    sharding = distributed.size() > 1 and execution.parallel == "fsdp"
    refuse_uneven(config, sharding)
    if sharding:
        parallel = Sharded(objective, execution, exact)
    unused = distributed.size() > 1 and not sharding and some_weights_are_unused(config, parts, execution)
    optimizers = [GroupOptimizer(group, execution.auxiliary_dtype) for group in objective.parameter_groups()]
    if not sharding:
        for model in objective.models().values():
            cast_weights(model, execution.weights_dtype)
        if distributed.size() > 1:
            parallel = Replicated(objective, execution, unused, exact)
    # After the casts, since another type would be compiled again.
    compile_models([*objective.models().values(), *parts.frozen], compilation)
    graphs = UpdateGraphs() if compilation == "graphs" else None
    return State(objective, optimizers, parallel, graphs=graphs), plan_of(config, parts)


def plan_of(config: Config, parts: Assembled) -> Plan:
    """The loop's plan for a configuration with a number of updates."""
    updates = config.training.updates
    assert updates is not None
    return Plan(
        updates=updates,
        seed=parts.seed,
        micro_batch_size=config.training.rows_at_a_time,
        log_every=config.training.log_every,
        validate_every=config.training.validate_every or updates,
        checkpoint_every=config.training.checkpoint_every,
        most_skipped=config.training.most_skipped,
        spike=config.training.spike,
        phases=[
            PhaseOfPlan(p.start, p.config.training.rows_at_a_time)
            for p in (config.planned_phases() if config.phases else ())
        ],
        own_rates=config.own_rates(),
        enter=parts.rotary.enter,
    )


def batches_of(parts: Assembled, plan: Plan) -> Callable[[int], Prepared]:
    """A pure function from an update, the first of which is 0, to its batch, with what a cache holds for it."""
    return lambda update: parts.objective.prepare(parts.schedule.at(update), plan.seed, plan.progress(update))


def refuse_uneven(config: Config, sharding: bool) -> None:
    """Refuse a batch with fewer rows than processes, and with FSDP2 shares of different sizes.

    FSDP2 gathers weights in every micro-batch, so all processes need the same number of them.
    """
    size = distributed.size()
    for number, phase in enumerate(config.planned_phases(), start=1):
        rows, where = phase.config.training.batch_size, f" in phase {number}" if config.phases else ""
        if rows < size:
            raise ConfigError(
                f"training.batch_size={rows}{where} is less than the {size} processes: give each at least one row."
            )
        if sharding and rows % size:
            raise ConfigError(
                f"training.batch_size={rows}{where} cannot be divided evenly among {size} processes, as "
                f"execution.parallel=fsdp needs: set training.batch_size={-(-rows // size) * size}, or "
                "execution.parallel=ddp."
            )


def measured_seconds(state: State, plan: Plan, parts: Assembled, execution: Execution) -> list[float]:
    """The seconds that an update of each phase takes; `state` is the same afterwards.

    Updates on one and on `_SPEED_PIECES` micro-batches are timed, a few times each, and the time of a whole update
    follows from both. A whole update may take minutes, and Ctrl-C acts between two operations only, so a CPU reads few
    rows at once here.
    """
    # Not on the device, whose memory may be full: `training.micro_batch_size=auto` leaves little.
    before = {name: own_share(tensor).to("cpu", copy=True) for name, tensor in state.tensors().items()}, state.scalars()
    means = []
    for first in parts.schedule.starts:
        rows = len(parts.schedule.at(first).ids)
        piece = min(rows, plan.micro_batch(first))
        if execution.device.type == "cpu":
            piece = min(piece, _SPEED_ROWS)
        several = min(rows, _SPEED_PIECES * piece)

        def seconds(read: int, times: int, first: int = first) -> list[float]:
            spent: list[float] = []
            for update in range(first, first + times):
                state.update = update
                prepared = parts.objective.prepare(parts.schedule.at(update).split(read)[0], plan.seed)
                began = time.perf_counter()
                make_update(state, plan, prepared, execution)
                synchronize(execution.device)
                spent.append(time.perf_counter() - began)
            return spent

        seconds(piece, 1)  # kernels are chosen and memory is allocated
        of_several = median(seconds(several, _SPEED_TIMES))
        of_one = min(of_several, median(seconds(piece, _SPEED_TIMES))) if several < rows else 0.0
        by_row = (of_several - of_one) / (several - piece) if several < rows else 0.0
        means.append(of_several + (rows - several) * by_row)
    for name, tensor in state.tensors().items():
        own_share(tensor).copy_(before[0][name])
    state.restore(0, before[1], execution.device)
    return means


def memory_bytes(state: State) -> dict[str, int]:
    """The bytes that this process needs in every update, whatever the micro-batch; activations come on top.

    Returns:
        `weights` of the models that are trained; `optimizer`: its state, and the masters that are not the weights
        themselves; `gradients`, with the float32 copies that the optimizer reads.
    """
    models = state.objective.models().values()  # type: ignore[attr-defined]
    weights = {id(weight): own_share(weight) for model in models for weight in model.parameters()}
    places = {weight.data_ptr() for weight in weights.values()}
    kept = [share for share in map(own_share, state.tensors().values()) if share.data_ptr() not in places]
    masters = [own_share(master) for optimizer in state.optimizers for master in optimizer.masters.values()]
    types = {weight.dtype for weight in weights.values()} | {torch.float32}
    return {
        "weights": sum(weight.nbytes for weight in weights.values()),
        "optimizer": sum(tensor.nbytes for tensor in kept),
        "gradients": sum(master.numel() * dtype.itemsize for master in masters for dtype in types),
    }


def validate(parts: Assembled, execution: Execution, state: State) -> dict[str, float]:
    """The objective's measures on the validation rows of the phase of the last update, in evaluation mode.

    They are the same on every process. Of a mixture also `loss.NAME` for each source, and `tokens.NAME` and
    `epochs.NAME` that were read of it so far.
    """
    models = parts.objective.models().values()
    phase = parts.schedule.phase(max(0, state.update - 1))
    text = parts.phases[phase]
    for model in models:
        model.eval()
    try:
        with execution.autocast(), torch.compiler.set_stance("force_eager"):
            batches = [batch.to(execution.device) for batch in text.validation]
            found = parts.objective.validate(batches, seed=0)
            starts = text.validation_starts
            for name, start, stop in zip(text.shards.mixture, starts, starts[1:], strict=False):
                own = [b for b in batches if start <= int(b.batch.indices[0]) < stop]
                if any(bool(batch.batch.eligible.any()) for batch in own):
                    found[f"loss.{name}"] = parts.objective.validate(own, seed=0)["loss"]
    finally:
        for model in models:
            model.train()
    state.look()
    return found | _read(parts, state, phase)


def _read(parts: Assembled, state: State, phase: int) -> dict[str, float]:
    """What the run has read so far of each source of a phase's mixture, in this phase and in those with its shards."""
    shards, schedule = parts.phases[phase].shards, parts.schedule
    tokens, epochs, whole = [0] * len(shards.mixture), [0.0] * len(shards.mixture), 0
    for number, (text, of_phase) in enumerate(zip(parts.phases, schedule.phases, strict=True)):
        counts, length = schedule.read_of(number, state.update), of_phase.rows.length
        whole += sum(counts) * length
        if text.shards is shards and shards.mixture:
            tokens = [before + count * length for before, count in zip(tokens, counts, strict=True)]
            passes = (count / there for count, there in zip(counts, of_phase.rows.counts, strict=True))
            epochs = [before + more for before, more in zip(epochs, passes, strict=True)]
    read = zip(shards.mixture, tokens, strict=True)
    found = {f"tokens.{name}": float(round(state.tokens * count / max(1, whole))) for name, count in read}
    return found | {f"epochs.{name}": value for name, value in zip(shards.mixture, epochs, strict=True)}
