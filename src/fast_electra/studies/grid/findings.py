"""The findings of a study: means with intervals, differences from the reference, and whether they are decided.

Notable:
- a difference is paired by seed. Its interval is Student's over the seeds that both have, without correction;
- "decided" is corrected: of all differences of one measure, Holm's method holds the probability of any false "decided"
  at 5 %. A difference below the minimal detectable one is never decided, because few seeds may be alike by chance;
- one seed shows no spread, so nothing is decided with it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fast_electra.errors import ConfigError
from fast_electra.evaluation.comparison import minimal_detectable_difference
from fast_electra.evaluation.metrics import student_interval
from fast_electra.studies.grid.measures import describe
from fast_electra.studies.grid.plan import Cell, row_name
from fast_electra.studies.grid.running import CellRecord, Progress
from fast_electra.studies.grid.settings import StudyConfig

Results = dict[str, Any]
SIGNIFICANCE = 0.05


def results_of(study: StudyConfig, progress: Progress, out: Path, command: str) -> Results:
    """Everything that the tables and the page of a study show, as plain values.

    Args:
        study: the study.
        progress: its results so far.
        out: the study's folder, in which a run may have a page.
        command: the command that repeats it.
    """
    cells = [(cell, record) for cell in progress.plan.cells if (record := progress.records.get(cell.node.name))]
    measured = [record for _, record in cells]
    names = _measures(study, measured)
    first: dict[str, Cell] = {}
    for cell in progress.plan.cells:
        first.setdefault(cell.row, cell)
    rows = list(first)
    scores = {row: {name: _by_seed(cells, row, name) for name in names} for row in rows}
    against = _references(study, first)
    measures = [{"name": name, "title": describe(name)[0], "more_is_better": describe(name)[1]} for name in names]
    return {
        "title": study.title,
        "question": study.question,
        "command": command,
        "budget": None if study.budget is None else study.budget.model_dump(exclude_none=True),
        "seeds": study.all_seeds,
        "axes": [key for zipped in study.zipped_axes for key in zipped],
        "reference": _reference_name(study, rows),
        "measures": measures,
        "rows": [
            {
                "row": row,
                "method": first[row].method,
                "point": first[row].point,
                "scores": {name: summary(list(scores[row][name].values())) for name in names},
                "diverged": sum("diverged" in record for cell, record in cells if cell.row == row),
                "seeds": sum(cell.row == row for cell, _ in cells),
            }
            for row in rows
        ],
        "differences": [each for name in names for each in differences(scores, against, name)],
        "baselines": _baselines(measured, names),
        "runs": [_run(cell, record, progress, out) for cell, record in cells],
        "tuned": _tuned(study, progress),
        "curves": {row: [record["curve"] for cell, record in cells if cell.row == row] for row in rows},
        "drawn": {name: describe(name)[0] for name in _drawn(measured)},
        "missing": [cell.node.label for cell in progress.missing],
        "failures": dict(progress.failures),
        "cautions": [*_absent(study, measured), *_cautions(cells)],
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The mean over seeds, and the ends of Student's 95 % interval; None where there is none."""
    mean, low, high = student_interval(list(values))
    return {"mean": _number(mean), "low": _number(low), "high": _number(high), "seeds": len(values)}


