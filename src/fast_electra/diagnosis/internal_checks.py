"""Is a model sound inside? The figures of `internals` beside their bands, each band with its reason.

Notable:
- the newest figures are judged, so a warning comes in the middle of a run;
- the same judgement serves a run's records, an older run's exported model, and a script (`judge(measure_folder(…))`).
"""

from collections.abc import Mapping
from typing import Any

from fast_electra.diagnosis.curve_checks import Curves, Finding

_SMALLER_STEPS = "lower optimizer.learning_rate or raise optimizer.weight_decay (0.1), and start in a new folder"


def inside(curves: Curves) -> list[Finding]:
    """The newest figures of each trained model."""
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
        figures: of the model.
        progress: of its run; in the first half the rank of its token table is not judged.
        model: its name, where a run has several.
        when: what the figures are of, for the sentence.
    """
    at = " of the ".join(part for part in (when, model) if part)
    checks = (_hidden_states, _token_table, _attention, _dead_units, _weights, _logits)
    return [finding for check in checks for finding in check(figures, progress, f" ({at})" if at else "")]


def _hidden_states(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Every layer adds to what the embeddings started: at a ratio of r, 1 / r² of the state's power is theirs.

    At 5 it is 4 %, at 10 it is 1 %, at 30 a thousandth: which token stands there is then lost in what layers added.
    Trained by too large steps, small models came to 56 and 93, and were no better encoders than untrained ones; with
    sound steps to between 1 and 5.
    """
    if "hidden_ratio" not in figures:
        return []
    ratio, rms = figures["hidden_ratio"], figures["hidden_rms"]
    layer = max((name for name in rms if name != "embedding"), key=lambda name: rms[name])
    measured = f"layer {layer}: root mean square {rms[layer]:.2f}, {ratio:.1f} times the embeddings'{at}"
    normal = "at most 10 times (sound runs: 5), where embeddings below 1 count as 1"
    severity = "ok" if ratio <= 10 else "warning" if ratio <= 30 else "problem"
    remedy = f"the layers drown the embeddings: {_SMALLER_STEPS}"
    return [Finding("hidden states", severity, measured, normal, remedy if ratio > 10 else "")]


def _token_table(figures: Mapping[str, Any], progress: float, at: str) -> list[Finding]:
    """Below 1.5, four fifths of what tells tokens apart lies on one line: their frequency, and nothing of their use.

    A run passes there early, for frequencies are learned first. After half a thousand updates sound runs of ours had a
    twentieth to a fifth of the start's rank, and broken ones hardly less: it tells a collapse, not a small fault.
    """
    if "start" not in figures:
        return []
    rank, start = figures["token_table_rank"], figures["start"]["token_table_rank"]
    measured = f"effective rank {rank:.1f}, {start:.1f} at the start{at}"
    normal = "at least 1.5 after half of the run"
    if rank >= 1.5 or progress < 0.5:
        return [Finding("token table", "ok", measured, normal)]
    remedy = "tokens differ by their frequency alone: look at the findings on hidden states and plateau; train longer"
    return [Finding("token table", "warning", measured, normal, remedy)]


def _attention(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Entropy near zero is attention on single tokens, of which no gradient comes back (Zhai et al., arXiv 2303.06296).

    One head may well do so: a layer's mean over its heads does not.
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
    """Sound runs of half a thousand updates had none; those with too large steps a fifth (Muon 0.03) to a half."""
    found = figures.get("dead_units")
    if not found:
        return []
    layer = max(found, key=found.__getitem__)
    measured = f"layer {layer}: {found[layer]:.0%} of the feed-forward units say nothing{at}"
    normal = "at most 10 % in any layer"
    if found[layer] <= 0.1:
        return [Finding("dead units", "ok", measured, normal)]
    remedy = f"too large steps have pushed them out of reach: {_SMALLER_STEPS}"
    return [Finding("dead units", "warning", measured, normal, remedy)]


def _weights(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """With decoupled decay weights grow until steps and decay balance, at about sqrt(rate / (2 · decay)).

    That is six times a fresh weight of 0.0155 at the rate 2e-3 and the decay 0.1, and twenty times at a decay of 0.01.
    """
    if not figures.get("start", {}).get("layer_weights_rms"):
        return []
    growth = figures["layer_weights_rms"] / figures["start"]["layer_weights_rms"]
    measured = f"the layers' root mean square is {growth:.1f} times the start's{at}"
    normal = "at most 10 times"
    if growth <= 10:
        return [Finding("weights' size", "ok", measured, normal)]
    remedy = f"nothing holds the weights: {_SMALLER_STEPS}"
    return [Finding("weights' size", "warning", measured, normal, remedy)]


def _logits(figures: Mapping[str, Any], _progress: float, at: str) -> list[Finding]:
    """Beyond 64 numbers in bfloat16 are half a nat apart, so that a loss is rounded to that."""
    if "logits_largest" not in figures:
        return []
    largest = figures["logits_largest"]
    measured, normal = f"largest {largest:.1f}, root mean square {figures['logits_rms']:.2f}{at}", "at most 64"
    if largest <= 64:
        return [Finding("logits", "ok", measured, normal)]
    return [Finding("logits", "warning", measured, normal, f"the output layer runs away: {_SMALLER_STEPS}")]
