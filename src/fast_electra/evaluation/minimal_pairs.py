"""Minimal pairs, as in BLiMP (Warstadt et al., 2020, arXiv 1912.00582): is the acceptable sentence the likelier one.

A sentence's tokens have log-probabilities l_t. By a main model's head l_t is that of "original", -softplus(logit): one
pass; by a masked language model that of the token itself, behind a [MASK] in its place, a pass a token (pseudo-log-
likelihood, Salazar et al., 2020, arXiv 1910.14659). A sentence's score is their sum, their mean or the worst of them.

Notable:
- special tokens are no part of a score; a tie is wrong, and one answer for all is a tie in every pair;
- each different sentence is scored once, and sums are rounded once (`math.fsum`): equal sentences are a tie whatever
  batch they come in, and so are, for a table of frequencies, two orders of the same words;
- sentences of like length go through the model together;
- pairs of a set are made from one template, so intervals resample whole sets;
- a sample takes the same number of pairs of each set, by their digests: a smaller one is part of a larger one.

Shapes: N sentences or pairs.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from fast_electra.data.files import canonical_digest
from fast_electra.data.text_files import shown
from fast_electra.errors import DataError, ModelError
from fast_electra.evaluation.metrics import clustered_interval, share_interval
from fast_electra.evaluation.tables import json_lines
from fast_electra.evaluation.token_scores import MaskedPrediction, Suspicion, mask_in_turn, score_tokens

MEASURES = ("sum", "mean", "worst")
GROUPS = ("field", "linguistics_term", "UID")
"""keys of a line that results are given by; pairs of the last one that a file has are a set"""
LONGEST = 512
_TOGETHER = 4_096
_BATCH = 256

# Token ids with [CLS] and [SEP], a sentence each -> log-probabilities of the tokens between them.
Scorer = Callable[[Sequence[NDArray[np.int64]]], list[NDArray[np.float64]]]
Wins = dict[str, NDArray[np.bool_]]
"""{measure: (N,) whether the good sentence has the higher score}"""


@dataclass(frozen=True)
class MinimalPairs:
    """The pairs of a file."""

    path: Path
    good: list[str]
    bad: list[str]
    groups: dict[str, list[str]]
    """{key of `GROUPS`: the value of each pair, "" where its line has none}"""

    @cached_property
    def digest(self) -> str:
        """Of sentences and groups in their order."""
        return canonical_digest([self.good, self.bad, self.groups])

    @cached_property
    def sets(self) -> NDArray[np.int64]:
        """(N,) number of each pair's set."""
        names = self.groups[list(self.groups)[-1]] if self.groups else [""] * len(self.good)
        return np.unique(names, return_inverse=True)[1]

    @property
    def set_count(self) -> int:
        """Different sets."""
        return int(self.sets.max()) + 1

    def sample(self, per_set: int | None) -> NDArray[np.int64]:
        """Places of at most `per_set` pairs of each set, in order; None: all."""
        if per_set is None:
            return np.arange(len(self.good))
        texts = zip(self.good, self.bad, strict=True)
        digests = [hashlib.sha256(f"{good}\0{bad}".encode()).digest() for good, bad in texts]
        places_of: dict[int, list[int]] = {}
        for place in sorted(range(len(digests)), key=digests.__getitem__):
            places_of.setdefault(int(self.sets[place]), []).append(place)
        return np.sort([place for places in places_of.values() for place in places[:per_set]])


def read_minimal_pairs(path: Path) -> MinimalPairs:
    """A JSON object a line with `sentence_good` and `sentence_bad`; anything else in it is optional.

    Args:
        path: `.jsonl`, also `.jsonl.gz` and `.jsonl.xz`.

    Raises:
        DataError: it can't be read, or a line has no two sentences; says where.
    """
    texts = ("sentence_good", "sentence_bad")
    table = json_lines(path, texts, GROUPS)
    if not table.rows:
        raise DataError(f"{path} has no pairs; give a JSON object a line, with sentence_good and sentence_bad.")
    for name in texts:
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str) or not text.strip():
                table.refuse(row, f"{name} is {shown(text)}, not text; write a sentence, or remove the line.")
            try:
                text.encode()
            except UnicodeEncodeError:
                table.refuse(row, f"{name} holds half of a surrogate pair; mend or remove the line.")
    # BLiMP itself writes one of its fields in two ways, syntax_semantics and syntax/semantics.
    groups = {
        key: [value.replace("/", "_") if isinstance(value, str) else "" for value in table.columns[key]]
        for key in GROUPS
    }
    good, bad = (table.columns[name] for name in texts)
    return MinimalPairs(path, good, bad, {key: values for key, values in groups.items() if any(values)})


# --- Scores -----------------------------------------------------------------------------------------------------------


