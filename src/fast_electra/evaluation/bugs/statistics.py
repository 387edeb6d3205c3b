"""The figures of the bug-finding benchmark, with 95 % intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_electra.evaluation.bugs.mutation import BugKind, Frequencies
from fast_electra.evaluation.bugs.scoring import BugScores, MaskedScores, evaluate_bugs, frequency_table
from fast_electra.evaluation.bugs.tokens import Pair
from fast_electra.evaluation.metrics import Interval, bootstrap_interval, paired_bootstrap, student_interval
from fast_electra.evaluation.token_scores import Suspicion

UNTRAINED_PAIRS: Mapping[BugKind, int] = {"operator": 300, "variable": 100}
"""untrained models are judged on this many pairs only, the first ones, because there are ten of them"""


def judge(
    pairs: Sequence[Pair],
    frequencies: Frequencies,
    suspicion: Suspicion,
    untrained: Sequence[Suspicion],
    auxiliary: MaskedScores | None = None,
    *,
    pad_id: int,
) -> tuple[BugScores, dict[str, Any]]:
    """Score pairs of one kind by a model, and compare it with baselines.

    Args:
        pairs: from `encode_bugs`.
        frequencies: of the training corpus.
        suspicion: the model.
        untrained: models of the same shape with random weights, judged on the first `UNTRAINED_PAIRS`.
        auxiliary: scores of the same pairs by a masked language model.
        pad_id: of the tokenizer.

    Returns:
        the scores of the model, and the figures of `summarise`.
    """
    first = [pair for place, pair in enumerate(pairs) if place < UNTRAINED_PAIRS[pair.bug.kind]]
    model = evaluate_bugs(pairs, suspicion, pad_id=pad_id)
    baselines = [evaluate_bugs(first, each, pad_id=pad_id) for each in untrained]
    return model, summarise(model, frequency_table([pair.bug for pair in pairs], frequencies), baselines, auxiliary)


def summarise(
    model: BugScores,
    table: NDArray[np.float64],
    untrained: Sequence[BugScores],
    auxiliary: MaskedScores | None = None,
    *,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Compute the figures of one kind of bug for `summary.json`.

    Args:
        model: scores of the model.
        table: scores of the frequency table, (N,).
        untrained: scores of models with random weights, on all pairs or on the first ones.
        auxiliary: scores of the masked language model; None: its entries are None.
        resamples: of the bootstrap.

    Returns:
        shares between 0 and 1 with 95 % intervals: Student's over initialisations for `untrained`, bootstrap over
        functions elsewhere. Differences are of `pair` on the same functions.
    """

    def interval(values: NDArray[np.float64]) -> Interval:
        return bootstrap_interval(values[~np.isnan(values)], resamples=resamples)

    def difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, Any]:
        return _named(paired_bootstrap(first, second, resamples=resamples), "mean", "low", "high")

    def ranking(scores: BugScores | MaskedScores) -> dict[str, Any]:
        return {
            **_named(interval(scores.auc), "auc", "auc_low", "auc_high"),
            **_named(interval(scores.top1), "top1", "top1_low", "top1_high"),
        }

    whole = interval(model.pair_whole_function)
    result: dict[str, Any] = {
        "model": {
            **_named(interval(model.pair), "pair", "low", "high"),
            "n": len(model.pair),
            **_named(whole, "pair_whole_function", "pair_whole_function_low", "pair_whole_function_high"),
            **ranking(model),
            "auc_pooled": _number(model.auc_pooled),
            "passes_per_function": 1.0,
        },
        "frequency_table": {**_named(interval(table), "pair", "low", "high"), "n": len(table)},
        "untrained": None,
        "auxiliary": None,
        "model_minus_table": difference(model.pair, table),
        "model_minus_untrained": None,
        "model_minus_auxiliary": None,
    }
    if untrained:
        each = np.stack([scores.pair for scores in untrained])
        number = each.shape[1]
        shares = each.mean(axis=1)
        result["untrained"] = {
            **_named(student_interval(shares), "pair", "low", "high"),
            "n": number,
            "each": shares.tolist(),
            "auc": _number(np.nanmean([np.nanmean(scores.auc) for scores in untrained])),
            "top1": _number(np.mean([scores.top1.mean() for scores in untrained])),
        }
        result["model_minus_untrained"] = difference(model.pair[:number], each.mean(axis=0))
    if auxiliary is not None:
        number = len(auxiliary.passes)
        result["auxiliary"] = {
            **_named(interval(auxiliary.pair), "pair", "low", "high"),
            "n": len(auxiliary.pair),
            **ranking(auxiliary),
            "n_every_token": number,
            "passes_per_function": _number(auxiliary.passes.mean() if number else float("nan")),
            "model_auc_same_functions": _number(interval(model.auc[:number]).mean),
            "model_top1_same_functions": _number(interval(model.top1[:number]).mean),
        }
        result["model_minus_auxiliary"] = difference(model.pair, auxiliary.pair)
    return result


def _named(interval: Interval, *names: str) -> dict[str, float | None]:
    return dict(zip(names, map(_number, interval), strict=True))


def _number(value: float | np.floating) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)
