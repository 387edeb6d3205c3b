"""Held-out sentences ranked by how suspicious a main model finds them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from fast_electra.evaluation.bugs.functions import SourceText
from fast_electra.evaluation.token_scores import Suspicion, score_tokens, special_token_ids, tokens_with_offsets

_SCORED = 500
"""number of different sentences that are scored, the first ones"""


@dataclass(frozen=True)
class Sentence:
    """A sentence, its source and the mean logit of its tokens."""

    text: str
    source: str
    suspicion: float


def most_suspicious_sentences(
    texts: Iterable[SourceText],
    tokenizer: PreTrainedTokenizerBase,
    suspicion: Suspicion,
    length: int,
    *,
    count: int = 5,
) -> tuple[list[Sentence], list[Sentence]]:
    """Rank sentences by the mean logit of their tokens.

    A sentence ends with ".", "!" or "?" before white space, or with a blank line. Sentences under 5 tokens are left
    out.

    Args:
        texts: where the sentences are from.
        tokenizer: of the model.
        suspicion: the model.
        length: tokens of the longest sentence, special tokens included; longer ones are left out.
        count: sentences in each list.

    Returns:
        the most suspicious sentences, and the least suspicious ones; the extreme one is first in each list.

    Raises:
        ModelError: the tokenizer has no [CLS] or no [SEP].
    """
    first, last = special_token_ids(tokenizer)
    found: dict[str, str] = {}
    ids: list[NDArray[np.int64]] = []
    for text in texts:
        if len(found) >= _SCORED:
            break
        pieces = (" ".join(piece.split()) for piece in re.split(r"(?<=[.!?])\s+|\n\s*\n", text.text))
        fresh = [piece for piece in dict.fromkeys(pieces) if piece and piece not in found]
        for sentence, (tokens, _) in zip(fresh, tokens_with_offsets(fresh, tokenizer), strict=True):
            if 5 <= len(tokens) <= length - 2 and len(found) < _SCORED:
                found[sentence] = text.source
                ids.append(np.array([first, *tokens, last], dtype=np.int64))
    pad_id = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    logits = score_tokens(ids, suspicion, pad_id=pad_id)
    means = [float(scores[1:-1].mean()) for scores in logits]
    ranked = [Sentence(text, source, mean) for (text, source), mean in zip(found.items(), means, strict=True)]
    ranked.sort(key=lambda sentence: -sentence.suspicion)
    return ranked[:count], ranked[::-1][:count]
