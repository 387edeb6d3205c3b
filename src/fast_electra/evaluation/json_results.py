"""Results and comparisons as `--json` prints them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fast_electra.evaluation.contests import Contest
from fast_electra.evaluation.remarks import remarks
from fast_electra.evaluation.results import BASELINES, Result, curves, spread

_OF_CURVE = ("metric", "scores", "median", "mean", "std", "baselines", "untrained", "against_untrained", "setup")
"""keys of each number of examples in a curve"""


def entry(result: Result) -> dict[str, Any]:
    """Return a result for `--json`; shares and correlations are not in points."""
    found = spread(result.of())
    whole = {
        "metric": result.metric,
        "scores": result.of(),
        "median": found.median,
        "mean": found.mean,
        "std": found.deviation,
        "best": found.best,
        "detectable": found.detectable,
        "n_train": result.n_train,
        "n_dev": result.n_dev[result.split],
        "baselines": {
            name: result.baseline(name)
            for name in BASELINES
            if name in result.baselines or name in ("majority", "bag_of_words", "untrained")
        },
        "untrained": {"scores": result.of_untrained(), "std": spread(result.of_untrained()).deviation},
        "against_untrained": result.against,
        "setup": result.setup,
        "recipe": result.recipe,
        "selection": result.selection,
        "seeds": result.seeds,
        "all": result.scores,
        "truncated": result.truncated,
        "cut_entities": result.cut_entities,
        "failed": result.failed,
        "degenerate": result.degenerate,
        "repeated": result.repeated,
        "layers": result.layers,
        "overlap": result.overlap,
        "remarks": remarks(result),
        "timing": {"seconds": result.seconds},
    }
    if not result.details:
        return whole
    # Minimal pairs have one score for each measure: "mean" is the share by the mean of the tokens.
    return whole | {measure: scores[0] for measure, scores in result.scores[result.split].items()} | result.details


def entries(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return results by task for `--json`; of several numbers of examples the largest, with all of them as "curve"."""
    found = {result.task: entry(result) for result in results}
    for task, points in curves(results).items():
        found[task] = entry(points[-1]) | {
            "curve": [
                {"examples": point.n_train} | {key: value for key, value in entry(point).items() if key in _OF_CURVE}
                for point in points
            ]
        }
    return found


def comparison_entry(contest: Contest, names: Sequence[str]) -> Mapping[str, Any]:
    """Return a contest for `--json`; differences are in points, scores are not."""
    return {
        "task": contest.task,
        "setup": contest.setup,
        "split": contest.split,
        "metric": contest.metric,
        "models": {
            name: {"scores": scores, **one._asdict()}
            for name, scores, one in zip(names, contest.scores, contest.spreads, strict=True)
            if one is not None
        },
        "detectable": contest.detectable,
        "leader": None if contest.leader is None else names[contest.leader],
        "comparisons": [comparison.record() for comparison in contest.comparisons.values()],
    }
