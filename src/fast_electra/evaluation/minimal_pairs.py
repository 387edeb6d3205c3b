"""Minimal pairs, as in BLiMP (Warstadt et al., 2020, arXiv 1912.00582): is the acceptable sentence more likely.

Each token of a sentence has a log-probability l_t. For a main model l_t is that of "original", -softplus(logit), with
one pass for each sentence. For a masked language model it is that of the token when [MASK] is in its place, with one
pass for each token (pseudo-log-likelihood, Salazar et al., 2020, arXiv 1910.14659). The score of a sentence is the sum,
the mean or the minimum of l_t.

Notable:
- special tokens do not count. A tie is wrong, and a model with one answer for everything has a tie in every pair;
- each different sentence is scored once, and sums are rounded once (`math.fsum`). So equal sentences tie in any batch,
  and for a table of frequencies two orders of the same words tie;
- sentences of similar length are in one batch;
- the pairs of a set are made from one template, so intervals resample whole sets;
- a sample has the same number of pairs of each set, chosen by their digests: a smaller sample is part of a larger one.

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
from fast_electra.evaluation.token_scores import (
    MaskedPrediction,
    Suspicion,
    batches_by_length,
    mask_in_turn,
    score_tokens,
)

MEASURES = ("sum", "mean", "worst")
GROUPS = ("field", "linguistics_term", "UID")
"""keys by which results are grouped; pairs with the same value of the last key in a file are a set"""
LONGEST = 512
_TOGETHER = 4_096
_BATCH = 256

# Token ids with [CLS] and [SEP], a sentence each -> log-probabilities of the tokens between them.
Scorer = Callable[[Sequence[NDArray[np.int64]]], list[NDArray[np.float64]]]
Wins = dict[str, NDArray[np.bool_]]
"""{measure: (N,) whether the good sentence has the higher score}"""


@dataclass(frozen=True)
class MinimalPairs:
    """Minimal pairs of a file."""

    path: Path
    good: list[str]
    bad: list[str]
    groups: dict[str, list[str]]
    """{key of `GROUPS`: value of each pair, "" if its line has none}"""

    @cached_property
    def digest(self) -> str:
        """Digest of sentences and groups in order."""
        return canonical_digest([self.good, self.bad, self.groups])

    @cached_property
    def sets(self) -> NDArray[np.int64]:
        """Number of the set of each pair, (N,)."""
        names = self.groups[list(self.groups)[-1]] if self.groups else [""] * len(self.good)
        return np.unique(names, return_inverse=True)[1]

    @property
    def set_count(self) -> int:
        """Number of sets."""
        return int(self.sets.max()) + 1

    def sample(self, per_set: int | None) -> NDArray[np.int64]:
        """Return the places of at most `per_set` pairs of each set, in order; of all pairs for None."""
        if per_set is None:
            return np.arange(len(self.good))
        texts = zip(self.good, self.bad, strict=True)
        digests = [hashlib.sha256(f"{good}\0{bad}".encode()).digest() for good, bad in texts]
        places_of: dict[int, list[int]] = {}
        for place in sorted(range(len(digests)), key=digests.__getitem__):
            places_of.setdefault(int(self.sets[place]), []).append(place)
        return np.sort([place for places in places_of.values() for place in places[:per_set]])


def read_minimal_pairs(path: Path) -> MinimalPairs:
    """Read pairs from a file with one JSON object on each line.

    Args:
        path: `.jsonl`, `.jsonl.gz` or `.jsonl.xz`; each line has `sentence_good` and `sentence_bad`, other keys are
            optional.

    Returns:
        the pairs.

    Raises:
        DataError: the file cannot be read, or a line does not have two sentences.
    """
    texts = ("sentence_good", "sentence_bad")
    table = json_lines(path, texts, GROUPS)
    if not table.rows:
        raise DataError(f"{path} has no pairs; write a JSON object with sentence_good and sentence_bad on each line.")
    for name in texts:
        for row, text in enumerate(table.columns[name]):
            if not isinstance(text, str) or not text.strip():
                table.refuse(row, f"{name} is {shown(text)}, not text; write a sentence, or remove the line.")
            try:
                text.encode()
            except UnicodeEncodeError:
                table.refuse(row, f"{name} has half of a surrogate pair; correct or remove the line.")
    # BLiMP writes one of its fields in two ways, syntax_semantics and syntax/semantics.
    groups = {
        key: [value.replace("/", "_") if isinstance(value, str) else "" for value in table.columns[key]]
        for key in GROUPS
    }
    good, bad = (table.columns[name] for name in texts)
    return MinimalPairs(path, good, bad, {key: values for key, values in groups.items() if any(values)})


# --- Scores -----------------------------------------------------------------------------------------------------------


def by_detection(suspicion: Suspicion, pad_id: int) -> Scorer:
    """Return a scorer by log-probabilities of "original", -softplus(logit)."""

    def scores(sequences: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        logits = score_tokens(sequences, suspicion, pad_id=pad_id, batch_size=_BATCH)
        return [-np.logaddexp(0.0, values[1:-1].astype(np.float64)) for values in logits]

    return scores


def by_masking(prediction: MaskedPrediction, mask_id: int, pad_id: int) -> Scorer:
    """Return a scorer by log-probabilities of the tokens, each behind a [MASK] in its place."""

    def scores(sequences: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        return mask_in_turn(sequences, prediction, mask_id=mask_id, pad_id=pad_id, batch_size=_BATCH)[0]

    return scores


def by_frequency(log_probabilities_V: NDArray[Any]) -> Scorer:
    """Return a scorer by log-probabilities of the tokens from a table (V,), without context."""
    return lambda sequences: [log_probabilities_V[sequence[1:-1]].astype(np.float64) for sequence in sequences]


@dataclass(frozen=True)
class EncodedPairs:
    """Some pairs of a file as token ids with [CLS] and [SEP]."""

    places: NDArray[np.int64]
    """their places in the file, (N,)"""
    good: list[NDArray[np.int64]]
    bad: list[NDArray[np.int64]]
    cut: int
    """number of truncated sentences"""

    def part(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of these pairs whose places are among the given ones."""
        return np.flatnonzero(np.isin(self.places, places))


