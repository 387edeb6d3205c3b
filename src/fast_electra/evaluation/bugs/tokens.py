"""Both versions of a bug as tokens.

Notable: both versions are compared in the same window of tokens, with equal context before and after the change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from fast_electra.evaluation.bugs.mutation import Bug
from fast_electra.evaluation.token_scores import special_token_ids, tokens_with_offsets


@dataclass(frozen=True)
class Pair:
    """Token ids of both versions with special tokens; a long function is cropped around the change."""

    bug: Bug
    clean: NDArray[np.int64]
    changed: NDArray[np.int64]
    first: int
    """index of the first differing token"""
    clean_end: int
    changed_end: int
    """tokens first … end - 1 differ, at least one in each version"""
    offsets: list[tuple[int, int]]
    """character range in `bug.changed` of each token of `changed`; (0, 0) for special tokens"""

    @property
    def masked(self) -> NDArray[np.int64]:
        """Token ids with one 0 in place of all differing tokens; both versions give the same ids."""
        return np.concatenate([self.clean[: self.first], [0], self.clean[self.clean_end :]])

    @property
    def is_changed(self) -> NDArray[np.bool_]:
        """Whether each token of the changed version was changed, without special tokens."""
        changed = np.zeros(len(self.changed) - 2, dtype=bool)
        changed[self.first - 1 : self.changed_end - 1] = True
        return changed


def encode_bugs(bugs: Sequence[Bug], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Pair]:
    """Encode both versions of each bug as at most `length` tokens, special tokens included.

    A longer function is cropped around the change, equally in both versions.

    Returns:
        a pair for each bug, except those whose versions give the same tokens and those whose change alone is longer
        than `length`.

    Raises:
        ModelError: the tokenizer has no [CLS] or no [SEP].
    """
    first_id, last_id = special_token_ids(tokenizer)
    clean = tokens_with_offsets([bug.clean for bug in bugs], tokenizer)
    changed = tokens_with_offsets([bug.changed for bug in bugs], tokenizer)
    pairs = []
    for bug, (clean_ids, _), (changed_ids, offsets) in zip(bugs, clean, changed, strict=True):
        before, after = _common(clean_ids, changed_ids)
        if before + after == len(clean_ids) == len(changed_ids):
            continue
        if before + after == min(len(clean_ids), len(changed_ids)):
            after -= 1  # "is" to "is not": count the next token as changed, so that each version has a changed token
        differing = max(len(clean_ids), len(changed_ids)) - before - after
        room = length - 2 - differing
        if room < 0 or after < 0:
            continue
        right = min(after, max(room // 2, room - before))
        left = min(before, room - right)
        start = before - left
        clean_end, changed_end = len(clean_ids) - after, len(changed_ids) - after
        pairs.append(
            Pair(
                bug=bug,
                clean=np.array([first_id, *clean_ids[start : clean_end + right], last_id], dtype=np.int64),
                changed=np.array([first_id, *changed_ids[start : changed_end + right], last_id], dtype=np.int64),
                first=left + 1,
                clean_end=clean_end - start + 1,
                changed_end=changed_end - start + 1,
                offsets=[(0, 0), *offsets[start : changed_end + right], (0, 0)],
            )
        )
    return pairs


def _common(first: list[int], second: list[int]) -> tuple[int, int]:
    """Lengths of the common prefix and of the common suffix, which do not overlap."""
    shorter = min(len(first), len(second))
    before = next((index for index in range(shorter) if first[index] != second[index]), shorter)
    after = next((index for index in range(shorter - before) if first[-1 - index] != second[-1 - index]), None)
    return before, shorter - before if after is None else after
