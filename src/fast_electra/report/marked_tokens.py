"""Texts of a page whose tokens are shaded by the model's suspicion: corrupted rows, functions with a bug, sentences."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fast_electra.report.figures import MISSING, decimal, finite, percent
from fast_electra.report.summary_figures import THRESHOLD


def marked_row(tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a corrupted row for the template: shade, mark and note of every token, and a caption."""
    shown = []
    for token in tokens:
        probability = finite(token.get("probability"))
        believed = f"the model gives {percent(probability)} that it was replaced"
        if token.get("replaced"):
            mark, note = "replaced", f"{_quote(token['text'])} replaces {_quote(token.get('original'))}: {believed}"
        elif token.get("masked"):
            mark, note = "restored", f"{_quote(token['text'])} was masked and sampled unchanged: {believed}"
        else:
            mark, note = "", f"{_quote(token['text'])}: {believed}"
        shown.append({"text": token["text"], "shade": _shade(probability), "mark": mark, "note": note})
    replaced = [token for token in tokens if token.get("replaced")]
    seen = sum((finite(token.get("probability")) or 0.0) >= THRESHOLD for token in replaced)
    false = sum((finite(t.get("probability")) or 0.0) >= THRESHOLD for t in tokens if not t.get("replaced"))
    caption = f"{seen} of {len(replaced)} replaced tokens detected, {false} false alarm{'s' * (false != 1)}"
    return {"tokens": shown, "caption": caption}


def marked_bug(bug: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function with a bug for the template, with the rank of the changed token by suspicion."""
    tokens = bug["tokens"]
    scores = [finite(token.get("suspicion")) for token in tokens]
    changed = [score for token, score in zip(tokens, scores, strict=True) if token.get("changed") and score is not None]
    known = [score for score in scores if score is not None]
    rank = 1 + sum(score > max(changed) for score in known) if changed else None
    shown = []
    for token, score in zip(tokens, scores, strict=True):
        note = f"{_quote(token['text'])}: suspicion {percent(score)}"
        if token.get("changed"):
            note += f", changed from {_quote(bug.get('original'))}"
        mark = "changed" if token.get("changed") else "top" if known and score == max(known) else ""
        shown.append({"text": token["text"], "shade": _shade(score), "mark": mark, "note": note})
    return {
        "kind": bug.get("kind") or "bug",
        "source": bug.get("source") or "",
        "original": bug.get("original"),
        "replacement": bug.get("replacement"),
        "rank": rank,
        "count": len(known),
        "tokens": shown,
    }


def marked_sentences(sentences: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the most and the least suspicious sentences for the template, in two groups."""
    groups = []
    for key in ("most", "least"):
        entries = []
        for sentence in sentences.get(key) or ():
            whole = [{"text": sentence.get("text", ""), "suspicion": None}]
            entries.append(
                {
                    "suspicion": decimal(sentence.get("suspicion"), 2).replace("-", "−"),
                    "source": sentence.get("source") or "",
                    "tokens": [
                        {
                            "text": token["text"],
                            "shade": _shade(token.get("suspicion")),
                            "mark": "",
                            "note": f"{_quote(token['text'])}: suspicion {percent(token.get('suspicion'))}",
                        }
                        for token in sentence.get("tokens") or whole
                    ],
                }
            )
        if entries:
            groups.append({"heading": f"{key.capitalize()} suspicious", "entries": entries})
    return groups


def _shade(probability: Any) -> float:
    """Opacity of a token's background: 0 under 4 %, else the probability with two places (short HTML)."""
    probability = finite(probability) or 0.0
    return round(probability, 2) if probability >= 0.04 else 0


def _quote(text: Any) -> str:
    """Return a token in quotation marks on one line, with visible white space."""
    return MISSING if text is None else json.dumps(str(text), ensure_ascii=False).replace('\\"', '"')
