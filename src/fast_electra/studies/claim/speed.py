"""Updates per second of the claim study's methods, measured in turns in one process."""

from collections.abc import Callable, Mapping

from fast_electra.config.tree import Config
from fast_electra.stopping import Interrupted
from fast_electra.studies.bench.parts import Trained
from fast_electra.studies.bench.rates import interval
from fast_electra.studies.bench.setup import with_settings
from fast_electra.training.assembly import assemble
from fast_electra.training.precision import Execution, apply_threads


def time_updates(
    configs: Mapping[str, Config],
    execution: Execution,
    rounds: int,
    updates: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, float]]:
    """Measure the updates per second of several configurations, in turns in this process.

    Args:
        configs: the configurations by name.
        execution: device and precision of all of them.
        rounds: number of turns of each configuration; each round begins with another configuration.
        updates: number of timed updates in a turn, after one update that is not timed.
        stop: called before each turn; if it returns True, `Interrupted` is raised.

    Returns:
        for each name `median` over the turns, and `low` and `high` of its 95 % bootstrap interval.

    Raises:
        Interrupted: `stop` returned True.
    """
    apply_threads(execution)
    parts: dict[str, Trained] = {}
    for name, config in configs.items():
        config = with_settings(config, training={"updates": 10**6})
        assembled = assemble(config, execution)
        parts[name] = Trained(config, assembled, assembled.objective, execution)
    found: dict[str, list[float]] = {name: [] for name in parts}
    names = list(parts)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if stop():
                raise Interrupted("stopped while measuring the speed")
            found[name].append(updates / parts[name].run(updates).seconds)
    return {name: interval(values) for name, values in found.items()}
