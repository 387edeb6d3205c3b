"""Curves over the updates of a configuration, planned and as a run had them: temperature or strength, learning rate.

Notable: a plan has the format of a run's records (`metrics.jsonl`), so the same code draws both.
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
PlannedUpdate = dict[str, float]

# Used if only the run knows its number of updates: as many points as a plot can show.
_UNKNOWN_UPDATES = 1000


def planned(config: Config, shares: Sequence[float]) -> list[PlannedUpdate]:
    """Compute temperature or strength, and learning rate, as the schedules plan them.

    Args:
        config: an objective without auxiliary has no curriculum; an adaptive curriculum and one whose T0 is not chosen
            yet (`auto`) cannot be planned.
        shares: of the run, between 0 and 1, ascending.

    Returns:
        a record for the update at each share: `share`, `update` (from 1), and the planned keys of `TITLES`.
    """
    total = config.known_updates or _UNKNOWN_UPDATES
    schedule = config.corruption.schedule
    has_plan = config.objective.uses_auxiliary and schedule.is_planned
    curriculum = config.curriculum(total) if has_plan else None
    own_rates = config.own_rates(total)
    records = []
    for update in dict.fromkeys(min(int(share * total), total - 1) for share in shares):
        decided = curriculum.difficulty(update / total).logged() if curriculum else {}
        rate = learning_rate(config.optimizer, update, total, own_rates)
        records.append({"share": update / total, "update": update + 1.0} | decided | {"learning_rate": rate})
    return records


def schedule_chart(configs: Mapping[str, Config], metrics: Sequence[Mapping[str, Any]] = ()) -> Specification:
    """Draw the planned curves of configurations below each other, and the curves of a run.

    If the schedule of the first configuration has a target difficulty, the run's difficulty is drawn with the target.

    Args:
        configs: {name: configuration}.
        metrics: records of a run; may be empty.

    Returns:
        a Vega-Lite specification.
    """
    places = [number / _UNKNOWN_UPDATES for number in range(_UNKNOWN_UPDATES + 1)]
    plans = {name: planned(config, places) for name, config in configs.items()}
    in_updates = all(config.known_updates for config in configs.values())
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
    """Mean of `rtd_loss_replaced` and `rtd_loss_kept` of the records that have both."""
    fields = ("rtd_loss_replaced", "rtd_loss_kept")
    both = [record for record in metrics if all(field in record for field in fields)]
    return Series("run", [r["update"] for r in both], [sum(r[field] for field in fields) / 2 for r in both])
