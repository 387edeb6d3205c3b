"""What a finished run of a study is measured by: its validation, its curve, other auxiliaries, and evaluations.

Notable:
- `rtd_auc` of a run's own validation uses its own auxiliary, and a worse auxiliary is easier to see through. So runs
  with different auxiliaries are compared by `rtd_auc.SOURCE`, on the replacements of one auxiliary for all;
- every measure is a number; the words for it are in `describe`.
"""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from fast_electra.config.loading import resolve
from fast_electra.diagnosis.doctor import examine
from fast_electra.errors import ConfigError
from fast_electra.evaluation.settings import EvaluationConfig
from fast_electra.models.loading import load_model
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.pipelines.evaluate import evaluate_model
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.metrics import Record
from fast_electra.runs.models import resolve_model
from fast_electra.terminal import Say
from fast_electra.training.assembly import assemble
from fast_electra.training.precision import apply_threads, choose_execution

_SPIKE = 5.0
"""standard deviations above the mean of the records before"""
_BEFORE = 20
"""records that a spike is measured against"""


class Measured(NamedTuple):
    """The measures of a run."""

    scores: dict[str, float]
    """by name; scores between 0 and 1 are in points (hundredths)"""
    baselines: dict[str, dict[str, float]]
    """points of what needs no pre-training, by measure"""
    findings: list[str]
    """warnings and problems of the doctor"""
    remarks: list[str]
    """fine-tunings that failed or learned nothing"""
    curve: list[dict[str, float]]
    """one entry for each validation, with `update`, `tokens`, `flops`, `seconds` and measures"""