def differences(
    scores: Mapping[str, Mapping[str, Mapping[int, float]]], against: Mapping[str, str], measure: str
) -> list[dict[str, Any]]:
    """The differences of rows from their references in one measure, decided after Holm's correction.

    Args:
        scores: by row, measure and seed.
        against: the reference of each row that has one.
        measure: name of the measure.
    """
    found: list[dict[str, Any]] = []
    for row, reference in against.items():
        mine, base = scores[row][measure], scores[reference][measure]
        seeds = [seed for seed in mine if seed in base]
        if not seeds:
            continue
        own, other = [mine[seed] for seed in seeds], [base[seed] for seed in seeds]
        mean, low, high = student_interval(np.subtract(own, other))
        apart = minimal_detectable_difference(own, other, paired=False)
        together = minimal_detectable_difference(own, other, paired=True)
        found.append(
            {
                "measure": measure,
                "row": row,
                "reference": reference,
                "difference": _number(mean),
                "low": _number(low),
                "high": _number(high),
                "detectable": None if apart is None or together is None else _number(max(apart, together)),
                "p": _p_value(np.subtract(own, other)),
                "seeds": len(seeds),
            }
        )
    corrected = holm([each["p"] for each in found])
    for each, value in zip(found, corrected, strict=True):
        detectable = each["detectable"]
        is_large = detectable is not None and abs(each["difference"]) >= detectable
        each |= {"p_corrected": value, "decided": is_large and value is not None and value < SIGNIFICANCE}
    return found


def holm(values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected by Holm's method (1979); None, an untested difference, stays None and does not count."""
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for number, (value, place) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - number)))
        corrected[place] = largest
    return corrected


def _p_value(differences_S: "np.ndarray[Any, Any]") -> float | None:
    """Of the paired t-test, two-sided; None with one seed. Equal differences show no spread, and decide nothing."""
    if differences_S.size < 2:
        return None
    spread = float(differences_S.std(ddof=1))
    if spread == 0:
        return 1.0
    t = float(differences_S.mean()) / (spread / math.sqrt(differences_S.size))
    return float(2 * stats.t.sf(abs(t), differences_S.size - 1))


def _measures(study: StudyConfig, records: Sequence[CellRecord]) -> list[str]:
    """The measures of the tables: what the study shows; else evaluations and sources; else those of validation."""
    there = list(dict.fromkeys(name for record in records for name in record["scores"]))
    if study.show:
        inside = {shown: [name for name in there if name.startswith(f"{shown}.")] for shown in study.show}
        return list(dict.fromkeys(n for shown in study.show for n in ([shown] if shown in there else inside[shown])))
    compared = [name for name in there if name.split(".")[0] in study.evaluate]
    compared += [name for name in there if name.rpartition(".")[2] in study.sources]
    return compared or [name for name in ("rtd_auc", "rtd_auc_masked", "masked_accuracy", "loss") if name in there]


def _drawn(records: Sequence[CellRecord]) -> list[str]:
    """The measures whose curves are drawn."""
    there = {key: None for record in records for point in record["curve"] for key in point}
    return [
        name for name in ("loss", "masked_accuracy", "rtd_auc", "rtd_auc_masked", "replaced_fraction") if name in there
    ]


def _absent(study: StudyConfig, records: Sequence[CellRecord]) -> list[str]:
    there = {name for record in records for name in record["scores"]}
    absent = [shown for shown in study.show if not any(n == shown or n.startswith(f"{shown}.") for n in there)]
    return [f"show: no run has {name}; the measures are {', '.join(sorted(there))}." for name in absent if there]


def _by_seed(cells: Sequence[tuple[Cell, CellRecord]], row: str, measure: str) -> dict[int, float]:
    return {
        cell.seed: record["scores"][measure]
        for cell, record in cells
        if cell.row == row and measure in record["scores"] and math.isfinite(record["scores"][measure])
    }


def _reference_name(study: StudyConfig, rows: Sequence[str]) -> str:
    """A method, which others are compared with at each point of the grid, or one row, which all are compared with."""
    return study.reference or (next(iter(study.methods)) if len(study.methods) > 1 else rows[0])


def _references(study: StudyConfig, first: Mapping[str, Cell]) -> dict[str, str]:
    """The reference of each row that has one; `first` is a cell of each row.

    Raises:
        ConfigError: the study's reference is neither a method nor a row.
    """
    name = _reference_name(study, list(first))
    if name not in (*study.methods, *first):
        raise ConfigError(f"reference: {name} is no method and no row; the rows are {'; '.join(first)}.")
    wanted = {row: row_name(name, cell.point) if name in study.methods else name for row, cell in first.items()}
    return {row: reference for row, reference in wanted.items() if reference != row and reference in first}