def encode_pairs(
    pairs: MinimalPairs, places: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase, length: int
) -> EncodedPairs:
    """Encode the pairs at `places`, each sentence as at most `length` tokens with special tokens."""
    texts = [pairs.good[place] for place in places] + [pairs.bad[place] for place in places]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
    ids = cast("list[list[int]]", encoded["input_ids"])
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [np.array([first, *tokens[: length - 2], last], dtype=np.int64) for tokens in ids]
    cut = sum(len(tokens) > length - 2 for tokens in ids)
    return EncodedPairs(places, rows[: len(places)], rows[len(places) :], cut)


def sentence_scores(log_probabilities: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return sum, mean and minimum over the tokens of a sentence; -inf if it has no tokens."""
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
    """Judge pairs by a scorer.

    Args:
        encoded: the pairs.
        scorer: of tokens.
        rows: of `encoded`; None: all.
        tell: called with the finished share.

    Returns:
        {measure: (N,) whether the good sentence has the higher score}.

    Raises:
        ModelError: a score is not a number.
    """
    chosen = np.arange(len(encoded.good)) if rows is None else rows
    sequences = [encoded.good[row] for row in chosen] + [encoded.bad[row] for row in chosen]
    number_of: dict[bytes, int] = {}
    distinct = [number_of.setdefault(sequence.tobytes(), len(number_of)) for sequence in sequences]
    unique = [np.frombuffer(key, dtype=np.int64).copy() for key in number_of]
    scores_N3 = np.empty((len(unique), len(MEASURES)))
    done = 0
    for part in batches_by_length([len(sequence) for sequence in unique], _TOGETHER):
        for place, values in zip(part, scorer([unique[place] for place in part]), strict=True):
            scores_N3[place] = sentence_scores(values)
        done += len(part)
        tell(done / len(unique))
    if np.isnan(scores_N3).any():
        raise ModelError("the model gives scores that are not numbers: train it again at a lower learning rate.")
    both_N3 = scores_N3[distinct]
    won_N3 = both_N3[: len(chosen)] > both_N3[len(chosen) :]
    return {measure: won_N3[:, number] for number, measure in enumerate(MEASURES)}


# --- Summary ----------------------------------------------------------------------------------------------------------


def summarise(pairs: MinimalPairs, places: NDArray[np.int64], wins: Wins) -> dict[str, dict[str, Any]]:
    """Compute the shares of pairs judged correctly, in total and by group, with 95 % intervals.

    Returns:
        {"all", or a key of the file: {group: {"n", "sets", measure: [share, low, high]}}}. The interval is a bootstrap
        over whole sets, or Wilson's interval for a single set.
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
    """Return how many more of the same pairs the first model judges correctly, with a bootstrap over sets.

    Returns:
        {"n", measure: [mean, low, high]}.
    """
    return {"n": len(sets)} | {
        measure: list(clustered_interval(first[measure].astype(float) - second[measure].astype(float), sets))
        for measure in MEASURES
    }
