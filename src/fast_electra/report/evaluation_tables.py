"""The tables and sentences of an evaluation or a comparison, for terminal, page and run report alike.

Notable: every score is in points (hundredths).
"""

from collections.abc import Sequence
from typing import Any

from fast_electra.evaluation.contests import Contest
from fast_electra.evaluation.remarks import averages_of, remarks
from fast_electra.evaluation.results import BASELINES, ZERO_SHOT, Result, spread
from fast_electra.evaluation.tasks import TEST
from fast_electra.report.figures import MISSING, decimal, duration, finite
from fast_electra.report.text_tables import TextTable

DETECTABLE = (
    "MDD, minimal detectable difference: the smallest true difference, between two models of this spread, that a "
    "t-test over this number of seeds finds about 8 times out of 10 (two-sided, 5 %)."
)


def points(value: Any) -> str:
    """Return a score between -1 and 1 in points, for example 81.2 or −3.0; – if there is none."""
    number = finite(value)
    return MISSING if number is None else decimal(100 * number, 1).replace("-", "−")


def score_tables(results: Sequence[Result]) -> list[TextTable]:
    """Return a table for each setup: every metric of every split, aggregated over seeds, and the baselines."""
    tables: list[TextTable] = []
    for setup in dict.fromkeys(result.curve or result.setup for result in results):
        group = [result for result in results if (result.curve or result.setup) == setup]
        baselines = [name for name in BASELINES if any(name in result.baselines for result in group)]
        rows: list[list[str]] = []
        for result in group:
            for split, metrics in result.scores.items():
                for metric in metrics:
                    found = spread(result.of(split, metric))
                    rows.append(
                        [
                            row_name(result, split),
                            metric,
                            points(found.median),
                            _mean(found.mean, found.deviation),
                            points(found.best),
                            points(found.detectable),
                            *(_baseline(result, name, split, metric) for name in baselines),
                        ]
                    )
        seeds = sorted({len(result.seeds) for result in group})
        names = [name.replace("_", " ") for name in baselines]
        columns = ["task", "metric", "median", "mean ± std", "best", "MDD", *names]
        on = "" if any(TEST in result.scores for result in group) else " on dev"
        caption = f"{setup}, {' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])}: scores{on}, in points"
        tables.append(TextTable(caption, columns, rows, left=2))
    return tables


def _baseline(result: Result, name: str, split: str, metric: str) -> str:
    """Score of a baseline; of an untrained encoder with several seeds mean ± standard deviation."""
    deviation = spread(result.of_untrained(split, metric)).deviation if name == "untrained" else None
    return _mean(result.baseline(name, split, metric), deviation)


def group_tables(results: Sequence[Result], sets: bool = False) -> list[TextTable]:
    """Return a table for each grouping of minimal pairs in their file.

    Args:
        results: of any tasks.
        sets: include the finest groups, of which BLiMP has 67.
    """
    left_out = ("all",) if sets else ("all", "UID")
    tables: list[TextTable] = []
    for result in results:
        for key, groups in result.details.get("groups", {}).items():
            if key in left_out:
                continue
            rows = [
                [name, decimal(found["n"], 0), *(_interval(found[measure]) for measure in result.scores["dev"])]
                for name, found in groups.items()
            ]
            caption = f"{result.task} ({result.setup}) by {key}: pairs judged correctly, in points, 95 % intervals"
            tables.append(TextTable(caption, [key, "pairs", *result.scores["dev"]], rows))
    return tables


def _interval(found: Sequence[float]) -> str:
    share, low, high = found
    return f"{points(share)} [{points(low)}, {points(high)}]"


