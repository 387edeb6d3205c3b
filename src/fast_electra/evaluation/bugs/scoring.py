"""Scores of a model, a masked language model and a frequency table on pairs of functions.

Shapes: N pairs, M pairs of which every token is masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_electra.evaluation.bugs.mutation import Bug, Frequencies
from fast_electra.evaluation.bugs.tokens import Pair
from fast_electra.evaluation.metrics import roc_auc, wins
from fast_electra.evaluation.token_scores import MaskedPrediction, Suspicion, mask_in_turn, predict_at, score_tokens


@dataclass(frozen=True)
class BugScores:
    """Scores of N pairs by a model that scores every token."""

    first_clean: NDArray[np.float64]
    first_changed: NDArray[np.float64]
    """logit at the first differing token, (N,)"""
    mean_clean: NDArray[np.float64]
    mean_changed: NDArray[np.float64]
    """mean logit over all tokens that are not special, (N,)"""
    auc: NDArray[np.float64]
    """ROC-AUC of the changed tokens within each function, (N,); NaN where all tokens were changed"""
    top1: NDArray[np.float64]
    """1 where the token with the highest logit was changed; of equal tokens the share that was changed, (N,)"""
    auc_pooled: float
    """ROC-AUC over the tokens of all changed functions together"""
    changed_logits: list[NDArray[np.float32]] = field(repr=False)
    """logits of the tokens of the changed version, special tokens included"""

    @property
    def pair(self) -> NDArray[np.float64]:
        """1 where the first differing token has the higher logit in the changed version, 0.5 for a tie, (N,)."""
        return wins(self.first_changed, self.first_clean)

    @property
    def pair_whole_function(self) -> NDArray[np.float64]:
        """1 where the mean logit is higher in the changed version, 0.5 for a tie, (N,)."""
        return wins(self.mean_changed, self.mean_clean)


@dataclass(frozen=True)
class MaskedScores:
    """Scores of N pairs by a masked language model, and of every token of the first M functions."""

    pair: NDArray[np.float64]
    """1 where the original token is more likely than the changed one at the mask, 0.5 for a tie, (N,)"""
    auc: NDArray[np.float64]
    top1: NDArray[np.float64]
    """as in `BugScores`, with log p(most likely token) - log p(token) as the score of a token, (M,)"""
    passes: NDArray[np.int64]
    """forward passes needed for `auc` and `top1`, one for each token, (M,)"""


def evaluate_bugs(pairs: Sequence[Pair], suspicion: Suspicion, *, pad_id: int = 0, batch_size: int = 64) -> BugScores:
    """Score both versions of each pair, with one forward pass for each version.

    Args:
        pairs: from `encode_bugs`.
        suspicion: the model.
        pad_id: of the tokenizer.
        batch_size: sequences in one forward pass.

    Returns:
        the scores of N pairs.

    Raises:
        ModelError: a logit is not finite.
    """
    sequences = [pair.clean for pair in pairs] + [pair.changed for pair in pairs]
    logits = score_tokens(sequences, suspicion, pad_id=pad_id, batch_size=batch_size)
    clean, changed = logits[: len(pairs)], logits[len(pairs) :]
    labels = [pair.is_changed for pair in pairs]
    inner = [scores[1:-1] for scores in changed]
    return BugScores(
        first_clean=np.array([scores[pair.first] for pair, scores in zip(pairs, clean, strict=True)], np.float64),
        first_changed=np.array([scores[pair.first] for pair, scores in zip(pairs, changed, strict=True)], np.float64),
        mean_clean=np.array([scores[1:-1].mean(dtype=np.float64) for scores in clean]),
        mean_changed=np.array([scores.mean(dtype=np.float64) for scores in inner]),
        auc=np.array([_rank(label, scores) for label, scores in zip(labels, inner, strict=True)]),
        top1=np.array([_top1(label, scores) for label, scores in zip(labels, inner, strict=True)]),
        auc_pooled=roc_auc(np.concatenate(labels), np.concatenate(inner)) if pairs else float("nan"),
        changed_logits=changed,
    )


def evaluate_masked(
    pairs: Sequence[Pair],
    prediction: MaskedPrediction,
    *,
    mask_id: int,
    pad_id: int = 0,
    every_token: int = 60,
) -> MaskedScores:
    """Score the same pairs by a masked language model.

    For `pair`, one [MASK] replaces all differing tokens, so that no version has an advantage, and the probabilities
    of the first differing tokens are compared there. The model is given the position, so the question is easier than
    that of `evaluate_bugs`. For `auc` and `top1`, every token of the changed version is masked in turn.

    Args:
        pairs: from `encode_bugs`.
        prediction: the masked language model.
        mask_id: of the tokenizer.
        pad_id: of the tokenizer.
        every_token: number M of pairs, the first ones, that get `auc` and `top1`.

    Returns:
        the scores of N pairs.
    """
    if not pairs:
        nothing = np.zeros(0)
        return MaskedScores(nothing, nothing, nothing, np.zeros(0, dtype=np.int64))
    questions, positions = [], []
    for pair in pairs:
        question = pair.masked
        question[pair.first] = mask_id
        questions.append(question)
        positions.append(pair.first)
    wanted = np.array([[pair.clean[pair.first], pair.changed[pair.first]] for pair in pairs])
    chosen, _ = predict_at(questions, np.array(positions), wanted, prediction, pad_id=pad_id)
    pair_wins = wins(chosen[:, 0], chosen[:, 1])

    subset = pairs[:every_token]
    passes = np.array([len(pair.changed) - 2 for pair in subset], dtype=np.int64)
    chosen, best = mask_in_turn([pair.changed for pair in subset], prediction, mask_id=mask_id, pad_id=pad_id)
    scores = [likeliest - own for likeliest, own in zip(best, chosen, strict=True)]
    labels = [pair.is_changed for pair in subset]
    return MaskedScores(
        pair=pair_wins,
        auc=np.array([_rank(label, values) for label, values in zip(labels, scores, strict=True)]),
        top1=np.array([_top1(label, values) for label, values in zip(labels, scores, strict=True)]),
        passes=passes,
    )


def frequency_table(bugs: Sequence[Bug], frequencies: Frequencies) -> NDArray[np.float64]:
    """Score bugs by a baseline without context: 1 where the original is more frequent than the replacement.

    Returns:
        1, 0.5 for a tie, or 0, (N,).
    """
    return wins(
        [frequencies.count(bug, bug.original) for bug in bugs],
        [frequencies.count(bug, bug.replacement) for bug in bugs],
    )


def _rank(labels: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    """ROC-AUC by counting, which is fast for few tokens."""
    positive, negative = scores[labels], scores[~labels]
    return float(wins(positive[:, None], negative[None, :]).mean()) if negative.size else float("nan")


def _top1(labels: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    return float(labels[scores == scores.max()].mean())