def by_detection(suspicion: Suspicion, pad_id: int) -> Scorer:
    """Log-probabilities of "original": -softplus(logit)."""

    def scores(sequences: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        logits = score_tokens(sequences, suspicion, pad_id=pad_id, batch_size=_BATCH)
        return [-np.logaddexp(0.0, values[1:-1].astype(np.float64)) for values in logits]

    return scores


def by_masking(prediction: MaskedPrediction, mask_id: int, pad_id: int) -> Scorer:
    """Log-probabilities of the tokens, each with [MASK] in its place."""

    def scores(sequences: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        return mask_in_turn(sequences, prediction, mask_id=mask_id, pad_id=pad_id, batch_size=_BATCH)[0]

    return scores


def by_frequency(log_probabilities_V: NDArray[Any]) -> Scorer:
    """Log-probabilities of the tokens from a table, whatever stands around them."""
    return lambda sequences: [log_probabilities_V[sequence[1:-1]].astype(np.float64) for sequence in sequences]


@dataclass(frozen=True)
class EncodedPairs:
    """Some pairs of a file as token ids, [CLS] and [SEP] included."""

    places: NDArray[np.int64]
    """in the file, (N,)"""
    good: list[NDArray[np.int64]]
    bad: list[NDArray[np.int64]]
    cut: int
    """sentences that were longer than the model takes: their ends are left off"""

    def part(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of those of the places that are among these pairs."""
        return np.flatnonzero(np.isin(self.places, places))


def encode_pairs(
    pairs: MinimalPairs, places: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase, length: int
) -> EncodedPairs:
    """The pairs at `places`, each sentence as at most `length` tokens, special ones included."""
    texts = [pairs.good[place] for place in places] + [pairs.bad[place] for place in places]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
    ids = cast("list[list[int]]", encoded["input_ids"])
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [np.array([first, *tokens[: length - 2], last], dtype=np.int64) for tokens in ids]
    cut = sum(len(tokens) > length - 2 for tokens in ids)
    return EncodedPairs(places, rows[: len(places)], rows[len(places) :], cut)


def sentence_scores(log_probabilities: NDArray[np.float64]) -> tuple[float, float, float]:
    """Sum, mean and worst of a sentence's tokens; -inf where the tokenizer leaves none."""
    if not log_probabilities.size:
        return -math.inf, -math.inf, -math.inf
    total = math.fsum(log_probabilities)
    return total, total / log_probabilities.size, float(log_probabilities.min())


def judge(
    encoded: EncodedPairs,
    scorer: Scorer,
    rows: NDArray[np.int64] | None = None,
    tell: Callable[[float], object] = lambda _: None,
) -> Wins:
    """Which good sentences have the higher score, by each measure.

    Args:
        encoded: the pairs.
        scorer: of tokens.
        rows: of `encoded`; None: all.
        tell: gets the share that is done.

    Raises:
        ModelError: a score is not a number.
    """
    chosen = np.arange(len(encoded.good)) if rows is None else rows
    sequences = [encoded.good[row] for row in chosen] + [encoded.bad[row] for row in chosen]
    number_of: dict[bytes, int] = {}
    distinct = [number_of.setdefault(sequence.tobytes(), len(number_of)) for sequence in sequences]
    unique = [np.frombuffer(key, dtype=np.int64).copy() for key in number_of]
    order = np.argsort([len(sequence) for sequence in unique], kind="stable")
    scores_N3 = np.empty((len(unique), len(MEASURES)))
    for start in range(0, len(order), _TOGETHER):
        part = order[start : start + _TOGETHER]
        for place, values in zip(part, scorer([unique[place] for place in part]), strict=True):
            scores_N3[place] = sentence_scores(values)
        tell(min(1.0, (start + _TOGETHER) / len(order)))
    if np.isnan(scores_N3).any():
        raise ModelError("the model gives scores that are not numbers: train it again at a lower learning rate.")
    both_N3 = scores_N3[distinct]
    won_N3 = both_N3[: len(chosen)] > both_N3[len(chosen) :]
    return {measure: won_N3[:, number] for number, measure in enumerate(MEASURES)}


# --- Summary ----------------------------------------------------------------------------------------------------------


def summarise(pairs: MinimalPairs, places: NDArray[np.int64], wins: Wins) -> dict[str, dict[str, Any]]:
    """Shares of pairs judged right, in all and by group, with 95 % intervals.

    Returns:
        {"all", or a key of the file: {group: {"n", "sets", measure: [share, low, high]}}}; whole sets are resampled (a
        bootstrap) where there are several, and of one set it is Wilson's interval.
    """
    found: dict[str, dict[str, Any]] = {"all": {"all": _shares(pairs.sets[places], wins)}}
    for key, values in pairs.groups.items():
        names = np.array(values)[places]
        found[key] = {
            str(name): _shares(pairs.sets[places][names == name], {m: won[names == name] for m, won in wins.items()})
            for name in np.unique(names)
            if name
        }
    return found


def _shares(sets: NDArray[np.int64], wins: Wins) -> dict[str, Any]:
    several = len(np.unique(sets))
    return {"n": len(sets), "sets": several} | {
        measure: list(clustered_interval(won, sets) if several > 1 else share_interval(int(won.sum()), len(won)))
        for measure, won in wins.items()
    }


def differences(
    sets: NDArray[np.int64], first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    """By how much the first judges more of the same pairs right: {"n", measure: [mean, low, high]}; sets resampled."""
    return {"n": len(sets)} | {
        measure: list(clustered_interval(first[measure].astype(float) - second[measure].astype(float), sets))
        for measure in MEASURES
    }
