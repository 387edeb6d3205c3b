"""The length and cost of a study's runs before they are trained, by formula.

Notable: FLOPs are those of matrix products, forward and backward (three forward passes). They need neither the shards
nor a measurement. Seconds are known only where a kind of run was measured (rates.py).
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fast_electra.config.tree import Config
from fast_electra.models.shapes import ShapeConfig
from fast_electra.report.figures import duration
from fast_electra.studies.cost import row_flops
from fast_electra.studies.grid.plan import CorpusNode, Rate, RunNode, stages_of
from fast_electra.studies.grid.rates import known_rates
from fast_electra.studies.grid.running import read_progress
from fast_electra.studies.grid.settings import StudyConfig

_GPU = "H100"
_GPU_RATE = 0.4 * 989e12
"""FLOPs per second of a GPU: 40 % of the data sheet's rate"""


def planned_costs(study: StudyConfig, cells: Path) -> dict[str, Any]:
    """List the runs and stages of a study with their updates, tokens, FLOPs and seconds.

    Returns:
        `runs`: one mapping for each; `seconds` is None where the speed is not known, and `updates` where it is needed;
        `sentences`: the totals.

    Raises:
        ConfigError: a setting can't be.
    """
    progress = read_progress(study, cells)
    rates, plan = known_rates(cells), progress.plan
    waits_for_speed = study.budget is not None and study.budget.unit in ("seconds", "flops")
    unmeasured = plan.unmeasured if waits_for_speed else set()
    nodes = _with_stages([cell.node for cell in plan.all], set(progress.records))
    runs = [_row(node, is_done, unmeasured, rates) for node, is_done in nodes]
    return {"runs": runs, "sentences": _sentences(study, runs)}


def _with_stages(runs: list[RunNode], done: set[str]) -> list[tuple[RunNode, bool]]:
    """Runs and the stages that are trained for them, each once, and whether nothing of it is left to do."""
    needed: dict[str, bool] = {}
    nodes: dict[str, RunNode] = {}
    for run in runs:
        for node in (*(s for s in stages_of(run) if isinstance(s, RunNode) and not s.is_cache), run):
            nodes[node.name] = node
            needed[node.name] = needed.get(node.name, False) or run.name not in done
    return [(node, not needed[name]) for name, node in nodes.items()]


def _row(node: RunNode, is_done: bool, unmeasured: Collection[str], rates: dict[str, Rate]) -> dict[str, Any]:
    config = node.config(Path())
    row: dict[str, Any] = {"run": node.label, "done": is_done, "updates": config.known_updates}
    row |= dict.fromkeys(("tokens", "flops", "seconds"))
    if unmeasured and any(one.pace in unmeasured for one in (node, *stages_of(node)) if isinstance(one, RunNode)):
        return row | {"updates": None}
    if (updates := config.known_updates) is None:
        return row
    rows = [((p.stop - p.start) * p.config.training.batch_size, p.config) for p in config.planned_phases()]
    return row | {
        "tokens": sum(count * phase.data.length for count, phase in rows),
        "flops": sum(count * _flops_per_row(node, phase) for count, phase in rows),
        "seconds": updates / rates[node.pace].updates_per_second if node.pace in rates else None,
    }


def _sentences(study: StudyConfig, runs: list[dict[str, Any]]) -> list[str]:
    left = [run for run in runs if not run["done"]]
    found = [f"{len(runs)} runs and stages, of which {len(runs) - len(left)} are done."]
    flops = sum(run["flops"] or 0 for run in left)
    if flops:
        time = duration(flops / _GPU_RATE)
        found.append(f"{flops:.2g} FLOPs are left: {time} of one {_GPU} at 40 % of its data sheet's rate.")
    if any(run["updates"] is None for run in left):
        unit = study.budget.unit if study.budget else "updates"
        found.append(f"The budget in {unit} becomes updates when the study starts: it then measures each kind of run.")
    if (known := [run["seconds"] for run in left if run["seconds"] is not None]) and len(known) == len(left):
        found.append(f"About {sum(known) / 3600:,.3g} hours of training at the measured speeds, without evaluations.")
    if study.tune is not None:
        found.append("Runs whose setting is chosen by trials are listed when the trials are done.")
    return found


def _flops_per_row(node: RunNode, config: Config) -> int:
    """FLOPs of training on one row, without those of the optimizer."""
    length = config.data.length
    corpus = node.needs.get("data.shards")
    data = corpus.data if isinstance(corpus, CorpusNode) else config.data
    size = data.tokenizer.vocabulary_size
    masked = max(1, round(config.corruption.masking.rate * length))
    objective = config.objective
    main = _shape(node, "main.model", config.main)
    if not objective.detects:
        return 3 * row_flops(main, "mlm", size, length, masked)
    total = 3 * row_flops(main, "rtd", size, length, length)
    if objective.generator_shape is not None:
        generator = _shape(node, "objective.generator.model", objective.generator_shape)
        return total + 3 * row_flops(generator, "mlm", size, length, masked)
    if objective.uses_auxiliary and not config.auxiliary.is_counted and not config.corruption.replays:
        auxiliary = node.needs.get("auxiliary.model")
        if isinstance(auxiliary, RunNode):
            total += row_flops(
                _shape(auxiliary, "main.model", auxiliary.config(Path()).main), "mlm", size, length, masked
            )
    return total


def _shape(node: RunNode, key: str, shape: ShapeConfig) -> ShapeConfig:
    """The shape of a model, which may continue from that of a stage."""
    below = node.needs.get(key)
    return _shape(below, "main.model", below.config(Path()).main) if isinstance(below, RunNode) else shape
