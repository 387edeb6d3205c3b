"""Makes the training loop's state and plan from a run's assembled parts, and validates the run."""

from fast_electra.config.tree import Config
from fast_electra.models.layers import cast_weights
from fast_electra.training.assembly import Assembled
from fast_electra.training.loop import Plan, State
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.precision import Execution


def start(config: Config, parts: Assembled, execution: Execution) -> tuple[State, Plan]:
    """Make the optimizers, which copy float32 masters, and only then cast the models to the precision's type.

    Returns:
        the loop's state at update 0, and its plan.
    """
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
