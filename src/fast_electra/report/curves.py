"""The curves of a configuration: temperature or strength, and learning rate, over its updates; and a run's own.

Notable: a plan is written as the records of a run would be (`metrics.jsonl`), so that both are drawn by the same code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fast_electra.config.tree import Config
from fast_electra.report.plots import Series, Specification, line_chart, series_of, stacked
from fast_electra.training.optimizer import learning_rate

TITLES = {
    "temperature": "temperature",
    "dropout": "dropout rate in the auxiliary",
    "attention_dropping": "share of the auxiliary's attention weights dropped",
    "learning_rate": "learning rate",
}
Record = dict[str, float]

# Where the number of updates is known only to the run itself: as fine as a plot can show.
_UNKNOWN_UPDATES = 1000


def known_updates(config: Config) -> int | None:
    """Updates of the run; None where its budget (FLOPs, hours) becomes a number only when it starts."""
    training = config.training
    if training.tokens is not None:
        return max(1, training.tokens // (training.batch_size * config.data.length))
    return training.updates


def planned(config: Config, shares: Sequence[float]) -> list[Record]:
    """What the curriculum and the learning rate's schedule decide.

    Args:
        config: without `fast_electra` as its objective there is no curriculum; an adaptive one, and one whose T0 is
            still to be chosen (auto), can't be planned.
        shares: of the run, in [0, 1], ascending.

    Returns:
        a record for the update at each share: `share`, `update` (from 1), and those of `TITLES` that there are.
    """
    total = known_updates(config) or _UNKNOWN_UPDATES
    schedule = config.corruption.schedule
    has_plan = config.objective.uses_auxiliary and schedule.is_planned
    curriculum = schedule.curriculum(config.corruption.augmentation) if has_plan else None
    records = []
    for update in dict.fromkeys(min(int(share * total), total - 1) for share in shares):
        decided = curriculum.difficulty(update / total).logged() if curriculum else {}
        rate = learning_rate(config.optimizer, update, total)
        records.append({"share": update / total, "update": update + 1.0} | decided | {"learning_rate": rate})
    return records


def schedule_chart(configs: Mapping[str, Config], metrics: Sequence[Mapping[str, Any]] = ()) -> Specification:
    """The planned curves of configurations, by name, below each other; with a run's `metrics`, what it did as well.

    The run's difficulty is drawn beside the target where the first configuration's schedule holds one.
    """
    places = [number / _UNKNOWN_UPDATES for number in range(_UNKNOWN_UPDATES + 1)]
    plans = {name: planned(config, places) for name, config in configs.items()}
    in_updates = all(known_updates(config) for config in configs.values())
    x, x_title = ("update", "update") if in_updates else ("share", "share of the run")
    charts = []
    for field, title in TITLES.items():
        lines = [series_of(records, field, name, x) for name, records in plans.items()]
        if field == "learning_rate":
            lines = list({tuple(line.y): line for line in reversed(lines)}.values())  # equal ones once
        elif metrics:
            lines.append(series_of(metrics, field, "run"))
        if any(lines):
            charts.append(line_chart(lines, y_title=title, x_title=x_title, height=150))
        if field == "temperature" and metrics:
            held = next(iter(configs.values())).corruption.schedule.held_difficulty
            target = {} if held is None else {"target": held}
            line = _difficulty(metrics)
            charts.append(line_chart([line], y_title="difficulty (nats)", smoothing=0.02, reference=target, height=150))
    return stacked(charts)


def _difficulty(metrics: Sequence[Mapping[str, Any]]) -> Series:
    """The mean of `rtd_loss_replaced` and `rtd_loss_kept`, of records that have both."""
    fields = ("rtd_loss_replaced", "rtd_loss_kept")
    both = [record for record in metrics if all(field in record for field in fields)]
    return Series("run", [r["update"] for r in both], [sum(r[field] for field in fields) / 2 for r in both])