def _baselines(records: Sequence[CellRecord], measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """{baseline: {measure: mean points over runs}}; an untrained encoder has the shape of its run."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for measure, scores in record["baselines"].items():
            for name, score in scores.items():
                if measure in measures:
                    found.setdefault(name, {}).setdefault(measure, []).append(score)
    return {name: {m: float(np.mean(values)) for m, values in by.items()} for name, by in found.items()}


def _run(cell: Cell, record: CellRecord, progress: Progress, out: Path) -> dict[str, Any]:
    page = f"{cell.node.name}/report.html"
    return {
        "name": cell.node.name,
        "page": page if (out / page).exists() else None,
        "row": cell.row,
        "seed": cell.seed,
        "scores": record["scores"],
        "diverged": record.get("diverged"),
        "updates": record.get("updates"),
        "tokens": record.get("tokens"),
        "flops": record.get("flops"),
        "flops_with_stages": record.get("flops_with_stages"),
        "seconds": record.get("timing", {}).get("training_seconds"),
        "stages_cost": progress.plan.spent.get(cell.node.name),
        "findings": record["findings"],
    }


def _tuned(study: StudyConfig, progress: Progress) -> list[dict[str, Any]]:
    """The trials of each row: values with their scores, and the chosen one."""
    tune = study.tune
    if tune is None:
        return []
    chosen = {cell.row: cell.node.settings.get(tune.key) for cell in progress.plan.cells}
    found: dict[str, dict[str, Any]] = {}
    for trial in progress.plan.trials:
        scores = progress.records.get(trial.node.name, {}).get("scores", {})
        score = next((scores[name] for name in tune.by if name in scores), None)
        entry = found.setdefault(trial.row, {"row": trial.row, "trials": [], "chosen": chosen.get(trial.row)})
        entry["trials"].append({"value": trial.trial, "score": score})
    ends = (tune.values[0], tune.values[-1])
    about = {"key": tune.key, "by": " or ".join(tune.by), "seed": tune.seed}
    return [about | entry | {"at_edge": entry["chosen"] in ends} for entry in found.values()]


def _cautions(cells: Sequence[tuple[Cell, CellRecord]]) -> "list[str]":
    """What a reader has to know about the runs, as sentences."""
    found: list[str] = []
    for cell, record in cells:
        if "diverged" in record:
            found.append(f"{record['diverged'].rstrip('.')}. This run has no scores.")
        found += [f"{cell.node.label}: {remark.rstrip('.')}." for remark in record["remarks"]]
    by_check: dict[str, dict[str, int]] = {}
    for cell, record in cells:
        for sentence in record["findings"]:
            counts = by_check.setdefault(sentence.partition(":")[0], {})
            counts[cell.row] = counts.get(cell.row, 0) + 1
    for check, counts in by_check.items():
        rows = "; ".join(f"{row} ({count})" for row, count in counts.items())
        found.append(f"`fast-electra doctor` reports {check} in runs of {rows}.")
    for name, what in (("data", "token shards"), ("tokenizer", "tokenizers")):
        by_corpus: dict[str, set[str]] = {}
        for _, record in cells:
            if digest := record.get("inputs", {}).get(name):
                by_corpus.setdefault(str(record["uses"].get("data.shards")), set()).add(digest)
        if any(len(digests) > 1 for digests in by_corpus.values()):
            found.append(f"Runs of one corpus have different {what}: they were made from different text.")
    machines = {
        (r["environment"]["device"], r["environment"]["cpu"], r["environment"]["precision"])
        for _, r in cells
        if "environment" in r
    }
    if len(machines) > 1:
        found.append(f"The runs were made on different machines: {'; '.join(' '.join(m) for m in sorted(machines))}.")
    return found


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)
