"""Makes the training loop's state and plan from a run's assembled parts, and validates the run."""

from fast_electra import distributed
from fast_electra.config.tree import Config
from fast_electra.errors import ConfigError
from fast_electra.models.layers import cast_weights
from fast_electra.training.assembly import Assembled
from fast_electra.training.loop import Plan, State
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.outlook import some_weights_are_unused
from fast_electra.training.parallel import Alone, Replicated, Sharded
from fast_electra.training.precision import Execution


def start(config: Config, parts: Assembled, execution: Execution) -> tuple[State, Plan]:
    """Make the optimizers, which take float32 masters, and cast the models to the precision's type.

    With several processes the models are wrapped by DDP, or sharded by FSDP2. Then all processes must call this.

    Returns:
        the loop's state at update 0, and its plan.

    Raises:
        ConfigError: the batch cannot be divided among the processes.
    """
    objective, exact = parts.objective, execution.reduction == "float32"
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
    return State(objective, optimizers, parallel), plan_of(config, parts)


def plan_of(config: Config, parts: Assembled) -> Plan:
    """The loop's plan for a configuration with a number of updates."""
    updates = config.training.updates
    assert updates is not None
    return Plan(
        updates=updates,
        seed=parts.seed,
        micro_batch_size=config.training.micro_batch_size or config.training.batch_size,
        log_every=config.training.log_every,
        validate_every=config.training.validate_every or updates,
        checkpoint_every=config.training.checkpoint_every,
        most_skipped=config.training.most_skipped,
        spike=config.training.spike,
    )


def refuse_uneven(config: Config, sharding: bool) -> None:
    """Refuse a batch with fewer rows than processes, and with FSDP2 shares of different sizes.

    FSDP2 gathers weights in every micro-batch, so all processes need the same number of them.
    """
    rows, size = config.training.batch_size, distributed.size()
    if rows < size:
        raise ConfigError(f"training.batch_size={rows} is less than the {size} processes: give each at least one row.")
    if sharding and rows % size:
        raise ConfigError(
            f"training.batch_size={rows} cannot be divided evenly among {size} processes, as execution.parallel=fsdp "
            f"needs: set training.batch_size={-(-rows // size) * size}, or execution.parallel=ddp."
        )


def validate(parts: Assembled, execution: Execution, state: State) -> dict[str, float]:
    """The objective's measures on the run's validation rows, in evaluation mode; the same on every process.

    Of a mixture also `loss.NAME` for each source, and `tokens.NAME` and `epochs.NAME` that were read of it so far.
    """
    models = parts.objective.models().values()
    for model in models:
        model.eval()
    try:
        with execution.autocast():
            batches = [batch.to(execution.device) for batch in parts.validation]
            found = parts.objective.validate(batches, seed=0)
            starts = parts.validation_starts
            for name, start, stop in zip(parts.shards.mixture, starts, starts[1:], strict=False):
                own = [b for b in batches if start <= int(b.batch.indices[0]) < stop]
                if any(bool(batch.batch.eligible.any()) for batch in own):
                    found[f"loss.{name}"] = parts.objective.validate(own, seed=0)["loss"]
    finally:
        for model in models:
            model.train()
    state.look()
    rows = parts.schedule.read(state.update)
    for name, read, there in zip(parts.shards.mixture, rows, parts.schedule.rows.counts, strict=False):
        found[f"tokens.{name}"] = float(round(state.tokens * read / max(1, sum(rows))))
        found[f"epochs.{name}"] = read / there
    return found