def layer_tables(results: Sequence[Result]) -> list[TextTable]:
    """Return a table for each probed task: the score of each layer by the first metric; cosines by Spearman's."""
    tables: list[TextTable] = []
    for result in results:
        if not result.layers:
            continue
        metrics = {name: "spearman" if name.endswith("cosine") else result.metric for name in result.layers}
        rows = [
            ["embeddings" if layer == 0 else str(layer)]
            + [points(of[layer][result.split][metrics[name]]) for name, of in result.layers.items()]
            for layer in range(len(result.layers["model"]))
        ]
        columns = ["layer", *(f"{name}, {metric}" for name, metric in metrics.items())]
        tables.append(TextTable(f"{result.task}: score of each layer ({result.setup}), in points", columns, rows))
    return tables


def data_table(results: Sequence[Result]) -> TextTable:
    """Return a table of numbers of examples, truncated texts, learning rates and times."""
    rows = [
        [
            result.task,
            result.curve or result.setup,
            decimal(result.n_train, 0),
            " + ".join(decimal(count, 0) for count in result.n_dev.values()),
            decimal(result.truncated.get("train"), 0),
            decimal(result.truncated.get("dev"), 0),
            f"{rate:g}" if (rate := result.recipe.get("learning_rate")) else MISSING,
            duration(result.seconds),
        ]
        for result in results
    ]
    columns = ["task", "setup", "train", "dev", "cut, train", "cut, dev", "learning rate", "time"]
    return TextTable("Examples, truncated (cut) texts, and time", columns, rows, left=2)


def average_lines(results: Sequence[Result]) -> list[str]:
    """Return a sentence for each published average for which there are all tasks."""
    return [
        f"{average.name} average {points(average.value)} ({average.setup}), of medians over seeds: {average.of}."
        for average in averages_of(results)
    ]


def notes(results: Sequence[Result]) -> list[str]:
    """Return the sentences below the tables."""
    return [*average_lines(results), *(sentence for result in results for sentence in remarks(result)), DETECTABLE]


def row_name(result: Result, split: str) -> str:
    """Return the task of a result, and the split if it has several."""
    return result.title if len(result.scores) == 1 else f"{result.title}, {split}"


def contest_table(contests: Sequence[Contest], names: Sequence[str]) -> TextTable:
    """Return mean ± standard deviation of every model; bold is a model whose lead over every other one is decided."""
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    for contest in contests:
        if contest.leader is not None:
            strong.add((len(rows), 2 + contest.leader))
        cells = [MISSING if one is None else _mean(one.mean, one.deviation) for one in contest.spreads]
        detectable = MISSING if contest.detectable is None else decimal(contest.detectable, 1)
        rows.append([f"{contest.title} ({contest.setup})", contest.metric, *cells, detectable])
    columns = ["task", "metric", *names, "MDD"]
    return TextTable("mean ± std over seeds, in points", columns, rows, left=2, strong=frozenset(strong))


def _mean(mean: float | None, deviation: float | None) -> str:
    return points(mean) + ("" if deviation is None else f" ± {points(deviation)}")


def verdicts(contests: Sequence[Contest]) -> list[str]:
    """Return a sentence for each pair of models and task that says whether the difference is decided."""
    found: list[str] = []
    for contest in contests:
        lead = f"{contest.title} ({contest.setup}): "
        for comparison in contest.comparisons.values():
            where = f" On the {decimal(comparison.examples, 0)} pairs that both models judged."
            found.append(f"{lead}{comparison.sentence}.{where if contest.setup.startswith(ZERO_SHOT) else ''}")
        if not contest.comparisons and sum(bool(scores) for scores in contest.scores) > 1:
            found.append(f"{lead}not decided; no interval, because there are no predictions of the same examples.")
    intervals = sum(len(contest.comparisons) for contest in contests)
    if intervals > 1:
        found.append(
            f"Each interval alone has 95 % confidence: of {intervals} intervals between equal models, "
            f"{0.05 * intervals:.1f} are expected to exclude 0."
        )
    found.append(
        "MDD, minimal detectable difference: the smallest true difference that a t-test over these seeds finds about 8 "
        "times out of 10 (two-sided, 5 %), for the two models for which it is largest. A smaller difference is never "
        "decided."
    )
    return found
