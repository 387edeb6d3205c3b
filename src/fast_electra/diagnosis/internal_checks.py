"""Checks on the figures of `training.internals`: each has a normal range, with the reason in its docstring.

Notable:
- the newest figures are checked, so a warning can come in the middle of a run;
- the same checks serve a run's records, an older run's exported model, and scripts (`judge(measure_folder(…))`).
"""

from collections.abc import Mapping
from typing import Any

from fast_electra.diagnosis.curve_checks import Curves, Finding

_SMALLER_STEPS = "lower optimizer.learning_rate or raise optimizer.weight_decay (0.1), and start in a new folder"


def inside(curves: Curves) -> list[Finding]:
    """Check the newest figures of each trained model."""
    newest = next((record for record in reversed(curves.records) if "internals" in record), None)
    if newest is None:
        return []
    models, progress = newest["internals"], curves.progress(newest)
    return [
        finding
        for name, figures in models.items()
        for finding in judge(figures, progress, name if len(models) > 1 else "", f"update {newest['update']:,}")
    ]


def judge(figures: Mapping[str, Any], progress: float = 1.0, model: str = "", when: str = "") -> list[Finding]:
    """Findings on the figures of one model, from `internals.measure`.

    Args:
        figures: the model's figures.
        progress: of the run, in [0, 1]; in the first half, the rank of the token table is not judged.
        model: the model's name, if the run has several models.
        when: where the figures come from, for the finding's sentence.
    """
    at = " of the ".join(part for part in (when, model) if part)
    checks = (_hidden_states, _token_table, _attention, _dead_units, _weights, _logits)
    return [finding for check in checks for finding in check(figures, progress, f" ({at})" if at else "")]


def _hidden_states(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Check that the layers' outputs do not dominate the embeddings.

    Every layer adds to the embeddings. At a ratio of r, the embeddings are 1 / r² of the hidden state's power: 4 % at
    5, 1 % at 10, a thousandth at 30, where the identity of the token is lost. Small models that were trained with too
    large steps reached 56 and 93 and were no better encoders than untrained models; with normal steps, between 1 and 5.
    """
    if "hidden_ratio" not in figures:
        return []
    ratio, rms = figures["hidden_ratio"], figures["hidden_rms"]
    layer = max((name for name in rms if name != "embedding"), key=lambda name: rms[name])
    measured = f"layer {layer}: root mean square {rms[layer]:.2f}, {ratio:.1f} times the embeddings'{at}"
    normal = "at most 10 times (normal runs: 5); embeddings below 1 count as 1"
    severity = "ok" if ratio <= 10 else "warning" if ratio <= 30 else "problem"
    remedy = f"the layers dominate the embeddings: {_SMALLER_STEPS}"
    return [Finding("hidden states", severity, measured, normal, remedy if ratio > 10 else "")]


def _token_table(figures: Mapping[str, Any], progress: float, at: str) -> list[Finding]:
    """Check that the embeddings of tokens differ by more than the tokens' frequency.

    Below a rank of 1.5, four fifths of the variance are on one line. Every run passes a low rank early, because it
    learns frequencies first. After 500 updates, our normal runs had a twentieth to a fifth of the rank at the start,
    and broken runs only slightly less: the check detects a collapse, not a small fault.
    """
    if "start" not in figures:
        return []
    rank, start = figures["token_table_rank"], figures["start"]["token_table_rank"]
    measured = f"effective rank {rank:.1f}, {start:.1f} at the start{at}"
    normal = "at least 1.5 after half of the run"
    if rank >= 1.5 or progress < 0.5:
        return [Finding("token table", "ok", measured, normal)]
    remedy = "tokens differ only by frequency: follow the findings on hidden states and plateau, or train longer"
    return [Finding("token table", "warning", measured, normal, remedy)]


def _attention(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Check that no layer attends to single tokens only: then no gradient flows back (Zhai et al., arXiv 2303.06296).

    The figure is the mean over a layer's heads, because a single head may normally do so.
    """
    found = figures.get("attention_entropy")
    if not found:
        return []
    layer = min(found, key=found.__getitem__)
    measured, normal = f"layer {layer}: entropy {found[layer]:.0%} of its maximum{at}", "every layer at least 10 %"
    if found[layer] >= 0.1:
        return [Finding("attention", "ok", measured, normal)]
    remedy = f"attention has collapsed to single tokens: {_SMALLER_STEPS}; raise optimizer.warmup"
    return [Finding("attention", "warning", measured, normal, remedy)]


def _dead_units(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Check for dead units: normal runs of 500 updates had none, runs with too large steps a fifth to a half."""
    found = figures.get("dead_units")
    if not found:
        return []
    layer = max(found, key=found.__getitem__)
    measured = f"layer {layer}: {found[layer]:.0%} of the feed-forward units have almost no output{at}"
    normal = "at most 10 % in any layer"
    if found[layer] <= 0.1:
        return [Finding("dead units", "ok", measured, normal)]
    remedy = f"the steps were too large: {_SMALLER_STEPS}"
    return [Finding("dead units", "warning", measured, normal, remedy)]


def _weights(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Check how much the layers' weights have grown.

    With decoupled decay they grow until steps and decay balance, at about sqrt(rate / (2 · decay)). At a rate of 2e-3
    this is 6 times a new weight of 0.0155 with a decay of 0.1, and 20 times with a decay of 0.01.
    """
    if not figures.get("start", {}).get("layer_weights_rms"):
        return []
    growth = figures["layer_weights_rms"] / figures["start"]["layer_weights_rms"]
    measured = f"the layers' root mean square is {growth:.1f} times that at the start{at}"
    normal = "at most 10 times"
    if growth <= 10:
        return [Finding("weights' size", "ok", measured, normal)]
    remedy = f"weight decay is too small for the steps: {_SMALLER_STEPS}"
    return [Finding("weights' size", "warning", measured, normal, remedy)]


def _logits(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Check the largest logit: above 64, neighbouring bfloat16 numbers differ by half a nat, which rounds the loss."""
    if "logits_largest" not in figures:
        return []
    largest = figures["logits_largest"]
    measured, normal = f"largest {largest:.1f}, root mean square {figures['logits_rms']:.2f}{at}", "at most 64"
    if largest <= 64:
        return [Finding("logits", "ok", measured, normal)]
    return [Finding("logits", "warning", measured, normal, f"the output layer diverges: {_SMALLER_STEPS}")]