def measure_run(
    run: RunFolder,
    sources: Mapping[str, Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
    thresholds: Mapping[str, Sequence[float]],
    say: Say,
) -> Measured:
    """Measure a finished run.

    Args:
        run: the run.
        sources: settings of `auxiliary` by name, whose replacements the main model has to detect.
        evaluations: options of `evaluate` by name.
        thresholds: values of measures of validation, by measure.
        say: called with one sentence at a time.
    """
    records = run.metrics()
    curve = list(curve_of(run, records))
    findings = [each.sentence() for each in examine(run.path) if each.severity in ("warning", "problem")]
    scores = {key: _in_points(key, value) for key, value in run.result["validation"].items()}
    scores |= stability(records) | {"doctor": float(len(findings))}
    for measure, values in thresholds.items():
        scores |= reached(curve, measure, values)
    if run.config.objective.detects:
        for name, auxiliary in sources.items():
            say(f"{run.path.name}: replacements of {name}")
            scores |= {f"{key}.{name}": 100 * value for key, value in detection(run, auxiliary).items()}
    baselines: dict[str, dict[str, float]] = {}
    remarks: list[str] = []
    for name, options in evaluations.items():
        say(f"{run.path.name}: evaluation {name}")
        found, below, why = evaluated(run, name, options, say)
        scores, baselines, remarks = scores | found, baselines | below, [*remarks, *why]
    return Measured(scores, baselines, findings, remarks, curve)


def curve_of(run: RunFolder, records: Sequence[Record]) -> Iterator[dict[str, float]]:
    """The measures of each validation, with what was spent until then."""
    seconds = 0.0
    for record in records:
        seconds += record["timing"]["seconds"]
        if "validation" in record:
            spent = {"update": record["update"], "tokens": record["tokens"], "seconds": round(seconds, 1)}
            flops = record["update"] * run.flops_per_update
            measures = {
                k: round(_in_points(k, v), 4) for k, v in record["validation"].items() if isinstance(v, int | float)
            }
            yield {**spent, "flops": flops, **measures}


def reached(curve: Sequence[Mapping[str, float]], measure: str, values: Sequence[float]) -> dict[str, float]:
    """The updates and seconds of the first validation at which a measure reaches each value; {} where it never does.

    A loss reaches a value from above, other measures from below.
    """
    found: dict[str, float] = {}
    for value in values:
        for point in curve:
            now = point.get(measure)
            if now is not None and (now <= value if _is_loss(measure) else now >= value):
                found |= {
                    f"{unit}_to.{measure}.{value:g}": float(point[key])
                    for unit, key in (("updates", "update"), ("seconds", "seconds"))
                }
                break
    return found


def stability(records: Sequence[Record]) -> dict[str, float]:
    """How steadily a run trained, over the second half of its records.

    Returns:
        `loss_deviation`: standard deviation of the changes of the loss from record to record; `gradient_norm` and
        `gradient_norm_most`: mean and largest norm; `spikes`: records of the whole run whose loss is five standard
        deviations above the mean of the twenty before; `skipped`: updates that changed nothing; `hidden_ratio`: of the
        main model's hidden states at the last validation (`training.internals`).
    """
    losses = [record["loss"] for record in records]
    half = losses[len(losses) // 2 :]
    changes = [after - before for before, after in itertools.pairwise(half)]
    norms = [
        max(values)
        for record in records[len(records) // 2 :]
        if (values := [v for k, v in record.items() if k.split(".")[0] == "gradient_norm"])
    ]
    spikes = 0
    for place in range(_BEFORE, len(losses)):
        before = losses[place - _BEFORE : place]
        spikes += losses[place] > statistics.fmean(before) + _SPIKE * max(statistics.stdev(before), 1e-9)
    found = {"spikes": float(spikes), "skipped": float(records[-1].get("skipped", 0) if records else 0)}
    if len(changes) > 1:
        found["loss_deviation"] = statistics.stdev(changes)
    if norms:
        found |= {"gradient_norm": statistics.fmean(norms), "gradient_norm_most": max(norms)}
    figures = [record["internals"]["main"] for record in records if "internals" in record]
    if figures and "hidden_ratio" in figures[-1]:
        found["hidden_ratio"] = figures[-1]["hidden_ratio"]
    return found


def detection(run: RunFolder, auxiliary: Mapping[str, Any]) -> dict[str, float]:
    """`rtd_auc` and `rtd_auc_masked` of a run's main model on the replacements of another auxiliary, at T = 1."""
    tree = run.config.model_dump(mode="json")
    main = tree["main"] | {"start": "fresh", "embeddings": "fresh", "model": str(resolve_model(run.path))}
    config = resolve(
        tree
        | {
            "main": main,
            "auxiliary": dict(auxiliary),
            "objective": {"kind": "fast_electra"},
            "corruption": {"masking": tree["corruption"]["masking"], "schedule": {"kind": "constant", "initial": 1.0}},
        }
    )
    execution = choose_execution(config.execution)
    apply_threads(execution)
    parts = assemble(config, execution)
    objective = cast(FastElectra, parts.objective)
    model = load_model(resolve_model(run.path), "rtd").to(execution.weights_dtype)  # type: ignore[arg-type]
    objective.main = ReplacedTokenDetector(model.to(execution.device).eval())  # type: ignore[arg-type]
    with execution.autocast():
        found = objective.validate([batch.to(execution.device) for batch in parts.validation], seed=0)
    return {key: found[key] for key in ("rtd_auc", "rtd_auc_masked")}


def refuse_evaluation(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an evaluation whose options or files are wrong, before anything is trained.

    Raises:
        ConfigError: what is wrong, with the evaluation's name.
    """
    try:
        EvaluationConfig.of({"model": "run", **options})
    except ConfigError as error:
        raise ConfigError(f"evaluation {name}: {error}") from error


def evaluated(
    run: RunFolder, name: str, options: Mapping[str, Any], say: Say
) -> tuple[dict[str, float], dict[str, dict[str, float]], list[str]]:
    """The mean scores of an evaluation over its seeds, the scores of its baselines, and remarks."""
    config = EvaluationConfig.of({"model": str(run.path), **options, "execution": run.config.execution.model_dump()})
    _, results = evaluate_model(config, say, lambda done, total, doing: None)
    scores: dict[str, float] = {}
    baselines: dict[str, dict[str, float]] = {}
    remarks: list[str] = []
    for result in results:
        measure = name if len(results) == 1 else f"{name}.{result.title.replace(', ', ' ')}"
        if found := result.of():
            scores[measure] = 100 * statistics.fmean(found)
        baselines[measure] = {
            key: 100 * score for key in result.baselines if (score := result.baseline(key)) is not None
        }
        remarks += [f"{measure}: {why}" for why in result.failed.values()]
        remarks += [f"{measure}: every example gets the same answer"] if result.degenerate else []
    return scores, baselines, remarks


def describe(measure: str) -> tuple[str, bool | None]:
    """The title of a measure, and whether more is better; None where neither is."""
    stem, _, rest = measure.partition(".")
    titles: dict[str, tuple[str, bool | None]] = {
        "loss": ("loss on held-out text, nats", False),
        "masked_accuracy": ("masked tokens predicted, %", True),
        "rtd_auc": ("rtd_auc, own auxiliary", True),
        "rtd_auc_masked": ("rtd_auc at masked positions, own auxiliary", True),
        "replaced_fraction": ("masked positions replaced, %", None),
        "spikes": ("spikes of the loss", False),
        "skipped": ("updates skipped", False),
        "loss_deviation": ("deviation of the loss", False),
        "gradient_norm": ("gradient norm", None),
        "gradient_norm_most": ("largest gradient norm", False),
        "hidden_ratio": ("RMS of hidden states, largest layer over embeddings", None),
        "doctor": ("findings of doctor", False),
    }
    if rest and stem in ("rtd_auc", "rtd_auc_masked"):
        where = " at masked positions" if stem.endswith("masked") else ""
        return f"rtd_auc{where}, replacements of {rest}", True
    if stem in ("updates_to", "seconds_to"):
        key, _, value = rest.partition(".")
        return f"{stem.removesuffix('_to')} until {key} is {value}", False
    return titles.get(measure, (measure.replace(".", ": "), True))


def _in_points(key: str, value: float) -> float:
    shares = ("rtd_auc", "masked_accuracy", "corrective_accuracy", "replaced", "unigram_accuracy")
    return 100 * value if key.startswith(shares) else value


def _is_loss(measure: str) -> bool:
    return "loss" in measure or measure in ("rtd", "mlm")
